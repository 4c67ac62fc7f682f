"""The card as a terminal summary with rich; model text cannot reach the terminal as markup or control codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from modeldiff_eval import naming_words
from modeldiff_eval.gate_words import ordered, result
from modeldiff_eval.records import ActivationChange, Card, ClassRow, Estimate, Verdict
from modeldiff_eval.render_causal import causal_lines
from modeldiff_eval.render_html import GATE_WORDS, NOT_GATED
from modeldiff_eval.render_panels import terminal_lines
from modeldiff_eval.render_scale import Scale
from modeldiff_eval.render_terminal_rows import Column, Row, laid_out, room, safe
from modeldiff_eval.render_text import UNDEFINED, VERDICT_TEXT, compact, interval, judged, number, verdict_text, visible
from modeldiff_eval.render_view import benchmark_delta, benchmark_range, class_scales, verdict_line

_STYLE: dict[Verdict, str] = {"up": "bold blue", "down": "bold yellow", "unclear": "dim", "not covered": "dim"}
_BAR, _BESIDE_BAR = 9, 26
"""Characters of the shortest bar, and of the names beside it: where both have no room there is no bar."""
_ROWS = 12


def print_terminal(card: Card, console: Console, paths: Mapping[str, Path | None], *, hint: str | None = None) -> None:
    """Print verdict, classes, Elo, benchmarks, paths and what to do next; fits any width, and cuts no number and no verdict."""
    ascii_only = not (console.encoding or "").lower().startswith("utf")

    def show(text: Text) -> None:
        console.print(safe(text, ascii_only), highlight=False, soft_wrap=False)

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
    for block in (_elo(card, console.width, ascii_only), _benchmarks(card, console.width, ascii_only)):
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
        console.print(safe(named, ascii_only), highlight=False, soft_wrap=True)
    page = paths.get("html")
    following = hint or (f"open {visible(str(page))}" if page is not None else None)
    if following is not None:
        console.print(safe(Text.assemble(("next: ", "bold"), following), ascii_only), highlight=False, soft_wrap=True)


def _classes(card: Card, width: int, ascii_only: bool) -> RenderableType:
    line, shifts = class_scales(card.classes)
    activation = shifts is not None
    columns: list[Column] = [("\u0394", "right"), ("95 % interval", "right"), ("verdict", "left")]
    if activation:
        columns.append(("activation \u0394 %", "right"))
    rows = [_class_row(row, activation) for row in card.classes]
    left = room(columns, rows, width, ascii_only) - 2
    if left >= _BAR + _BESIDE_BAR:
        bar = min(30, left - _BESIDE_BAR)
        columns.insert(2, ("", "left"))
        for row, of in zip(rows, card.classes, strict=True):
            row.cells.insert(2, (_bar(line, of.diff, of.verdict, bar), _STYLE[of.verdict]))
    elif activation:  # The verdict stands in front of the number.
        del columns[2]
        for row, of in zip(rows, card.classes, strict=True):
            row.cells[:3] = [(_marked(of.diff, of.verdict), _STYLE[of.verdict]), row.cells[1]]
    below = "class: \u0394 (95 % interval)" + ("; activation: \u0394 %" if activation else "")
    return laid_out("class", columns, rows, width, below=below, fold=False, ascii_only=ascii_only)


def _class_row(row: ClassRow, activation: bool) -> Row:
    style, verdict = _STYLE[row.verdict], verdict_text(row.diff, row.verdict)
    value, bounds = number(row.diff.value, signed=True), interval(row.diff)
    cells, below = [(value, style), (bounds, ""), (verdict, style)], [([verdict, value, f"({bounds})"], style)]
    if activation:
        words, its = _activation(row.activation)
        cells.append((" ".join(words), its))
        below.append((["activation", *words], its))
    return Row(f"{visible(row.code, limit=8)} {visible(row.name, limit=80)}", cells, below)


def _marked(estimate: Estimate, verdict: Verdict) -> str:
    if judged(estimate, verdict) is None:
        return UNDEFINED
    mark = "n.c." if verdict == "not covered" else VERDICT_TEXT[verdict].split()[0]
    return f"{mark} {number(estimate.value, signed=True)}"


def _activation(change: ActivationChange | None) -> tuple[list[str], str]:
    if change is None:
        return ["\u2014"], "dim"
    words = [_marked(change.change, change.verdict)]
    if change.change.value is not None:
        words.append(f"({interval(change.change)})")
    return words, _STYLE[change.verdict]


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


def _elo(card: Card, width: int, ascii_only: bool) -> RenderableType:
    found = card.arena.rows if card.arena else []
    if not found:
        return Text("Arena: not listed")
    columns: list[Column] = [("\u0394 raw", "right"), ("", "left"), ("\u0394 style-controlled", "right")]
    rows = []
    for row in found[:_ROWS]:
        style, verdict = _STYLE[row.verdict], verdict_text(row.delta, row.verdict)
        raw = _with_bounds(row.delta)
        controlled = ["not listed"] if row.delta_style is None else _with_bounds(row.delta_style)
        cells = [(" ".join(raw), style), (verdict, style), (" ".join(controlled), "")]
        rows.append(
            Row(visible(row.category, limit=60), cells, [([verdict, *raw], style), (["style", *controlled], "")])
        )
    return laid_out(
        "Elo", columns, rows, width, below="Elo: \u0394 raw; style: \u0394 style-controlled", ascii_only=ascii_only,
        more=max(0, len(found) - _ROWS),
    )  # fmt: skip


def _with_bounds(estimate: Estimate) -> list[str]:
    return [number(estimate.value, signed=True), f"({interval(estimate)})"]


def _benchmarks(card: Card, width: int, ascii_only: bool) -> RenderableType:
    if not card.benchmarks:
        return Text("Benchmarks: not measured")
    columns: list[Column] = [("\u0394", "right"), ("", "left"), ("n", "right")]
    rows = []
    for row in card.benchmarks[:_ROWS]:
        style, verdict = _STYLE[row.verdict], verdict_text(row.delta, row.verdict)
        delta, n = [benchmark_delta(row), f"({benchmark_range(row)})"], number(row.n, 0)
        name = f"{visible(row.task, limit=40)} {visible(row.metric, limit=24)}"
        cells = [(" ".join(delta), style), (verdict, style), (n, "")]
        rows.append(Row(name, cells, [([verdict, *delta], style), ([f"n {n}"], "")]))
    return laid_out(
        "benchmark", columns, rows, width, below="benchmark: \u0394; n", ascii_only=ascii_only,
        more=max(0, len(card.benchmarks) - _ROWS),
    )  # fmt: skip
