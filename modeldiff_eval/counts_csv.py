"""Latents annotated elsewhere: a CSV with the columns ``model``, ``latent``, ``category`` or ``class``, and ``family``.

``model`` is base or tuned (or two names that the caller gives). ``category`` (or ``class``) is a code or a name of the
taxonomy, "none" for a latent that fits nowhere, empty or "failed" for one whose annotation failed. ``family`` is
optional: latents of one family are resampled together, across both models.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.taxonomy import Taxonomy

_COLUMNS = ("model", "latent", "category", "class", "family")
_NONE = {"none", "uncategorised", "uncategorized"}
_FAILED = {"", "failed"}


class SideLatents(NamedTuple):
    """Annotated latents of one side: class and category index (-1 none), family id; all [latents]."""

    classes: NDArray[np.int64]
    categories: NDArray[np.int64]
    families: NDArray[np.int64]
    failed: int


class ReadLatents(NamedTuple):
    """Both sides, and which optional columns the file has."""

    base: SideLatents
    tuned: SideLatents
    has_categories: bool
    has_families: bool


@dataclass
class _Side:
    classes: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    families: list[int] = field(default_factory=list)
    latents: set[str] = field(default_factory=set)
    failed: int = 0

    def frozen(self) -> SideLatents:
        classes, categories, families = (
            np.array(values, dtype=np.int64) for values in (self.classes, self.categories, self.families)
        )
        return SideLatents(classes, categories, families, failed=self.failed)


def read_latents(path: Path, taxonomy: Taxonomy, *, models: tuple[str, str] | None = None) -> ReadLatents:
    """Read and check the file.

    Raises:
        UsageError: the file is missing or has no latents, a quote is not closed, a column is unknown or missing, a row names
            an unknown model or category, a latent is listed twice, or the two models have one name.
    """
    names = models or ("base", "tuned")
    if names[0] == names[1] or not all(names):
        raise UsageError(f"The models {names[0]!r} and {names[1]!r}: give two different names, base,tuned.")
    columns, rows = _read(path)
    if not rows:
        raise UsageError(f"{path}: no latents; there is a header and nothing below it. Give one row for each latent.")
    has_categories, has_families = "category" in columns, "family" in columns
    class_index, category_index = _lookup(taxonomy)
    class_of = [i for i, item in enumerate(taxonomy.classes) for _ in item.categories]
    sides = {names[0]: _Side(), names[1]: _Side()}
    families: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        side = sides.get(row["model"])
        if side is None:
            raise UsageError(
                f"{where}: model {row['model']!r} is neither {names[0]!r} nor {names[1]!r}; name the two models."
            )
        if row["latent"] in side.latents:
            raise UsageError(f"{where}: latent {row['latent']!r} of {row['model']} is listed twice.")
        side.latents.add(row["latent"])
        category = _index(row.get("category", ""), category_index, where, "category") if has_categories else None
        class_ = _index(row.get("class", ""), class_index, where, "class") if "class" in columns else None
        if category is not None and category >= 0:
            implied = class_of[category]
            if class_ is not None and class_ != implied:
                raise UsageError(f"{where}: category {row['category']!r} does not belong to class {row['class']!r}.")
            class_ = implied
        elif category == -1 and class_ is None:
            class_ = -1
        if class_ is None:
            side.failed += 1
            continue
        key = f"family {row['family']}" if row.get("family") else f"latent {row['model']} {row['latent']}"
        side.classes.append(class_)
        side.categories.append(-1 if category is None else category)
        side.families.append(families.setdefault(key, len(families)))
    return ReadLatents(sides[names[0]].frozen(), sides[names[1]].frozen(), has_categories, has_families)


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns, and of every row its line and its cells; a cell that the row lacks is empty."""
    line, rows = 1, list[tuple[int, dict[str, str]]]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            _check_columns(columns, path)
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return columns, rows
                if any("\n" in cell or "\r" in cell for cell in cells):
                    raise csv.Error("a cell goes on in the next line")
                if cells:
                    padded = [*cells, *[""] * len(columns)]
                    rows.append((line, {name: cell.strip() for name, cell in zip(columns, padded, strict=False)}))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a UTF-8 CSV file ({error}).") from error
    except csv.Error as error:
        raise UsageError(f"{path}, line {line}: not CSV ({error}). Is a quote not closed?") from error


def _check_columns(columns: list[str], path: Path) -> None:
    for name in columns:
        if name not in _COLUMNS:
            raise UsageError(
                f"{path}: unknown column {name!r}.{did_you_mean(name, _COLUMNS)} Known: {', '.join(_COLUMNS)}."
            )
    missing = [name for name in ("model", "latent") if name not in columns]
    if missing or not {"category", "class"} & set(columns):
        wanted = ", ".join(missing) or "category (or class)"
        raise UsageError(
            f"{path}: the column {wanted} is missing; the file needs model, latent, and category or class."
        )


def _lookup(taxonomy: Taxonomy) -> tuple[dict[str, int], dict[str, int]]:
    """Codes and names, in lower case, of classes and of categories → index."""
    classes = {text.lower(): i for i, item in enumerate(taxonomy.classes) for text in (item.code, item.name)}
    categories = {text.lower(): i for i, item in enumerate(taxonomy.categories) for text in (item.code, item.name)}
    return classes, categories


def _index(text: str, known: Mapping[str, int], where: str, what: str) -> int | None:
    """Index of a code or name; -1 for "none"; ``None`` for a failed annotation."""
    lowered = text.lower()
    if lowered in _FAILED:
        return None
    if lowered in _NONE:
        return -1
    if lowered not in known:
        raise UsageError(
            f"{where}: {what} {text!r} is not in the taxonomy.{did_you_mean(lowered, known)} Write 'none' for a latent "
            "that fits nowhere, and leave the cell empty where the annotation failed."
        )
    return known[lowered]
