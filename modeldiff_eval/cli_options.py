"""Options that several commands share, and what they print of a finished card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modeldiff_eval.records import Card

Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run.", show_default="runs/<tuned>")]
Json = Annotated[bool, typer.Option("--json", help="Print card.json on standard output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and the card's path.")]

LogJson = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        metavar="FILE|-",
        help="Append the run's events to FILE, one JSON object a line; - for stderr, instead of progress.",
    ),
]


def show(card: Card, paths: dict[str, Path | None], *, as_json: bool, quiet: bool) -> None:
    """The card on standard output: as JSON, as its path alone, or as the terminal's summary."""
    from rich.console import Console

    if as_json:
        sys.stdout.write(card.to_json())
    elif quiet:
        print(paths.get("html") or paths.get("json"))
    else:
        from modeldiff_eval.render import print_terminal

        print_terminal(card, Console(), paths)
