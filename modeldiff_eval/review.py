"""The latents of a finished run as evidence for a person's review, read from its tables."""

from __future__ import annotations

from pathlib import Path

from modeldiff_eval.annotation import Annotation, Evidence, Excerpt
from modeldiff_eval.errors import UsageError

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
    evidence: list[Evidence] = []
    annotations: list[Annotation] = []
    for row in chosen.to_dict("records"):
        latent, rows = int(row["latent"]), shown.get((row["crosscoder"], row["latent"]))
        if rows is None:
            continue
        excerpts = [
            Excerpt(
                text=e["text"], tokens=list(e["tokens"]), activations=[float(a) for a in e["activations"]], document=str(e["document"])
            )
            for e in rows.sort_values("rank").to_dict("records")
        ]  # fmt: skip
        evidence.append(Evidence(latent=latent, examples=excerpts))
        said = {name: row[name] if isinstance(row[name], str) else None for name in TEXTS}
        confidence = None if pd.isna(row["confidence"]) else float(row["confidence"])
        annotations.append(
            Annotation(
                latent=latent,
                confidence=confidence,
                reason=None,
                annotator="run",
                key="",
                failure=said.pop("annotation_failure"),
                **said,
            )
        )
    return evidence, annotations
