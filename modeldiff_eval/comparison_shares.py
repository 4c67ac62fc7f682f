"""Difference of differences of class shares: what one tuned model's specific latents shifted, minus what another's did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from modeldiff_eval.comparison_records import PairDifference
from modeldiff_eval.comparison_runs import RunFiles
from modeldiff_eval.families import families
from modeldiff_eval.records import ClassRow, Estimate, Verdict
from modeldiff_eval.stats import estimate, joint_interval, number, smallest_detectable, step_down_max_t, verdict
from modeldiff_eval.stats_shares import joint_shares, share_shifts

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NOTHING = Estimate(value=None, low=None, high=None)
SIDES = ("base", "tuned")


@dataclass(frozen=True)
class Sides:
    """Annotated specific latents of every run and side, in families over all of them.

    ``labels``, ``family``: (run, side) → [latents] group number (−1: none of the groups) and family. ``base_shared``: base's latents are the same
    ones in all runs. ``matched``: whether decoder directions could be compared between runs.
    """

    labels: dict[tuple[str, str], NDArray[np.int64]]
    family: dict[tuple[str, str], NDArray[np.int64]]
    base_shared: bool
    matched: bool


def sides_of(runs: Sequence[RunFiles], codes: Sequence[str], *, classes: bool) -> Sides | None:
    """The latents of all runs, from their tables, or counted from the cards' rows where one has no table; None where counts do not add up."""
    if any(run.latents is None for run in runs):
        return _from_counts(runs, codes, classes=classes)
    index = {code: i for i, code in enumerate(codes)}
    tables = {(run.name, side): _annotated(run, side) for run in runs for side in SIDES}
    labels = {
        key: np.asarray(
            [index.get(c.split(".")[0] if classes else c, -1) if isinstance(c, str) else -1 for c in table["category"]],
            dtype=np.int64,
        )
        for key, table in tables.items()
    }
    shared = all(_same_base(tables[runs[0].name, "base"], tables[run.name, "base"]) for run in runs[1:])
    family, matched = _joint_families(runs, tables, shared)
    return Sides(labels, family, shared, matched)


def share_differences(
    sides: Sides,
    first: str,
    second: str,
    groups: Sequence[tuple[str, str]],
    covered: Sequence[bool],
    *,
    draws: int,
    rng: np.random.Generator,
    comparisons: int = 1,
) -> list[PairDifference]:
    """Shift of ``first`` minus shift of ``second`` for every group, in points.

    Where base's latents are the same in both runs their share cancels in every resample, and this is the shift between the two tuned
    models: intervals, joint test and verdicts are those of :func:`~modeldiff_eval.stats_shares.share_shifts`. Else four sides are
    resampled together by family, and p is step-down max-T over the groups from the resamples about their mean (Romano and Wolf 2005).

    Args:
        covered: whether both texts reach the group.
        comparisons: pairs of runs that are compared; p is multiplied by it.
    """
    if any(
        not len(sides.labels[run, side])
        for run in (first, second)
        for side in SIDES
        if not (sides.base_shared and side == "base")
    ):
        reason = "A run has no annotated specific latent on one side, so its shares are undefined."
        return [PairDifference(first=first, second=second, value=NOTHING, missing=reason) for _ in groups]
    if not sides.base_shared:
        return _four_sides(sides, first, second, covered, draws=draws, rng=rng, comparisons=comparisons)
    rows = share_shifts(
        sides.labels[second, "tuned"], sides.labels[first, "tuned"], sides.family[second, "tuned"], sides.family[first, "tuned"],
        groups=groups, covered={code for (code, _), reached in zip(groups, covered, strict=True) if reached}, draws=draws, rng=rng,
    ).rows  # fmt: skip
    return [
        _difference(
            first, second, row.diff, row.diff_simultaneous, row.mde, row.p, row.p_adjusted, row.covered, comparisons
        )
        for row in rows
    ]


def _four_sides(
    sides: Sides, first: str, second: str, covered: Sequence[bool], *, draws: int, rng: np.random.Generator, comparisons: int
) -> list[PairDifference]:  # fmt: skip
    keys = [(run, side) for run in (first, second) for side in SIDES]
    n_groups = len(covered)
    shares, drawn = joint_shares([(sides.labels[k], sides.family[k]) for k in keys], n_groups, draws=draws, rng=rng)
    value = (shares[1] - shares[0]) - (shares[3] - shares[2])
    spread = (drawn[1] - drawn[0]) - (drawn[3] - drawn[2])
    low, middle, high = np.quantile(spread, (0.025, 0.5, 0.975), axis=0)
    low, high = np.minimum(low, value), np.maximum(high, value)
    error = spread.std(axis=0, ddof=1)
    tested = np.flatnonzero(covered)
    joint_low, joint_high = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    p, adjusted = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    if len(tested):
        joint_low[tested], joint_high[tested] = joint_interval(
            low[tested], middle[tested], high[tested], spread[:, tested], limit=200
        )
        null = np.abs(spread - spread.mean(axis=0))[:, tested] / error[tested]
        observed = np.abs(value[tested]) / error[tested]
        p[tested] = [(1 + np.count_nonzero(null[:, g] >= observed[g])) / (1 + draws) for g in range(len(tested))]
        adjusted[tested] = step_down_max_t(observed, null)
    out = []
    for g in range(n_groups):
        joint = estimate(value[g], min(joint_low[g], value[g]), max(joint_high[g], value[g])) if covered[g] else None
        out.append(
            _difference(
                first, second, estimate(value[g], low[g], high[g]), joint, smallest_detectable(float(error[g])),
                number(p[g]), number(adjusted[g]), covered[g], comparisons,
            )
        )  # fmt: skip
    return out


def _difference(
    first: str, second: str, value: Estimate, joint: Estimate | None, mde: float | None, p: float | None, p_adjusted: float | None,
    covered: bool, comparisons: int,
) -> PairDifference:  # fmt: skip
    adjusted = None if p_adjusted is None else min(1.0, comparisons * p_adjusted)
    judged: Verdict = verdict(value.value, adjusted) if covered else "not covered"
    return PairDifference(
        first=first, second=second, value=value, simultaneous=joint, mde=mde, p=p, p_adjusted=adjusted, verdict=judged
    )


def _annotated(run: RunFiles, side: str) -> pd.DataFrame:
    assert run.latents is not None
    table = run.latents
    return table[(table["model"] == side) & table["specific"].astype(bool) & table["annotation_failure"].isna()]


def _same_base(mine: pd.DataFrame, yours: pd.DataFrame) -> bool:
    """Whether base's annotated specific latents are the same ones with the same names, as far as everything measured says."""
    names = [
        name
        for name in ("latent", "category", "dictionary", "delta_norm", "nu_error")
        if name in mine and name in yours
    ]
    a, b = (t[names].sort_values("latent").reset_index(drop=True) for t in (mine, yours))
    return bool(a.equals(b))


def _joint_families(
    runs: Sequence[RunFiles], tables: dict[tuple[str, str], pd.DataFrame], shared: bool
) -> tuple[dict[tuple[str, str], NDArray[np.int64]], bool]:
    """Families over all runs: of each run, tied together by base's latents where they are shared and by decoder direction."""
    sizes = [len(table) for table in tables.values()]
    starts = dict(zip(tables, np.cumsum([0, *sizes[:-1]]), strict=True))
    groups: list[tuple[int, object]] = []
    for (run, side), table in tables.items():
        for place, (own, latent) in enumerate(
            zip(table["family"], table["latent"], strict=True), start=starts[run, side]
        ):
            groups.append((place, ("family", run, own)))
            if shared and side == "base":
                groups.append((place, ("base", latent)))
    found = {(run.name, side): run.directions(tables[run.name, side]) for run in runs for side in SIDES}
    matched = all(rows is not None for rows in found.values())
    if matched:
        rows = [(key, r) for key, r in found.items() if r is not None and len(r)]
        if rows and len({r.shape[1] for _, r in rows}) == 1:
            close = families(np.concatenate([r for _, r in rows]), None)
            places = np.concatenate([starts[key] + np.arange(len(r)) for key, r in rows])
            groups += [(int(place), ("direction", int(number))) for place, number in zip(places, close, strict=True)]
    total = sum(sizes)
    names = {name: total + i for i, name in enumerate(dict.fromkeys(name for _, name in groups))}
    edges = np.asarray([(place, names[name]) for place, name in groups], dtype=np.int64).reshape(-1, 2)
    n = total + len(names)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    component = (
        np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64) if n else np.zeros(0, np.int64)
    )
    return {key: component[starts[key] : starts[key] + len(table)] for key, table in tables.items()}, matched


def _from_counts(runs: Sequence[RunFiles], codes: Sequence[str], *, classes: bool) -> Sides | None:
    """Every latent of the cards' counts as a family of its own; base is shared where the design is anchored and its counts are equal."""
    labels: dict[tuple[str, str], NDArray[np.int64]] = {}
    for run in runs:
        rows: Sequence[ClassRow] = run.card.classes if classes else run.card.categories
        by = {row.code: row for row in rows}
        for side in SIDES:
            counts = [getattr(by[code], side).count if code in by else 0 for code in codes]
            annotated = getattr(run.card.latents, side).annotated
            named = sum(getattr(row, side).count for row in run.card.classes)
            if not rows or sum(counts) > annotated or sum(counts) != named:
                return None
            own = np.repeat(np.arange(len(codes)), counts)
            labels[run.name, side] = np.concatenate([own, np.full(annotated - len(own), -1)]).astype(np.int64)
    first = labels[runs[0].name, "base"]
    shared = runs[0].card.mode == "anchored" and all(np.array_equal(first, labels[run.name, "base"]) for run in runs)
    family, start = {}, 0
    for key, own in labels.items():
        family[key] = np.arange(start, start + len(own))
        start += len(own)
    return Sides(labels, family, shared, False)
