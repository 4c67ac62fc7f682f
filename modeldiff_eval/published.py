"""What a publication prints against what its own numbers give: every cell recomputed, contradictions said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from modeldiff_eval.agreement import ARENA_NAMES
from modeldiff_eval.counts_spec import Decimals, PrintedElo, PrintedShift, PublishedSpec
from modeldiff_eval.findings import interval, signed
from modeldiff_eval.records import Arena, ArenaRow, ClassRow


class Cell(NamedTuple):
    """One printed cell. ``reproduced``: the recomputed value rounds to what is printed."""

    code: str
    name: str
    column: str
    printed: float
    computed: float | None
    decimals: int
    rounded_first: bool
    """The printed difference is that of the rounded shares, not of the shares."""

    @property
    def reproduced(self) -> bool:
        return self.computed is not None and _rounds_to(self.computed, self.printed, self.decimals)


def compare_shifts(published: PublishedSpec, classes: Sequence[ClassRow], categories: Sequence[ClassRow]) -> list[Cell]:
    """Every printed cell of the class and category tables beside its recomputed value."""
    cells = []
    for rows, printed_rows in ((classes, published.classes), (categories, published.categories)):
        by_code = {row.code: row for row in rows}
        for code, printed in printed_rows.items():
            cells += _cells(by_code[code], printed, published.decimals)
    return cells


def _cells(row: ClassRow, printed: PrintedShift, decimals: Decimals) -> list[Cell]:
    columns = (
        ("base share", printed.base_share, row.base.share, decimals.share),
        ("tuned share", printed.tuned_share, row.tuned.share, decimals.share),
        ("diff", printed.diff, row.diff.value, decimals.diff),
        ("change", printed.change, row.change.value if row.change else None, decimals.change),
    )
    out = []
    for column, value, computed, digits in columns:
        if value is None:
            continue
        rounded_first = False
        if column == "diff" and row.base.share is not None and row.tuned.share is not None:
            from_rounded = round(row.tuned.share, decimals.share) - round(row.base.share, decimals.share)
            rounded_first = _rounds_to(from_rounded, value, digits)
        out.append(Cell(row.code, row.name, column, value, computed, digits, rounded_first))
    return out


def shift_caveats(source: str, cells: Sequence[Cell]) -> list[str]:
    """How many printed cells the counts reproduce, and every one they do not."""
    if not cells:
        return []
    agreed = sum(cell.reproduced for cell in cells)
    out = [f"Printed cells of {source}: {agreed} of {len(cells)} are reproduced to the digit by its own counts."]
    for cell in cells:
        if cell.reproduced:
            continue
        why = ", the difference of the rounded shares" if cell.rounded_first else ""
        out.append(
            f"{cell.code} {cell.name}, {cell.column}: {source} prints {_text(cell, cell.printed)}{why}; "
            f"from the counts it is {_text(cell, cell.computed)}."
        )
    return out


def _text(cell: Cell, value: float | None) -> str:
    if value is not None and cell.column.endswith("share"):
        return f"{value:.{cell.decimals}f}"
    return signed(value, cell.decimals)


def arena_caveats(published: PublishedSpec, arena: Arena) -> list[str]:
    """Printed Elo differences that the arena's own table contradicts, in sign or beyond its interval."""
    rows = {ARENA_NAMES.get(row.category, row.category): row for row in arena.rows}
    when = f" ({published.arena_snapshot})" if published.arena_snapshot else ""
    table = f"{arena.source}{f' of {arena.snapshot}' if arena.snapshot else ''}"
    out, compared, missing = [], 0, []
    for name, printed in published.arena.items():
        row = rows.get(ARENA_NAMES.get(name, name))
        if row is None:
            missing.append(name)
            continue
        for style, value, delta in (
            ("without style control", printed.delta, row.delta),
            ("with style control", printed.delta_style, row.delta_style),
        ):
            if value is None or delta is None or delta.value is None:
                continue
            compared += 1
            digits = published.decimals.elo
            if value * delta.value < 0 and not (round(value, digits) == 0 or round(delta.value, digits) == 0):
                clear = delta.low is not None and delta.high is not None and (delta.low > 0 or delta.high < 0)
                text = (
                    f"Arena {name} {style}: {published.source}{when} prints {signed(value, digits)}, but {table} gives "
                    f"{signed(delta.value)} (95 % {interval(delta)}): the printed sign contradicts the source"
                    f"{'' if clear else ', and the true sign is itself unclear'}."
                )
                if style == "without style control" and _exchanged(printed, row):
                    text += (
                        f" The printed ratings ({printed.base:.0f} and {printed.tuned:.0f}) fit the source's "
                        f"({row.base:.0f} and {row.tuned:.0f}) with the two models exchanged."
                    )
                if printed.style_effect is not None and row.style_effect is not None:
                    text += (
                        f" The printed style effect of {signed(printed.style_effect, digits)} rests on it; the source "
                        f"gives {signed(row.style_effect.value)}."
                    )
                out.append(text)
            elif (delta.low is not None and value < delta.low) or (delta.high is not None and value > delta.high):
                out.append(
                    f"Arena {name} {style}: {published.source}{when} prints {signed(value, digits)}, outside the "
                    f"interval of {table}, {signed(delta.value)} (95 % {interval(delta)})."
                )
    if compared:
        agree = "contradicts none of them" if not out else f"contradicts {len(out)}"
        out.insert(
            0, f"Printed Elo differences of {published.source}{when}: {compared} compared with {table}; it {agree}."
        )
    if missing:
        out.append(f"Printed Elo rows without a counterpart in {table}: {', '.join(missing)}.")
    return out


def _exchanged(printed: PrintedElo, row: ArenaRow) -> bool:
    """The printed ratings lie much nearer to the source's when the models change places."""
    if printed.base is None or printed.tuned is None:
        return False
    straight = max(abs(printed.base - row.base), abs(printed.tuned - row.tuned))
    crossed = max(abs(printed.base - row.tuned), abs(printed.tuned - row.base))
    return 3 * crossed < straight


def _rounds_to(value: float, printed: float, decimals: int) -> bool:
    return abs(value - printed) <= 0.5 * 10.0**-decimals + 1e-9
