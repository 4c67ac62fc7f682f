"""Published LMArena tables in their three shapes, read into one: ratings by (snapshot, style control, category, model).

* JSON: ``{category: {model: {rating, rating_q025, rating_q975}}}``, one file with and one without style control;
* long CSV: ``category, model, rating, rating_q025, rating_q975`` and, if there are several, ``snapshot`` and
  ``style_control`` (0 or 1);
* leaderboard CSV: ``model, arena_score, 95_pct_ci`` ("+3/-5"), one category.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modeldiff_eval.errors import EvidenceError

LARGEST = 256 << 20
"""Bytes of a table at most, unpacked."""
OVERALL = "overall"
"""The category of a table that has none."""
_BATTLES = {"model_a", "model_b", "winner"}
_SCORES = ("rating", "arena_score")
_INTERVALS = ("95_pct_ci", "ci")


class Rating(NamedTuple):
    """One model's Elo in one category, with 95 % bounds where they are published."""

    snapshot: str | None
    style_control: bool
    category: str
    model: str
    rating: float
    low: float | None
    high: float | None


def read_table(path: Path) -> tuple[list[Rating], int]:
    """All ratings of one file, plain or gzipped, and how many repeated rows were dropped.

    Raises:
        EvidenceError: the file is missing, holds battles, or is malformed (with line and field); or the same model has
            two different ratings in one category.
    """
    text = _text(path)
    rows = _from_json(text, path) if path.name.removesuffix(".gz").endswith(".json") else _from_csv(text, path)
    kept: dict[tuple[Any, ...], Rating] = {}
    dropped = 0
    for where, rating in rows:
        known = kept.setdefault(rating[:4], rating)
        if known is rating:
            continue
        if known != rating:
            raise EvidenceError(
                f"{path.name}, {where}: {rating.model} already has another rating in {rating.category}. Remove one row."
            )
        dropped += 1
    if not kept:
        raise EvidenceError(f"{path.name} holds no ratings.")
    return list(kept.values()), dropped


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:  # A few packed bytes can hold any number of them.
            raise EvidenceError(
                f"The arena table {path} holds more than {LARGEST >> 20} MiB; LMArena's are far smaller. Cut it down."
            )
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise EvidenceError(
            f"The arena table {path} cannot be read: {error}. Pass a CSV or JSON table of LMArena."
        ) from error


def _from_json(text: str, path: Path) -> Iterator[tuple[str, Rating]]:
    """(where, rating) from ``{category: {model: {...}}}``."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{path.name} is not JSON: {error}.") from error
    if isinstance(table, list) and table and isinstance(table[0], Mapping) and set(table[0]) >= _BATTLES:
        raise _battles(path)
    if not isinstance(table, Mapping):
        raise EvidenceError(f"{path.name} must hold {{category: {{model: {{rating, rating_q025, rating_q975}}}}}}.")
    for category, models in table.items():
        if not isinstance(models, Mapping):
            raise EvidenceError(f"{path.name}, {category}: expected models with their ratings, found {models!r:.40}.")
        for model, entry in models.items():
            where = f"{category} → {model}"
            if not isinstance(entry, Mapping):
                raise EvidenceError(
                    f"{path.name}, {where}: expected rating, rating_q025, rating_q975; found {entry!r:.40}."
                )
            yield (
                where,
                _rating(entry, where, path, snapshot=None, style=False, category=str(category), model=str(model)),
            )


def _from_csv(text: str, path: Path) -> Iterator[tuple[str, Rating]]:
    """(where, rating) from a long or a leaderboard CSV."""
    reader = csv.DictReader(io.StringIO(text))
    columns = {name.strip() for name in reader.fieldnames or []}
    if columns >= _BATTLES:
        raise _battles(path)
    if "model" not in columns or not columns & set(_SCORES):
        raise EvidenceError(
            f"{path.name}: no columns model and {' or '.join(_SCORES)}; found {', '.join(sorted(columns)) or 'none'}. "
            "Pass an LMArena table: category, model, rating, rating_q025, rating_q975."
        )
    for entry in reader:
        where = f"line {reader.line_num}"
        row = {key.strip(): value for key, value in entry.items() if key is not None and value is not None}
        if len(row) < len(columns) or None in entry:
            raise EvidenceError(f"{path.name}, {where}: {len(columns)} fields expected. Is the file whole?")
        style = row.get("style_control", "0").strip().lower()
        if style not in {"0", "1", "false", "true"}:
            raise EvidenceError(f"{path.name}, {where}, style_control: {style!r} is neither 0 nor 1.")
        yield (
            where,
            _rating(
                row,
                where,
                path,
                snapshot=row.get("snapshot") or None,
                style=style in {"1", "true"},
                category=row.get("category") or OVERALL,
                model=row["model"],
            ),
        )


def _rating(
    entry: Mapping[str, Any], where: str, path: Path, *, snapshot: str | None, style: bool, category: str, model: str
) -> Rating:
    """One rating; bounds come as numbers or as "+3/-5" around the rating."""

    def field(*names: str) -> float | None:
        for name in names:
            if (value := entry.get(name)) not in (None, ""):
                try:
                    parsed = float(str(value))
                except ValueError:
                    parsed = math.nan
                if not math.isfinite(parsed):
                    raise EvidenceError(f"{path.name}, {where}, {name}: {value!r} is not a number.")
                return parsed
        return None

    rating, low, high = field(*_SCORES), field("rating_q025"), field("rating_q975")
    if not model.strip():
        raise EvidenceError(f"{path.name}, {where}, model: the name is empty.")
    if rating is None:
        raise EvidenceError(f"{path.name}, {where}, rating: the value is missing.")
    if low is None and high is None and (name := next((n for n in _INTERVALS if entry.get(n)), None)):
        found = re.fullmatch(r"\s*\+?(\d+(?:\.\d+)?)\s*/\s*[-−](\d+(?:\.\d+)?)\s*", str(entry[name]))
        if found is None:
            raise EvidenceError(f"{path.name}, {where}, {name}: {entry[name]!r} is not of the form +3/-5.")
        low, high = rating - float(found.group(2)), rating + float(found.group(1))
    if (low is not None and low > rating) or (high is not None and high < rating):
        raise EvidenceError(
            f"{path.name}, {where}: the rating {rating:g} lies outside its interval {low} to {high}. "
            "Are rating_q025 and rating_q975 swapped?"
        )
    return Rating(snapshot, style, category, model, rating, low, high)


def _battles(path: Path) -> EvidenceError:
    return EvidenceError(
        f"{path.name} holds battles (model_a, model_b, winner), which this version does not fit. "
        "Pass LMArena's rating table instead: category, model, rating, rating_q025, rating_q975."
    )
