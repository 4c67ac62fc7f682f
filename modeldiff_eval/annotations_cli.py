"""``modeldiff-eval annotations …``: a run's names for a person to review, and how far two annotators agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

HELP = """Review the names of a run's latents, and compare annotators.

\b
Examples:
  modeldiff-eval annotations review runs/demo --out review.csv
  modeldiff-eval --base X --tuned Y --annotator human:review.csv
  modeldiff-eval annotations agreement runs/one/annotations.jsonl runs/two/annotations.jsonl
"""

annotations_app = typer.Typer(help=HELP, rich_markup_mode=None, no_args_is_help=True)


@annotations_app.command()
def review(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("review.csv"),
    everything: Annotated[bool, typer.Option("--all", help="All latents, not only those that claims rest on.")] = False,
    taxonomy: Annotated[
        Path | None, typer.Option(help="The run's taxonomy (YAML).", show_default="the packaged one")
    ] = None,
) -> None:
    """Write the latents that claims rest on, with examples and names, as a CSV to fill in; read it with --annotator human:FILE.

    \b
    Example:
      modeldiff-eval annotations review runs/demo --out review.csv
    """
    from modeldiff_eval.annotate_human import write_review
    from modeldiff_eval.errors import UsageError
    from modeldiff_eval.review import reviewable
    from modeldiff_eval.taxonomy import Taxonomy

    if out.exists():
        raise UsageError(
            f"{out} is there already, and may hold what somebody filled in. Choose another file by --out, or remove it."
        )
    evidence, annotations = reviewable(run, everything=everything)
    path = write_review(out, evidence, annotations, Taxonomy.load(taxonomy))
    print(
        f"{len(evidence)} latents in {path}. Fill in verdict, label, description or category, then run again with --annotator human:{path}"
    )


@annotations_app.command()
def agreement(
    first: Annotated[Path, typer.Argument(help="annotations.jsonl, or a CSV with the columns latent and category.")],
    second: Annotated[Path, typer.Argument(help="The same of another annotator, for the same run.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cohen's kappa of two annotators over the latents that both named, by class and by category, with 95 % intervals.

    \b
    Example:
      modeldiff-eval annotations agreement runs/one/annotations.jsonl reviewed.csv
    """
    import numpy as np

    from modeldiff_eval.annotation_scores import annotator_agreement, read_codes
    from modeldiff_eval.naming_words import kappa_words

    found = annotator_agreement(
        read_codes(first), read_codes(second), of=f"{first.name} and {second.name}", rng=np.random.default_rng(seed)
    )
    if as_json:
        print(json.dumps([kappa.model_dump() for kappa in found], indent=2, allow_nan=False))
    else:
        print("\n".join(map(kappa_words, found)))
