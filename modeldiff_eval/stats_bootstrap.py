"""Resampling over documents: ratios, means, paired differences and class activation shifts.

The resampled unit is a document (or a block of documents); every function takes sums per document, so memory depends on
documents, latents and draws and never on tokens. NaN marks what is undefined; records turn it into ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import ActivationChange, Estimate
from modeldiff_eval.stats import FloatArray, estimate, number, permutation_p, step_down_max_t, verdict

DRAWS = 10_000
ZERO_DIVISIONS = 0.025
_TAIL = (0.025, 0.975)
_MEMORY = 256 * 2**20
"""Bytes that one array of resamples may take; more latents are worked through in chunks."""
_WEIGHT_ROWS = 32 * 2**20


class Intervals(NamedTuple):
    """Values with 95 % bounds, one per latent or group [n]; NaN is undefined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


def bootstrap_ratio(num: ArrayLike, den: ArrayLike, *, draws: int = DRAWS, rng: np.random.Generator) -> Intervals:
    """Ratio of sums over documents, ``sum(num) / sum(den)``, with a 95 % percentile interval over documents.

    All columns share each resample. Resamples are multinomial document weights, applied as a matrix product.

    Args:
        num: numerators [documents, latents], or [documents] for one ratio.
        den: denominators, the same shape.
        draws: resamples.
        rng: the only source of randomness.

    Returns:
        Value, low, high [latents]. The value is NaN where the denominator sums to 0, and then so are its bounds. Where
        more than 2.5 % of the resamples divide by 0 the upper bound is NaN.

    Raises:
        SettingsError: shapes differ, or no documents.
    """
    top, bottom = _columns(num, "num"), _columns(den, "den")
    if top.shape != bottom.shape:
        raise SettingsError(f"num is {top.shape} and den is {bottom.shape}; both are [documents, latents].")
    with np.errstate(divide="ignore", invalid="ignore"):
        total = bottom.sum(axis=0)
        value = np.where(total != 0, top.sum(axis=0) / total, np.nan)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    seed = int(rng.integers(2**63))
    step = max(1, _MEMORY // (4 * draws))
    for start in range(0, len(value), step):
        part = slice(start, start + step)
        low[part], high[part] = _ratio_bounds(top[:, part], bottom[:, part], draws=draws, seed=seed)
    undefined = ~np.isfinite(value)
    low[undefined] = high[undefined] = np.nan
    return Intervals(value, low, high)


def bootstrap_mean(values: ArrayLike, *, draws: int = DRAWS, rng: np.random.Generator) -> Intervals:
    """Mean over documents with a 95 % percentile interval; ``values`` is [documents, columns] or [documents]."""
    table = _columns(values, "values")
    return bootstrap_ratio(table, np.ones_like(table), draws=draws, rng=rng)


def paired_bootstrap(
    base: ArrayLike, tuned: ArrayLike, *, span: float | None, draws: int = DRAWS, rng: np.random.Generator
) -> Estimate:
    """Mean of tuned minus base over the same documents, with a 95 % interval.

    Args:
        base: score of every document under base [documents].
        tuned: the same for tuned [documents].
        span: largest difference that one document can show (1 for accuracy); half a pseudo document is then put at
            -span, 0 and +span (Jeffreys), so that identical answers do not give an interval of width 0. ``None`` where
            the metric has no bounds: no smoothing.
        draws: resamples (Bayesian bootstrap: exponential document weights).
        rng: the only source of randomness.

    Returns:
        The raw mean difference with bounds; all ``None`` without documents.
    """
    difference = _paired(base, tuned)
    if not len(difference):
        return estimate(np.nan, np.nan, np.nan)
    kinds, copies = np.unique(difference, return_counts=True)
    shape = copies.astype(np.float64)
    if span is not None:
        kinds = np.concatenate([kinds, [-span, 0.0, span]])
        shape = np.concatenate([shape, [0.5, 0.5, 0.5]])
    step = max(1, _WEIGHT_ROWS // (8 * len(kinds)))
    means = []
    for start in range(0, draws, step):
        weights = rng.standard_gamma(shape, size=(min(step, draws - start), len(kinds)))
        means.append(weights @ kinds / weights.sum(axis=1))
    low, high = np.quantile(np.concatenate(means), _TAIL)
    value = float(difference.mean())
    return estimate(value, min(low, value), max(high, value))


def sign_flip_p(base: ArrayLike, tuned: ArrayLike, *, draws: int = DRAWS, rng: np.random.Generator) -> float | None:
    """Two-sided paired permutation p of "both models score alike" over documents.

    Exact (McNemar's binomial test) when all non-zero differences have one size, as for accuracy; otherwise by ``draws``
    random sign flips. ``None`` without documents; 1 when no document differs.
    """
    difference = _paired(base, tuned)
    if not len(difference):
        return None
    moved = difference[difference != 0]
    if not len(moved):
        return 1.0
    if np.allclose(np.abs(moved), abs(moved[0]), rtol=1e-9, atol=0):
        fewer = min(np.count_nonzero(moved > 0), np.count_nonzero(moved < 0))
        return float(min(1.0, 2 * binom.cdf(fewer, len(moved), 0.5)))
    null = _flipped_sums(moved[:, None], draws=draws, rng=rng)[:, 0]
    return permutation_p(abs(float(moved.sum())), np.abs(null))


def class_activation_shift(
    mass_base: ArrayLike,
    mass_tuned: ArrayLike,
    null_size: Sequence[float | None],
    *,
    n_latents: Sequence[int],
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> list[ActivationChange]:
    """Percent change of every group's activation mass, tuned against base, on the same documents.

    Args:
        mass_base: activation mass of every document and group under base [documents, groups], not negative.
        mass_tuned: the same for tuned.
        null_size: percent change that a harmless control shows, per group [groups]; ``None`` is unknown.
        n_latents: latents in every group [groups].
        draws: resamples of documents, and sign flips.
        rng: the only source of randomness.

    Returns:
        One record per group. ``change`` has a bootstrap interval over documents and is null where the base mass is 0.
        ``p_adjusted`` is step-down max-T over the groups from joint swaps of both models' masses within documents.
        The verdict is the sign of the change if ``p_adjusted`` < 0.05 and the change exceeds a known ``null_size``.
    """
    base, tuned = _columns(mass_base, "mass_base"), _columns(mass_tuned, "mass_tuned")
    if base.shape != tuned.shape or base.shape[1] != len(null_size) or len(null_size) != len(n_latents):
        raise SettingsError(
            f"mass_base {base.shape} and mass_tuned {tuned.shape} need one null_size ({len(null_size)}) "
            f"and one n_latents ({len(n_latents)}) per group."
        )
    ratio_rng, flip_rng = rng.spawn(2)
    ratio = bootstrap_ratio(tuned, base, draws=draws, rng=ratio_rng)
    adjusted = flip_test(tuned - base, draws=draws, rng=flip_rng)
    documents = np.count_nonzero((base > 0) | (tuned > 0), axis=0)
    out = []
    for g, null in enumerate(null_size):
        change = estimate(*(100 * (float(bound[g]) - 1) for bound in ratio))
        p = number(adjusted[g]) if change.value is not None else None
        exceeds = change.value is not None and null is not None and abs(change.value) > null
        out.append(
            ActivationChange(
                change=change,
                p_adjusted=p,
                verdict=verdict(change.value, p) if exceeds else "unclear",
                n_latents=int(n_latents[g]),
                n_documents=int(documents[g]),
                null_size=null,
            )
        )
    return out


def two_way_ratio(base: ArrayLike, tuned: ArrayLike, *, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bounds of ``sum(tuned) / sum(base)`` when documents and latents are both a sample.

    A Bayesian bootstrap (exponential weights) over rows and columns at once, so a class whose change hangs on a few of
    its latents gets a wide interval: another dictionary, or other names, would have put other latents there.

    Args:
        base: activation mass [documents, latents], not negative.
        tuned: the same for tuned.

    Returns:
        Low and high; NaN where base has no mass.
    """
    bottom, top = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    if bottom.sum() <= 0:
        return np.nan, np.nan
    rows = rng.standard_exponential((draws, bottom.shape[0]))
    columns = rng.standard_exponential((draws, bottom.shape[1]))
    numerator = ((rows @ top) * columns).sum(axis=1)
    denominator = ((rows @ bottom) * columns).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.quantile(numerator / denominator, (0.025, 0.975))
    return float(low), float(high)


def flip_test(difference: FloatArray, *, draws: int, rng: np.random.Generator) -> FloatArray:
    """Step-down max-T p [groups] from joint sign flips of rows [documents, groups]; 1 where nothing differs."""
    scale = np.sqrt(np.square(difference).sum(axis=0))
    moved = scale > 0
    out = np.ones(difference.shape[1])
    if moved.any():
        scaled = difference[:, moved] / scale[moved]
        null = np.abs(_flipped_sums(scaled, draws=draws, rng=rng))
        out[moved] = step_down_max_t(np.abs(scaled.sum(axis=0)), null)
    return out


def _flipped_sums(rows: FloatArray, *, draws: int, rng: np.random.Generator) -> FloatArray:
    """Column sums [draws, groups] under random signs per document, for rows [documents, groups]."""
    out = np.empty((draws, rows.shape[1]))
    step = max(1, _WEIGHT_ROWS // (8 * len(rows)))
    for start in range(0, draws, step):
        n = min(step, draws - start)
        signs = 2.0 * rng.integers(0, 2, size=(n, len(rows)), dtype=np.int8) - 1.0
        out[start : start + n] = signs @ rows
    return out


def _ratio_bounds(top: FloatArray, bottom: FloatArray, *, draws: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Percentile bounds [latents] from multinomial weights; one seed gives every chunk of latents the same weights."""
    rng = np.random.default_rng(seed)
    documents = len(top)
    scale = np.maximum(np.abs(bottom).max(axis=0), np.finfo(np.float32).tiny)
    num, den = (top / scale).astype(np.float32), (bottom / scale).astype(np.float32)
    ratios = np.empty((draws, top.shape[1]), dtype=np.float32)
    step = max(1, min(draws, _WEIGHT_ROWS // (4 * documents)))
    even = np.full(documents, 1.0 / documents)
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        weights = rng.multinomial(documents, even, size=stop - start).astype(np.float32)
        below = weights @ den
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratios[start:stop] = np.where(below != 0, (weights @ num) / below, np.inf)
    low, high = np.quantile(ratios, _TAIL, axis=0, overwrite_input=False, method="inverted_cdf").astype(np.float64)
    endless = np.isinf(ratios).mean(axis=0)
    return np.where(np.isfinite(low), low, np.nan), np.where(
        (endless > ZERO_DIVISIONS) | ~np.isfinite(high), np.nan, high
    )


def _columns(values: ArrayLike, name: str) -> FloatArray:
    """Finite float64 [documents, columns] from one or two dimensions."""
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not len(table):
        raise SettingsError(f"{name} has shape {table.shape}; pass [documents, columns] with at least one document.")
    if not np.isfinite(table).all():
        raise SettingsError(f"{name} holds NaN or infinite numbers; drop those documents first.")
    return table


def _paired(base: ArrayLike, tuned: ArrayLike) -> NDArray[np.float64]:
    """Tuned minus base [documents]; both must list the same documents and be finite."""
    first, second = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise SettingsError(f"base {first.shape} and tuned {second.shape} must score the same documents.")
    difference = second - first
    if not np.isfinite(difference).all():
        raise SettingsError("Scores hold NaN or infinite numbers; drop those documents from both models.")
    return difference
