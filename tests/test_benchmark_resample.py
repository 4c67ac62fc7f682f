"""Resampling many metrics at once: laws, hand-worked cases, and coverage (slow)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from modeldiff_eval.benchmark_metrics import additive
from modeldiff_eval.benchmark_resample import Contest, contest, low_end, resample, tail_of
from modeldiff_eval.benchmark_weights import EXPONENTIAL, TWO_POINT, Weights, weighted_sums


def _contest(
    base: Sequence[Any], tuned: Sequence[Any], clusters: NDArray[np.int64] | None = None, *, aggregation: str = "mean"
) -> Contest:
    sides = [
        additive(aggregation, [v if isinstance(v, list) else float(v) for v in values], reported=None)
        for values in (base, tuned)
    ]
    assert sides[0] is not None
    assert sides[1] is not None
    return contest(sides[0], sides[1], clusters)


def _interval(one: Contest, *, draws: int = 4000, seed: int = 0) -> tuple[float, float]:
    delta = resample([one], draws=draws, rng=np.random.default_rng(seed))[0].delta
    assert delta.low is not None
    assert delta.high is not None
    return delta.low, delta.high


def _correlated(rng: np.random.Generator, n: int, same: float = 0.6) -> tuple[NDArray[Any], NDArray[Any]]:
    base = (rng.random(n) < 0.55).astype(float)
    tuned = np.where(rng.random(n) < same, base, (rng.random(n) < 0.6).astype(float))
    return base, tuned


def test_scores_of_real_numbers_get_scipys_interval() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=400)
    tuned = base + rng.normal(0.1, 0.5, size=400)
    low, high = _interval(_contest(base.tolist(), tuned.tolist()))
    theirs = bootstrap((tuned - base,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06 * width)


def test_a_corpus_metric_is_aggregated_anew_in_every_resample() -> None:
    """F1's difference is no mean of differences; scipy resamples the same pairs."""
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 2, 300)
    answers = [np.where(rng.random(300) < p, gold, 1 - gold) for p in (0.7, 0.8)]
    base, tuned = ([[float(g), float(a)] for g, a in zip(gold, own, strict=True)] for own in answers)
    low, high = _interval(_contest(base, tuned, aggregation="f1"))

    def f1(g: Any, a: Any) -> float:
        return float(2 * np.sum(g * a) / (np.sum(g) + np.sum(a)))

    theirs = bootstrap(
        (gold, *answers), lambda g, a, b: f1(g, b) - f1(g, a), paired=True, vectorized=False, n_resamples=2000,
        method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.08 * (theirs.high - theirs.low))


def test_what_is_resampled_beside_a_metric_does_not_matter_to_it() -> None:
    rng = np.random.default_rng(3)
    one = _contest(rng.normal(size=90).tolist(), rng.normal(size=90).tolist())
    other = _contest(rng.normal(size=900).tolist(), rng.normal(size=900).tolist())
    alone = _interval(one)
    beside = resample([other, one], draws=4000, rng=np.random.default_rng(0))[1].delta
    assert (beside.low, beside.high) == pytest.approx(alone, abs=0.06 * (alone[1] - alone[0]))


def test_copies_of_documents_in_a_cluster_add_nothing() -> None:
    """Ten copies of each of 60 documents, named as clusters, are 60 documents; unnamed they look like 600."""
    base, tuned = _correlated(np.random.default_rng(4), 60)
    clusters = np.repeat(np.arange(60), 10)
    whole = _contest(np.repeat(base, 10).tolist(), np.repeat(tuned, 10).tolist(), clusters)
    naive = _contest(np.repeat(base, 10).tolist(), np.repeat(tuned, 10).tolist())
    once = np.subtract(*_interval(_contest(base.tolist(), tuned.tolist()))[::-1])
    assert np.subtract(*_interval(whole)[::-1]) == pytest.approx(once, rel=0.15)
    assert np.subtract(*_interval(naive)[::-1]) < 0.5 * once


def test_a_cluster_of_its_own_for_every_document_changes_little() -> None:
    rng = np.random.default_rng(5)
    base, tuned = rng.normal(size=(2, 200))
    plain = _interval(_contest(base.tolist(), tuned.tolist()))
    named = _interval(_contest(base.tolist(), tuned.tolist(), np.arange(200)))
    assert named == pytest.approx(plain, abs=0.03 * (plain[1] - plain[0]))


def test_clusters_swap_together_in_the_test() -> None:
    """Eight clusters that all moved one way: two of 2^8 swaps are as extreme, whatever the documents in them."""
    clusters = np.repeat(np.arange(8), 5)
    rng = np.random.default_rng(6)
    tuned = np.clip(rng.random(40), 0.1, None)
    outcome = resample(
        [_contest([0.0] * 40, tuned.tolist(), clusters)], draws=20_000, rng=np.random.default_rng(0)
    )[0]  # fmt: skip
    assert outcome.p == pytest.approx(2 / 256, abs=0.002)


def test_units_that_all_moved_alike_have_no_interval() -> None:
    outcome = resample([_contest([0.5] * 9, [0.75] * 9)], draws=200, rng=np.random.default_rng(0))[0]
    assert outcome.delta.value == 0.25
    assert outcome.delta.low is None
    assert outcome.p == 2 * 0.5**9


def test_one_cluster_has_no_interval() -> None:
    one = _contest([0.0, 1.0, 0.0], [1.0, 1.0, 0.5], np.zeros(3, dtype=np.int64))
    assert resample([one], draws=100, rng=np.random.default_rng(0))[0].delta.low is None


def test_equal_seeds_give_equal_outcomes() -> None:
    contests = [_contest([0, 1, 1, 0], [1, 1, 0, 1]), _contest([0.1, 0.2, 0.5], [0.3, 0.1, 0.9])]
    first, second = (resample(contests, draws=500, rng=np.random.default_rng(9)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("weights", [EXPONENTIAL, TWO_POINT])
def test_weights_have_the_moments_of_counts(weights: Weights) -> None:
    drawn = weights.shift + weights.scale * weights.draw((2000, 500), np.random.default_rng(0)).astype(np.float64)
    assert drawn.mean() == pytest.approx(1, abs=0.005)
    assert drawn.var() == pytest.approx(1, abs=0.01)
    if weights is TWO_POINT:
        assert ((drawn - 1) ** 3).mean() == pytest.approx(1, abs=0.02)


def test_sums_of_many_tables_are_those_of_each_table() -> None:
    """Tables of several lengths, with constant columns and large means, against a plain product in double precision; they stay as they are."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(1e6, 1.0, (n, 2)) for n in (40, 39, 7)] + [np.ones((40, 1)), np.zeros((0, 3))]
    given = Weights(lambda shape, _: np.resize(np.arange(1, 12, dtype=np.float32) / 4, shape), scale=2.0, shift=0.5)
    whole = 0.5 + 2.0 * np.resize(np.arange(1, 12) / 4, (9, 40))
    kept = [table.copy() for table in tables]
    for table, sums in zip(kept, weighted_sums(tables, 9, given, rng), strict=True):
        assert np.allclose(sums, whole[:, : len(table)] @ table, rtol=1e-9, atol=1e-4)
    assert all(np.array_equal(table, before) for table, before in zip(tables, kept, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 40, 9999])
def test_the_low_end_is_the_quantile_of_numpy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    for tail in (0.0, 0.01, 0.025, 0.5, 1.0):
        assert low_end(values, tail) == pytest.approx(np.quantile(values, tail), rel=1e-12)


def test_the_tail_of_many_units_is_the_usual_one() -> None:
    assert tail_of(10**6) == pytest.approx(0.025, abs=1e-4)
    assert tail_of(20) < 0.02 < tail_of(100)


def _coverage(draw: Any, truth: float, *, repeats: int = 1500) -> float:
    """Share of simulated 95 % intervals that hold the true difference."""
    hits = 0
    for number in range(repeats):
        rng = np.random.default_rng([7, number])
        low, high = _interval(draw(rng), draws=1000, seed=number)
        hits += low <= truth <= high
    return hits / repeats


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 300, 1000])
def test_paired_intervals_of_right_and_wrong_cover(n: int) -> None:
    """Truth: tuned keeps base's answer (0.55 right) with 0.6, else is right with 0.6, so the difference is 0.4 * 0.05."""

    def draw(rng: np.random.Generator) -> Contest:
        base, tuned = _correlated(rng, n)
        return _contest(base.tolist(), tuned.tolist())

    assert 0.93 <= _coverage(draw, 0.4 * 0.05) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "size"), [(25, 8), (60, 10), (200, 5)])
def test_clustered_intervals_cover_where_plain_ones_do_not(clusters: int, size: int) -> None:
    """Passages are hard or easy for tuned as a whole: documents of one passage move together."""

    def scores(rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
        names = np.repeat(np.arange(clusters), size)
        base = (rng.random(clusters * size) < 0.5).astype(float)
        level = rng.choice([0.2, 0.9], size=clusters)[names]
        return base, (rng.random(clusters * size) < level).astype(float), names

    def clustered(rng: np.random.Generator) -> Contest:
        base, tuned, names = scores(rng)
        return _contest(base.tolist(), tuned.tolist(), names)

    def plain(rng: np.random.Generator) -> Contest:
        base, tuned, _ = scores(rng)
        return _contest(base.tolist(), tuned.tolist())

    assert 0.93 <= _coverage(clustered, 0.05) <= 0.97
    assert _coverage(plain, 0.05, repeats=600) < 0.93
