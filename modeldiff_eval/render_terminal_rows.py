"""Rows on a terminal: a table where there is room for it, else under each name what the row says. Only names are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

NAME = 24
"""Characters that a table leaves for names, unless the longest has fewer."""
_GAP = _INDENT = 2
_PLAIN = str.maketrans(
    {
        "\u25b2": "^", "\u25bc": "v", "\u2212": "-", "\u2026": "..", "\u0394": "d", "\u2192": "->", "\u2014": "-",
        "\u2500": "-", "\u25cf": "*", "\u25cb": "o", "\u2502": "|", "\u253c": "+", "\u2039": "<", "\u203a": ">",
        "\u00a0": " ", "\u2009": " ", "\u202f": ",", "\u00b7": "-",
    }
)  # fmt: skip

Fact = tuple[str, str]
"""Words and their style."""
Column = tuple[str, Literal["left", "right"]]


@dataclass(frozen=True)
class Row:
    """``cells`` stand beside the name in a table; ``below`` under it, a line each, where there is no room for one.

    A line of ``below`` is broken between its parts only, so that no number is.
    """

    name: str
    cells: list[Fact]
    below: list[tuple[list[str], str]]


def safe(text: Text, ascii_only: bool) -> Text:
    """The text in ASCII where the terminal has nothing else."""
    if not ascii_only:
        return text
    plain = text.plain.translate(_PLAIN).encode("ascii", "replace").decode()
    return Text(plain, style=text.style, overflow=text.overflow, no_wrap=text.no_wrap)


def room(columns: Sequence[Column], rows: Sequence[Row], width: int, ascii_only: bool) -> int:
    """Characters that the cells leave for names in a table of ``width``."""
    wide = [
        max(cell_len(safe(Text(words), ascii_only).plain) for words in (head, *(row.cells[n][0] for row in rows)))
        for n, (head, _) in enumerate(columns)
    ]
    return width - sum(wide) - _GAP * len(wide)


def laid_out(
    head: str, columns: Sequence[Column], rows: Sequence[Row], width: int, *, below: str, ascii_only: bool,
    fold: bool = True, more: int = 0,
) -> RenderableType:  # fmt: skip
    """The rows as a table, or one under the other.

    Args:
        head: heads the names of a table, as ``columns`` do the cells.
        below: heads rows that stand one under the other.
        fold: a name that is too long for a table goes on in the next line; otherwise it is cut.
        more: how many rows the card has beyond these.
    """
    left = room(columns, rows, width, ascii_only)
    longest = max(cell_len(safe(Text(name), ascii_only).plain) for name in (head, *(row.name for row in rows)))
    last = [safe(Text(f"{more} more in the card", style="dim"), ascii_only)] if more else []
    if left < min(NAME, longest):
        lines: list[RenderableType] = [safe(Text(below, style="dim"), ascii_only)]
        for row in rows:
            lines.append(safe(Text(row.name), ascii_only))
            for parts, style in row.below:
                filled = _filled([safe(Text(part), ascii_only).plain for part in parts], width - _INDENT)
                lines.append(Padding(Text(filled, style), (0, 0, 0, _INDENT), expand=False))
        return Group(*lines, *last)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(safe(Text(head), ascii_only), width=min(left, longest))
    for words, side in columns:
        table.add_column(safe(Text(words), ascii_only), justify=side, no_wrap=True)
    cut: Literal["fold", "crop", "ellipsis"] = "fold" if fold else "crop" if ascii_only else "ellipsis"
    for row in rows:
        name = Text(row.name, overflow=cut, no_wrap=not fold)
        table.add_row(safe(name, ascii_only), *(safe(Text(*fact), ascii_only) for fact in row.cells))
    return Group(table, *last)


def _filled(parts: Sequence[str], width: int) -> str:
    lines = [parts[0]]
    for part in parts[1:]:
        if cell_len(f"{lines[-1]} {part}") <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return "\n".join(lines)
