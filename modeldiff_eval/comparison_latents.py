"""Which latents two tuned models of one base have in common, and which are one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from modeldiff_eval.comparison_records import LatentOverlap, SharedLatent
from modeldiff_eval.comparison_runs import RunFiles
from modeldiff_eval.families import COSINE
from modeldiff_eval.matching import LARGEST, cosines, match

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 30


def overlaps(first: RunFiles, second: RunFiles) -> list[LatentOverlap]:
    """Latents specific to tuned, specific to base, and changed in activation: in both runs or in one."""
    return [_specific(first, second, "tuned"), _specific(first, second, "base"), _changed(first, second)]


def _specific(first: RunFiles, second: RunFiles, side: Literal["tuned", "base"]) -> LatentOverlap:
    """One to one by decoder cosine of at least :data:`~modeldiff_eval.families.COSINE` in the side's own model."""
    names = {"what": side, "first": first.name, "second": second.name}
    if first.latents is None or second.latents is None:
        return LatentOverlap(
            **names, same_dictionary=False, missing="A run has no table of latents; its card gives counts alone."
        )
    own = [
        t[(t["model"] == side) & t["specific"].astype(bool)].reset_index(drop=True)
        for t in (first.latents, second.latents)
    ]
    rows = [run.directions(table) for run, table in zip((first, second), own, strict=True)]
    a, b = rows
    if a is None or b is None:
        reason = "A run's folder does not hold the dictionary (crosscoders/ or differences/), so its latents cannot be matched."
        return LatentOverlap(**names, same_dictionary=False, missing=reason)
    if max(len(a), len(b)) > LARGEST:
        return LatentOverlap(
            **names, same_dictionary=False, missing=f"More than {LARGEST:,} specific latents; they are not matched."
        )
    partner, cosine = np.full(len(a), -1), np.zeros((len(a), len(b)))
    if len(a) and len(b):
        if a.shape[1] != b.shape[1]:
            return LatentOverlap(**names, same_dictionary=False, missing="The dictionaries are of different widths.")
        cosine = cosines(a, b)
        partner = match(cosine, least=COSINE)
    pairs = [(i, int(j)) for i, j in enumerate(partner) if j >= 0]
    taken = {j for _, j in pairs}
    same = len(a) == len(b) and np.array_equal(a, b)
    alone = [[i for i in range(len(a)) if partner[i] < 0], [j for j in range(len(b)) if j not in taken]]
    return LatentOverlap(
        **names, same_dictionary=same, both=len(pairs), only_first=len(alone[0]), only_second=len(alone[1]),
        shared=[_latent(own[0], i, own[1], j, float(cosine[i, j])) for i, j in pairs[:SHOWN]],
        exclusive_first=[_latent(own[0], i, None, None) for i in alone[0][:SHOWN]],
        exclusive_second=[_latent(None, None, own[1], j) for j in alone[1][:SHOWN]],
    )  # fmt: skip


def _changed(first: RunFiles, second: RunFiles) -> LatentOverlap:
    """Latents of the common dictionary whose activation changed beyond their null control, in one run or in both."""
    names = {"what": "changed", "first": first.name, "second": second.name}
    if first.masses is None or second.masses is None or first.latents is None or second.latents is None:
        return LatentOverlap(**names, same_dictionary=False, missing="A run has no activation masses.")
    if set(first.masses["dictionary"].astype(str)) != set(second.masses["dictionary"].astype(str)):
        reason = "Activation was measured in a dictionary of each run's own, whose latents are not the same ones."
        return LatentOverlap(**names, same_dictionary=False, missing=reason)
    tables = [
        t[(t["model"] == "base") & (t["dictionary"] == "crosscoder")].set_index("latent", drop=False)
        for t in (first.latents, second.latents)
    ]
    changed = [set(t.index[t["shift_changed"].fillna(False).astype(bool)]) for t in tables]
    both = sorted(changed[0] & changed[1])
    opposite = [j for j in both if tables[0].loc[j, "shift"] * tables[1].loc[j, "shift"] < 0]
    strongest = [_strongest(changed[0] - changed[1], tables[0]), _strongest(changed[1] - changed[0], tables[1])]
    return LatentOverlap(
        **names, same_dictionary=True, both=len(both), only_first=len(strongest[0]), only_second=len(strongest[1]), opposite=len(opposite),
        shared=[_row(tables[0].loc[j], tables[1].loc[j]) for j in _strongest(set(both), tables[0])[:SHOWN]],
        exclusive_first=[_row(tables[0].loc[j], None) for j in strongest[0][:SHOWN]],
        exclusive_second=[_row(None, tables[1].loc[j]) for j in strongest[1][:SHOWN]],
    )  # fmt: skip


def _strongest(latents: set[int], table: pd.DataFrame) -> list[int]:
    return sorted(latents, key=lambda j: (-abs(float(table.loc[j, "shift"])), j))


def _latent(
    first: pd.DataFrame | None, i: int | None, second: pd.DataFrame | None, j: int | None, cosine: float | None = None
) -> SharedLatent:
    return _row(None if first is None else first.iloc[i], None if second is None else second.iloc[j], cosine)


def _row(first: pd.Series | None, second: pd.Series | None, cosine: float | None = None) -> SharedLatent:
    named = first if first is not None else second
    assert named is not None
    return SharedLatent(
        first=None if first is None else int(first["latent"]),
        second=None if second is None else int(second["latent"]),
        label=named["label"] if isinstance(named["label"], str) else None,
        category=named["category"] if isinstance(named["category"], str) else None,
        cosine=None if cosine is None else round(cosine, 4),
    )
