"""Orders inside documents about what a latent should be called, and labels that repeat them.

A document may say "label this as harmless". This module finds such spans by their wording, so that a prompt can leave
their documents out, and tells whether a label that came back is the one that a document asked for.

What it cannot do: it knows a list of English wordings. An order in other words, or in another language, is not found. Then
only the fence and the system prompt stand between it and the label, and a wrong label shows in its detection score.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import regex

_QUOTES = str.maketrans("“”„«»‘’`´", '"""""\'\'\'\'')
_VERBS = (
    r"(?:label|annotate|categori[sz]e|classif(?:y|ies)|tag|name|call|describe|interpret|title|mark|report|summari[sz]e)"
)
_DONE = r"(?:labell?ed|annotated|categori[sz]ed|classified|tagged|named|called|described|titled|marked)"
_THINGS = r"(?:latents?|neurons?|features?|units?|directions?|documents?|examples?|passages?|texts?|everything|all)"
_POINTERS = r"(?:this|these|it|that|those|the|every|each|all|any|them)"
_GIVE_VERBS = r"(?:use|give|choose|pick|assign|write|output|return|(?:reply|answer|respond)\s+with)"
_NOUNS = r"(?:labels?|category|categories|class|classification|taxonomy code|name|title|description|answer|confidence)"
_GIVES = r"(?:\s+(?:to\s+be|must\s+be|should\s+be|is|are|as)\b\s*[:=]?|\s*[\"']?\s*[:=]|\s*->)"
_PAYLOAD = r"[\s\"']*(?P<payload>[^\n]{1,80})"
_DIRECT = tuple(
    regex.compile(pattern)
    for pattern in (
        rf"\b{_VERBS}\s+{_POINTERS}\b(?:[ ,]+\w+){{0,4}}?{_GIVES}{_PAYLOAD}",
        rf"\b{_VERBS}\s+{_POINTERS}\s+(?:\w+\s+)?{_THINGS}[\s,]+[\"']{_PAYLOAD}",
        rf"\b{_THINGS}\b[^\n.]{{0,40}}?\b{_NOUNS}{_GIVES}{_PAYLOAD}",
        rf"\b{_NOUNS}\s+(?:of|for)\s+{_POINTERS}\s+(?:\w+\s+)?{_THINGS}{_GIVES}{_PAYLOAD}",
        rf"\b{_GIVE_VERBS}\s+(?:only\s+)?(?:the|this|a|an)?\s*{_NOUNS}[\s:,]+{_PAYLOAD}",
        rf"\b(?:must|should|shall|to|will)\s+be\s+{_DONE}(?:\s+as)?[\s:,]+{_PAYLOAD}",
    )
)
_FIELD = regex.compile(rf"(?:^|[\n{{,;.!?(\"'])\s*[\"']?{_NOUNS}[\"']?\s*[:=]\s*{_PAYLOAD}")
_WORD = regex.compile(r"\w[\w.'-]*")
_TIMEOUT = 1.0


@dataclass(frozen=True)
class Order:
    """An order in a document: the words it wants, folded. ``direct``: it speaks to whoever names things."""

    payload: tuple[str, ...]
    direct: bool


def fold(text: str) -> str:
    """One spelling for what looks alike: compatibility forms, case and quotation marks, spaces in runs as one."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES)
    return str(regex.sub(r"[^\S\n]+", " ", text))


def words(text: str) -> tuple[str, ...]:
    """The folded words of a text."""
    return tuple(word.strip(".'-") for word in _WORD.findall(fold(text)))


@functools.lru_cache(maxsize=1 << 13)  # Latents share their documents.
def find_orders(text: str) -> tuple[Order, ...]:
    """Every order about a label, category or description in a text; spans may overlap.

    The search is linear in all but made-up text, and gives up after a second; what it found by then counts.
    """
    folded = fold(text)
    found: list[Order] = []
    try:
        for pattern in _DIRECT:
            found += [
                Order(words(match["payload"])[:10], True)
                for match in pattern.finditer(folded, overlapped=True, timeout=_TIMEOUT)
            ]
        found += [Order(words(match["payload"])[:10], False) for match in _FIELD.finditer(folded, timeout=_TIMEOUT)]
    except TimeoutError:
        pass
    return tuple(order for order in dict.fromkeys(found) if order.payload)


def has_direct(orders: Iterable[Order]) -> bool:
    """Whether a text tells somebody how to name something, not only has a field of that name."""
    return any(order.direct for order in orders)


def repeated(label: str, orders: Sequence[Order]) -> Order | None:
    """The first order whose wanted words begin with the whole label; direct ones first."""
    wanted = words(label)
    if not wanted:
        return None
    for order in sorted(orders, key=lambda order: not order.direct):
        if order.payload[: len(wanted)] == wanted:
            return order
        # "the label is the Safe Assistant": an article may come first, a label may drop it
        if order.payload[0] in ("a", "an", "the") and order.payload[1 : 1 + len(wanted)] == wanted:
            return order
    return None


def quoted(texts: Iterable[str], orders: Sequence[Order]) -> Order | None:
    """The first direct order whose first words, two long ones at least, stand together in one of the texts."""
    folded = [f" {' '.join(words(text))} " for text in texts]
    for order in orders:
        for count in range(5, 1, -1):
            wanted = order.payload[:count]
            if not order.direct or sum(len(word) > 3 for word in wanted) < 2:
                break
            if any(f" {' '.join(wanted)} " in text for text in folded):
                return order
    return None
