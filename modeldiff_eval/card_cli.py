"""``modeldiff-eval card`` and ``render``: cards from counts, and files from cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modeldiff_eval.cli_options import Json, Out, Quiet, show
from modeldiff_eval.errors import SettingsError


def card(
    source: Annotated[Path, typer.Argument(help="COUNTS.yaml or LATENTS.csv.")],
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    title: Annotated[str | None, typer.Option(help="Title of the card.")] = None,
    models: Annotated[str | None, typer.Option(help="base,tuned as LATENTS.csv's model column spells them.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A card from published counts, or from latents annotated elsewhere.

    \b
    Example:
      modeldiff-eval card reports/paper_simpo.yaml --out runs/paper
    """
    from modeldiff_eval.counts import card_from_counts
    from modeldiff_eval.render import render
    from modeldiff_eval.store import require_writable

    names: tuple[str, str] | None = None
    if models:
        first, comma, second = models.partition(",")
        if not comma or "," in second:
            raise SettingsError(f"--models {models!r}: give two names, base,tuned.")
        names = (first, second)
    out = require_writable(out or Path("runs") / source.stem)
    made = card_from_counts(source, seed=seed, title=title, models=names)
    show(made, render(made, out), as_json=as_json, quiet=quiet)


def render(
    source: Annotated[Path, typer.Argument(metavar="CARD", help="card.json, or a run's folder.")],
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """HTML, PDF and Markdown again from card.json."""
    from modeldiff_eval.card_file import read_card
    from modeldiff_eval.render import render as render_card
    from modeldiff_eval.store import require_writable

    made, path = read_card(source), source if source.is_dir() else source.parent
    show(made, render_card(made, require_writable(out or path)), as_json=False, quiet=quiet)
