"""What a card says in words about graded shares, shifted latents and other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeldiff_eval.graded import LEAST_WEIGHT, Shifted
from modeldiff_eval.records import Latents

if TYPE_CHECKING:
    import pandas as pd

LABEL_CHARS = 60


def shifted(latents: Latents, nulls: Mapping[str, Shifted]) -> list[str]:
    """One sentence for the headline about the latents that a null control lets count; none where there was no control."""
    if not nulls:
        return []
    sides = {"base": latents.base.shifted, "tuned": latents.tuned.shifted}
    counted = [(role, sides[role]) for role in ("base", "tuned") if role in nulls]
    counts = " and ".join(f"{n} latent{'' if n == 1 else 's'} of {role}" for role, n in counted)
    verb = "is" if [n for _, n in counted] == [1] else "are"
    rates = sorted({f"{100 * null.fdr:g} %" for null in nulls.values()})
    return [
        f"{counts} {verb} shifted (less of them in the other model) at a stated false discovery rate of {' and '.join(rates)}."
    ]


def first_named(table: pd.DataFrame, nulls: Mapping[str, Shifted], *, most: int = 3) -> list[str]:
    """What the first shifted latents of either model are called, for the headline: the fine-tune in a few words."""
    said = []
    for role in ("tuned", "base"):
        own = table[(table["model"] == role) & table["shifted"].fillna(False).astype(bool) & table["rank_key"].notna()]
        labels = [str(label)[:LABEL_CHARS] for label in own.sort_values("rank_key")["label"] if isinstance(label, str)]
        if role in nulls and labels:
            said.append(f"{role}: {', '.join(list(dict.fromkeys(labels))[:most])}")
    return [f"First among them in {'; in '.join(said)}."] if said else []


def caveats(latents: Latents, nulls: Mapping[str, Shifted]) -> list[str]:
    """How graded shares and shifted latents were made, with n, and what is left out of their intervals."""
    return [_graded(latents), _shifted(nulls)]


def _graded(latents: Latents) -> str:
    sides = {"base": latents.base.graded, "tuned": latents.tuned.graded}
    parts = [
        f"{role} {g.latents} latents, total weight {g.weight:.2f}, effective n {g.effective_n or 0:.1f}"
        for role, g in sides.items()
        if g is not None
    ]
    out = (
        "Graded shares: every annotated latent (of a dictionary of differences: beyond noise) counts with max(0, 1 − upper 95 % limit of "
        '|ν^ε|) on the reporting half, "none" included in '
        f"the total ({'; '.join(parts)}). "
    )
    if any(g is not None and g.weight < LEAST_WEIGHT for g in sides.values()):
        return f"{out}A side's total weight is below {LEAST_WEIGHT:g} latent: its class shares would hang on noise and are null."
    return (
        f"{out}Intervals are 95 %, marginal, over families of latents (by decoder direction) on both sides and over the documents behind "
        "the weights; which latents have a weight above 0, their names and the dictionary are taken as given. No verdict is drawn from them."
    )


def _shifted(nulls: Mapping[str, Shifted]) -> str:
    if not nulls:
        return "No null control of ν was run: how many latents are shifted, and the null rate, are not measured."
    parts = [
        f"{role}: the interval of ν^ε within ±{null.threshold:.3g} (δ = {null.delta:.2g}) and beyond noise by the exchange control, null rate "
        f"{100 * null.rate:.2g} % of the measured latents"
        for role, null in nulls.items()
    ]
    return f"Shifted = {'; '.join(parts)}. The card's null rate is the larger one."


def over_seeds(
    groups: Sequence[tuple[str, str]],
    sides: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    values: Sequence[NDArray[np.float64]],
) -> list[str]:
    """Annotated specific latents and class differences of every seed, lowest to highest.

    Args:
        groups: (code, name) of the classes.
        sides: labels and families of every seed, as :func:`modeldiff_eval.stats_shares.over_seeds` takes them.
        values: its differences by seed [groups], NaN where a seed has no shares.
    """
    counts = "; ".join(f"{np.size(base)} → {np.size(tuned)}" for base, tuned, *_ in sides)
    head = f"Annotated specific latents by seed, base → tuned: {counts}."
    known = np.array([row for row in values if not np.isnan(row).any()])
    if len(known) < 2:
        return [f"{head} Fewer than two seeds have class shares, so their intervals do not cover the choice of a seed."]
    spans = [
        f"{code} {low:+.1f} … {high:+.1f}"
        for (code, _), low, high in zip(groups, known.min(0), known.max(0), strict=True)
    ]
    return [
        f"{head} Class differences of {len(known)} seeds, lowest … highest, points: {', '.join(spans)}. The interval of a share difference "
        "draws a seed, then families within it, and a verdict also needs it to exclude 0; p and smallest detectable shifts are the "
        "first seed's. With so few seeds the spread between seeds is itself poorly known."
    ]
