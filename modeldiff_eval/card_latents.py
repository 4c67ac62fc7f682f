"""Which latents a card lists: the specific ones, the nearest to being so, and those that changed most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval.records import Estimate, TopLatent
from modeldiff_eval.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from modeldiff_eval.annotation import Evidence

SHOWN_SPECIFIC = 40
SHOWN_SHIFTED = 12
SHOWN_EXAMPLES = 3


def top_latents(table: pd.DataFrame, evidence: dict[str, dict[int, Evidence]], settings: Settings) -> list[TopLatent]:
    """Specific latents first; then the nearest candidates of each side; then the largest shifts beyond the null."""
    shown: dict[tuple[str, int], TopLatent] = {}
    for side in ("base", "tuned"):
        own = table[table["model"] == side]
        specific = own[own["specific"]].sort_values(["rank_key", "latent"]).head(SHOWN_SPECIFIC)
        nearest = own[~own["specific"]].sort_values(["rank_key", "latent"]).head(settings.annotate_top)
        for _, row in [*specific.iterrows(), *nearest[nearest["rank_key"].notna()].iterrows()]:
            shown[side, int(row["latent"])] = _top(side, row, evidence[side])
    one = table[table["model"] == "base"]
    beyond = one[_beyond_null(one)]
    for side, largest in (
        ("tuned", beyond.nlargest(SHOWN_SHIFTED, "shift")),
        ("base", beyond.nsmallest(SHOWN_SHIFTED, "shift")),
    ):
        for _, row in largest.iterrows():
            if (row["shift"] > 0) == (side == "tuned"):
                shown.setdefault((side, int(row["latent"])), _top(side, row, evidence["base"]))
    return list(shown.values())


def _beyond_null(table: pd.DataFrame) -> Any:
    """Changed latents whose interval excludes 0 by more than the numerical control, with at least ten firings."""
    null = table["shift_null"].fillna(np.inf)
    reach = np.where(table["shift"] > 0, table["shift_low"], -table["shift_high"])
    return (
        (reach > np.maximum(null, 0.05)) & (table["firings"] >= 10) & table["shift_changed"].fillna(False).astype(bool)
    )


def changed_latents(table: pd.DataFrame) -> str:
    """How many latents of the dictionary shifted beyond the control."""
    own = table[(table["model"] == "base") & table["shift"].notna()]
    judged = own["shift_changed"].dropna().astype(bool)
    if not len(judged):
        return "No latent's own shift was judged: the numerical control was left out, or held too little text."
    up = int((own["shift"] > 0)[judged.index][judged].sum())
    return (
        f"{int(judged.sum())} of {len(judged)} latents changed beyond the null ({up} up, {int(judged.sum()) - up} down): the 95 % interval over "
        "documents excludes 0, and the change exceeds both what this latent shows for the base in another precision (its 95 % bound) and what "
        "99 % of the latents of about its mass show there."
    )


def _top(side: str, row: Any, evidence: dict[int, Evidence]) -> TopLatent:
    def estimate(name: str, factor: float = 1.0) -> Estimate | None:
        values = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
        if not np.isfinite(values[0]):
            return None
        return Estimate(**{key: _finite(factor * v) for key, v in zip(("value", "low", "high"), values, strict=True)})

    item = evidence.get(int(row["latent"]))
    return TopLatent(
        model="base" if side == "base" else "tuned",
        latent=int(row["latent"]),
        label=_text(row["label"]),
        description=_text(row["description"]),
        category=_text(row["category"]),
        confidence=_finite(row["confidence"]),
        nu_error=estimate("nu_error"),
        nu_reconstruction=estimate("nu_reconstruction"),
        activation_shift=estimate("shift", 100.0),
        delta_norm=_finite(row["delta_norm"]),
        frequency=_finite(row["frequency"]),
        detection=estimate("detection") if "detection" in row else None,
        weak=_known(row.get("weak")),
        examples=[e.example() for e in item.examples[:SHOWN_EXAMPLES]] if item else [],
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _known(value: Any) -> bool | None:
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
