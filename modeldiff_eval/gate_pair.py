"""A card for the gate: a finished one with its checksum looked at, or one made now from two models."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from modeldiff_eval.card_file import CardFile, read_card_file
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Card

if TYPE_CHECKING:
    from modeldiff_eval.settings import Settings

FAST = "fast"
"""The preset of a small budget."""


def finished_card(path: Path, what: str, *, allow_edited: bool) -> tuple[CardFile, list[str]]:
    """The card at ``path`` and what is to be said about its checksum.

    Raises:
        UsageError: there is no card, or it was edited since it was made and that is not allowed.
    """
    found = read_card_file(path)
    if found.seal == "none":
        return found, [f"The {what} carries no checksum, so an edit of it would not be noticed."]
    if found.seal == "whole":
        return found, []
    if not allow_edited:
        raise UsageError(
            f"The {what} {found.file} was edited since it was made: its checksum is not that of its content. Make it again, "
            "or take it as it is with --allow-edited."
        )
    return found, [f"The {what} was edited since it was made (its checksum does not match); it was taken as it is."]


def is_fast(card: Card) -> bool:
    """Whether a card was made on a small budget, by the command it names."""
    try:
        words = shlex.split(card.provenance.command)
    except ValueError:
        return False
    return any(pair == ("--preset", FAST) for pair in pairwise(words))


def card_of_pair(settings: Settings, out: Path, *, quiet: bool) -> CardFile:
    """Compare two models now, with progress on standard error; run again, it finds what it has made."""
    from rich.console import Console

    from modeldiff_eval.diff import diff
    from modeldiff_eval.held import require_own
    from modeldiff_eval.plan_run import require_room
    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.store import cache_dir, require_writable, tidied
    from modeldiff_eval.terminal import TerminalReporter, hush

    require_own(out, settings)
    hush()
    with tidied(out):
        require_writable(out)
        if not (settings.crosscoder or (out / "card.json").exists()):
            require_room(settings, cache_dir())
        reporter = Reporter() if quiet else TerminalReporter(Console(stderr=True))
        run = diff(settings=settings, out=out, cache=cache_dir(), reporter=reporter)
    return CardFile(run.card, out / "card.json", "whole")
