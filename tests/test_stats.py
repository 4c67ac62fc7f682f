"""Laws and hand-worked cases of the small statistical tools and of class shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, false_discovery_control, gamma, norm

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import ClassRow, Estimate
from modeldiff_eval.stats import (
    MDE_FACTOR,
    Z,
    benjamini_hochberg,
    difference_of_estimates,
    effective_n,
    holm,
    interval_p,
    joint_interval,
    newcombe,
    permutation_p,
    smallest_detectable,
    step_down_max_t,
    verdict,
    wilson,
)
from modeldiff_eval.stats_shares import SMOOTHING, ShareShifts, share_shifts

GROUPS = [("A", "first"), ("B", "second"), ("C", "third")]


def labels(*counts: int, none: int = 0) -> np.ndarray:
    return np.repeat(np.arange(-1, len(counts)), [none, *counts])


def shifts(
    base: np.ndarray,
    tuned: np.ndarray,
    families: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    groups: list[tuple[str, str]] = GROUPS,
    covered: set[str] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> ShareShifts:
    own = families or (np.arange(len(base)), len(base) + np.arange(len(tuned)))
    return share_shifts(base, tuned, *own, groups=groups, covered=covered, draws=draws, rng=np.random.default_rng(seed))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, None, 0.9]) == [pytest.approx(0.02), None, pytest.approx(0.9)]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_benjamini_hochberg_equals_scipy_and_is_below_holm(p: list[float]) -> None:
    ours = benjamini_hochberg(p)
    assert ours == pytest.approx(list(false_discovery_control(p)))
    assert all(bh <= h + 1e-12 for bh, h in zip(ours, holm(p), strict=True))


def test_adjusters_refuse_what_is_no_p_value() -> None:
    with pytest.raises(SettingsError):
        holm([0.2, 1.2])


def test_newcombe_published_example() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339; 0/10 against 0/20 has width."""
    e = newcombe(48, 80, 56, 70)
    assert (e.value, e.low, e.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    nothing = newcombe(0, 20, 0, 10)
    assert nothing.value == 0
    assert nothing.low == pytest.approx(-0.1611, abs=1e-4)
    assert nothing.high == pytest.approx(0.2775, abs=1e-4)
    assert newcombe(0, 0, 1, 10).value is None
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)


def test_square_root_rule_with_asymmetric_bounds() -> None:
    base = Estimate(value=100, low=97, high=104)
    tuned = Estimate(value=120, low=117, high=132)
    e = difference_of_estimates(base, tuned)
    assert e == Estimate(value=20, low=15, high=round(20 + math.hypot(12, 3), 6))
    back = difference_of_estimates(tuned, base)
    assert (back.low, back.high) == (-e.high, -e.low)
    open_ended = difference_of_estimates(base, Estimate(value=120, low=117, high=None))
    assert (open_ended.low, open_ended.high) == (15, None)


def test_normal_quantiles_and_tails_are_scipys() -> None:
    assert pytest.approx(norm.ppf(0.975), rel=1e-14) == Z
    assert pytest.approx(norm.ppf(0.975) + norm.ppf(0.8), rel=1e-14) == MDE_FACTOR
    for z in (0.1, 1.0, 3.0, 8.0, 30.0):
        p = interval_p(Estimate(value=z, low=z - Z, high=z + Z))
        assert p == pytest.approx(2 * norm.sf(z), rel=1e-12)


def test_interval_p_is_five_percent_when_a_bound_touches_zero() -> None:
    assert interval_p(Estimate(value=3, low=0, high=9)) == pytest.approx(0.05)
    assert interval_p(Estimate(value=-3, low=-9, high=0)) == pytest.approx(0.05)
    assert interval_p(Estimate(value=3, low=None, high=4)) is None


def test_effective_n_and_smallest_detectable() -> None:
    assert effective_n(np.ones(7, dtype=np.int64)) == 7
    assert effective_n(np.array([4, 0])) == 1
    assert effective_n(np.zeros(2, dtype=np.int64)) is None
    assert smallest_detectable(1.0) == pytest.approx(2.801585)


def test_verdict_needs_an_adjusted_p_below_five_percent() -> None:
    assert verdict(2.0, 0.049) == "up"
    assert verdict(-2.0, 0.049) == "down"
    assert verdict(2.0, 0.05) == verdict(2.0, None) == verdict(None, 0.01) == verdict(0.0, 0.01) == "unclear"


def test_step_down_max_t_by_hand() -> None:
    null = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    # largest first: max over both >= 2.5 once; then group 0 alone >= 1.5 once.
    assert step_down_max_t(np.array([1.5, 2.5]), null) == pytest.approx([2 / 5, 2 / 5])
    assert permutation_p(5.0, null[:, 0]) == 1 / 5


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_step_down_lies_between_raw_and_single_step(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    null, observed = np.abs(rng.normal(size=(200, groups))), np.abs(rng.normal(size=groups)) * 2
    adjusted = step_down_max_t(observed, null)
    for g in range(groups):
        single = permutation_p(float(observed[g]), null.max(axis=1))
        assert permutation_p(float(observed[g]), null[:, g]) - 1e-12 <= adjusted[g] <= single + 1e-12


def test_joint_interval_contains_the_marginal_and_covers_the_draws() -> None:
    draws = np.random.default_rng(0).gamma(2, size=(4000, 5))
    low, middle, high = np.quantile(draws, (0.025, 0.5, 0.975), axis=0)
    wide_low, wide_high = joint_interval(low, middle, high, draws, limit=np.inf)
    assert (wide_low <= low).all()
    assert (wide_high >= high).all()
    held = ((draws >= wide_low) & (draws <= wide_high)).all(axis=1).mean()
    assert held == pytest.approx(0.95, abs=0.003)
    least, most = joint_interval(low, middle, high, draws, limit=float(wide_high.max()) - 0.1)
    assert most.max() == wide_high.max() - 0.1
    assert (least == wide_low).all()


def test_no_interval_of_a_difference_of_shares_leaves_what_is_possible() -> None:
    """One latent and three: the joint intervals of the categories without any would reach beyond −100 points."""
    many = [(str(g), "") for g in range(30)]
    rows = shifts(labels(1, *[0] * 29), labels(1, 1, 1, *[0] * 27), groups=many).rows
    bounds = [bound for row in rows for bound in (row.diff_simultaneous.low, row.diff_simultaneous.high)]
    assert min(bounds) >= -100
    assert max(bounds) <= 100


def test_shares_by_hand() -> None:
    """Base 2, 1, 0 of 4 (one is none); tuned 1, 1, 2 of 4."""
    a, b, c = shifts(labels(2, 1, 0, none=1), labels(1, 1, 2)).rows
    assert (a.base.share, a.tuned.share, a.diff.value, a.change.value) == (50, 25, -25, -50)
    assert (b.diff.value, b.change.value, b.count_change.value) == (0, 0, 0)
    assert (c.base.count, c.diff.value, c.change, c.count_change.value) == (0, 50, None, 2)


def test_independent_latents_give_the_beta_and_gamma_posterior() -> None:
    """Against an empty tuned class of a huge sample the diff is (minus) the base share alone."""
    row = shifts(labels(6, 14, 0), labels(0, 20_000, 0), draws=40_000).rows[0]
    exact = -100 * beta.ppf((0.975, 0.025), 6 + SMOOTHING, 14 + SMOOTHING)
    assert (row.diff.low, row.diff.high) == pytest.approx(tuple(exact), abs=0.6)
    count = row.count_change
    wide = gamma.ppf((0.975, 0.025), 6 + SMOOTHING) - gamma.ppf(0.5, SMOOTHING)
    assert (count.low, count.high) == pytest.approx((-wide[0], -wide[1]), abs=1.2)


def test_interval_is_close_to_newcombe() -> None:
    base, tuned = (18, 7, 19, 16, 12, 7, 32), (19, 8, 16, 11, 10, 4, 21)
    groups = [(str(g), str(g)) for g in range(7)]
    result = shifts(labels(*base, none=1), labels(*tuned), groups=groups, draws=20_000)
    for row, b, t in zip(result.rows, base, tuned, strict=True):
        e = newcombe(b, 112, t, 89)
        assert row.diff.value == pytest.approx(100 * e.value)
        assert row.diff.low == pytest.approx(100 * e.low, abs=0.8)
        assert row.diff.high == pytest.approx(100 * e.high, abs=0.8)


def flat(rows: list[ClassRow]) -> list[float]:
    return [x for row in rows for x in (row.diff.value, row.diff.low, row.diff.high, row.mde)]


@given(
    st.lists(st.integers(0, 12), min_size=3, max_size=3),
    st.lists(st.integers(0, 12), min_size=3, max_size=3),
    st.integers(0, 4),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_laws_of_share_shifts(base: list[int], tuned: list[int], none: int, seed: int) -> None:
    n = sum(base) + none, sum(tuned) + none
    result = shifts(labels(*base, none=none), labels(*tuned, none=none), draws=400, seed=seed)
    for row in result.rows:
        assert (row.count_change.low or 0) <= row.count_change.value <= (row.count_change.high or 0)
        assert row.count_change.low < row.count_change.high
        if not all(n):
            assert (row.diff.value, row.diff.low, row.mde, row.p, row.verdict) == (None, None, None, None, "unclear")
            assert row.change is None
            continue
        assert row.diff.low <= row.diff.value <= row.diff.high
        assert row.diff.low < row.diff.high, "no interval has zero width"
        assert row.diff_simultaneous.low <= row.diff.low
        assert row.diff_simultaneous.high >= row.diff.high
        assert row.mde > 0
        assert 0 < row.p <= row.p_adjusted <= 1
        assert row.p_adjusted >= result.omnibus_p
        assert (row.change is None) == (row.base.count == 0)
        assert (row.verdict in ("up", "down")) == (row.p_adjusted < 0.05 and row.diff.value != 0)
        if row.verdict == "up":
            assert row.diff.value > 0
    assert result.effective_n_base == (n[0] or None)


@given(st.lists(st.integers(1, 15), min_size=3, max_size=3), st.lists(st.integers(1, 15), min_size=3, max_size=3))
@settings(deadline=None, max_examples=15)
def test_swapping_sides_mirrors(base: list[int], tuned: list[int]) -> None:
    there = shifts(labels(*base), labels(*tuned), draws=4000)
    back = shifts(labels(*tuned), labels(*base), draws=4000, seed=1)
    for a, b in zip(there.rows, back.rows, strict=True):
        assert a.diff.value == pytest.approx(-b.diff.value)
        width = a.diff.high - a.diff.low
        assert a.diff.low == pytest.approx(-b.diff.high, abs=0.08 * width)
        assert a.diff.high == pytest.approx(-b.diff.low, abs=0.08 * width)
        assert a.p == pytest.approx(b.p, abs=0.05)
        assert {a.verdict, b.verdict} != {"up"}
        assert {a.verdict, b.verdict} != {"down"}


def test_identical_sides_are_unclear_with_exact_zeros() -> None:
    same = labels(5, 3, 0, none=2)
    for families in (None, (np.arange(10), np.arange(10))):
        result = shifts(same, same, families)
        assert result.omnibus_p == 1
        for row in result.rows:
            assert row.diff.value == 0
            assert row.count_change.value == 0
            assert row.diff.low < 0 < row.diff.high
            assert (row.p, row.verdict) == (1, "unclear")


def test_a_planted_shift_is_found_and_only_that() -> None:
    result = shifts(labels(40, 40, 20), labels(10, 41, 49), draws=4000)
    assert [row.verdict for row in result.rows] == ["down", "unclear", "up"]
    assert result.omnibus_p < 0.001
    assert result.rows[0].diff_simultaneous.high < 0


def test_families_widen_and_matching_narrows() -> None:
    base, tuned = labels(20, 20, 20), labels(24, 18, 18)
    alone = shifts(base, tuned).rows[0]
    clustered_result = shifts(base, tuned, (np.arange(60) // 4, 100 + np.arange(60) // 4))
    clustered = clustered_result.rows[0]
    matched = shifts(base, tuned, (np.arange(60), np.arange(60))).rows[0]

    def width(row: ClassRow) -> float:
        return row.diff.high - row.diff.low

    assert clustered_result.effective_n_base == 15
    assert width(clustered) == pytest.approx(2 * width(alone), rel=0.15)
    assert width(matched) < 0.6 * width(alone)
    assert clustered.p > alone.p > matched.p


def test_matched_families_swap_sides_exactly() -> None:
    """Six matched singletons all move from class 0 to 1: of 64 swaps 2 are as extreme, p = 1/32."""
    row = shifts(labels(6, 0, 0), labels(0, 6, 0), (np.arange(6), np.arange(6)), draws=40_000).rows[0]
    assert row.p == pytest.approx(2 / 64, abs=0.004)


def test_unmatched_permutation_is_fishers() -> None:
    """3 of 3 against 0 of 3: of 20 deals 2 are as extreme."""
    row = shifts(labels(3, 0, 0), labels(0, 3, 0), draws=40_000).rows[0]
    assert row.p == pytest.approx(2 / 20, abs=0.006)


def test_uncovered_class_says_so_and_is_not_tested() -> None:
    result = shifts(labels(40, 10, 0), labels(10, 40, 0), covered={"A", "B"})
    assert [row.verdict for row in result.rows] == ["down", "up", "not covered"]
    last = result.rows[2]
    assert (last.covered, last.p, last.p_adjusted, last.diff_simultaneous) == (False, None, None, None)
    assert last.diff.low < 0 < last.diff.high


def test_change_has_no_upper_bound_when_the_base_is_nearly_empty() -> None:
    """(1 - 3/112)^112 = 4.8 % of plain resamples would divide by zero, (1 - 4/112)^112 = 1.7 % would not."""
    three, four, _ = shifts(labels(3, 4, 105), labels(8, 8, 73)).rows
    assert three.change.value == pytest.approx(100 * (8 / 89 / (3 / 112) - 1))
    assert three.change.high is None
    assert three.change.low is not None
    assert four.change.high is not None


def test_one_empty_side_is_undefined_not_zero() -> None:
    result = shifts(labels(0, 0, 0), labels(2, 1, 0))
    assert result.omnibus_p is None
    assert (result.effective_n_base, result.effective_n_tuned) == (None, 3)
    row = result.rows[0]
    assert (row.base.share, row.diff.value, row.diff_simultaneous, row.change) == (None, None, None, None)
    assert row.count_change.value == 2
    both = shifts(labels(0, 0, 0), labels(0, 0, 0))
    assert all(row.verdict == "unclear" and row.count_change.value == 0 for row in both.rows)


def test_same_seed_same_numbers() -> None:
    base, tuned = labels(9, 4, 2), labels(5, 5, 5)
    assert shifts(base, tuned) == shifts(base, tuned)
    assert flat(shifts(base, tuned).rows) != flat(shifts(base, tuned, seed=1).rows)


def test_bad_labels_are_refused() -> None:
    with pytest.raises(SettingsError, match="from -1"):
        shifts(np.array([0, 3]), np.array([0]))
    with pytest.raises(SettingsError, match="family per latent"):
        shifts(labels(2, 0, 0), labels(1, 0, 0), (np.arange(3), np.arange(1)))
    with pytest.raises(SettingsError, match="draws"):
        shifts(labels(2, 0, 0), labels(1, 0, 0), draws=10)
