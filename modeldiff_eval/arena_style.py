"""How two answers of a battle look: their length, headers, lists and bold text, from counts in the file or the texts.

A covariate is ``(a − b) / (a + b)`` of the two counts, 0 where both are 0, divided by its root mean square, as LMArena's
style control does but for the centring: without it, exchanging the two sides changes no rating.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from modeldiff_eval.bradley_terry import FloatArray

FEATURES = ("length", "headers", "lists", "bold")

_COUNTS: Mapping[str, Sequence[tuple[str, str]]] = {
    "length": (("sum_assistant_a_tokens", "sum_assistant_b_tokens"), ("len_a", "len_b"), ("tokens_a", "tokens_b")),
    "headers": (("header_count_a", "header_count_b"),),
    "lists": (("list_count_a", "list_count_b"),),
    "bold": (("bold_count_a", "bold_count_b"),),
}
"""Names of the counts, in LMArena's ``conv_metadata`` and in judge data."""
_TEXTS = (("output_1", "output_2"), ("response_a", "response_b"), ("answer_a", "answer_b"))
_CONVERSATIONS = ("conversation_a", "conversation_b")

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_WORD = re.compile(r"\w+|[^\w\s]")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,4}[.)])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def style_of(table: pd.DataFrame) -> tuple[tuple[str, ...], FloatArray, str | None]:
    """Style covariates of battles, the first model against the second.

    Args:
        table: battles with columns for counts, for LMArena's ``conv_metadata``, or for both answers.

    Returns:
        Names of the features, their values [battles, features], and why some or all are missing.
    """
    counts = _from_metadata(table) or _from_columns(table) or _from_texts(table)
    counts = {name: both for name, both in counts.items() if both is not None}
    if not counts:
        return (), np.zeros((len(table), 0)), "The battles carry neither style counts nor answers"
    values = []
    for name, (a, b) in counts.items():
        holes = ~(np.isfinite(a) & np.isfinite(b) & (a >= 0) & (b >= 0))
        if holes.any():
            first = int(np.flatnonzero(holes)[0]) + 1
            why = f"{int(holes.sum()):,} of {len(table):,} battles have no valid {name} (the first is battle {first:,})"
            return (), np.zeros((len(table), 0)), why
        total = a + b
        relative = np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)
        size = float(np.sqrt(np.mean(relative**2)))
        if size > 0:
            values.append((name, relative / size))
    if not values:
        return (), np.zeros((len(table), 0)), "The answers of every battle look alike in length and markup"
    missing = [name for name in FEATURES if name not in counts]
    return (
        tuple(name for name, _ in values),
        np.column_stack([column for _, column in values]),
        f"Style is {', '.join(counts)} only; {', '.join(missing)} are not in the file" if missing else None,
    )


def counts_of_text(text: str) -> tuple[float, float, float, float]:
    """Length in words and signs, headers, list items, bold passages; markup inside code does not count."""
    plain = _CODE.sub("", text)
    marks = (len(pattern.findall(plain)) for pattern in (_HEADER, _ITEM, _BOLD))
    return (float(len(_WORD.findall(text))), *(float(n) for n in marks))  # type: ignore[return-value]


Counts = dict[str, tuple[FloatArray, FloatArray]]


def _from_metadata(table: pd.DataFrame) -> Counts:
    """From ``conv_metadata``, one mapping a battle; counts there may be split by kind."""
    if "conv_metadata" not in table:
        return {}
    rows = [entry if isinstance(entry, Mapping) else {} for entry in table["conv_metadata"]]
    found: Counts = {}
    for feature, names in _COUNTS.items():
        for pair in names:
            if any(pair[0] in row for row in rows):
                a, b = (np.array([_total(row.get(name)) for row in rows]) for name in pair)
                found[feature] = (a, b)
                break
    return found


def _from_columns(table: pd.DataFrame) -> Counts:
    found: Counts = {}
    for feature, names in _COUNTS.items():
        for a, b in ((f"{prefix}{a}", f"{prefix}{b}") for a, b in names for prefix in ("", "conv_metadata.")):
            if a in table and b in table:
                first, second = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in (a, b))
                found[feature] = (first, second)
                break
    return found


def _from_texts(table: pd.DataFrame) -> Counts:
    for pair in (*_TEXTS, _CONVERSATIONS):
        if pair[0] in table and pair[1] in table:
            a, b = (np.array([_counts(value) for value in table[name]]).reshape(-1, 4) for name in pair)
            return {feature: (a[:, f], b[:, f]) for f, feature in enumerate(FEATURES)}
    return {}


def _counts(value: Any) -> tuple[float, float, float, float]:
    text = answers(value)
    return (np.nan,) * 4 if text is None else counts_of_text(text)


def answers(value: Any) -> str | None:
    """What a model wrote: the text itself, or the assistant's turns of a conversation; ``None`` without any."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence | np.ndarray):
        return None
    parts: list[str] = []
    for turn in value:
        if isinstance(turn, Mapping) and turn.get("role") == "assistant":
            content = turn.get("content")
            pieces = [content] if isinstance(content, str) else content
            parts += [
                text
                for piece in (pieces if isinstance(pieces, list | tuple | np.ndarray) else [])
                if isinstance(text := piece.get("text") if isinstance(piece, Mapping) else piece, str)
            ]
    return "\n\n".join(parts) if parts else None


def _total(value: Any) -> float:
    """A count, or the sum of one that is split by kind (``{"h1": 2, "h2": 1}``); NaN for what is no count."""
    if isinstance(value, Mapping):
        return sum(_total(part) for part in value.values() if part is not None)
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
