"""CSV that goes through a spreadsheet and comes back: no cell is a formula, and what a spreadsheet breaks is named.

A cell that a spreadsheet would read as a formula (it begins with ``=``, ``+``, ``-``, ``@``, a wide form of these, a tab or
a line break) is written with an apostrophe before it, and read without. Cells that already begin with apostrophes before
such a sign get one more, so that reading gives back exactly what was written.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.store import write_bytes

CELL_CHARS = 32_000
"""Spreadsheets hold 32,767 characters in a cell."""
_FORMULA = re.compile("'*[=+\\-@＝＋－＠\t\r\n]")
_ESCAPED = re.compile("'+[=+\\-@＝＋－＠\t\r\n]")
_BROKEN = re.compile(r"#(?:NAME\?|REF!|VALUE!|DIV/0!|N/A|NUM!|NULL!|WERT!|BEZUG!)|#{4,}")


def escape_cell(text: str) -> str:
    """``text`` as no spreadsheet takes it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(text: str) -> str:
    """The inverse of :func:`escape_cell`."""
    return text[1:] if _ESCAPED.match(text) else text


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Path:
    """Write a CSV (UTF-8 with a mark that spreadsheets recognise it by).

    Raises:
        OutputError: ``path`` cannot be written.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([escape_cell(row.get(column, ""))[:CELL_CHARS] for column in columns])
    return write_bytes(path, buffer.getvalue().encode("utf-8-sig", "replace"))


def read_table(path: Path, *, known: Sequence[str], needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row that is not blank; commas, semicolons or tabs may separate them.

    Raises:
        UsageError: the file is missing, is not UTF-8 text, has no rows, an unknown, doubled or missing column, a row of
            another length, or a cell that a spreadsheet has broken.
    """
    text = _decode(path)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{path}: not a whole CSV file ({error}). Save it again as CSV.") from error
    if not lines:
        raise UsageError(f"{path} is empty. Its first line must name the columns: {', '.join(known)}.")
    columns = [name.strip().lower() for name in lines[0][1]]
    while columns and not columns[-1]:
        columns.pop()
    for name in columns:
        if name not in known:
            raise UsageError(
                f"{path}: unknown column {name!r}.{did_you_mean(name, known)} Known columns: {', '.join(known)}."
            )
        if columns.count(name) > 1:
            raise UsageError(f"{path}: the column {name!r} stands there twice; keep one.")
    if missing := [name for name in needed if name not in columns]:
        raise UsageError(f"{path}: the column {missing[0]!r} is missing; the first line must name the columns.")
    rows = []
    for line, cells in lines[1:]:
        cells = [unescape_cell(cell).strip() for cell in cells]
        if not any(cells):
            continue
        if any(cells[len(columns) :]) or len(cells) < len(columns):
            raise UsageError(
                f"{path}, line {line}: {len(cells)} cells where the first line has {len(columns)}. "
                "Was a comma or a line break added without quotes? Save the table as CSV from the spreadsheet."
            )
        row = dict(zip(columns, cells, strict=False))
        for column, cell in row.items():
            if _BROKEN.fullmatch(cell):
                raise UsageError(
                    f"{path}, line {line}, column {column!r}: the spreadsheet shows {cell} instead of the text; it took the "
                    "cell for a formula. Type the text again with an apostrophe before it."
                )
        rows.append((line, row))
    return rows


def _decode(path: Path) -> str:
    """The file's text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    how = "Save it as 'CSV UTF-8' from the spreadsheet."
    if raw[:4] == b"PK\x03\x04":
        raise UsageError(f"{path} is a spreadsheet's own file or an archive, not CSV. {how}")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{path} is UTF-16 text. {how}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8 text (byte 0x{raw[error.start]:02x}). {how}") from error
    if "\0" in text:
        raise UsageError(f"{path} holds zero bytes, so it is not a text file. {how}")
    return text
