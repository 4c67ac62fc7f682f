"""How lm-eval's metrics are put together from documents, in a form that can be resampled fast.

Many corpus-level metrics are a function of a few sums over documents: perplexity of log-likelihoods and word counts, F1
of true and false positives. Resampling documents then is one matrix product. A metric that is not of this kind (BLEU,
chrF, a task's own code) is not resampled; the caller says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from modeldiff_eval.stats import FloatArray

Finish = Callable[[FloatArray], FloatArray]

_TOLERANCE = 1e-6


class Additive(NamedTuple):
    """A metric as ``finish(sum over documents of features)``."""

    features: FloatArray
    """[documents, sums]"""
    finish: Finish
    """[..., sums] → [...]; NaN where it is undefined."""
    is_mean: bool
    """Whether the metric is the mean of one number per document."""

    def value(self) -> float:
        """The metric over all documents."""
        return float(self.finish(self.features.sum(axis=0)))


def additive(aggregation: str | None, values: Sequence[Any], *, reported: float | None) -> Additive | None:
    """The metric whose documents have these values, or ``None`` when it is not known how to aggregate them.

    The name alone is not trusted: what is returned reproduces ``reported``, lm-eval's own aggregate.

    Args:
        aggregation: lm-eval's name or source text, if known.
        values: one value per document.
        reported: lm-eval's aggregate over exactly these documents, if known.
    """
    for candidate in _candidates(aggregation or "", values):
        made = candidate(values)
        if made is None:
            continue
        value = made.value()
        if reported is None or math.isclose(value, reported, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            return made
    return None


def _candidates(name: str, values: Sequence[Any]) -> list[Callable[[Sequence[Any]], Additive | None]]:
    """Aggregations to try: the named one first, then what the shape of the values suggests."""
    known = {
        "mean": _mean,
        "nanmean": _mean,
        "perplexity": _perplexity,
        "weighted_perplexity": _weighted_perplexity,
        "bits_per_byte": _bits_per_byte,
        "f1": _f1,
        "matthews_corrcoef": _matthews,
    }
    if name in known:
        return [known[name]]
    if _floats(values):
        return [_mean]
    return [_pooled_mean]


def _scalars(values: Sequence[Any]) -> FloatArray | None:
    """[documents] when every value is a finite number."""
    if not values or not _floats(values):
        return None
    numbers = np.asarray(values, dtype=np.float64)
    return numbers if np.isfinite(numbers).all() else None


def _floats(values: Sequence[Any]) -> bool:
    return all(issubclass(kind, float) for kind in set(map(type, values)))


def _pairs(values: Sequence[Any]) -> FloatArray | None:
    """[documents, 2] when every value is a pair of finite numbers."""
    if not values or not all(isinstance(v, list) and len(v) == 2 and _scalars(v) is not None for v in values):
        return None
    return np.asarray(values, dtype=np.float64)


def _ratio(sums: FloatArray) -> FloatArray:
    """First sum over second; NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] != 0, sums[..., 0] / sums[..., 1], np.nan)


def _perplexity_of(sums: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.exp(-_ratio(sums))


def _mean(values: Sequence[Any]) -> Additive | None:
    numbers = _scalars(values)
    return None if numbers is None else Additive(_with_count(numbers), _ratio, is_mean=True)


def _perplexity(values: Sequence[Any]) -> Additive | None:
    numbers = _scalars(values)
    return None if numbers is None else Additive(_with_count(numbers), _perplexity_of, is_mean=False)


def _weighted_perplexity(values: Sequence[Any]) -> Additive | None:
    pairs = _pairs(values)
    return None if pairs is None else Additive(pairs, _perplexity_of, is_mean=False)


def _bits_per_byte(values: Sequence[Any]) -> Additive | None:
    pairs = _pairs(values)
    return None if pairs is None else Additive(pairs, lambda sums: -_ratio(sums) / math.log(2), is_mean=False)


def _pooled_mean(values: Sequence[Any]) -> Additive | None:
    """Mean over all entries of lists of different lengths, such as IFEval's instructions."""
    if not all(isinstance(value, list) and (not value or _scalars(value) is not None) for value in values):
        return None
    sums = np.array([[sum(value), len(value)] for value in values], dtype=np.float64)
    return Additive(sums, _ratio, is_mean=False)


def _confusion(values: Sequence[Any]) -> FloatArray | None:
    """[documents, 4]: true positive, false positive, false negative, true negative of ``[gold, predicted]``."""
    pairs = _pairs(values)
    if pairs is None or not np.isin(pairs, (0.0, 1.0)).all():
        return None
    gold, predicted = pairs[:, 0] == 1, pairs[:, 1] == 1
    return np.stack([gold & predicted, ~gold & predicted, gold & ~predicted, ~gold & ~predicted], axis=1).astype(float)


def _f1(values: Sequence[Any]) -> Additive | None:
    """F1 of the label 1; 0 without any positive, as in scikit-learn."""
    cells = _confusion(values)

    def finish(sums: FloatArray) -> FloatArray:
        below = 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
        return 2 * sums[..., 0] / np.where(below > 0, below, 1.0)

    return None if cells is None else Additive(cells, finish, is_mean=False)


def _matthews(values: Sequence[Any]) -> Additive | None:
    """Matthews correlation; 0 when a margin is empty, as in scikit-learn."""
    cells = _confusion(values)

    def finish(sums: FloatArray) -> FloatArray:
        tp, fp, fn, tn = (sums[..., i] for i in range(4))
        below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return (tp * tn - fp * fn) / np.where(below > 0, below, 1.0)

    return None if cells is None else Additive(cells, finish, is_mean=False)


def _with_count(numbers: FloatArray) -> FloatArray:
    return np.stack([numbers, np.ones_like(numbers)], axis=1)
