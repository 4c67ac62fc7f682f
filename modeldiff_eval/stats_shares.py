"""Class and category shifts: shares of annotated latents in tuned against base, with intervals and verdicts.

The resampled unit is the *family* of latents; a family with members on both sides is matched and stays together.
Intervals come from a Bayesian bootstrap over families (Rubin 1981) with Jeffreys-type smoothing, which for independent
latents is exactly the beta posterior of two proportions. p values come from a permutation of families between sides.
Why this and not the plain bootstrap: ``docs/decisions/003-intervals.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import ClassRow, CountShare, Estimate
from modeldiff_eval.stats import (
    FloatArray,
    effective_n,
    estimate,
    joint_interval,
    number,
    permutation_p,
    smallest_detectable,
    step_down_max_t,
    verdict,
)

DRAWS = 10_000
ZERO_DIVISIONS = 0.025
"""``change.high`` is null where a larger share of family resamples would divide by a base share of 0."""

SMOOTHING = 0.75
"""Pseudo latents inside and outside a group on each side. With Jeffreys' 1/2 no interval has zero width, but the exact
coverage falls to 92 % at shares of 2 to 3 %, where most of the 30 categories lie; 3/4 keeps it above 94 % there."""

_TAIL = (0.025, 0.5, 0.975)


class ShareShifts(NamedTuple):
    """Result of :func:`share_shifts`: one row per group, the joint test, and the effective number of latents."""

    rows: list[ClassRow]
    omnibus_p: float | None
    effective_n_base: float | None
    effective_n_tuned: float | None


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Families of both sides: how many latents of each group they hold.

    ``base``, ``tuned`` [types, groups + 1] (last column: none of the groups) are the distinct membership rows,
    ``copies`` [types] how many families have that row.
    """

    base: FloatArray
    tuned: FloatArray
    copies: NDArray[np.int64]


def share_shifts(
    base_labels: ArrayLike,
    tuned_labels: ArrayLike,
    base_families: ArrayLike,
    tuned_families: ArrayLike,
    *,
    groups: Sequence[tuple[str, str]],
    covered: Collection[str] | None,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> ShareShifts:
    """Shift of every group's share (percent of the annotated latents) from base to tuned.

    Args:
        base_labels: group index of every annotated base latent [base latents]; -1 is annotated as none of the groups.
        tuned_labels: the same for tuned [tuned latents]. Latents whose annotation failed are not passed.
        base_families: family of every base latent [base latents]; an id that both sides use is a matched family.
        tuned_families: the same for tuned [tuned latents].
        groups: (code, name) of every group, in the order of the label indices.
        covered: codes that the corpus reaches; ``None`` when no corpus was read (then all count as covered).
        draws: resamples, and permutations.
        rng: the only source of randomness.

    Returns:
        Rows in the order of ``groups``. Point values are the raw shares; ``mde`` is
        ``(z(0.975) + z(0.80)) * bootstrap standard error of diff``, before multiplicity; ``p_adjusted`` is the larger
        of the step-down max-T p over the covered groups and the omnibus p, so that ``p_adjusted`` < 0.05 is the whole
        condition of a verdict.

    Raises:
        SettingsError: labels outside the groups, arrays of unequal length, or too few draws.
    """
    if draws < 100:
        raise SettingsError(f"draws is {draws}; at least 100 resamples are needed for a 95 % interval.")
    base = _labels(base_labels, base_families, len(groups), "base")
    tuned = _labels(tuned_labels, tuned_families, len(groups), "tuned")
    base_rows, tuned_rows = _memberships(base, tuned, n_groups=len(groups))
    is_covered = np.array([covered is None or code in covered for code, _ in groups], dtype=bool)
    interval_rng, permutation_rng = rng.spawn(2)

    counts_base, counts_tuned = base_rows.sum(axis=0), tuned_rows.sum(axis=0)
    n_base, n_tuned = counts_base.sum(), counts_tuned.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        share_base, share_tuned = 100 * counts_base[:-1] / n_base, 100 * counts_tuned[:-1] / n_tuned
        diff, change = share_tuned - share_base, 100 * (share_tuned / share_base - 1)

    boot = _posterior(_compress(base_rows, tuned_rows), base_rows, tuned_rows, draws=draws, rng=interval_rng)
    p, p_adjusted, omnibus = _permutation_tests(
        base_rows, tuned_rows, covered=is_covered, draws=draws, rng=permutation_rng
    )
    diff_low, diff_middle, diff_high = np.quantile(boot.diff, _TAIL, axis=0)
    diff_low, diff_high = np.minimum(diff_low, diff), np.maximum(diff_high, diff)
    joint_low, joint_high = np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    if is_covered.any():
        joint_low[is_covered], joint_high[is_covered] = joint_interval(
            diff_low[is_covered], diff_middle[is_covered], diff_high[is_covered], boot.diff[:, is_covered], limit=100
        )
    change_low, change_high = np.quantile(boot.change, (_TAIL[0], _TAIL[2]), axis=0)
    change_high = np.where(_zero_divisions(base_rows) > ZERO_DIVISIONS, np.nan, np.maximum(change_high, change))
    count_change = counts_tuned[:-1] - counts_base[:-1]
    count_low, count_high = np.quantile(boot.count_change, (_TAIL[0], _TAIL[2]), axis=0)

    rows = []
    defined = bool(n_base > 0 and n_tuned > 0)
    for g, (code, name) in enumerate(groups):
        shift = estimate(diff[g], diff_low[g], diff_high[g])
        relative = estimate(change[g], min(change_low[g], change[g]), change_high[g])
        rows.append(
            ClassRow(
                code=code,
                name=name,
                covered=bool(is_covered[g]),
                base=CountShare(count=int(counts_base[g]), share=number(share_base[g], exact=True)),
                tuned=CountShare(count=int(counts_tuned[g]), share=number(share_tuned[g], exact=True)),
                count_change=estimate(
                    count_change[g], min(count_low[g], count_change[g]), max(count_high[g], count_change[g])
                ),
                diff=shift,
                diff_simultaneous=_simultaneous(shift, joint_low[g], joint_high[g]),
                change=None if relative.value is None else relative,
                mde=smallest_detectable(float(boot.diff[:, g].std(ddof=1))) if defined else None,
                p=number(p[g]),
                p_adjusted=number(p_adjusted[g]),
                verdict=verdict(shift.value, number(p_adjusted[g])) if is_covered[g] else "not covered",
            )
        )
    return ShareShifts(
        rows=rows,
        omnibus_p=number(omnibus),
        effective_n_base=effective_n(base_rows.sum(axis=1).astype(np.int64)),
        effective_n_tuned=effective_n(tuned_rows.sum(axis=1).astype(np.int64)),
    )


def over_seeds(
    rows: Sequence[ClassRow],
    sides: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> tuple[list[ClassRow], list[FloatArray]]:
    """Rows whose interval of ``diff`` also covers the choice of a crosscoder's seed: a seed is drawn, then families within it.

    Args:
        rows: the first seed's, from :func:`share_shifts`.
        sides: for every seed, the first among them, (base labels, tuned labels, base families, tuned families).
        draws: resamples in all, as many from each seed.

    Returns:
        The rows, and every seed's own differences [groups] in points. Values and p stay the first seed's; no interval gets
        narrower, the simultaneous one is stretched to hold it, and a verdict is unclear where the interval holds 0. A seed
        without annotated specific latents on both sides has no shares: it gives NaN and is left out of the interval.
    """
    n, values, pool = len(rows), list[FloatArray](), list[FloatArray]()
    for (base_labels, tuned_labels, base_families, tuned_families), own in zip(
        sides, rng.spawn(len(sides)), strict=True
    ):
        base = _labels(base_labels, base_families, n, "base")
        tuned = _labels(tuned_labels, tuned_families, n, "tuned")
        base_rows, tuned_rows = _memberships(base, tuned, n_groups=n)
        if not base_rows.sum() or not tuned_rows.sum():
            values.append(np.full(n, np.nan))
            continue
        shares = [100 * table.sum(axis=0)[:-1] / table.sum() for table in (base_rows, tuned_rows)]
        values.append(shares[1] - shares[0])
        each = max(1, draws // len(sides))
        pool.append(_posterior(_compress(base_rows, tuned_rows), base_rows, tuned_rows, draws=each, rng=own).diff)
    if len(pool) < 2 or any(row.diff.value is None for row in rows):
        return list(rows), values
    low, high = np.quantile(np.concatenate(pool), (_TAIL[0], _TAIL[2]), axis=0)
    return [_widened(row, low[g], high[g]) for g, row in enumerate(rows)], values


def _widened(row: ClassRow, low: float, high: float) -> ClassRow:
    def hull(own: Estimate) -> Estimate:
        bounds = [low if own.low is None else min(low, own.low), high if own.high is None else max(high, own.high)]
        return estimate(own.value if own.value is not None else np.nan, *bounds)

    diff = hull(row.diff)
    holds = diff.low is not None and diff.high is not None and diff.low <= 0 <= diff.high
    joint = None if row.diff_simultaneous is None else hull(row.diff_simultaneous)
    judged = "unclear" if holds and row.verdict in ("up", "down") else row.verdict
    return row.model_copy(update={"diff": diff, "diff_simultaneous": joint, "verdict": judged})


def _simultaneous(shift: Estimate, low: float, high: float) -> Estimate | None:
    if shift.value is None or not np.isfinite(low):
        return None
    return estimate(shift.value, min(low, shift.value), max(high, shift.value))


def _labels(labels: ArrayLike, families: ArrayLike, n_groups: int, side: str) -> NDArray[np.int64]:
    """Checked [2, latents] of (label, family); -1 becomes ``n_groups``, the column of "none"."""
    label, family = np.asarray(labels), np.asarray(families)
    if label.shape != family.shape or label.ndim != 1:
        raise SettingsError(f"{side} has labels {label.shape} and families {family.shape}; pass one family per latent.")
    if label.size and (not np.issubdtype(label.dtype, np.integer) or label.min() < -1 or label.max() >= n_groups):
        raise SettingsError(f"{side} labels must be integers from -1 (none) to {n_groups - 1}.")
    return np.stack([np.where(label < 0, n_groups, label).astype(np.int64), family.astype(np.int64)])


def _memberships(*sides: NDArray[np.int64], n_groups: int) -> list[FloatArray]:
    """Latents of every family in every group, per side: arrays [families, groups + 1]."""
    ids, inverse = np.unique(np.concatenate([side[1] for side in sides]), return_inverse=True)
    parts = np.split(inverse, np.cumsum([side.shape[1] for side in sides])[:-1])
    out = []
    for side, rows in zip(sides, parts, strict=True):
        table = np.zeros((len(ids), n_groups + 1))
        np.add.at(table, (rows, side[0]), 1.0)
        out.append(table)
    return out


def _compress(base_rows: FloatArray, tuned_rows: FloatArray) -> _Table:
    """Families with equal membership rows are interchangeable: keep one row and a count (much faster, exact)."""
    width = base_rows.shape[1]
    rows, copies = np.unique(np.concatenate([base_rows, tuned_rows], axis=1), axis=0, return_counts=True)
    return _Table(base=rows[:, :width], tuned=rows[:, width:], copies=copies.astype(np.int64))


class _Posterior(NamedTuple):
    diff: FloatArray
    change: FloatArray
    count_change: FloatArray


def _posterior(
    table: _Table, base_rows: FloatArray, tuned_rows: FloatArray, *, draws: int, rng: np.random.Generator
) -> _Posterior:
    """Draws [draws, groups] of diff (points), change (percent) and count change (latents).

    Every family gets a weight from Gamma(1); every group gets, on each side, a pseudo unit inside and one outside, with
    weights from Gamma(a), a = :data:`SMOOTHING`. Independent latents thus give Beta(c + a, n - c + a) for a share and
    Gamma(c + a) for a count. A unit is one latent, or one (size-weighted) average family of latents.
    """
    weights = rng.standard_gamma(table.copies.astype(np.float64), size=(draws, len(table.copies)))
    shares, counts = [], []
    for types, families in ((table.base, base_rows), (table.tuned, tuned_rows)):
        share, count = _drawn(weights, types, families, rng)
        counts.append(count)
        shares.append(share)
    tiny = np.finfo(np.float64).tiny
    return _Posterior(
        diff=shares[1] - shares[0],
        change=100 * (shares[1] / np.maximum(shares[0], tiny) - 1),
        count_change=counts[1] - counts[0],
    )


def _drawn(
    weights: FloatArray, types: FloatArray, families: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Shares (percent) and counts [draws, groups] of one side under family weights [draws, types], smoothed."""
    sizes = families.sum(axis=1)
    total = sizes.sum()
    unit = float(np.square(sizes).sum() / total) if total else 1.0
    drawn = weights @ types
    shape = (len(weights), types.shape[1] - 1)
    inside = unit * rng.standard_gamma(SMOOTHING, size=shape)
    outside = unit * rng.standard_gamma(SMOOTHING, size=shape)
    count = drawn[:, :-1] + inside
    return 100 * count / (drawn.sum(axis=1, keepdims=True) + inside + outside), count


def joint_shares(
    sides: Sequence[tuple[ArrayLike, ArrayLike]], n_groups: int, *, draws: int = DRAWS, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Shares of every side in percent of its annotated latents, as they are [sides, groups] and resampled [sides, draws, groups].

    Args:
        sides: (labels, families) of any number of sides, as in :func:`share_shifts`; an id that several sides use is one family,
            which gets one weight in each resample.
    """
    checked = [_labels(labels, family, n_groups, f"side {i}") for i, (labels, family) in enumerate(sides)]
    tables = _memberships(*checked, n_groups=n_groups)
    width = n_groups + 1
    rows, copies = np.unique(np.concatenate(tables, axis=1), axis=0, return_counts=True)
    weights = rng.standard_gamma(copies.astype(np.float64), size=(draws, len(copies)))
    drawn = [_drawn(weights, rows[:, i * width : (i + 1) * width], table, rng)[0] for i, table in enumerate(tables)]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [100 * table.sum(axis=0)[:-1] / table.sum() for table in tables]
    return np.stack(shares), np.stack(drawn)


def _zero_divisions(base_rows: FloatArray) -> FloatArray:
    """Probability [groups] that a resample of the base families, with replacement, holds no latent of the group."""
    families = int(np.count_nonzero(base_rows.sum(axis=1)))
    if families == 0:
        return np.ones(base_rows.shape[1] - 1)
    holding = np.count_nonzero(base_rows[:, :-1], axis=0)
    return np.asarray((1 - holding / families) ** families, dtype=np.float64)


def _permutation_tests(
    base_rows: FloatArray, tuned_rows: FloatArray, *, covered: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, float]:
    """Marginal p [groups], adjusted p [groups] and the omnibus p; NaN where there is nothing to test.

    Unmatched families are dealt anew to the two sides (as many families a side as observed); a matched family swaps its
    two halves with probability 1/2. The omnibus statistic is the sum over groups, "none" included, of diff^2 / pooled
    count; the step-down statistics are |diff| over their permutation standard deviation.
    """
    n_groups = base_rows.shape[1] - 1
    nothing = np.full(n_groups, np.nan)
    if base_rows.sum() == 0 or tuned_rows.sum() == 0:
        return nothing, nothing, np.nan
    observed = _difference(base_rows.sum(axis=0), tuned_rows.sum(axis=0))
    counts = _permuted_base_counts(base_rows, tuned_rows, draws=draws, rng=rng)
    pooled = base_rows.sum(axis=0) + tuned_rows.sum(axis=0)
    null = _difference(counts, pooled - counts)

    used = pooled > 0
    omnibus = permutation_p(
        float((observed[used] ** 2 / pooled[used]).sum()), (null[:, used] ** 2 / pooled[used]).sum(axis=1)
    )
    spread = null.std(axis=0)
    scale = np.where(spread > 1e-12, spread, np.inf)
    statistic, null_statistic = np.abs(observed) / scale, np.abs(null) / scale
    p, adjusted = nothing.copy(), nothing.copy()
    tested = np.flatnonzero(covered)
    for g in tested:
        p[g] = permutation_p(float(statistic[g]), null_statistic[:, g])
    if len(tested):
        adjusted[tested] = np.maximum(step_down_max_t(statistic[tested], null_statistic[:, tested]), omnibus)
    return p, adjusted, omnibus


def _difference(base: FloatArray, tuned: FloatArray) -> FloatArray:
    """Tuned minus base share from counts [..., groups + 1]; a side left empty by a permutation counts as extreme."""
    n_base, n_tuned = base.sum(axis=-1, keepdims=True), tuned.sum(axis=-1, keepdims=True)
    diff = tuned / np.maximum(n_tuned, 1) - base / np.maximum(n_base, 1)
    return np.asarray(np.where((n_base == 0) | (n_tuned == 0), 1.0, diff), dtype=np.float64)


def _permuted_base_counts(
    base_rows: FloatArray, tuned_rows: FloatArray, *, draws: int, rng: np.random.Generator
) -> FloatArray:
    """Group counts of the base side under permutation of families [draws, groups + 1]."""
    in_base, in_tuned = base_rows.sum(axis=1) > 0, tuned_rows.sum(axis=1) > 0
    matched = in_base & in_tuned
    counts = np.zeros((draws, base_rows.shape[1]))
    alone = ~matched
    if alone.any():
        rows, copies = np.unique((base_rows + tuned_rows)[alone], axis=0, return_counts=True)
        n_base = int(np.count_nonzero(in_base & alone))
        dealt = rng.multivariate_hypergeometric(copies, n_base, size=draws, method="marginals")
        counts += dealt @ rows
    if matched.any():
        table = _compress(base_rows[matched], tuned_rows[matched])
        swapped = rng.binomial(table.copies, 0.5, size=(draws, len(table.copies)))
        counts += (table.copies - swapped) @ table.base + swapped @ table.tuned
    return counts
