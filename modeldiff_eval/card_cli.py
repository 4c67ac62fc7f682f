"""``modeldiff-eval card`` and ``render``: cards from counts, and files from cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeldiff_eval.cli_options import Json, Quiet, show
from modeldiff_eval.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from modeldiff_eval.records import Card


def card(
    source: Annotated[Path, typer.Argument(help="COUNTS.yaml or LATENTS.csv.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write.", show_default="runs/<name of the source>")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
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
        names = (first.strip(), second.strip())
    folder = out or Path("runs") / source.stem
    if (folder / "run.json").exists():
        raise UsageError(f"{folder} is the folder of a run, whose card this would replace. Name another with --out.")
    made = card_from_counts(source, seed=seed, title=title, models=names)
    show(made, render(made, require_writable(folder)), as_json=as_json, quiet=quiet)


def render(
    source: Annotated[Path, typer.Argument(metavar="CARD", help="card.json, or a run's folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write.", show_default="CARD's folder")] = None,
    paper: Annotated[str, typer.Option(help="Page of the PDF: a4 or letter.")] = "a4",
    model_card: Annotated[
        bool, typer.Option("--model-card", help="Also model_card.md, with a model-index, for the tuned model's page.")
    ] = False,
    tables: Annotated[bool, typer.Option("--tables", help="Also tables/*.csv and tables/*.parquet.")] = False,
    quiet: Quiet = False,
) -> None:
    """HTML, PDF and Markdown again from card.json.

    \b
    Example:
      modeldiff-eval render runs/tuned --paper letter --model-card --tables
    """
    from modeldiff_eval.card_file import read_card
    from modeldiff_eval.render import render as render_card
    from modeldiff_eval.render_model_card import write_model_card
    from modeldiff_eval.render_tables import write_tables
    from modeldiff_eval.store import require_writable, tidied

    made, folder = read_card(source), out or (source if source.is_dir() else source.parent)
    if (out is None or (folder / "run.json").exists()) and _holds_another(folder, made):
        raise UsageError(
            f"{folder / 'card.json'} is another card, which this would replace. Name another folder with --out."
        )
    with tidied(folder):
        written = render_card(made, require_writable(folder), paper=paper)
    if model_card:
        written["model card"] = write_model_card(made, folder)
    if tables:
        written["tables"] = write_tables(made, folder)
    show(made, written, as_json=False, quiet=quiet)


def _holds_another(folder: Path, made: Card) -> bool:
    """Whether a card that is not ``made`` stands in ``folder``; what cannot be read is another."""
    from modeldiff_eval.card_file import read_card

    try:
        return (folder / "card.json").exists() and read_card(folder) != made
    except UsageError:
        return True


def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="standard output")] = None,
) -> None:
    """The JSON schema of card.json.

    \b
    Example:
      modeldiff-eval schema --out card.schema.json
    """
    from modeldiff_eval.card_schema import card_schema
    from modeldiff_eval.store import write_text

    if out is None:
        print(card_schema(), end="")
    else:
        write_text(out, card_schema())
