"""Verdicts of arena rows: the sign of the Elo difference where its p, adjusted over the rows, is below 0.05."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from modeldiff_eval.records import Estimate, Verdict
from modeldiff_eval.stats import benjamini_hochberg, holm, interval_p, verdict

Correction = Literal["holm", "bh"]

CORRECTION_NAMES = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
_ADJUST = {"holm": holm, "bh": benjamini_hochberg}


def verdicts(deltas: Sequence[Estimate], correction: Correction) -> list[Verdict]:
    """One verdict a row; p values are read from the intervals."""
    adjusted = _ADJUST[correction]([interval_p(delta) for delta in deltas])
    return [verdict(delta.value, p) for delta, p in zip(deltas, adjusted, strict=True)]
