"""The latents of a finished run as evidence for a person's review, read from its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeldiff_eval.annotation import Annotation, Evidence, Excerpt
from modeldiff_eval.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("label", "description", "category", "annotation_failure")


def reviewable(run: Path, *, everything: bool = False) -> tuple[list[Evidence], list[Annotation]]:
    """Evidence and names of the latents that claims rest on (specific, shifted, of a graded weight), or of all that were named.

    Raises:
        UsageError: ``run`` is no finished run, or no claim rests on any latent.
    """
    import pandas as pd

    try:
        latents, examples = (pd.read_parquet(run / f"{name}.parquet") for name in ("latents", "examples"))
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the tables of {run}: {error}. Is it the folder of a finished run?") from error
    named = latents["annotation_failure"].fillna("") != "not annotated"
    claimed = latents["specific"] | (latents["graded_weight"] > 0) | latents["shifted"].fillna(False).astype(bool)
    chosen = latents[named & (everything | claimed)].drop_duplicates(["crosscoder", "latent"])
    if chosen.empty:
        raise UsageError(f"No claim of {run} rests on a latent. --all writes every latent that has a name.")
    shown = dict(iter(examples.groupby(["crosscoder", "latent"])))
    found = [row for row in chosen.to_dict("records") if (row["crosscoder"], row["latent"]) in shown]
    evidence = [evidence_of(int(row["latent"]), shown[row["crosscoder"], row["latent"]]) for row in found]
    return evidence, [annotation_of(row) for row in found]


def evidence_of(latent: int, rows: pd.DataFrame) -> Evidence:
    """One latent's rows of ``examples.parquet`` as an annotator saw them, the strongest first."""
    excerpts = [
        Excerpt(
            text=e["text"], tokens=list(e["tokens"]), activations=[float(a) for a in e["activations"]], document=str(e["document"])
        )
        for e in rows.sort_values("rank").to_dict("records")
    ]  # fmt: skip
    return Evidence(latent=latent, examples=excerpts)


def annotation_of(row: Mapping[Any, Any]) -> Annotation:
    """What a row of ``latents.parquet`` says the latent is called."""
    said = {name: row[name] if isinstance(row[name], str) else None for name in TEXTS}
    confidence = row["confidence"]
    return Annotation(
        latent=int(row["latent"]),
        confidence=float(confidence) if confidence is not None and math.isfinite(confidence) else None,
        reason=None,
        annotator="run",
        key="",
        failure=said.pop("annotation_failure"),
        **said,
    )
