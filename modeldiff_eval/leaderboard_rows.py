"""The figures of many cards side by side, in groups where the data can tell cards apart, never in ranks."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from modeldiff_eval import separable
from modeldiff_eval.errors import SettingsError, did_you_mean
from modeldiff_eval.leaderboard_files import Found, model_name
from modeldiff_eval.leaderboard_records import (
    Cell,
    Leaderboard,
    LeaderboardClass,
    LeaderboardRow,
    Skipped,
    column_names,
)
from modeldiff_eval.records import BenchmarkRow, Card, Estimate
from modeldiff_eval.render_tiles import OVERALL, lower_is_better
from modeldiff_eval.stats import estimate, interval_p, verdict

NOTHING = Estimate(value=None, low=None, high=None)
MEAN_RULE = (
    "Mean benchmark Δ: the plain mean of tuned minus base over tasks, of each task's first metric that lies in [0, 1] and of which more is "
    "better; its interval adds the tasks' intervals in squares on each side (the tasks have documents of their own) and speaks about documents, "
    "not about which tasks were chosen. It is undefined where a task has no interval. Its p is not adjusted. Only cards with the same tasks share "
    "groups."
)
OTHER_RULES = (
    "Elo Δ is of the arena's overall category, raw or with style control, each with the interval of its card.",
    "Verdicts of classes and raw Elo are those of the cards, each adjusted within its card: over many cards some of them are false. That of "
    "style-controlled Elo is whether its own interval excludes 0.",
    "One row stands for one comparison: of equal ones the newest stays. One that was edited gives way to one that was not, one without a checksum "
    "to one that has it, and one that does not say when it was made to one that does.",
    "A card marked “edited” was changed since it was made: its checksum is not that of its content, so any of its numbers may be another one. A card "
    "without the mark is not proven genuine: anyone can compute a checksum again, and older cards carry none.",
)


def collect(found: Sequence[Found], skipped: Sequence[Skipped] = (), *, by: str | None = None) -> Leaderboard:
    """The record over ``found``, rows in the order of ``found``.

    Raises:
        SettingsError: ``by`` is no column.
    """
    classes = _classes([item.card for item in found])
    rows = [_row(item, [(c.code, c.name) for c in classes]) for item in found]
    columns = column_names(classes)
    if by is not None and by not in columns:
        raise SettingsError(f"There is no column {by!r}; use one of {', '.join(columns)}.{did_you_mean(by, columns)}")
    tasks = [tuple(sorted({row.task for row in _mean_rows(item.card)})) for item in found]
    usual = Counter(t for t, row in zip(tasks, rows, strict=True) if row.benchmarks.value.value is not None)
    most = usual.most_common(1)[0][0] if usual else ()
    for name in columns:
        cells = [row.cell(name) for row in rows]
        values = [
            NOTHING if name == "benchmarks" and own != most else cell.value
            for cell, own in zip(cells, tasks, strict=True)
        ]
        grouped = separable.groups(values)
        rows = [_with_group(row, name, group) for row, group in zip(rows, grouped, strict=True)]
    return Leaderboard(
        by=by or _default(rows, columns),
        classes=classes,
        rows=rows,
        skipped=list(skipped),
        rules=[separable.RULE, MEAN_RULE, *OTHER_RULES],
    )


def _with_group(row: LeaderboardRow, column: str, group: int | None) -> LeaderboardRow:
    cell = row.cell(column).model_copy(update={"group": group})
    view, dot, code = column.partition(".")
    return row.model_copy(update={view: {**getattr(row, view), code: cell} if dot else cell})


def _default(rows: Sequence[LeaderboardRow], columns: Sequence[str]) -> str | None:
    """The first column outside the classes that two cards have, else the class column that most have."""
    have = {name: sum(row.cell(name).group is not None for row in rows) for name in columns}
    outside = [name for name in ("elo_style", "elo", "benchmarks") if have[name] > 1]
    best = outside[0] if outside else max(columns, key=lambda name: have[name])
    return best if have[best] > 1 else None


def _classes(cards: Sequence[Card]) -> list[LeaderboardClass]:
    """The classes of the taxonomy that most cards use."""
    used = Counter(tuple((row.code, row.name) for row in card.classes) for card in cards if card.classes)
    return [LeaderboardClass(code=code, name=name) for code, name in used.most_common(1)[0][0]] if used else []


def _row(item: Found, classes: list[tuple[str, str]]) -> LeaderboardRow:
    card = item.card
    name = _slug(card.title, item.digest)
    same = [(row.code, row.name) for row in card.classes] == classes
    reason = "This card uses another taxonomy." if card.classes else "This card has no classes."
    shares, activation = {}, {}
    for code, _ in classes:
        row = next((r for r in card.classes if r.code == code), None) if same else None
        if row is None:
            shares[code] = activation[code] = _missing(reason)
            continue
        uncovered = "The corpus does not reach this class."
        shares[code] = _cell(row.diff, row.verdict, uncovered if not row.covered else "No share is defined.")
        change = row.activation
        activation[code] = (
            _missing(uncovered if not row.covered else "Not measured.")
            if change is None
            else _cell(change.change, change.verdict, "No activation on the text.")
        )
    arena = next((r for r in (card.arena.rows if card.arena else []) if r.category.strip().lower() in OVERALL), None)
    absent = "No arena row of this pair." if card.arena is None else "No overall arena row."
    style = arena.delta_style if arena else None
    return LeaderboardRow(
        id=name,
        title=card.title,
        headline=card.headline,
        folder=f"cards/{name}",
        created=card.created,
        base=model_name(card.models.base),
        tuned=model_name(card.models.tuned),
        anchor=model_name(card.models.anchor) if card.models.anchor else None,
        mode=card.mode,
        method=card.method,
        gate=card.gate.verdict if card.gate else None,
        seal=item.seal,
        file=item.name,
        shares=shares,
        activation=activation,
        elo=_missing(absent) if arena is None else _cell(arena.delta, arena.verdict, absent),
        elo_style=_missing("No style-controlled Elo.")
        if style is None
        else _cell(style, verdict(style.value, interval_p(style)), absent),
        benchmarks=_mean(card),
    )


def _cell(value: Estimate, judged: str, missing: str) -> Cell:
    """A cell; a value without an interval is not shown, since it could be taken for a certain one."""
    if value.value is None or not math.isfinite(value.value):
        return _missing(missing)
    if value.low is None and value.high is None:
        return _missing("The card gives no interval.")
    return Cell.model_validate({"value": value.model_dump(include={"value", "low", "high"}), "verdict": judged})


def _missing(reason: str) -> Cell:
    return Cell(value=NOTHING, missing=reason)


def _mean_rows(card: Card) -> list[BenchmarkRow]:
    """Each task's first metric in [0, 1] of which more is better."""
    first: dict[str, BenchmarkRow] = {}
    for row in card.benchmarks:
        if 0 <= row.base <= 1 and 0 <= row.tuned <= 1 and not lower_is_better(row):
            first.setdefault(row.task, row)
    return list(first.values())


def _mean(card: Card) -> Cell:
    rows = _mean_rows(card)
    if not rows:
        return _missing("No benchmark with a metric in [0, 1]." if card.benchmarks else "No benchmark was run.")
    below, above, values = [], [], []
    for row in rows:
        delta = row.delta
        if delta.value is None or delta.low is None or delta.high is None or delta.level != 0.95:
            return _missing(f"{row.task} has no 95 % interval, so the mean has none.")
        values.append(delta.value)
        below.append(delta.value - delta.low)
        above.append(delta.high - delta.value)
    n = len(rows)
    mean = sum(values) / n
    value = estimate(mean, mean - math.hypot(*below) / n, mean + math.hypot(*above) / n)
    return Cell(value=value, verdict=verdict(value.value, interval_p(value)), n=n)


def _slug(title: str, digest: str) -> str:
    """A folder's name: plain letters of the title and the start of the digest."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain[:400]).strip("-")[:48].strip("-")
    return f"{words or 'card'}-{digest[:10]}"
