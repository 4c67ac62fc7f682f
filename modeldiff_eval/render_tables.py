"""The card's lists as tables for a notebook or a spreadsheet: one CSV and one Parquet file each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modeldiff_eval.records import Card
from modeldiff_eval.render_text import visible
from modeldiff_eval.spreadsheet import CELL_CHARS, escape_cell
from modeldiff_eval.store import write_bytes, write_text

TABLES = ("classes", "categories", "arena", "benchmarks", "agreement", "latents", "examples")


def tables(card: Card) -> dict[str, list[dict[str, Any]]]:
    """Table → rows; nested records become columns such as ``diff_low``. Tables without rows are left out.

    ``examples`` has a row for each example of each listed latent, its firing tokens left to card.json.
    """
    found: dict[str, list[dict[str, Any]]] = {
        "classes": [_flat(row) for row in card.classes],
        "categories": [_flat(row) for row in card.categories],
        "arena": [_flat(row) for row in card.arena.rows] if card.arena else [],
        "benchmarks": [_flat(row) for row in card.benchmarks],
        "agreement": [_flat(row) for row in card.agreement],
        "latents": [_flat(row) for row in card.top_latents],
        "examples": [
            {"model": latent.model, "latent": latent.latent, "rank": rank, "text": example.text}
            for latent in card.top_latents
            for rank, example in enumerate(latent.examples)
        ],
    }
    return {name: rows for name, rows in found.items() if rows}


def write_tables(card: Card, out: Path) -> Path:
    """Write ``tables/NAME.csv`` and ``tables/NAME.parquet`` below ``out``; gives the folder.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = out / "tables"
    for name, rows in tables(card).items():
        write_text(folder / f"{name}.csv", _csv(rows))
        write_bytes(folder / f"{name}.parquet", _parquet(rows))
    return folder


def _flat(record: BaseModel) -> dict[str, Any]:
    """One row; lists are left out, and what is None stands for all of its columns."""
    row: dict[str, Any] = {}
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        label = field.alias or name
        if isinstance(value, BaseModel):
            row |= {f"{label}_{key}": inner for key, inner in _flat(value).items()}
        elif not isinstance(value, list | Mapping):
            row[label] = value
    return row


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every column that some row has; a name that only stands for a missing record gives way to its columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    missing = {
        n for n in names if all(row.get(n) is None for row in rows) and any(m.startswith(f"{n}_") for m in names)
    }
    return [name for name in names if name not in missing]


def _csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: escape_cell(visible(v, limit=CELL_CHARS)) if isinstance(v, str) else v for k, v in row.items()}
        )
    return buffer.getvalue()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [_storable(row.get(name)) for row in rows] for name in _columns(rows)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _storable(value: Any) -> Any:
    """Text without lone surrogates, which no file can hold."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
