"""How Δ_norm and the ν pair spread over all latents: what the card draws of the latent table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modeldiff_eval.records import DeltaNormHistogram, NuMap

if TYPE_CHECKING:
    import pandas as pd

BINS = 40
"""Bins of Δ_norm, each 0.025 wide."""
NU_LOW, NU_HIGH, NU_BINS = -0.5, 1.5, 20
"""Squares of the ν map are 0.1 wide; the few ν beyond it are counted apart."""


def delta_norm_histogram(table: pd.DataFrame) -> list[DeltaNormHistogram]:
    """Δ_norm of each crosscoder's live latents (latents of a dictionary of differences have none).

    Args:
        table: one row per (side, latent), from :func:`modeldiff_eval.side_tables.latent_table`.
    """
    out = []
    own = table[table["dictionary"] != "difference"]
    for name, rows in own.groupby("crosscoder", sort=False):
        one = rows.drop_duplicates("latent")  # both sides of a direct comparison read the same crosscoder
        live = one.loc[(one["firings"] > 0) & one["delta_norm"].notna(), "delta_norm"].to_numpy(dtype=float)
        counts, _ = np.histogram(live, bins=BINS, range=(0.0, 1.0))
        first, _, second = str(name).partition("--")
        out.append(DeltaNormHistogram(first=first, second=second, counts=counts.tolist(), dead=len(one) - len(live)))
    return out


def nu_maps(table: pd.DataFrame) -> list[NuMap]:
    """The ν^ε × ν^r map of each side's latents, of the dictionary that specific latents are looked for in."""
    out = []
    dictionary = "difference" if (table["dictionary"] == "difference").any() else None
    for side in ("base", "tuned"):
        own = table[table["model"] == side]
        if dictionary:
            own = own[own["dictionary"] == dictionary]
        both = own[["nu_error", "nu_reconstruction"]].dropna().to_numpy(dtype=float)
        inside = both[((both >= NU_LOW) & (both <= NU_HIGH)).all(axis=1)]
        counts, _, _ = np.histogram2d(inside[:, 1], inside[:, 0], bins=NU_BINS, range=[(NU_LOW, NU_HIGH)] * 2)
        out.append(
            NuMap(
                side="base" if side == "base" else "tuned",
                low=NU_LOW,
                high=NU_HIGH,
                counts=counts.astype(int).tolist(),
                outside=len(both) - len(inside),
                undefined=len(own) - len(both),
            )
        )
    return out
