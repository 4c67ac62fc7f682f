"""Paired resampling of many benchmark metrics at once: one set of random weights serves all of them.

A metric is a function of sums over documents (:class:`~modeldiff_eval.benchmark_metrics.Additive`), so a resample is a row of
weights times a table. Weights are drawn one by one (exponential ones are the Bayesian bootstrap), not counts that must add up,
so the first columns of one block serve a short task and all of them a long one. Intervals of different tasks then share
random numbers, which changes none of them. Metrics with few different documents (right or wrong) draw one gamma number for each
kind instead. Memory does not grow with the number of draws times documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from modeldiff_eval.benchmark_metrics import Additive
from modeldiff_eval.benchmark_weights import COINS, EXPONENTIAL, TWO_POINT, weighted_sums
from modeldiff_eval.records import Estimate
from modeldiff_eval.stats import LEVEL, FloatArray, estimate, permutation_p
from modeldiff_eval.stats_bootstrap import mcnemar_p

_MANY = 128
"""From so many units on, two-point weights do."""
_FEW = 64
"""So many different documents at most are drawn by kind."""
_PSEUDO = np.array([[-1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
"""Jeffreys: half a document each that was lost, that stayed, that was won."""


class Contest(NamedTuple):
    """One metric of both models over the same units: documents, or clusters of them.

    ``binary``: every document is 0 or 1, so a difference of -1, 0 or 1 is possible whether or not it was seen.
    """

    base: Additive
    tuned: Additive
    binary: bool

    @property
    def units(self) -> int:
        return len(self.base.features)

    @property
    def is_mean(self) -> bool:
        """Whether the difference is a mean of differences."""
        return self.base.is_mean and self.tuned.is_mean

    @property
    def smoothed(self) -> bool:
        """Whether pseudo documents alone make the interval wide enough: right or wrong, one document a unit."""
        return self.binary and bool((self.base.features[:, 1] == 1).all())

    def value(self) -> float:
        """Tuned minus base over all units."""
        return self.tuned.value() - self.base.value()


class Outcome(NamedTuple):
    """Tuned minus base with its interval over units, and the p value of swapping the models within units."""

    delta: Estimate
    p: float | None


def contest(base: Additive, tuned: Additive, clusters: NDArray[np.int64] | None) -> Contest:
    """A contest over documents, or over clusters [documents] of them: the sums of a cluster are resampled together."""
    scores = np.concatenate([base.features[:, 0], tuned.features[:, 0]])
    binary = base.is_mean and tuned.is_mean and bool(np.isin(scores, (0.0, 1.0)).all())
    if clusters is not None:
        base, tuned = (
            additive._replace(features=_summed(additive.features, clusters)) for additive in (base, tuned)
        )  # fmt: skip
    return Contest(base, tuned, binary)


def _summed(features: FloatArray, clusters: NDArray[np.int64]) -> FloatArray:
    out = np.zeros((int(clusters.max()) + 1, features.shape[1]))
    np.add.at(out, clusters, features)
    return out


def resample(contests: Sequence[Contest], *, draws: int, rng: np.random.Generator) -> list[Outcome]:
    """Intervals and p values of all contests.

    The 95 % interval is the Bayesian bootstrap's. Scores of 0 and 1 have Jeffreys' pseudo documents; for all else, and for
    clusters, the tails are moved out as Student's t asks for so many units (20 clusters give too narrow a one otherwise).
    p is of swaps of both models' scores within units: exact where that is easy (McNemar's test of right and wrong), else
    ``draws`` random ones.
    """
    weight_rng, swap_rng = rng.spawn(2)
    exact = [_exact_p(one) for one in contests]
    swapped = iter(_nulls([one for one, p in zip(contests, exact, strict=True) if p is None], draws, swap_rng))
    spreads = _spreads(contests, draws, weight_rng)
    values = [one.value() for one in contests]
    return [
        _outcome(one, value, spread, _swap_p(value, next(swapped)) if p is None else p)
        for one, value, spread, p in zip(contests, values, spreads, exact, strict=True)
    ]


def _exact_p(one: Contest) -> float | None:
    """The exact test of swaps, where all units that differ do so by the same amount (McNemar's, for right and wrong)."""
    if not one.is_mean:
        return None
    moved = _table(one)[:, 0]
    moved = moved[moved != 0]
    sizes = np.abs(moved)
    if len(moved) and not sizes.max() - sizes.min() <= 1e-9 * sizes.min():
        return None
    return mcnemar_p(int(np.count_nonzero(moved > 0)), int(np.count_nonzero(moved < 0)))


def _swap_p(value: float, null: FloatArray) -> float | None:
    return None if np.isnan(null).any() or not math.isfinite(value) else permutation_p(abs(value), np.abs(null))


def _outcome(one: Contest, value: float, spread: FloatArray, p: float | None) -> Outcome:
    if not math.isfinite(value):
        return Outcome(estimate(value, math.nan, math.nan), None)
    undefined = np.isnan(spread)
    missing = np.count_nonzero(undefined)
    if one.units < 2 or missing > 0.025 * len(spread):
        return Outcome(estimate(value, math.nan, math.nan), p)
    tail = (1 - LEVEL) / 2 if one.smoothed else tail_of(one.units)
    kept = spread[~undefined] if missing else spread
    low, high = low_end(kept, tail), -low_end(-kept, tail)
    if high - low <= 1e-12 * max(1.0, abs(value)):  # all units alike say nothing about their spread
        return Outcome(estimate(value, math.nan, math.nan), p)
    return Outcome(estimate(value, min(low, value), max(high, value)), p)


def low_end(values: FloatArray, tail: float) -> float:
    """``np.quantile(values, tail)`` in a quarter of its time: one pivot, not its four."""
    below, share = divmod(tail * (len(values) - 1), 1)
    split = np.partition(values, above := min(int(below) + 1, len(values) - 1))
    lower, upper = float(split[: int(below) + 1].max()), float(split[above])
    return lower + share * (upper - lower)


def tail_of(units: int) -> float:
    """The share of draws outside one end of a 95 % interval over ``units``.

    A Bayesian bootstrap's variance is (u - 1) / (u + 1) times the unbiased one, and the mean of u units is Student's.
    """
    quantile = float(stdtrit(units - 1, 0.5 + LEVEL / 2)) * math.sqrt((units + 1) / (units - 1))
    return float(ndtr(-quantile))


def _spreads(contests: Sequence[Contest], draws: int, rng: np.random.Generator) -> list[FloatArray]:
    """Resampled differences [draws] of every contest."""
    few_rng, pseudo_rng, rng = rng.spawn(3)
    out: dict[int, FloatArray] = {}
    rest: list[int] = []
    for number, one in enumerate(contests):
        if (made := _by_kind(one, draws, few_rng)) is None:
            rest.append(number)
        else:
            out[number] = made

    for weights, numbers in (
        (EXPONENTIAL, [number for number in rest if contests[number].units < _MANY]),
        (TWO_POINT, [number for number in rest if contests[number].units >= _MANY]),
    ):
        tables = [_table(contests[number]) for number in numbers]
        for number, sums in zip(numbers, weighted_sums(tables, draws, weights, rng), strict=True):
            if contests[number].binary:
                sums += pseudo_rng.standard_gamma(0.5, size=(draws, len(_PSEUDO))) @ _PSEUDO
            out[number] = _difference(contests[number], sums)
    return [out[number] for number in range(len(contests))]


def _nulls(contests: Sequence[Contest], draws: int, rng: np.random.Generator) -> list[FloatArray]:
    """Differences [draws] when the models' scores are swapped at random within units."""
    tables = []
    for one in contests:
        gap = (one.tuned.features - one.base.features).T
        tables.append(gap[:, (gap != 0).any(axis=0)].T)
    out = []
    for one, moved in zip(contests, weighted_sums(tables, draws, COINS, rng), strict=True):
        base, tuned = one.base.features.sum(axis=0), one.tuned.features.sum(axis=0)
        out.append(one.tuned.finish(tuned - moved) - one.base.finish(base + moved))
    return out


def _table(one: Contest) -> FloatArray:
    """What is summed: of a mean the differences and the counts, else both models' sums [units, sums]."""
    if one.is_mean:
        counts = one.base.features[:, 1]
        return np.stack([one.tuned.features[:, 0] - one.base.features[:, 0], counts], axis=1)
    return np.concatenate([one.base.features, one.tuned.features], axis=1)


def _difference(one: Contest, sums: FloatArray) -> FloatArray:
    """Tuned minus base [draws] from sums of :func:`_table` [draws, sums]."""
    if one.is_mean:
        return np.asarray(sums[:, 0] / sums[:, 1])
    split = one.base.features.shape[1]
    return one.tuned.finish(sums[:, split:]) - one.base.finish(sums[:, :split])


def _by_kind(one: Contest, draws: int, rng: np.random.Generator) -> FloatArray | None:
    """Resampled differences of a metric with few different units: a gamma number is a sum of exponential ones."""
    table, weight = _table(one), np.ones(one.units)
    if len(np.unique(table[:, 0])) > _FEW:
        return None
    if one.binary:
        table, weight = np.concatenate([table, _PSEUDO]), np.concatenate([weight, np.full(len(_PSEUDO), 0.5)])
    kinds, member = np.unique(table, axis=0, return_inverse=True)
    if len(kinds) > _FEW or 2 * len(kinds) > len(table):
        return None
    shape = np.bincount(member.ravel(), weights=weight)
    return _difference(one, rng.standard_gamma(shape, size=(draws, len(kinds))) @ kinds)
