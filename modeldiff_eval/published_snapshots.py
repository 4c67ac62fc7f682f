"""One arena category over all snapshots at hand: does its sign hold, and does a printed difference fit any of them?

Ratings of different snapshots are never compared or pooled, since the scale drifts and the snapshots share battles: only the
differences inside each stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from modeldiff_eval.agreement import ARENA_NAMES
from modeldiff_eval.counts_spec import PublishedSpec
from modeldiff_eval.findings import interval, signed
from modeldiff_eval.records import Arena, ArenaRow, Estimate

Style = Literal["without style control", "with style control"]
_STYLES: tuple[Style, Style] = ("without style control", "with style control")


class Dated(NamedTuple):
    """One category's row on one day."""

    snapshot: str
    row: ArenaRow

    def delta(self, style: Style) -> Estimate | None:
        """Tuned minus base; None where the snapshot has no table with style control."""
        return self.row.delta if style == "without style control" else self.row.delta_style


def by_category(arena: Arena) -> dict[str, list[Dated]]:
    """Rows of all snapshots by the category's name on the arena's site, oldest snapshot first."""
    days = [(item.snapshot, item.rows) for item in arena.other_snapshots]
    if arena.snapshot is not None:
        days.append((arena.snapshot, arena.rows))
    out: dict[str, list[Dated]] = {}
    for snapshot, rows in sorted(days, key=lambda day: day[0]):
        for row in rows:
            out.setdefault(ARENA_NAMES.get(row.category, row.category), []).append(Dated(snapshot, row))
    return out


def snapshots_caveats(arena: Arena, published: PublishedSpec | None = None) -> list[str]:
    """Which categories keep their sign over the snapshots, and which printed differences all or some of them deny.

    Empty where only one snapshot is at hand.
    """
    if not arena.other_snapshots or arena.snapshot is None:
        return []
    found = by_category(arena)
    dates = sorted([arena.snapshot, *(item.snapshot for item in arena.other_snapshots)])
    out = [
        f"{arena.source}, {len(dates)} snapshots ({', '.join(dates)}): each is compared with itself only, and they share "
        "battles, so that agreement between them is no independent confirmation. " + _signs(found, len(dates))
    ]
    if not published:
        return out
    printed_when = published.arena_snapshot
    if printed_when and not any(date in printed_when for date in dates):
        out.append(f"The {printed_when}, which {published.source} took its Elo from, is not among these snapshots.")
    digits = published.decimals.elo
    for name, printed in published.arena.items():
        rows = found.get(ARENA_NAMES.get(name, name), [])
        for style, value in zip(_STYLES, (printed.delta, printed.delta_style), strict=True):
            days = [(day.snapshot, delta) for day in rows if (delta := day.delta(style)) and delta.value is not None]
            if value is None or len(days) < 2:
                continue
            against = [(date, delta) for date, delta in days if _opposed(value, delta, digits)]
            outside = [(date, delta) for date, delta in days if _outside(value, delta)]
            what = f"Arena {name} {style}"
            if len(against) == len(days):
                sign = "negative" if value > 0 else "positive"
                text = (
                    f"{what} is {sign} in all {len(days)} snapshots, {_listed(days)}, where {published.source} prints "
                    f"{signed(value, digits)}."
                )
                if any(_clear(delta) for _, delta in days):
                    text += f" {sum(_clear(delta) for _, delta in days)} of the intervals exclude zero."
                else:
                    text += " Each interval includes zero, so the true sign is open."
                out.append(text + (_style_text(rows, printed.style_effect, published) if style == _STYLES[0] else ""))
            elif against:
                out.append(
                    f"{what}: {published.source} prints {signed(value, digits)}, against the sign of {len(against)} of "
                    f"{len(days)} snapshots, {_listed(against)}."
                )
            elif outside:
                out.append(
                    f"{what}: {published.source} prints {signed(value, digits)}, outside the interval of {len(outside)} of "
                    f"{len(days)} snapshots, {_listed(outside)}."
                )
    return out


def _signs(found: dict[str, list[Dated]], dates: int) -> str:
    """Which categories change sign without style control, which exclude zero throughout, which are not in all snapshots."""
    values = {
        name: [day.row.delta for day in rows if day.row.delta.value is not None] for name, rows in sorted(found.items())
    }
    full = {name: deltas for name, deltas in values.items() if len(deltas) == dates}
    turning = [name for name, deltas in full.items() if len({(delta.value or 0) > 0 for delta in deltas}) > 1]
    clear = [name for name, deltas in full.items() if name not in turning and all(_clear(delta) for delta in deltas)]
    said = (
        f"Of {len(full)} categories in all of them, {len(full) - len(turning)} keep the sign of their difference without style "
        f"control, and {len(clear)} exclude zero every time, row by row{f' ({_names(clear)})' if clear else ''}."
    )
    if turning:
        said += f" The sign changes in {_names(turning)}."
    if partly := [f"{name} ({len(deltas)} of {dates})" for name, deltas in values.items() if name not in full]:
        said += f" Not listed in every snapshot: {', '.join(partly)}."
    return said


def _style_text(rows: Sequence[Dated], printed: float | None, published: PublishedSpec) -> str:
    """What style explains by the source, beside the printed effect that rests on the contradicted difference."""
    effects = [
        f"{signed(day.row.style_effect.value)} ({day.snapshot})"
        for day in rows
        if day.row.style_effect is not None and day.row.style_effect.value is not None
    ]
    if printed is None or not effects:
        return ""
    return (
        f" Style explains {', '.join(effects)} there, not {signed(printed, published.decimals.elo)} (no interval: both "
        "tables are fits of the same battles)."
    )


def _listed(days: Sequence[tuple[str, Estimate]]) -> str:
    return ", ".join(f"{signed(delta.value)} (95 % {interval(delta)}; {date})" for date, delta in days)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


def _clear(delta: Estimate) -> bool:
    return delta.low is not None and delta.high is not None and (delta.low > 0 or delta.high < 0)


def _opposed(printed: float, delta: Estimate, digits: int) -> bool:
    """Opposite signs, where neither rounds to zero at the printed decimals."""
    value = delta.value or 0.0
    return printed * value < 0 and round(printed, digits) != 0 and round(value, digits) != 0


def _outside(printed: float, delta: Estimate) -> bool:
    return (delta.low is not None and printed < delta.low) or (delta.high is not None and printed > delta.high)
