"""What the pages say about the outside measures beyond their rows: how far they agree, other days, and the fit."""

from __future__ import annotations

from modeldiff_eval.records import AgreementRow, Arena, Card
from modeldiff_eval.render_text import interval, number

REVERSED = "a higher score means less of it"
_OF = {"arena": "arena", "benchmarks": "benchmark"}


def agrees(row: AgreementRow) -> str:
    """Whether inside and outside agree, in a word."""
    return "cannot say" if row.agrees is None else "yes" if row.agrees else "no"


def correlation_lines(card: Card) -> list[str]:
    """A sentence for each rank correlation, with its interval and n, or why there is none."""
    lines = []
    for found in card.rank_correlations:
        about = f"{number(found.n, 0)} pairs of {number(found.classes, 0)} classes"
        name = f"Rank correlation of class shifts with {_OF[found.of]} differences (Spearman's \u03c1)"
        if found.value.value is None:
            lines.append(f"{name}: not measured over {about}{f'; {found.note}' if found.note else ''}.")
            continue
        shown = f"{number(found.value.value, 2, signed=True)} (95 %: {interval(found.value, 2)})"
        lines.append(f"{name}: {shown}, {about}{f'; {found.note}' if found.note else ''}.")
    return lines


def snapshot_rows(arena: Arena | None) -> tuple[list[str], list[list[str]]]:
    """Dates, and for each category its raw difference on each of them; nothing where there is one snapshot only."""
    if arena is None or not arena.other_snapshots:
        return [], []
    found = [(item.snapshot, item.rows) for item in arena.other_snapshots]
    days = sorted([*found, (arena.snapshot or "this one", arena.rows)], key=lambda day: day[0])
    dates = [date for date, _ in days]
    categories = dict.fromkeys(row.category for _, listed in days for row in listed)
    rows = []
    for name in categories:
        deltas = {date: row.delta for date, listed in days for row in listed if row.category == name}
        shown = [
            f"{number(deltas[date].value, signed=True)} ({interval(deltas[date])})" if date in deltas else "not listed"
            for date in dates
        ]
        rows.append([name, *shown])
    return dates, rows


def fit_lines(arena: Arena | None) -> list[str]:
    """Where ratings that were fitted here come from: their scale, and what style is worth in the fit."""
    if arena is None or arena.kind != "battles":
        return []
    lines = [f"Ratings fitted to battles{f'; scale: {arena.scale}' if arena.scale else ''}."]
    lines += [
        f"Style, {item.feature}: {number(item.shrunken.value, 3, signed=True)} log-odds for one standard difference "
        f"(95 %: {interval(item.shrunken, 3)})."
        for item in arena.style
    ]
    return lines
