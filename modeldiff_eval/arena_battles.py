"""Battles from a file: ``model_a, model_b, winner`` as LMArena publishes them, or a judge's preferences.

CSV, JSON (a list), JSON lines or parquet, each also gzipped. Read beside the three columns, where they are there: a
``weight``, the prompt (``prompt_id``, ``question_id`` …), categories (:mod:`modeldiff_eval.arena_categories`) and style
(:mod:`modeldiff_eval.arena_style`). AlpacaEval's ``generator_1, generator_2, preference`` (1 the first, 2 the second
answer, 1.5 a tie) is understood; where a ``winner`` stands beside a preference, the winner counts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from modeldiff_eval.arena_categories import BoolArray, categories_of
from modeldiff_eval.arena_files import OTHER_NAMES, parse_json, read_bytes, read_text, suffix
from modeldiff_eval.arena_style import style_of
from modeldiff_eval.bradley_terry import Battles, FloatArray, IntArray
from modeldiff_eval.errors import EvidenceError, did_you_mean

POINTS: Mapping[str, float] = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "both_bad": 0.5,
    "bothbad": 0.5,
}
"""What ``model_a`` takes, by ``winner``."""
_PROMPTS = ("prompt_id", "question_id", "instruction_index", "evaluation_session_id", "instruction", "prompt")


class BattleFile(NamedTuple):
    """What one file of battles holds."""

    models: list[str]
    battles: Battles
    style: tuple[str, ...]
    """Names of the style covariates."""
    categories: dict[str, BoolArray]
    """Which battles belong to each [battles]."""
    prompts: str | None
    """The column that says which battles share a prompt."""
    caveats: list[str]


def read_battles(path: Path) -> BattleFile:
    """All battles of one file.

    Raises:
        EvidenceError: the file cannot be read, lacks a column, or a field is none that is known (with its line).
    """
    table = _table(path).rename(columns=OTHER_NAMES)
    unit = "line" if suffix(path) == ".csv" else "battle"
    where = f"{path.name}, {unit} "
    offset = 2 if unit == "line" else 1
    for column in ("model_a", "model_b"):
        if column not in table:
            raise EvidenceError(
                f"{path.name}: no column {column}; found {', '.join(map(str, table.columns[:12])) or 'none'}. "
                "Battles need model_a, model_b and winner (or preference)."
            )
    caveats: list[str] = []
    points = _points(table, where, offset)
    empty = np.isnan(points)
    if empty.any():
        caveats.append(f"{int(empty.sum()):,} battles of {path.name} name no winner and are left out.")
    names = [_names(table[column], column, where, offset) for column in ("model_a", "model_b")]
    alone = names[0] == names[1]
    if alone.any():
        caveats.append(f"{int(alone.sum()):,} battles of {path.name} set a model against itself and are left out.")
    kept = ~empty & ~alone
    if not kept.any():
        raise EvidenceError(f"{path.name} holds no battle between two models with a winner.")
    weight = _weights(table, where, offset)
    kept &= weight > 0
    table, points, weight = table[kept].reset_index(drop=True), points[kept], weight[kept]
    codes, models = pd.factorize(np.concatenate([names[0][kept], names[1][kept]]), sort=True)
    style_names, style, why = style_of(table)
    if why:
        caveats.append(f"{why}.")
    prompts, units = _prompts(table)
    battles = Battles(
        n_models=len(models),
        first=codes[: len(table)].astype(np.int64),
        second=codes[len(table) :].astype(np.int64),
        points=points,
        weight=weight,
        unit=units,
        style=style,
    )
    return BattleFile([str(m) for m in models], battles, style_names, categories_of(table), prompts, caveats)


def _table(path: Path) -> pd.DataFrame:
    """The file as one table; text columns of a CSV stay text."""
    kind = suffix(path)
    if kind == ".parquet":
        try:
            return pd.read_parquet(io.BytesIO(read_bytes(path)))
        except (ValueError, OSError) as error:
            raise EvidenceError(f"{path.name} is not a parquet file: {error}.") from error
    text = read_text(path)
    if kind == ".csv":
        return _csv(text, path)
    if kind == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        rows = [parse_json(line, f"{path.name}, line {number}") for number, line in lines]
    else:
        parsed = parse_json(text, path.name)
        rows = parsed if isinstance(parsed, list) else [parsed]
    battles = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            battles.append(row)
        else:
            raise EvidenceError(
                f"{path.name}, battle {number}: expected model_a, model_b and winner, found {row!r:.40}."
            )
    try:
        return pd.DataFrame.from_records(battles)
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON lets through
        raise EvidenceError(f"{path.name} holds text that is not Unicode: {error.reason}.") from error


def _csv(text: str, path: Path) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text))
    try:
        header = [name.strip() for name in next(reader, [])]
        lines = []
        for fields in reader:
            if len(fields) == len(header):
                lines.append(fields)
            elif fields:
                raise EvidenceError(
                    f"{path.name}, line {reader.line_num}: {len(header)} fields expected, found {len(fields)}. Is the file whole?"
                )
    except csv.Error as error:
        raise EvidenceError(f"{path.name}, line {reader.line_num}: not CSV ({error}).") from error
    if len(set(header)) < len(header):
        raise EvidenceError(f"{path.name} names a column twice: {', '.join(header)}.")
    return pd.DataFrame(lines, columns=header, dtype=object)


def _points(table: pd.DataFrame, where: str, offset: int) -> FloatArray:
    """What ``model_a`` takes of each battle; NaN where nobody says."""
    if "winner" in table:
        words = np.array(["" if _absent(v) else str(v).strip().lower() for v in table["winner"]], dtype=object)
        for word in pd.unique(words):
            if word and word not in POINTS:
                line = int(np.flatnonzero(words == word)[0]) + offset
                raise EvidenceError(
                    f"{where}{line}, winner: {word!r:.60} is none of {', '.join(POINTS)}.{did_you_mean(word, POINTS)}"
                )
        return np.array([POINTS.get(word, np.nan) for word in words])
    if "preference" not in table:
        raise EvidenceError(f"{where.partition(',')[0]} has neither a column winner nor a column preference.")
    values = _numbers(table["preference"], "preference", where, offset)
    values = np.where(values == 0, 1.5, values)  # AlpacaEval's older mark of a tie
    _refuse(~np.isnan(values) & ~((values >= 1) & (values <= 2)), table["preference"], "preference", where, offset)
    return 2 - values


def _names(column: pd.Series[Any], name: str, where: str, offset: int) -> NDArray[np.object_]:
    found = np.array(["" if _absent(value) else str(value).strip() for value in column], dtype=object)
    _refuse(found == "", column, name, where, offset, "is no model's name")
    return found


def _weights(table: pd.DataFrame, where: str, offset: int) -> FloatArray:
    if "weight" not in table:
        return np.ones(len(table))
    values = _numbers(table["weight"], "weight", where, offset)
    _refuse(~(values >= 0), table["weight"], "weight", where, offset, "is no weight; it must be 0 or more")
    return values


def _numbers(column: pd.Series[Any], name: str, where: str, offset: int) -> FloatArray:
    """Finite numbers; NaN where the field is empty."""
    empty = np.array([_absent(value) for value in column])
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    _refuse(~empty & ~np.isfinite(values), column, name, where, offset, "is not a number")
    return values


def _refuse(
    wrong: BoolArray, column: pd.Series[Any], name: str, where: str, offset: int, what: str = "is out of range"
) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise EvidenceError(f"{where}{row + offset}, {name}: {column.iloc[row]!r:.60} {what}.")


def _absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def _prompts(table: pd.DataFrame) -> tuple[str | None, IntArray | None]:
    """The column that names the prompt, and the prompt of each battle; ``None`` where every battle has its own."""
    for column in _PROMPTS:
        if column in table and all(isinstance(value, str | int | np.integer) for value in table[column]):
            units = pd.factorize(table[column].astype(str))[0].astype(np.int64)
            if int(units.max()) + 1 == len(units):
                return None, None
            return column, units
    return None, None
