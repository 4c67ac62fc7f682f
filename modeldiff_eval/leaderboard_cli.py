"""``modeldiff-eval leaderboard``: an index page over many cards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    cards: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders that are searched for card.json, or such files.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="SITE", help="Folder of the site.")] = Path("leaderboard"),
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="First order of the rows: elo_style, elo, benchmarks, shares.A …, activation.A …",
            show_default="what the cards have",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and the page's path.")] = False,
) -> None:
    """A static site over many cards: sortable, filterable, in groups that cannot be told apart instead of ranks.

    \b
    Example:
      modeldiff-eval leaderboard runs reports --out site
    """
    import json

    from modeldiff_eval.leaderboard import write_leaderboard
    from modeldiff_eval.leaderboard_files import EDITED, time_of
    from modeldiff_eval.render_text import visible
    from modeldiff_eval.store import require_writable

    paths = write_leaderboard(cards, require_writable(out), by=by, workers=os.cpu_count() or 1)
    if quiet:
        print(paths["html"])
        return
    board = json.loads(paths["json"].read_text(encoding="utf-8"))
    for item in board["skipped"]:
        print(f"passed over {visible(item['file'])}: {visible(item['reason'])}")
    for row in board["rows"]:
        if row["seal"] == "edited":
            print(f"edited {visible(row['file'])}: {EDITED} It is listed with a mark.")
        if time_of(row["created"]) is None:
            print(
                f"undated {visible(row['file'])}: {visible(row['created'], limit=60)!r} is no time, so it counts as the oldest."
            )
    print(f"{len(board['rows'])} cards, by {board['by'] or 'title'}: {paths['html']}")
