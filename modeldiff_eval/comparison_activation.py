"""Difference of differences of activation: two tuned models against the same base, on the documents that both runs read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modeldiff_eval.comparison_records import SharedActivation
from modeldiff_eval.comparison_runs import RunFiles
from modeldiff_eval.records import ClassRow, Estimate
from modeldiff_eval.shift_null import MIN_BLOCKS
from modeldiff_eval.stats import estimate, number, verdict
from modeldiff_eval.stats_bootstrap import flip_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 2000
"""Resamples of documents × latents, at most; the swap test takes all that are asked for."""
NOTHING = Estimate(value=None, low=None, high=None)
_CELLS = 2**23
_EDGES = (0.025, 0.975)


@dataclass(frozen=True)
class Aligned:
    """Masses of two runs on the same blocks of documents.

    ``mass``: for each run [2, blocks, latents] of base and tuned; ``label``: for each run [latents] class number, −1 for none. With ``same`` the two
    runs' latents are the same ones, and so are their labels.
    """

    mass: tuple[NDArray[np.float32], NDArray[np.float32]]
    label: tuple[NDArray[np.int64], NDArray[np.int64]]
    documents: int
    same: bool
    renamed: int
    """Latents of a common dictionary that the runs put into different classes; they are left out."""


def align(first: RunFiles, second: RunFiles, codes: Sequence[str], *, classes: bool) -> Aligned | str:
    """What both runs hold of the same documents, or why there is nothing."""
    if first.masses is None or second.masses is None or first.latents is None or second.latents is None:
        return "A run's folder has no activation masses (masses.parquet): made from counts, or by an earlier version."
    blocks = sorted(set(first.masses["block"].astype(str)) & set(second.masses["block"].astype(str)))
    if len(blocks) < MIN_BLOCKS:
        return f"The runs have {len(blocks)} blocks of documents in common; {MIN_BLOCKS} are needed."
    same = set(first.masses["dictionary"].astype(str)) == set(second.masses["dictionary"].astype(str))
    place = {key: i for i, key in enumerate(blocks)}
    index = {code: i for i, code in enumerate(codes)}
    masses, labels, documents = [], [], 0
    for run in (first, second):
        table = run.masses
        assert table is not None
        own = run.labels
        size = int(max(own.index.max(), table["latent"].max())) + 1
        label = np.full(size, -1)
        for latent, code in own.items():
            if isinstance(code, str):
                label[int(str(latent))] = index.get(code.split(".")[0] if classes else code, -1)
        kept = table[table["block"].astype(str).isin(place)]
        mass = np.zeros((2, len(blocks), size), dtype=np.float32)
        where = (kept["block"].astype(str).map(place).to_numpy(dtype=np.int64), kept["latent"].to_numpy(dtype=np.int64))
        for model, name in enumerate(("base", "tuned")):
            mass[model][where] = kept[name].to_numpy(dtype=np.float32)
        documents = int(kept.drop_duplicates("block")["documents"].sum())
        masses.append(mass)
        labels.append(label)
    renamed = 0
    if same:
        differ = labels[0] != labels[1]
        renamed = int(differ.sum())
        labels = [np.where(differ, -1, labels[0])] * 2
    return Aligned((masses[0], masses[1]), (labels[0], labels[1]), documents, same, renamed)


def activation_differences(
    first: RunFiles, second: RunFiles, rows: Sequence[tuple[ClassRow, ClassRow]], found: Aligned | str, *,
    draws: int, rng: np.random.Generator, comparisons: int = 1,
) -> list[SharedActivation]:  # fmt: skip
    """Change of ``first`` minus change of ``second`` for every class, in percent points of base's mass.

    The interval resamples documents, the same for both runs, and latents: the same for both where the dictionary is one, each run's own
    otherwise. p is step-down max-T over the classes from swaps of the two tuned models within blocks of documents. A verdict also needs the
    interval to exclude 0 and the value to exceed what numerical noise makes of both changes together.

    Args:
        rows: both cards' rows of every class, whose null sizes are used.
        found: of :func:`align`.
    """
    names = {"first": first.name, "second": second.name}
    if isinstance(found, str):
        return [SharedActivation(**names, value=NOTHING, missing=found) for _ in rows]
    interval_rng, flip_rng = rng.spawn(2)
    picked = [
        [mass[:, :, label == g] for mass, label in zip(found.mass, found.label, strict=True)] for g in range(len(rows))
    ]
    usable = [all(_enough(mass) for mass in both) for both in picked]
    adjusted = np.full(len(rows), np.nan)
    tested = np.flatnonzero(usable)
    if len(tested):
        excess = np.stack([_excess(picked[g][0]) - _excess(picked[g][1]) for g in tested], axis=1)
        adjusted[tested] = flip_test(excess, draws=draws, rng=flip_rng)
    out = []
    for g, (mine, yours) in enumerate(rows):
        if not usable[g]:
            reason = f"Fewer than {MIN_BLOCKS} common blocks of documents hold the class."
            out.append(SharedActivation(**names, value=NOTHING, missing=reason))
            continue
        own, other, diff = _bounds(picked[g][0], picked[g][1], found.same, draws=min(draws, DRAWS), rng=interval_rng)
        nulls = [row.activation.null_size if row.activation else None for row in (mine, yours)]
        noise = None if nulls[0] is None or nulls[1] is None else nulls[0] + nulls[1]
        p = None if (q := number(float(adjusted[g]))) is None else min(1.0, comparisons * q)
        clear = (
            diff.value is not None and diff.low is not None and diff.high is not None and not diff.low <= 0 <= diff.high
        )
        beyond = clear and noise is not None and abs(diff.value or 0) > noise
        out.append(
            SharedActivation(
                **names, value=diff, p_adjusted=p, verdict=verdict(diff.value, p) if beyond else "unclear", change_first=own,
                change_second=other, n_latents=sum(m.shape[2] for m in picked[g][: 1 if found.same else 2]),
                n_documents=found.documents, null_size=noise,
            )
        )  # fmt: skip
    return out


def _enough(mass: NDArray[np.float32]) -> bool:
    return bool(mass.shape[2]) and int((mass[0].sum(axis=1) > 0).sum()) >= MIN_BLOCKS


def _excess(mass: NDArray[np.float32]) -> NDArray[np.float64]:
    """[blocks]: what each block adds to the relative change of the class."""
    base, tuned = mass.astype(np.float64).sum(axis=2)
    return np.asarray((tuned - base) / base.sum(), dtype=np.float64)


def _bounds(
    first: NDArray[np.float32], second: NDArray[np.float32], same: bool, *, draws: int, rng: np.random.Generator
) -> tuple[Estimate, Estimate, Estimate]:
    """Both changes and their difference, in percent, by a Bayesian bootstrap over documents and latents."""
    values = [100 * float(_excess(mass).sum()) for mass in (first, second)]
    step = max(1, _CELLS // max(first.shape[2], second.shape[2]))
    drawn: list[list[NDArray[np.float64]]] = [[], []]
    for start in range(0, draws, step):
        n = min(step, draws - start)
        documents = rng.standard_exponential((n, first.shape[1]))
        latents = rng.standard_exponential((n, first.shape[2]))
        weights = (latents, latents if same else rng.standard_exponential((n, second.shape[2])))
        for own, mass, columns in zip(drawn, (first, second), weights, strict=True):
            base, tuned = (((documents @ side.astype(np.float64)) * columns).sum(axis=1) for side in mass)
            with np.errstate(divide="ignore", invalid="ignore"):
                own.append(100 * (tuned / base - 1))
    changes = [np.concatenate(own) for own in drawn]
    return (
        *(_interval(value, spread) for value, spread in zip(values, changes, strict=True)),
        _interval(values[0] - values[1], changes[0] - changes[1]),
    )  # type: ignore[return-value]


def _interval(value: float, spread: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(spread, _EDGES)
    if not (np.isfinite(low) and np.isfinite(high)):
        return estimate(value, np.nan, np.nan)
    return estimate(value, min(float(low), value), max(float(high), value))
