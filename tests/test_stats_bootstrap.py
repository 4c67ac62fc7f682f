"""Laws and hand-worked cases of the resampling over documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from modeldiff_eval import stats_bootstrap
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.stats_bootstrap import (
    bootstrap_mean,
    bootstrap_ratio,
    class_activation_shift,
    paired_bootstrap,
    sign_flip_p,
    two_way_ratio,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ratio_of_sums_not_mean_of_ratios() -> None:
    result = bootstrap_ratio([[1.0], [9.0]], [[1.0], [3.0]], draws=500, rng=rng())
    assert result.value[0] == 2.5
    assert (result.low[0], result.high[0]) == (1, 3)


def test_ratio_interval_is_the_normal_one_on_many_documents() -> None:
    r = rng(1)
    den = r.gamma(2, size=2000)
    num = 0.5 * den + r.normal(size=2000)
    result = bootstrap_ratio(num, den, draws=4000, rng=r)
    error = np.sqrt(np.sum((num - result.value[0] * den) ** 2)) / den.sum()
    assert result.high[0] - result.low[0] == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_ratio_coverage() -> None:
    """Pooled over 400 latents, 120 documents: the true ratio is inside about 95 % of the time."""
    r = rng(2)
    den = r.gamma(2, size=(120, 400))
    num = den * r.gamma(4, 0.25, size=(120, 400))
    result = bootstrap_ratio(num, den, draws=1000, rng=r)
    held = ((result.low <= 1) & (result.high >= 1)).mean()
    assert 0.92 <= held <= 0.97


def test_equal_numerator_and_denominator_give_exactly_one() -> None:
    mass = rng(3).gamma(1, size=(50, 4))
    result = bootstrap_ratio(mass, mass, draws=200, rng=rng())
    assert (np.array(result) == 1).all()


def test_zero_denominators_are_undefined_and_rare_ones_open_the_top() -> None:
    num = np.zeros((20, 3))
    den = np.zeros((20, 3))
    num[:, 1] = den[:, 1] = 1
    num[:, 2], den[0, 2] = 1, 1  # 36 % of the resamples miss document 0
    result = bootstrap_ratio(num, den, draws=1000, rng=rng())
    assert np.isnan([result.value[0], result.low[0], result.high[0]]).all()
    assert result.high[1] == 1
    assert result.value[2] == 20
    assert np.isnan(result.high[2])
    assert np.isfinite(result.low[2])


def test_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    r = rng(4)
    num, den = r.gamma(2, size=(30, 17)), r.gamma(2, size=(30, 17))
    whole = bootstrap_ratio(num, den, draws=300, rng=rng(9))
    monkeypatch.setattr(stats_bootstrap, "_MEMORY", 4 * 300 * 5)
    parts = bootstrap_ratio(num, den, draws=300, rng=rng(9))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_mean_is_the_mean() -> None:
    result = bootstrap_mean([1.0, 2.0, 6.0], draws=2000, rng=rng())
    assert result.value[0] == 3
    assert (result.low[0], result.high[0]) == pytest.approx((1, 6), abs=0.4)


def test_bad_input_is_refused() -> None:
    with pytest.raises(SettingsError, match="NaN"):
        bootstrap_mean([1.0, float("nan")], rng=rng())
    with pytest.raises(SettingsError, match="both are"):
        bootstrap_ratio(np.ones((2, 2)), np.ones((2, 3)), rng=rng())
    with pytest.raises(SettingsError, match="same documents"):
        sign_flip_p([1.0], [1.0, 2.0], rng=rng())
    with pytest.raises(SettingsError, match="at least one"):
        bootstrap_mean(np.zeros((0, 2)), rng=rng())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_paired_laws(pairs: list[tuple[bool, bool]], seed: int) -> None:
    base, tuned = np.array(pairs, dtype=float).T
    there = paired_bootstrap(base, tuned, span=1, draws=2000, rng=rng(seed))
    back = paired_bootstrap(tuned, base, span=1, draws=2000, rng=rng(seed + 1))
    assert there.low <= there.value <= there.high
    assert there.low < there.high
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high, abs=0.12)
    assert sign_flip_p(base, tuned, rng=rng(seed)) == sign_flip_p(tuned, base, rng=rng(seed))


def test_paired_interval_is_the_normal_one_on_many_documents() -> None:
    r = rng(5)
    base = r.normal(size=1500)
    tuned = base + 0.1 + r.normal(size=1500)
    e = paired_bootstrap(base, tuned, span=None, draws=4000, rng=r)
    error = (tuned - base).std() / np.sqrt(1500)
    assert e.high - e.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_paired_coverage_of_accuracy() -> None:
    """300 items, 12 % and 8 % discordant: the true +4 points is inside 93-97 % of 400 intervals."""
    r, held = rng(6), 0
    for _ in range(400):
        d = r.choice([1.0, -1.0, 0.0], p=[0.12, 0.08, 0.8], size=300)
        e = paired_bootstrap(np.zeros(300), d, span=1, draws=600, rng=r)
        held += e.low <= 0.04 <= e.high
    assert 0.925 <= held / 400 <= 0.975


def test_no_documents_is_undefined() -> None:
    assert paired_bootstrap([], [], span=1, rng=rng()).value is None
    assert sign_flip_p([], [], rng=rng()) is None


def test_sign_flip_is_mcnemar_for_accuracy() -> None:
    base = np.array([1.0] * 9 + [0.0] * 3 + [1.0] * 20)
    tuned = np.array([0.0] * 9 + [1.0] * 3 + [1.0] * 20)
    assert sign_flip_p(base, tuned, rng=rng()) == pytest.approx(binomtest(3, 12).pvalue)
    assert sign_flip_p(base, base, rng=rng()) == 1


def test_sign_flip_of_graded_scores_by_hand() -> None:
    """Differences 1, 2, 4 (all up): of 8 sign patterns 2 are as extreme."""
    assert sign_flip_p([0.0, 0, 0], [1.0, 2, 4], draws=20_000, rng=rng()) == pytest.approx(0.25, abs=0.01)


def test_activation_shift_finds_the_planted_change_beyond_the_null() -> None:
    r = rng(7)
    base = r.gamma(1, size=(400, 4))
    noise = r.gamma(50, 1 / 50, size=(400, 4))
    tuned = base * noise * np.array([1.3, 1.0, 0.8, 1.3])
    up, flat, down, hidden = class_activation_shift(
        base, tuned, [5.0, 5.0, 5.0, 60.0], n_latents=[3, 1, 2, 9], draws=2000, rng=r
    )
    assert (up.verdict, flat.verdict, down.verdict, hidden.verdict) == ("up", "unclear", "down", "unclear")
    assert up.change.low <= 30 <= up.change.high
    assert down.change.low <= -20 <= down.change.high
    assert hidden.p_adjusted < 0.05, "significant, but below what a harmless control shows"
    assert (up.n_latents, up.n_documents, hidden.null_size) == (3, 400, 60.0)


def test_activation_shift_without_a_known_null_is_unclear() -> None:
    base = rng(8).gamma(1, size=(200, 1))
    (row,) = class_activation_shift(base, 2 * base, [None], n_latents=[1], draws=500, rng=rng())
    assert row.p_adjusted < 0.05
    assert row.verdict == "unclear"


def test_identical_masses_change_by_exactly_zero() -> None:
    mass = rng(9).gamma(1, size=(60, 3))
    for row in class_activation_shift(mass, mass, [0.0] * 3, n_latents=[1] * 3, draws=300, rng=rng()):
        assert row.change.value == row.change.low == row.change.high == 0
        assert (row.p_adjusted, row.verdict) == (1, "unclear")


def test_no_mass_is_undefined() -> None:
    mass = np.zeros((10, 2))
    tuned = mass.copy()
    tuned[:, 1] = 1
    silent, new = class_activation_shift(mass, tuned, [0.0, 0.0], n_latents=[0, 1], draws=300, rng=rng())
    assert (silent.change.value, silent.p_adjusted, silent.verdict, silent.n_documents) == (None, None, "unclear", 0)
    assert (new.change.value, new.verdict, new.n_documents) == (None, "unclear", 10)


def test_two_way_interval_is_exact_for_identical_masses_and_wide_when_few_latents_decide() -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(2.0, size=(60, 40))
    assert two_way_ratio(base, base, draws=200, rng=rng) == (1.0, 1.0)
    everywhere = two_way_ratio(base, base * 1.2, draws=500, rng=rng)
    assert everywhere == pytest.approx((1.2, 1.2))
    one = base.copy()
    one[:, 0] *= 9  # the same total change, all of it in one latent
    low, high = two_way_ratio(base, one, draws=2000, rng=rng)
    assert low < 1.05 < one.sum() / base.sum() < high
    assert np.isnan(two_way_ratio(base * 0, base, draws=100, rng=rng)).all()


def test_two_way_interval_covers_when_latents_differ() -> None:
    """Latents with effects of their own, drawn anew each time: the interval over documents alone would miss the truth."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(150):
        base = rng.gamma(2.0, size=(50, 40))
        tuned = base * rng.lognormal(-0.125, 0.5, size=40)  # mean effect 1
        low, high = two_way_ratio(base, tuned, draws=300, rng=rng)
        hits += low <= 1.0 <= high
    assert hits >= 0.85 * 150
