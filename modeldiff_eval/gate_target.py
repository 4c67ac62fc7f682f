"""What a rule's path names in a card: numbers, estimates and words, found by the records' own types.

A path that no card can have is a usage error; one that this card has no value for is *missing*, with the reason. Lists are keyed
by code, task (and metric), arena category, or ``first--second``; ``*`` stands for every key. A key may hold dots
(``categories.A.1``), so the longest that fits is taken.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.gate_expression import Key, Path, path_text
from modeldiff_eval.gate_keys import KEYED, METRICS, absent, key_of
from modeldiff_eval.records import Arena, ArenaRow, Card, ClassRow, Estimate, Record
from modeldiff_eval.render_text import judged, visible

PARTS = ("value", "low", "high")


@dataclass(frozen=True)
class Seen:
    """What a card holds at one place.

    ``keys`` lead there. ``number``: None where it is missing (``missing`` says why) or where ``word`` or a whole estimate is named. ``estimate``: the
    interval around; ``part``: which part of it is named, None for the whole. ``words``: all that the word could be.
    """

    keys: Path
    kind: Literal["number", "estimate", "word"]
    number: float | None = None
    word: str | None = None
    words: tuple[str, ...] = ()
    estimate: Estimate | None = None
    part: str | None = None
    n: int | None = None
    missing: str | None = None

    @property
    def path(self) -> str:
        """The place as a rule writes it."""
        return path_text(self.keys)


class _Around(NamedTuple):
    """What is known on the way down to a leaf."""

    trail: Path = ()
    estimate: Estimate | None = None
    part: str | None = None
    n: int | None = None
    missing: str | None = None

    def at(self, *keys: Key) -> _Around:
        return self._replace(trail=(*self.trail, *keys))


def look_up(card: Card, path: Path) -> list[Seen]:
    """All that ``path`` names in ``card``: several where it has a ``*``, never none.

    Raises:
        UsageError: no card can have such a path, it names no number or word, or it could mean several things.
    """
    return _walk(Card, card, path, _Around(), card)


def _walk(kind: Any, value: Any, rest: Path, around: _Around, card: Card) -> list[Seen]:
    if isinstance(kind, type) and issubclass(kind, Record):
        return _record(kind, value, rest, around, card)
    item = get_args(kind)[0] if get_origin(kind) is list else None
    if item is not None and item in KEYED:
        return _rows(item, value, rest, around, card)
    if get_origin(kind) is dict and _plain(get_args(kind)[1]) in (int, float, str, Estimate):
        return _mapping(kind, value, rest, around, card)
    return [_leaf(kind, value, rest, around)]


def _record(kind: type[Record], value: Any, rest: Path, around: _Around, card: Card) -> list[Seen]:
    if not rest:
        if issubclass(kind, Estimate):
            missing = around.missing or (_null(around) if value is None or _empty(value) else None)
            return [Seen(around.trail, "estimate", estimate=value, n=around.n, missing=missing)]
        raise UsageError(f"{_named(around)} is no number. Name one in it: {', '.join(_fields(kind))}.")
    name, found = rest[0].name, kinds_of(kind)
    if name not in found:
        if kind is Arena:  # arena.coding is short for arena.rows.coding
            return _rows(ArenaRow, None if value is None else value.rows, rest, around, card)
        if rest[0].wild:
            raise UsageError(
                f"{_named(around)}.*: a * stands for a key of a list, as in classes.*; here are {', '.join(_fields(kind))}."
            )
        raise UsageError(
            f"{_named(around)} has no {visible(name)!r}.{did_you_mean(name, found)} It has {', '.join(_fields(kind))}."
        )
    if "n" in found and found["n"] is int and value is not None:
        around = around._replace(n=value.n)
    if isinstance(value, ClassRow) and not value.covered and name != "covered":
        around = around._replace(missing=f"the corpus does not reach {visible(value.code)} {visible(value.name)}")
    if name == "verdict" and (estimate := _of_verdict(value)) is not None and judged(estimate, value.verdict) is None:
        around = around._replace(missing=around.missing or "there is no number to judge")
    if issubclass(kind, Estimate) and name in PARTS:
        around = around._replace(estimate=value, part=name)
    return _walk(found[name], None if value is None else getattr(value, name), rest[1:], around.at(rest[0]), card)


def _of_verdict(row: Record | None) -> Estimate | None:
    """The estimate that a row's verdict is about."""
    found = next((getattr(row, name) for name in ("diff", "delta", "change") if hasattr(row, name)), None)
    return found if isinstance(found, Estimate) else None


def _rows(kind: type[Record], rows: Any, rest: Path, around: _Around, card: Card) -> list[Seen]:
    if not rest:
        raise UsageError(f"{_named(around)} is a list; name one by its key, or all by *.")
    if rest[0].wild:
        chosen, used = list(rows or ()), 1
    else:
        chosen, used = _matching([(key_of(row)[0], row) for row in rows or ()], rest)
        if not used:
            return _missing(kind, rows, rest, around, card)
    metrics = [(row.metric, row) for row in chosen] if kind in METRICS else []
    some, more = _matching(metrics, rest[used:])
    chosen = some if more else chosen
    if metrics and not more and not rest[0].wild and len(chosen) > 1:
        names = ", ".join(path_text((rest[0], Key(metric))) for metric, _ in metrics)
        raise UsageError(
            f"{path_text((*around.trail, *rest[:used]))} has several metrics; name one: {visible(names, limit=400)}."
        )
    found = kinds_of(kind)
    if kind in METRICS and not more and rest[used:] and rest[used].name not in found:
        return _missing(kind, chosen, rest, around, card, used)
    if not chosen:
        nothing = around.at(rest[0])._replace(missing="this card has no such rows")
        return _record(kind, None, rest[used:], nothing, card)
    own = rest[: used + more]
    return [
        seen
        for row in chosen
        for seen in _record(kind, row, rest[used + more :], around.at(*(_keys(row) if rest[0].wild else own)), card)
    ]


def _missing(kind: type[Record], rows: Any, rest: Path, around: _Around, card: Card, used: int = 0) -> list[Seen]:
    """The key is not in this card: a reason where it could be in another, else a usage error."""
    first: UsageError | None = None
    dotted = around.trail[-1].name == "categories"  # their codes take two steps: A.1
    least = used + (2 if dotted and len(rest) > 1 and not rest[0].quoted else 1)
    for count in range(least, len(rest) + 1):
        name = ".".join(key.name for key in rest[:count])
        try:
            reason = around.missing or absent(kind, name, rows, card, categories=dotted)
            return _record(kind, None, rest[count:], around.at(*rest[:count])._replace(missing=reason), card)
        except UsageError as error:
            first = first or error
    raise first or UsageError(f"{_named(around)}: name a number in it.")


def _mapping(kind: Any, value: Any, rest: Path, around: _Around, card: Card) -> list[Seen]:
    inner = get_args(kind)[1]
    if not rest:
        raise UsageError(f"{_named(around)} holds several values; name one by its key.")
    pairs = [(str(name), found) for name, found in (value or {}).items()]
    if rest[0].wild and pairs:
        return [
            seen for name, found in pairs for seen in _walk(inner, found, rest[1:], around.at(Key(name, True)), card)
        ]
    chosen, used = _matching(pairs, rest)
    found = chosen[0] if chosen else None
    used = used or 1
    if not chosen:
        around = around._replace(missing=around.missing or f"this card has no {visible(rest[0].name)!r} there")
    return _walk(inner, found, rest[used:], around.at(*rest[:used]), card)


def _leaf(kind: Any, value: Any, rest: Path, around: _Around) -> Seen:
    where = path_text(around.trail)
    if kind not in (int, float, bool, str) and get_origin(kind) is not Literal:
        raise UsageError(f"{where} cannot be named in a rule: it is neither a number nor a word.")
    if rest:
        raise UsageError(f"{where} is a single value; there is no {visible(rest[0].name)!r} in it.")
    missing = around.missing or (_null(around) if value is None else None)
    if kind in (int, float):
        if missing is None and not math.isfinite(value):
            missing = "it is not a finite number"
        number = None if missing else float(value)
        return replace(_number(around, number), missing=missing)
    words = ("true", "false") if kind is bool else tuple(get_args(kind))
    word = str(value).lower() if kind is bool else str(value)
    return Seen(around.trail, "word", word=None if missing else word, words=words, n=around.n, missing=missing)


def _number(around: _Around, number: float | None) -> Seen:
    return Seen(around.trail, "number", number, estimate=around.estimate, part=around.part, n=around.n)


def _matching(pairs: list[tuple[str, Any]], rest: Path) -> tuple[list[Any], int]:
    """The values under the longest key that ``rest`` begins with, and how many steps it takes; none and 0 without one."""
    for used in range(len(rest), 0, -1):
        keys = rest[:used]
        if any(key.wild for key in keys) or (used > 1 and any(key.quoted for key in keys)):
            continue
        name = ".".join(key.name for key in keys)
        if chosen := [value for key, value in pairs if key == name]:
            return chosen, used
    return [], 0


def _keys(row: Record) -> Iterator[Key]:
    """The steps that name one row of a list."""
    if type(row) is ClassRow:  # codes are written with their dot
        yield from (Key(part) for part in row.code.split("."))
    else:
        yield from (Key(name, True) for name in key_of(row))


def _plain(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = [arg for arg in get_args(kind) if arg is not types.NoneType]
        return inner[0] if len(inner) == 1 else kind
    return kind


@cache
def kinds_of(kind: type[Record]) -> dict[str, Any]:
    """Field → type of a record, without its ``| None``."""
    return {field.alias or name: _plain(field.annotation) for name, field in kind.model_fields.items()}


def _fields(kind: type[Record]) -> list[str]:
    return list(kinds_of(kind))


def _named(around: _Around) -> str:
    return path_text(around.trail) or "A card"


def _empty(estimate: Estimate) -> bool:
    return estimate.value is None and estimate.low is None and estimate.high is None


def _null(around: _Around) -> str:
    return "it is not measured in this card" if around.trail else "the card is empty"
