"""The leaderboard as a static site: one page that needs no request, JSON and CSV beside it, and every card inside."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from markupsafe import Markup

from modeldiff_eval import leaderboard_pages as pages
from modeldiff_eval.leaderboard_files import Found, time_of
from modeldiff_eval.leaderboard_records import Cell, Leaderboard, LeaderboardRow
from modeldiff_eval.render_html import GATE_WORDS, NOT_GATED, environment
from modeldiff_eval.render_scale import Mark, Scale, scale
from modeldiff_eval.render_text import ABSENT, interval, number, visible
from modeldiff_eval.resources import resource
from modeldiff_eval.spreadsheet import escape_cell
from modeldiff_eval.store import write_bytes, write_text

NAMES = {"elo": "Elo Δ, raw", "elo_style": "Elo Δ, style-controlled", "benchmarks": "mean benchmark Δ"}


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it: texts, where its interval lies, and what it is sorted by."""

    cell: Cell
    value: str
    range: str
    mark: Mark
    key: str


def render_leaderboard(board: Leaderboard, found: Sequence[Found], out: Path, *, workers: int = 1) -> dict[str, Path]:
    """Write the site; ``found`` are the cards in the order of the rows.

    A card's page is made from its record, never copied: a page that came with a card could hold anything. Pages of cards
    that the site holds already are kept; folders of cards that are no longer listed are removed.
    """
    places = [(item, out / row.folder) for row, item in zip(board.rows, found, strict=True)]
    with pages.making(places, workers):
        for item, folder in places:
            write_bytes(folder / "card.json", item.raw)
        written = {
            "json": write_text(out / "leaderboard.json", board.to_json()),
            "csv": write_text(out / "leaderboard.csv", leaderboard_csv(board)),
        }
        html = leaderboard_html(board)
    pages.forget(out / "cards", {row.id for row in board.rows})
    return {"html": write_text(out / "index.html", html), **written}


def leaderboard_html(board: Leaderboard) -> str:
    """The page. Script and style stand in it and are the only ones that its policy allows, by their hashes."""
    scales = _scales(board)
    css = _inline("leaderboard.css") + _zeros(scales)
    script = _inline("leaderboard.js")
    codes = [c.code for c in board.classes]
    rows = sorted(board.rows, key=lambda row: _order(row, board.by))
    columns = board.columns
    context = {
        "board": board,
        "rows": [
            {
                "row": row,
                "date": _date(row),
                "gate": NOT_GATED if row.gate is None else GATE_WORDS[row.gate],
                "groups": ",".join(str(row.cell(name).group or "") for name in columns),
                "group": row.cell(board.by).group if board.by else None,
                "classes": [
                    {view: _shown(getattr(row, view)[code], scales[view]) for view in _VIEWS} for code in codes
                ],
                "elo": _shown(row.elo, scales["elo"]),
                "elo_style": _shown(row.elo_style, scales["elo"]),
                "benchmarks": _shown(row.benchmarks, scales["benchmarks"], 3),
                "moved": _moved(row),
            }
            for row in rows
        ],
        "by": board.by,
        "by_name": column_title(board, board.by) if board.by else None,
        "titles": [[name, column_title(board, name)] for name in columns],
        "view": _view(board),
        "bases": sorted({row.base for row in rows}),
        "methods": sorted({_method(row) for row in rows}),
        "method": _method,
        "gates": sorted({row.gate or "none" for row in rows}),
        "gate_words": {**GATE_WORDS, "none": NOT_GATED},
        "css": Markup(css),
        "script": Markup(script),
        "policy": f"default-src 'none'; style-src 'sha256-{_hash(css)}'; script-src 'sha256-{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    }  # fmt: skip
    return environment().get_template("leaderboard.html.j2").render(context)


def leaderboard_csv(board: Leaderboard) -> str:
    """One row a card; undefined numbers are empty cells."""
    columns = board.columns
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    about = ("title", "base", "tuned", "anchor", "mode", "method", "created", "gate", "seal", "folder", "file")
    parts = [f"{name}{part}" for name in columns for part in ("", "_low", "_high", "_verdict", "_group")]
    writer.writerow([*about, *map(_plain, parts), "benchmarks_n"])
    for row in board.rows:
        cells = [row.cell(name) for name in columns]
        figures = [x for c in cells for x in (c.value.value, c.value.low, c.value.high, c.verdict, c.group)]
        writer.writerow([*(_plain(getattr(row, name)) for name in about), *figures, row.benchmarks.n])
    return buffer.getvalue()


def column_title(board: Leaderboard, column: str) -> str:
    """A column's name for people."""
    view, dot, code = column.partition(".")
    if not dot:
        return NAMES[view]
    name = next(c.name for c in board.classes if c.code == code)
    return f"{code} {visible(name, limit=60)}, {_VIEWS[view]}"


_VIEWS = {"shares": "share of latents", "activation": "activation"}


def _view(board: Leaderboard) -> str:
    """The view shown first: that of the first order, else the one that more cards have."""
    if board.by and "." in board.by:
        return board.by.partition(".")[0]
    cells = {v: [c for row in board.rows for c in getattr(row, v).values()] for v in _VIEWS}
    have = {v: sum(c.value.value is not None for c in found) for v, found in cells.items()}
    return "activation" if have["activation"] > have["shares"] else "shares"


def _plain(text: str | None) -> str | None:
    return None if text is None else escape_cell(visible(text))


def _date(row: LeaderboardRow) -> str:
    """The day a card was made, empty where it names none."""
    made = time_of(row.created)
    return made.date().isoformat() if made else ""


def _method(row: LeaderboardRow) -> str:
    return visible(row.method.split(";")[0].split(" with ")[0], limit=60)


def _scales(board: Leaderboard) -> dict[str, Scale]:
    views = {view: [c.value for r in board.rows for c in getattr(r, view).values()] for view in _VIEWS}
    return {
        **{view: scale(found) for view, found in views.items()},
        "elo": scale([c.value for r in board.rows for c in (r.elo, r.elo_style)]),
        "benchmarks": scale([r.benchmarks.value for r in board.rows]),
    }


def _zeros(scales: dict[str, Scale]) -> str:
    """Where 0 lies in the bars of each kind of column."""
    return "".join(f".b-{name} {{ background-position-x: {line.at(0)}%; }}\n" for name, line in scales.items())


def _shown(cell: Cell, line: Scale, digits: int = 1) -> Shown:
    value = cell.value.value
    return Shown(
        cell,
        ABSENT if value is None else number(value, digits, signed=True),
        interval(cell.value, digits),
        line.mark(cell.value, cell.verdict or "unclear"),
        "" if value is None else f"{value:.6g}",
    )


def _order(row: LeaderboardRow, by: str | None) -> tuple[bool, int, float, str, str]:
    """By group and then by value; without a column by title."""
    cell = row.cell(by) if by else None
    value = None if cell is None else cell.value.value
    group = None if cell is None else cell.group
    return group is None, group or 0, -(value or 0.0), row.title, row.id


def _moved(row: LeaderboardRow) -> dict[str, str]:
    """For each view the classes with a verdict: ``▲ A, C ▼ D``, or that there are none."""
    out = {}
    for view in _VIEWS:
        cells: dict[str, Cell] = getattr(row, view)
        known = [c for c in cells.values() if c.verdict in ("up", "down", "unclear")]
        words = [
            f"{sign} {', '.join(codes)}"
            for verdict, sign in (("up", "\u25b2"), ("down", "\u25bc"))
            if (codes := [visible(code) for code, c in cells.items() if c.verdict == verdict])
        ]
        out[view] = " ".join(words) or ("all n.s." if known else "not measured")
    return out


@cache
def _inline(name: str) -> str:
    return resource(f"templates/{name}").read_text("utf-8")


def _hash(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
