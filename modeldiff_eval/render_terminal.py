"""The card as a terminal summary with rich; model text cannot reach the terminal as markup or control codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modeldiff_eval import naming_words
from modeldiff_eval.gate_words import ordered, result
from modeldiff_eval.records import ActivationChange, Card, Estimate, Verdict
from modeldiff_eval.render_causal import causal_lines
from modeldiff_eval.render_html import GATE_WORDS, NOT_GATED
from modeldiff_eval.render_panels import terminal_lines
from modeldiff_eval.render_scale import Scale
from modeldiff_eval.render_text import UNDEFINED, VERDICT_TEXT, compact, interval, judged, number, verdict_text, visible
from modeldiff_eval.render_view import benchmark_delta, benchmark_range, class_scales, verdict_line

_STYLE: dict[Verdict, str] = {"up": "bold blue", "down": "bold yellow", "unclear": "dim", "not covered": "dim"}
_PLAIN = str.maketrans(
    {
        "\u25b2": "^", "\u25bc": "v", "\u2212": "-", "\u2026": "..", "\u0394": "d", "\u2192": "->", "\u2014": "-",
        "\u2500": "-", "\u25cf": "*", "\u25cb": "o", "\u2502": "|", "\u253c": "+", "\u2039": "<", "\u203a": ">",
        "\u00a0": " ", "\u2009": " ", "\u202f": ",", "\u00b7": "-",
    }
)  # fmt: skip
WIDE = 100
Column = tuple[str, Literal["left", "right"]]
_ROWS = 12


def print_terminal(card: Card, console: Console, paths: Mapping[str, Path | None], *, hint: str | None = None) -> None:
    """Print verdict, classes, Elo, benchmarks, paths and what to do next; fits any width from 60 columns."""
    ascii_only = not (console.encoding or "").lower().startswith("utf")

    def show(text: Text) -> None:
        console.print(_safe(text, ascii_only), highlight=False, soft_wrap=False)

    gate = NOT_GATED if card.gate is None else GATE_WORDS[card.gate.verdict]
    show(Text.assemble((f" {gate} ", "reverse bold"), " ", (visible(card.title, limit=200), "bold")))
    show(Text(visible(card.headline, limit=1000)))
    for rule in ordered(card.gate) if card.gate else []:
        if rule.verdict != "pass":
            value = "not measured" if rule.value is None else compact(rule.value)
            show(Text(f"  {result(rule)}: {visible(rule.rule, limit=160)}  (value {value})"))
    console.print()
    if card.classes:
        console.print(_classes(card, console.width, ascii_only), highlight=False)
        show(Text(f"{verdict_line(card)}; \u0394 in points of the share of specific latents", style="dim"))
    else:
        show(Text("Classes: not listed"))
    for block in (_elo(card, ascii_only), _benchmarks(card, ascii_only)):
        console.print()
        console.print(block, highlight=False)
    if card.causal is not None:
        console.print()
        for line in causal_lines(card.causal, short=True):
            show(Text(visible(line, limit=600)))
    for line in [*terminal_lines(card), *naming_words.terminal_lines(card)]:
        console.print()
        show(Text(line))
    console.print()
    wide = max((len(name) + 1 for name in paths), default=0)
    for name, path in paths.items():
        # One path is one line whatever the width, so that it can be copied and clicked.
        where = Text("not written" if path is None else visible(str(path)))
        named = Text.assemble((f"{name:<{wide}}", "dim"), where)
        console.print(_safe(named, ascii_only), highlight=False, soft_wrap=True)
    page = paths.get("html")
    following = hint or (f"open {visible(str(page))}" if page is not None else None)
    if following is not None:
        console.print(_safe(Text.assemble(("next: ", "bold"), following), ascii_only), highlight=False, soft_wrap=True)


def _safe(text: Text, ascii_only: bool) -> Text:
    if not ascii_only:
        return text
    plain = text.plain.translate(_PLAIN).encode("ascii", "replace").decode()
    return Text(plain, style=text.style, overflow=text.overflow, no_wrap=text.no_wrap)


def _classes(card: Card, width: int, ascii_only: bool) -> Table:
    line, shifts = class_scales(card.classes)
    activation = shifts is not None
    tight = activation and width < WIDE  # no room for bars then; the verdict stands in front of the number
    used = (9 if tight else 8) + 15 + (0 if tight else 11) + (26 if activation else 0)
    room = width - used - 2 * (3 if tight else 5 if activation else 4)
    bar = 0 if tight else min(30, max(9, room - 26))
    name = max(10, min(44, room - bar))

    def cell(words: str, style: str = "") -> Text:
        return _cell(words, ascii_only, style)

    table = _grid(ascii_only=ascii_only)
    table.add_column(cell("class"), width=name, no_wrap=True)
    table.add_column(cell("\u0394"), justify="right", no_wrap=True)
    table.add_column(cell("95 % interval"), justify="right", no_wrap=True)
    if not tight:
        table.add_column("", width=bar, no_wrap=True)
        table.add_column(cell("verdict"), no_wrap=True)
    if activation:
        table.add_column(cell("activation \u0394 %"), justify="right", no_wrap=True)
    for row in card.classes:
        style, value = _STYLE[row.verdict], number(row.diff.value, signed=True)
        known = row.verdict != "not covered"
        cells = [
            cell(f"{visible(row.code, limit=8)} {visible(row.name, limit=80)}"),
            cell(_marked(row.diff, row.verdict) if tight and known else value, style),
            cell(interval(row.diff) if known or not tight else "not covered"),
        ]
        if not tight:
            cells += [
                cell(_bar(line, row.diff, row.verdict, bar), style), cell(verdict_text(row.diff, row.verdict), style),
            ]  # fmt: skip
        if activation:
            cells.append(cell(*_activation(row.activation)))
        table.add_row(*cells)
    return table


def _marked(estimate: Estimate, verdict: Verdict) -> str:
    if judged(estimate, verdict) is None:
        return UNDEFINED
    mark = "n.c." if verdict == "not covered" else VERDICT_TEXT[verdict].split()[0]
    return f"{mark} {number(estimate.value, signed=True)}"


def _activation(change: ActivationChange | None) -> tuple[str, str]:
    if change is None:
        return "\u2014", "dim"
    words = _marked(change.change, change.verdict)
    more = "" if change.change.value is None else f" ({interval(change.change)})"
    return f"{words}{more}", _STYLE[change.verdict]


def _bar(line: Scale, estimate: Estimate, verdict: Verdict, width: int) -> str:
    """A forest plot row in ``width`` characters: ``──●──│``."""
    mark = line.mark(estimate, verdict)

    def column(percent: float) -> int:
        return min(width - 1, round(percent / 100 * (width - 1)))

    cells = [" "] * width
    if mark.x1 is not None and mark.x2 is not None:
        for index in range(column(mark.x1), column(mark.x2) + 1):
            cells[index] = "\u2500"
    zero = column(line.at(0.0))
    cells[zero] = "\u2502" if cells[zero] == " " else "\u253c"
    if mark.x is not None:
        cells[column(mark.x)] = "\u25cf" if verdict in ("up", "down") else "\u25cb"
    return "".join(cells)


def _elo(card: Card, ascii_only: bool) -> Table | Text:
    rows = card.arena.rows if card.arena else []
    if not rows:
        return Text("Arena: not listed")
    columns: tuple[Column, ...] = (("Elo", "left"), ("\u0394 raw", "right"), ("", "left"))
    table = _grid(*columns, ("\u0394 style-controlled", "right"), ascii_only=ascii_only)
    for row in rows[:_ROWS]:
        style = row.delta_style
        words = (
            visible(row.category, limit=60),
            f"{number(row.delta.value, signed=True)} ({interval(row.delta)})",
            verdict_text(row.delta, row.verdict),
            "not listed" if style is None else f"{number(style.value, signed=True)} ({interval(style)})",
        )
        table.add_row(*(_cell(w, ascii_only, _STYLE[row.verdict] if i in (1, 2) else "") for i, w in enumerate(words)))
    if rows[_ROWS:]:
        table.add_row(_cell(f"{len(rows) - _ROWS} more in the card", ascii_only, "dim"))
    return table


def _benchmarks(card: Card, ascii_only: bool) -> Table | Text:
    if not card.benchmarks:
        return Text("Benchmarks: not measured")
    table = _grid(("benchmark", "left"), ("\u0394", "right"), ("", "left"), ("n", "right"), ascii_only=ascii_only)
    for row in card.benchmarks[:_ROWS]:
        words = (
            f"{visible(row.task, limit=40)} {visible(row.metric, limit=24)}",
            f"{benchmark_delta(row)} ({benchmark_range(row)})",
            verdict_text(row.delta, row.verdict),
            number(row.n, 0),
        )
        table.add_row(*(_cell(w, ascii_only, _STYLE[row.verdict] if i in (1, 2) else "") for i, w in enumerate(words)))
    if card.benchmarks[_ROWS:]:
        table.add_row(_cell(f"{len(card.benchmarks) - _ROWS} more in the card", ascii_only, "dim"))
    return table


def _grid(*columns: Column, ascii_only: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for name, side in columns:
        table.add_column(_cell(name, ascii_only), justify=side, no_wrap=True)
    return table


def _cell(words: str, ascii_only: bool, style: str = "") -> Text:
    return _safe(Text(words, style=style, overflow="crop" if ascii_only else "ellipsis", no_wrap=True), ascii_only)
