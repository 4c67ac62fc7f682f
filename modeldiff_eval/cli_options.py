"""Options that several commands share, and what they print of a finished card."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeldiff_eval._version import __version__

if TYPE_CHECKING:
    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.records import Card

HELP_NAMES = {"help_option_names": ["-h", "--help"]}

Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run.", show_default="runs/demo or runs/demo-anchored")
]
"""Of the demo: every command has a default of its own."""
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


def go_offline() -> None:
    """No hub is asked, and no tracker's server."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("WANDB_MODE", "offline")


def speak(about: str, *, quiet: bool, verbose: bool, log_json: str | None) -> Reporter:
    """Begin what a run says on standard error and in its log, with a line about what it is; gives who says the rest.

    Raises:
        OutputError: the log cannot be written.
    """
    from rich.console import Console

    from modeldiff_eval.logs import LogReporter, begin
    from modeldiff_eval.progress import Reporter as Silent
    from modeldiff_eval.terminal import TerminalReporter, hush

    if quiet:
        os.environ.setdefault("WANDB_SILENT", "true")
    errors = Console(stderr=True)
    drawn = not quiet and log_json != "-"
    terminal = TerminalReporter(errors)
    begin(terminal.note if drawn else None, log_json)
    if drawn:
        errors.print(f"modeldiff-eval {__version__}: {about}", highlight=False, markup=False, soft_wrap=True)
    if not verbose:
        hush()
    reporter = terminal if drawn else Silent()
    return LogReporter(reporter) if log_json else reporter


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
