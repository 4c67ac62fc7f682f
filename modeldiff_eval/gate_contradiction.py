"""Rules that can never pass together, found without a card.

What a term admits is an interval of its number. ``low ≤ value ≤ high`` of one estimate ties three numbers together: a
bound from below on ``low`` holds for all three, one from above on ``high`` too. A rule about the whole estimate bounds its
near end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modeldiff_eval.gate_expression import Path, Term, path_text

PARTS = ("low", "value", "high")


class Bounded(NamedTuple):
    """A term, and how a message calls it."""

    said: str
    term: Term


class _Limit(NamedTuple):
    number: float
    strict: bool
    said: str


def contradictions(rules: Sequence[Bounded]) -> Iterator[tuple[str, str]]:
    """Pairs of terms that exclude each other. Terms about the baseline, and ``!=``, are left out."""
    numbers = [rule for rule in rules if isinstance(rule.term.bound, float) and rule.term.operator != "!="]
    wild = [rule for rule in numbers if any(key.wild for key in rule.term.path)]
    roots: dict[Path, list[Bounded]] = {}
    for rule in numbers:
        roots.setdefault(_root(rule.term), []).append(rule)
    for root, own in roots.items():
        also = [rule for rule in wild if _root(rule.term) != root and _covers(_root(rule.term), root)]
        yield from _empty([*own, *also])
    words: dict[str, Bounded] = {}
    for rule in rules:
        if isinstance(rule.term.bound, str) and rule.term.operator == "==":
            first = words.setdefault(path_text(rule.term.path), rule)
            if first.term.bound != rule.term.bound:
                yield first.said, rule.said


def _root(term: Term) -> Path:
    """The path without the part of an estimate that it names."""
    return term.path[:-1] if term.path[-1].name in PARTS else term.path


def _part(term: Term) -> str:
    """The part that the term bounds; for a whole estimate the end that has to pass."""
    if term.path[-1].name in PARTS:
        return term.path[-1].name
    return "high" if term.operator in ("<", "<=") else "low"


def _covers(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(k.wild or k == other for k, other in zip(pattern, path, strict=True))


def _empty(rules: Sequence[Bounded]) -> Iterator[tuple[str, str]]:
    """Pairs of a lower and an upper limit with nothing between them."""
    for part in PARTS:
        place = PARTS.index(part)
        below = [_Limit(-math.inf, False, "")]
        above = [_Limit(math.inf, False, "")]
        for said, term in rules:
            number, own = term.bound, PARTS.index(_part(term))
            if not isinstance(number, float):
                continue
            if term.operator in (">", ">=", "==") and own <= place:
                below.append(_Limit(number, term.operator == ">", said))
            if term.operator in ("<", "<=", "==") and own >= place:
                above.append(_Limit(number, term.operator == "<", said))
        least = max(below, key=lambda limit: (limit.number, limit.strict))
        most = min(above, key=lambda limit: (limit.number, not limit.strict))
        if least.number > most.number or (least.number == most.number and (least.strict or most.strict)):
            yield least.said, most.said
            return
