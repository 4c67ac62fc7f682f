"""The keys of a card's lists, and which of those that a card lacks another card could have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.records import (
    ArenaRow,
    ArenaSnapshot,
    BenchmarkRow,
    Card,
    CausalTask,
    ClassRow,
    CrosscoderInfo,
    DifferenceInfo,
    ProbeRow,
    RankCorrelation,
    Record,
    StrongShare,
)
from modeldiff_eval.render_text import visible

CODED: tuple[type[Record], ...] = (ClassRow, ProbeRow, StrongShare)
METRICS: tuple[type[Record], ...] = (BenchmarkRow, CausalTask)
PAIRS: tuple[type[Record], ...] = (CrosscoderInfo, DifferenceInfo)
KEYED = frozenset({*CODED, *METRICS, *PAIRS, ArenaRow, ArenaSnapshot, RankCorrelation})
"""Records whose lists a path can look into."""
_TRAINED = ("base--tuned", "anchor--base", "anchor--tuned")
_CORRELATED = ("arena", "benchmarks")


def key_of(row: Any) -> tuple[str, ...]:
    """The key of one row, and its metric where rows of one task differ by that."""
    if isinstance(row, (ClassRow, ProbeRow, StrongShare)):
        return (row.code,)
    if isinstance(row, (BenchmarkRow, CausalTask)):
        return (row.task, row.metric)
    if isinstance(row, ArenaSnapshot):
        return (row.snapshot,)
    if isinstance(row, RankCorrelation):
        return (row.of,)
    return (row.category,) if isinstance(row, ArenaRow) else (f"{row.first}--{row.second}",)


def absent(kind: type[Record], name: str, rows: Iterable[Any] | None, card: Card, *, categories: bool) -> str:
    """Why the row ``name`` is not in this card, where it could be in another.

    Raises:
        UsageError: no card of this taxonomy or design can have it.
    """
    own = list(dict.fromkeys(key_of(row)[0] for row in rows or ()))
    said = visible(name, limit=100)
    if kind in PAIRS:
        if name in _TRAINED:
            return f"this card has no crosscoder of {said}"
        raise UsageError(
            f"There is no crosscoder {said!r}.{did_you_mean(name, _TRAINED)} They are called {', '.join(_TRAINED)}, and * is every one."
        )
    if kind in CODED:
        level = card.categories if categories else card.classes
        known = [row.code for row in level]
        if name in known or (("." in name) == categories and name in _packaged(card)):
            return f"{said} is not listed in this card"
        what = "category" if categories else "class"
        raise UsageError(
            f"This card's taxonomy has no {what} {said!r}.{visible(did_you_mean(name, known))} "
            f"It lists {visible(', '.join(known), limit=300) or 'none'}."
        )
    if kind is RankCorrelation:
        if name in _CORRELATED:
            return f"this card has no rank correlation with {said}"
        raise UsageError(f"There is no rank correlation with {said!r}.{did_you_mean(name, _CORRELATED)} They are arena and benchmarks.")  # fmt: skip
    what = {ArenaRow: "arena category", ArenaSnapshot: "other snapshot"}.get(kind, "benchmark")
    near = visible(did_you_mean(name, own), limit=200)
    return f"this card has no {what} {said!r}.{near}" if near else f"this card has no {what} {said!r}"


def _packaged(card: Card) -> set[str]:
    """The packaged taxonomy's codes, where the card's classes are of it."""
    from modeldiff_eval.taxonomy import Taxonomy

    packaged = Taxonomy.load()
    names = {(item.code, item.name) for item in packaged.classes}
    if not {(row.code, row.name) for row in card.classes} <= names:
        return set()
    return {item.code for item in packaged.classes} | {item.code for item in packaged.categories}
