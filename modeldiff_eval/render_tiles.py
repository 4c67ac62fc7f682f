"""The four tiles at the top of a card: two classes, the arena, the worst benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from modeldiff_eval.records import ArenaRow, BenchmarkRow, Card, ClassRow, Estimate, Verdict
from modeldiff_eval.render_scale import Mark, Scale, scale
from modeldiff_eval.render_text import interval, number
from modeldiff_eval.render_view import benchmark_delta, benchmark_range

OVERALL = {"overall", "full", "all", "text"}


@dataclass(frozen=True)
class Tile:
    """One headline number; ``value`` is None when there is nothing to show, and ``name`` then says why."""

    label: str
    value: str | None
    unit: str
    name: str
    range: str
    verdict: Verdict | None
    second: str | None = None
    scale: Scale | None = None
    mark: Mark | None = None


def tiles(card: Card) -> list[Tile]:
    """All four, in the order they are read."""
    return [class_tile(card, up=True), class_tile(card, up=False), elo_tile(card), benchmark_tile(card)]


def class_tile(card: Card, *, up: bool) -> Tile:
    """The class whose share rose (or fell) most; where no share is defined, the one whose activation did."""
    label = "Largest \u25b2 class" if up else "Largest \u25bc class"
    sign = 1 if up else -1
    if all(row.diff.value is None for row in card.classes) and any(row.activation for row in card.classes):
        return _activation_tile(card, label, sign)
    rows = [row for row in card.classes if row.verdict != "not covered" and (row.diff.value or 0.0) * sign > 0]
    if not rows:
        word = "rose" if up else "fell"
        return Tile(label, None, "", f"No class {word}" if card.classes else "not listed", "", None)
    row = max(rows, key=lambda r: (r.diff.value or 0.0) * sign)
    return _tile(label, row, row.diff, "points", row.verdict, scale([r.diff for r in card.classes]))


def _activation_tile(card: Card, label: str, sign: int) -> Tile:
    found = [
        (row, row.activation)
        for row in card.classes
        if row.activation is not None and (row.activation.change.value or 0.0) * sign > 0
    ]
    if not found:
        return Tile(label, None, "", f"No class's activation {'rose' if sign > 0 else 'fell'}", "", None)
    # A clear change comes before a larger one that numerical noise could make.
    row, best = max(found, key=lambda f: (f[1].verdict != "unclear", (f[1].change.value or 0.0) * sign))
    return _tile(label, row, best.change, "% activation", best.verdict, scale([change.change for _, change in found]))


def _tile(label: str, row: ClassRow, value: Estimate, unit: str, verdict: Verdict, line: Scale) -> Tile:
    shown = number(value.value, signed=True)
    mark = line.mark(value, verdict)
    return Tile(label, shown, unit, f"{row.code} {row.name}", interval(value), verdict, scale=line, mark=mark)


def elo_row(card: Card) -> ArenaRow | None:
    """The overall arena row, or the first one."""
    rows = card.arena.rows if card.arena else []
    return next((r for r in rows if r.category.strip().lower() in OVERALL), rows[0] if rows else None)


def elo_tile(card: Card) -> Tile:
    """Elo difference in the overall category, raw and with style control."""
    row = elo_row(card)
    if row is None:
        return Tile("Arena Elo \u0394", None, "", "not listed", "", None)
    style = row.delta_style
    second = None if style is None else f"\u25c7 style {number(style.value, signed=True)} ({interval(style)})"
    line = scale([row.delta, style])
    return Tile(
        "Arena Elo \u0394",
        number(row.delta.value, signed=True),
        "raw",
        row.category,
        interval(row.delta),
        row.verdict,
        second=second or "\u25c7 style: not listed",
        scale=line,
        mark=line.mark(row.delta, row.verdict),
    )


LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier", "ter", "loss", "nll", "error")


def lower_is_better(row: BenchmarkRow) -> bool:
    """Whether less is better: as the task states it, else by the metric's name."""
    if row.higher_is_better is not None:
        return not row.higher_is_better
    name = f"_{row.metric.lower().split(',')[0]}_"
    return any(f"_{word}_" in name for word in LOWER_IS_BETTER)


def _fallen(row: BenchmarkRow) -> tuple[bool, float]:
    value, low, high = row.delta.value or 0.0, row.delta.low, row.delta.high
    if low is None or high is None or high <= low:
        return True, value
    return False, value / (high - low)


def benchmark_tile(card: Card) -> Tile:
    """The benchmark that fell most, among metrics of which more is better.

    Units differ, so what is compared is the delta in widths of its interval; one without an interval comes only where none has one.
    """
    known = [b for b in card.benchmarks if b.delta.value is not None]
    rows = [b for b in known if not lower_is_better(b)]
    rows = [b for b in rows if b.headline] or rows  # A task's other metrics say the same again.
    if not rows:
        return Tile("Worst benchmark \u0394", None, "", "not measured", "", None)
    row = min(rows, key=_fallen)
    line = scale([row.delta])
    return Tile(
        "Worst benchmark \u0394",
        benchmark_delta(row),
        "",
        f"{row.task} \u00b7 {row.metric}",
        benchmark_range(row),
        row.verdict,
        scale=line,
        mark=line.mark(row.delta, row.verdict),
    )
