"""Small statistical tools that every comparison of the card shares.

Multiplicity (Holm, Benjamini-Hochberg, step-down max-T), closed-form intervals (Newcombe, square-root rule), effective
sample size and smallest detectable effect. Resampling lives in :mod:`modeldiff_eval.stats_bootstrap`, class and
category shares in :mod:`modeldiff_eval.stats_shares`. NumPy and SciPy only; arrays use NaN for "undefined", records use
``None`` (:func:`number` and :func:`estimate` convert).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import Estimate, Verdict

FloatArray = NDArray[np.float64]

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.80
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
MDE_FACTOR = Z + NormalDist().inv_cdf(POWER)
"""``z(0.975) + z(0.80)``, about 2.80."""

_DIGITS = 6
"""Digits kept of resampled numbers, so that equal runs on different machines give equal cards."""

_EXACT_DIGITS = 12
"""Digits kept of computed numbers: 19.8, not 19.799999999999955."""


def number(value: float, *, exact: bool = False) -> float | None:
    """A float for a record: ``None`` when not finite; rounded to 6 decimals, or to 12 if ``exact`` (not resampled)."""
    if not math.isfinite(value):
        return None
    return round(float(value), _EXACT_DIGITS if exact else _DIGITS) + 0.0


def estimate(value: float, low: float, high: float) -> Estimate:
    """An :class:`Estimate`; what is not finite becomes ``None``. An undefined value has no bounds."""
    if not math.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    return Estimate(value=number(value, exact=True), low=number(low), high=number(high))


def verdict(value: float | None, p_adjusted: float | None, *, alpha: float = ALPHA) -> Verdict:
    """The sign of ``value`` if and only if ``p_adjusted`` < ``alpha``, otherwise "unclear"."""
    if value is None or p_adjusted is None or not p_adjusted < alpha or value == 0:
        return "unclear"
    return "up" if value > 0 else "down"


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (family-wise error); ``None`` stays ``None`` and is not counted."""
    return _adjust(p, "holm")


def benjamini_hochberg(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini-Hochberg's step-up adjustment (false discovery rate); ``None`` stays ``None`` and is not counted."""
    return _adjust(p, "bh")


def _adjust(p: Sequence[float | None], method: Literal["holm", "bh"]) -> list[float | None]:
    known = [i for i, value in enumerate(p) if value is not None]
    values = np.array([p[i] for i in known], dtype=np.float64)
    if np.any(~((values >= 0) & (values <= 1))):
        raise SettingsError(f"p values lie between 0 and 1, got {list(p)}")
    m = len(values)
    order = np.argsort(values, kind="stable")
    ranks = np.arange(1, m + 1)
    if method == "holm":
        steps = np.maximum.accumulate(values[order] * (m - ranks + 1))
    else:
        steps = np.minimum.accumulate((values[order] * m / ranks)[::-1])[::-1]
    out: list[float | None] = [None] * len(p)
    for position, value in zip(order, np.minimum(steps, 1.0), strict=True):
        out[known[position]] = float(value)
    return out


def permutation_p(observed: float, null: FloatArray) -> float:
    """``(1 + #{null >= observed}) / (1 + draws)``, ties counted (Phipson and Smyth 2010). ``null`` [draws]."""
    return float((1 + np.count_nonzero(null >= observed - 1e-9 * max(1.0, abs(observed)))) / (1 + len(null)))


def step_down_max_t(observed: FloatArray, null: FloatArray) -> FloatArray:
    """Westfall and Young's step-down adjusted p values.

    Args:
        observed: statistics [groups], large is extreme, all on one scale (studentised).
        null: the same statistics under permutation [draws, groups]; one row is one joint permutation.

    Returns:
        Adjusted p values [groups], monotone in ``observed``; controls the family-wise error.
    """
    order = np.argsort(-observed, kind="stable")
    successive = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    p = np.array([permutation_p(float(observed[g]), successive[:, rank]) for rank, g in enumerate(order)])
    out = np.empty_like(p)
    out[order] = np.maximum.accumulate(p)
    return out


def joint_interval(
    low: FloatArray, middle: FloatArray, high: FloatArray, draws: FloatArray, *, limit: float
) -> tuple[FloatArray, FloatArray]:
    """Bounds that hold for all groups at once: the max-|t| method with each side's own half-width as scale.

    ``t`` of a draw is its distance from the middle in half-widths of the marginal interval on that side; the 95 %
    quantile of the largest |t| over groups stretches every marginal interval. For symmetric draws this is the usual
    max-|t| band.

    Args:
        low: marginal lower bounds [groups]; ``middle``: medians [groups]; ``high``: marginal upper bounds [groups].
        draws: resampled values [draws, groups].
        limit: no value lies further from zero, and no bound does.
    """
    tiny = np.finfo(np.float64).tiny
    above = (draws - middle) / np.maximum(high - middle, tiny)
    below = (middle - draws) / np.maximum(middle - low, tiny)
    stretch = max(1.0, float(np.quantile(np.maximum(above, below).max(axis=1), LEVEL)))
    return np.maximum(middle - stretch * (middle - low), -limit), np.minimum(middle + stretch * (high - middle), limit)


def wilson(count: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion, in [0, 1]. NaN when ``n`` is 0."""
    if n <= 0:
        return math.nan, math.nan
    p, z2 = count / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return middle - half, middle + half


def newcombe(base_count: float, base_n: float, tuned_count: float, tuned_n: float) -> Estimate:
    """Newcombe's (1998, method 10) 95 % interval of tuned minus base proportion, in [-1, 1]."""
    base_low, base_high = wilson(base_count, base_n)
    tuned_low, tuned_high = wilson(tuned_count, tuned_n)
    if base_n <= 0 or tuned_n <= 0:
        return estimate(math.nan, math.nan, math.nan)
    base, tuned = base_count / base_n, tuned_count / tuned_n
    diff = tuned - base
    return estimate(
        diff,
        diff - math.hypot(tuned - tuned_low, base_high - base),
        diff + math.hypot(tuned_high - tuned, base - base_low),
    )


def difference_of_estimates(base: Estimate, tuned: Estimate) -> Estimate:
    """Tuned minus base by the square-root rule on each side; bounds may be asymmetric, independence is assumed.

    This is how an Elo difference gets its interval from a published table. A missing bound gives a missing bound.
    """
    if base.value is None or tuned.value is None:
        return estimate(math.nan, math.nan, math.nan)
    diff = tuned.value - base.value
    low = high = math.nan
    if tuned.low is not None and base.high is not None:
        low = diff - math.hypot(tuned.value - tuned.low, base.high - base.value)
    if tuned.high is not None and base.low is not None:
        high = diff + math.hypot(tuned.high - tuned.value, base.value - base.low)
    return estimate(diff, low, high)


def interval_p(value: Estimate) -> float | None:
    """Two-sided normal p value of "the value is 0", read from the 95 % bound that lies towards 0."""
    if value.value is None:
        return None
    bound = value.low if value.value >= 0 else value.high
    if bound is None:
        return None
    half = abs(value.value - bound)
    if half == 0:
        return 1.0 if value.value == 0 else 0.0
    return math.erfc(abs(value.value) * Z / half / math.sqrt(2))


def effective_n(sizes: NDArray[np.int64] | FloatArray) -> float | None:
    """``(sum m)^2 / sum m^2`` of family sizes m on one side: how many equal families would carry as much.

    ``None`` when there is no latent. Latents that are each their own family give their number.
    """
    total = float(np.sum(sizes, dtype=np.float64))
    return None if total <= 0 else total**2 / float(np.sum(np.square(sizes, dtype=np.float64)))


def smallest_detectable(standard_error: float) -> float | None:
    """Smallest effect found with 80 % power at two-sided alpha 0.05: ``(z(0.975) + z(0.80)) * standard_error``.

    Before any correction for multiplicity, in the unit of the standard error.
    """
    return number(MDE_FACTOR * standard_error)
