"""Opening an arena file, plain or gzipped, whatever it holds: published tables, or battles to rate models from."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Literal

from modeldiff_eval.errors import EvidenceError

Kind = Literal["tables", "battles"]

LIMIT = 2 << 30
"""Bytes of text that are read from one file; a gzip that grows beyond is refused."""
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
BATTLE = ("model_a", "model_b")
"""Columns that only battles have."""
OTHER_NAMES = {"generator_1": "model_a", "generator_2": "model_b"}
"""AlpacaEval's names of the two models."""
_HEAD = 1 << 16


def suffix(path: Path) -> str:
    """``.csv`` of ``battles.csv.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """A file's content, unpacked.

    Raises:
        EvidenceError: the file is missing, torn, or too large.
    """
    limit = LIMIT if limit is None else limit
    data = _read(path, limit + 1)
    if len(data) > limit:
        raise EvidenceError(f"{path.name} holds more than {limit >> 20:,} MiB of text. Pass the part that you need.")
    return data


def read_text(path: Path) -> str:
    """:func:`read_bytes` as UTF-8.

    Raises:
        EvidenceError: as there, or the file is not text.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvidenceError(
            f"The arena file {path} cannot be read: {error}. CSV and JSON must be UTF-8 text."
        ) from error


def kind_of(path: Path) -> Kind:
    """Whether a path holds rating tables or battles, from a folder's existence or the head of a file.

    JSON lines, a JSON list and parquet are battles; a JSON object is a table; a CSV is what its columns say.

    Raises:
        EvidenceError: nothing is there, or the file cannot be opened.
    """
    if path.is_dir():
        return "tables"
    if suffix(path) in (".jsonl", ".parquet"):
        return "battles"
    head = _read(path, _HEAD).decode("utf-8-sig", errors="replace").lstrip()
    if suffix(path) == ".json":
        return "battles" if head.startswith("[") else "tables"
    columns = {name.strip().strip('"') for name in head.partition("\n")[0].split(",")}
    return "battles" if set(BATTLE) <= {OTHER_NAMES.get(name, name) for name in columns} else "tables"


def parse_json(text: str, where: str) -> object:
    """One JSON value; numbers that JSON does not have are refused.

    Raises:
        EvidenceError: not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{where} is not JSON: {error}.") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _read(path: Path, size: int) -> bytes:
    """The first ``size`` unpacked bytes."""
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise EvidenceError(
            f"The arena file {path} cannot be read: {error}. Pass LMArena's tables or battles as CSV, JSON or parquet."
        ) from error
