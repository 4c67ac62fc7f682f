"""Many cards become one static site: find them, put their figures side by side, write the page."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modeldiff_eval.errors import UsageError
from modeldiff_eval.leaderboard_files import find_cards
from modeldiff_eval.leaderboard_rows import collect
from modeldiff_eval.render_leaderboard import render_leaderboard


def write_leaderboard(cards: Sequence[Path], out: Path, *, by: str | None = None, workers: int = 1) -> dict[str, Path]:
    """A static site over many cards: ``index.html``, ``leaderboard.json``, ``leaderboard.csv`` and every card under ``cards/``.

    Args:
        cards: card files, or folders that are searched for ``card.json``.
        out: the site's folder, made if it is not there.
        by: column of the first order, see :class:`~modeldiff_eval.leaderboard_records.Leaderboard`; chosen by what the cards have if left out.
        workers: processes that make the cards' pages; more than one needs a main module that can be imported again wherever this
            process cannot be forked (other systems than Linux, several threads).

    Returns:
        ``html``, ``json`` and ``csv``.

    Raises:
        UsageError: a path that does not exist, no card at all, or an unknown column.
        OutputError: the site cannot be written.
    """
    with _uncollected():
        found, skipped = find_cards(cards, without=out)
        if not found:
            said = "".join(f"\n  {s.file}: {s.reason}" for s in skipped[:5])
            raise UsageError(
                f"No card in {', '.join(str(path) for path in cards) or 'nothing'}. Name folders with a card.json in them.{said}"
            )
        return render_leaderboard(collect(found, skipped, by=by), found, out, workers=workers)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: cards are trees, and walking hundreds of megabytes of them again and again doubles the time of reading."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
