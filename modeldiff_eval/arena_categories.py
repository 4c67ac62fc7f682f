"""Which category each battle belongs to, from LMArena's flags or from columns of judge data.

Names are those of LMArena's published tables (``coding``, ``if``, ``math``, ``multiturn``, ``chinese`` …), so that battles
and tables of the same arena stand beside the same latent classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

FEWEST = 30
"""Battles that a category needs to be listed."""
MOST = 60
"""Categories that are kept, the largest first."""
_FLAGS = {"is_code": "coding", "is_refusal": "refusal"}
_TAGS = ("math", "if", "creative_writing")
_COLUMNS = ("category", "dataset")
_LANGUAGES = {
    "en": "english",
    "zh": "chinese",
    "fr": "french",
    "de": "german",
    "ja": "japanese",
    "ko": "korean",
    "ru": "russian",
    "es": "spanish",
}


def categories_of(table: pd.DataFrame) -> dict[str, BoolArray]:
    """Categories that a table of battles names, beyond all battles together.

    Returns:
        Membership by name [battles], for at most ``MOST`` categories with at least ``FEWEST`` battles, in the order of
        their size. A category of all battles is left out, being the whole.
    """
    found: dict[str, BoolArray] = {}
    for name, inside in _all(table):
        if name not in ("full", "overall") and FEWEST <= inside.sum() < len(table):
            found[name] = found[name] | inside if name in found else inside
    largest = sorted(found, key=lambda name: -int(found[name].sum()))
    return {name: found[name] for name in largest[:MOST]}


def _all(table: pd.DataFrame) -> Iterator[tuple[str, BoolArray]]:
    for column in _COLUMNS:
        if column in table:
            yield from _by_value(table[column])
    for column, name in _FLAGS.items():
        if column in table:
            yield name, _flags(table[column])
    if "category_tag" in table:
        yield from _tagged(table["category_tag"])
    if "turn" in table:
        yield "multiturn", (pd.to_numeric(table["turn"], errors="coerce") > 1).to_numpy(bool)
    if "language" in table:
        for name, inside in _by_value(table["language"]):
            yield _LANGUAGES.get(name, name), inside


def _by_value(column: pd.Series[Any]) -> Iterator[tuple[str, BoolArray]]:
    """One category for each of the commonest texts of a column."""
    texts = np.array([_slug(value) if isinstance(value, str) else "" for value in column], dtype=object)
    for name in pd.Series(texts[texts != ""]).value_counts().index[:MOST]:
        yield str(name), texts == name


def _tagged(column: pd.Series[Any]) -> Iterator[tuple[str, BoolArray]]:
    """LMArena's ``{"math_v0.1": {"math": true}, …}``."""
    tags = [{} if not isinstance(value, Mapping) else value for value in column]
    for name in _TAGS:
        groups = {key for tag in tags for key in tag if str(key).partition("_v")[0] == name}
        inside = np.zeros(len(column), dtype=bool)
        for group in groups:
            inside |= [isinstance(entry := tag.get(group), Mapping) and bool(entry.get(name)) for tag in tags]
        yield name, inside


def _flags(column: pd.Series[Any]) -> BoolArray:
    return np.array([value is True or str(value).strip().lower() in ("true", "1", "1.0") for value in column])


def _slug(text: str) -> str:
    return "_".join(text.strip().lower().split())[:60]
