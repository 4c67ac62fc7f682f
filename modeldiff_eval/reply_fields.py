"""The fields of a reply, checked one by one: a value, or an :class:`Unusable` that names the field and the fault.

What decides (label, description, category, confidence) must be right; asides (patterns, reason) are cleaned and cut.
No field keeps control characters or markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import regex

from modeldiff_eval.errors import did_you_mean
from modeldiff_eval.quoting import CLOSE, OPEN, clean_text
from modeldiff_eval.records import Record
from modeldiff_eval.taxonomy import Taxonomy

NONE = "none"
LEVELS = {"low": 0.25, "medium": 0.6, "high": 0.9}
"""What a confidence in words counts as. The numbers are a convention; nothing is measured by them."""
LABEL_WORDS, LABEL_CHARS = 5, 60
DESCRIPTION_CHARS = 800
MAX_PATTERNS, PATTERN_CHARS, REASON_CHARS = 8, 240, 400
_CONTROL = regex.compile(r"[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\u2028\u2029]")
_MARKUP = regex.compile(r"[<>`|{}\\]|\*\*|__|\]\(|://|www\.|[\u27e6\u27e7]")
_LINK = regex.compile(r"\b[a-z][a-z0-9+.-]{1,12}://\S*|\bjavascript:\S*|\bdata:[a-z]+/\S*|\bwww\.\S+", regex.IGNORECASE)
_SWAP = str.maketrans({"<": "‹", ">": "›", "`": "'", OPEN: "", CLOSE: "", "|": "¦"})


class Unusable(Record):
    """A reply that cannot be used. ``complaint`` says what its field must be, in words of this package alone."""

    field: str
    fault: str
    rule: str

    @property
    def complaint(self) -> str:
        """For the model that is asked again; it repeats nothing of the reply."""
        return f"the field {self.field!r} must be {self.rule}."

    @property
    def failure(self) -> str:
        """For the annotation."""
        return f"{self.field}: {self.fault}"


class Description(Record):
    """A usable answer of step 1. ``confidence``: low, medium or high."""

    patterns: tuple[str, ...]
    label: str
    description: str
    reason: str
    confidence: str


class Choice(Record):
    """A usable answer of step 2. ``category`` is a code, or None for "none"; ``confidence`` is in [0, 1]."""

    category: str | None
    confidence: float
    reason: str


def read_description(reply: Mapping[str, Any] | None) -> Description | Unusable:
    """Check an answer of step 1."""
    if not isinstance(reply, Mapping):
        return Unusable(
            field="answer", fault="it is not an object", rule="an object with the fields that were asked for"
        )
    label = read_label(reply.get("label"))
    if isinstance(label, Unusable):
        return label
    rule = f"two or three sentences of plain text, at most {DESCRIPTION_CHARS} characters"
    description = reply.get("description")
    if not isinstance(description, str) or not plain(description):
        return Unusable(field="description", fault="it is missing or empty", rule=rule)
    if len(description) > DESCRIPTION_CHARS:
        fault = f"it has {len(description)} characters, at most {DESCRIPTION_CHARS} are allowed"
        return Unusable(field="description", fault=fault, rule=rule)
    level = reply.get("confidence")
    level = level.strip().lower() if isinstance(level, str) else ""
    if level not in LEVELS:
        return Unusable(field="confidence", fault="it is not low, medium or high", rule="low, medium or high")
    raw = reply.get("patterns")
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        return Unusable(field="patterns", fault="it is not a list of texts", rule="a list of short texts")
    patterns = [cut(text, PATTERN_CHARS) for item in raw[:MAX_PATTERNS] if (text := plain(item))]
    return Description(
        patterns=tuple(patterns),
        label=label,
        description=plain(description),
        reason=_aside(reply.get("reason")),
        confidence=level,
    )


def read_label(label: object) -> str | Unusable:
    """A label of one to five words without markup or control characters; spaces, outer quotes and a full stop go."""
    rule = f"1 to {LABEL_WORDS} words of plain text, at most {LABEL_CHARS} characters"

    def unusable(fault: str) -> Unusable:
        return Unusable(field="label", fault=fault, rule=rule)

    if not isinstance(label, str) or not label.strip():
        return unusable("it is missing or empty")
    label = " ".join(label.strip(" \n\t").strip("\"'“”‘’").strip().removesuffix(".").split(" "))
    if _CONTROL.search(label):
        return unusable("it holds control characters")
    if _MARKUP.search(label):
        return unusable("it holds markup")
    label = " ".join(label.split())
    if not any(char.isalnum() for char in label):
        return unusable("it holds no word")
    if len(label) > LABEL_CHARS:
        return unusable(f"it has {len(label)} characters, at most {LABEL_CHARS} are allowed")
    if (count := len(label.split())) > LABEL_WORDS:
        return unusable(f"it has {count} words, at most {LABEL_WORDS} are allowed")
    return label


def read_category(reply: Mapping[str, Any] | None, taxonomy: Taxonomy) -> Choice | Unusable:
    """Check an answer of step 2 against the taxonomy."""
    if not isinstance(reply, Mapping):
        return Unusable(
            field="answer", fault="it is not an object", rule="an object with the fields that were asked for"
        )
    code = reply.get("category")
    rule = f"a code of the list, or {NONE!r}"
    if not isinstance(code, str) or not code.strip():
        return Unusable(field="category", fault="it is missing or empty", rule=rule)
    code = code.strip()
    if code.lower() == NONE:
        category = None
    elif code in taxonomy.index:
        category = code
    else:
        shown = cut(plain(code), 40)
        fault = f"{shown!r} is not in the taxonomy.{did_you_mean(code[:40], taxonomy.index)}"
        return Unusable(field="category", fault=fault, rule=rule)
    confidence = read_confidence(reply.get("confidence"))
    if isinstance(confidence, Unusable):
        return confidence
    return Choice(category=category, confidence=confidence, reason=_aside(reply.get("reason")))


def read_confidence(value: object) -> float | Unusable:
    """A number in [0, 1]; one written as text, or low, medium and high, are taken too."""
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            value = LEVELS[text] if text in LEVELS else float(text)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        return Unusable(field="confidence", fault="it is not a number from 0 to 1", rule="a number from 0 to 1")
    return float(value)


def plain(text: str) -> str:
    """One line of plain text: no control characters, no tags, no links, no emphasis marks."""
    text = _CONTROL.sub("", clean_text(text).replace("\n", " ").replace("\t", " "))
    text = _LINK.sub("(link)", text).replace("**", "").replace("__", "").replace("](", "] (").translate(_SWAP)
    return " ".join(text.split())


def cut(text: str, characters: int) -> str:
    """At most so many characters, with an ellipsis where something was cut."""
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _aside(value: object) -> str:
    return cut(plain(value), REASON_CHARS) if isinstance(value, str) else ""
