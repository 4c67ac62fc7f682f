"""Class and category shares when every latent was named several times: the annotator's noise enters the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeldiff_eval.annotation_scores import Code, Repeated, over_repeats
from modeldiff_eval.stats_shares import ShareShifts

if TYPE_CHECKING:
    import pandas as pd


def share_shifts_over_repeats(
    shifts: dict[str, ShareShifts],
    table: pd.DataFrame,
    repeats: Mapping[tuple[str, int], Sequence[Code]],
    groups: Mapping[str, list[tuple[str, str]]],
    *,
    draws: int,
    seed: int,
) -> dict[str, ShareShifts]:
    """Intervals of the share differences widened by what an annotator happened to answer.

    Args:
        shifts: by level ("classes", "categories"), of the decided names.
        table: one row per (side, latent).
        repeats: (crosscoder, latent) → category of every repeat, None where it failed.
        groups: (code, name) in the order of the rows, by level.
    """
    out = {}
    for number, (level, shift) in enumerate(shifts.items()):
        sides = [_repeated(table, side, repeats, groups[level], level) for side in ("base", "tuned")]
        rng = np.random.default_rng([seed, 36 + number])
        out[level] = shift._replace(rows=over_repeats(shift.rows, *sides, draws=draws, rng=rng))
    return out


def _repeated(
    table: pd.DataFrame,
    side: str,
    repeats: Mapping[tuple[str, int], Sequence[Code]],
    groups: list[tuple[str, str]],
    level: str,
) -> Repeated:
    """Every repeat's group [latents, repeats] of a side's annotated specific latents; where there is none, the decision's."""
    index = {code: i for i, (code, _) in enumerate(groups)}
    own = table[(table["model"] == side) & table["specific"] & table["annotation_failure"].isna()]
    width = max(map(len, repeats.values()))
    rows = []
    for crosscoder, latent, category in zip(own["crosscoder"], own["latent"], own["category"], strict=True):
        decided = category if isinstance(category, str) else ""
        told = [code for code in repeats.get((crosscoder, int(latent)), ()) if code is not None] or [decided]
        codes = [code.split(".")[0] if level == "classes" else code for code in told]
        # A repeat that failed says nothing: the others stand for it, in turn.
        rows.append([index.get(codes[i % len(codes)], -1) for i in range(width)])
    labels = np.array(rows, dtype=np.int64).reshape(len(rows), width)
    return Repeated(labels, own["family"].to_numpy(dtype=np.int64))
