"""Reading: documents from text and JSONL files, parquet and arrow tables, and hub data sets.

Files of lines are read in their own order and to their end: they may be sorted by topic, and only the whole shows it.
Tables and hub data sets may have no end in reach; they come in an order shuffled by the seed, so that reading can stop
anywhere.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeldiff_eval.corpus_document import CHAT_COLUMNS, TEXT_COLUMNS, Document, text_group, to_document
from modeldiff_eval.errors import CorpusError
from modeldiff_eval.hub import patiently
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.resources import resource

PACKAGED = "packaged"
TEXT_SUFFIXES = (".txt", ".md", ".rst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz")
TABLE_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = JSON_SUFFIXES + TEXT_SUFFIXES + TABLE_SUFFIXES
SHUFFLE_ROWS = 10_000
"""Rows of a table that are held in memory at a time to shuffle them; its files are shuffled as wholes."""
LONGEST_LINE = 64 << 20
"""Characters of one JSONL row at most."""
_HOPELESS = 1000


@dataclass
class ReadReport:
    """What happened while reading: rows read, broken (with the first reason), duplicates dropped.

    ``sources``: of a mixture, name, wanted and reached share, tokens and documents of each source.
    """

    read: int = 0
    broken: int = 0
    duplicates: int = 0
    first_problem: str | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        """Count a broken row.

        Raises:
            CorpusError: a thousand rows are broken and they are the most: reading on would not help.
        """
        self.broken += 1
        self.first_problem = self.first_problem or f"{where}: {what}"
        if self.broken >= _HOPELESS and self.broken > self.read:
            self.check(0.0)

    def add(self, other: ReadReport) -> None:
        """Add the counts of another report."""
        self.read += other.read
        self.broken += other.broken
        self.duplicates += other.duplicates
        self.first_problem = self.first_problem or other.first_problem

    def check(self, limit: float) -> None:
        """Raise when more than ``limit`` of the rows (and more than 10) were broken, or nothing was read."""
        total = self.read + self.broken
        if self.broken > max(10, limit * total):
            raise CorpusError(
                f"{self.broken} of {total} corpus rows are broken (first: {self.first_problem}). "
                "Each row needs a 'text' string or a 'messages' list of {role, content}."
            )
        if not self.read:
            hint = f" First problem: {self.first_problem}." if self.first_problem else ""
            raise CorpusError(
                f"The corpus is empty.{hint} Name a JSONL(.gz), parquet or text file, a folder of them, or a hub data set."
            )

    def caveats(self) -> list[str]:
        """Sentences for the card: what was skipped, and where a mixture missed its shares by more than a point."""
        found = []
        if self.broken:
            found.append(f"{self.broken} corpus rows were broken and skipped (first: {self.first_problem}).")
        if self.duplicates:
            found.append(f"{self.duplicates} exact duplicates were dropped from the corpus.")
        for source in self.sources:
            if abs(source["share"] - source["wanted"]) > 0.01:
                why = "it ran dry" if source["dry"] else "documents are taken whole, or another source ran dry"
                found.append(
                    f"{source['name']} makes up {source['share']:.1%} of the corpus's tokens where {source['wanted']:.1%} "
                    f"was asked for ({why})."
                )
        return found


def corpus_files(location: str) -> list[Path]:
    """Local files of a corpus argument; empty when it is a hub id.

    Raises:
        CorpusError: the folder holds no readable file, or the file's type is unknown.
    """
    if location == PACKAGED:
        return [resource("demo/corpus.jsonl.gz")]
    path = Path(location).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES))
        if not files:
            raise CorpusError(f"{path} holds no {', '.join(SUFFIXES)} file.")
        return _tables_or_lines(path, files)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise CorpusError(f"{path} is not one of {', '.join(SUFFIXES)}.")
        return [path]
    folders = location.partition(":")[0].partition("@")[0].count("/")
    if path.is_absolute() or location.startswith((".", "~")) or path.name.endswith(SUFFIXES) or folders > 1:
        raise CorpusError(f"There is no corpus at {location}. Check the path.")
    return []


def _tables_or_lines(folder: Path, files: list[Path]) -> list[Path]:
    """A folder with tables is a data set: the text files in it, such as a README, are not documents."""
    kinds = {s: [f for f in files if f.name.endswith(s)] for s in (*TABLE_SUFFIXES, *JSON_SUFFIXES)}
    found = [suffix for suffix, some in kinds.items() if some]
    if not any(kinds[suffix] for suffix in TABLE_SUFFIXES):
        return files
    if len(found) > 1:
        raise CorpusError(f"{folder} holds {' and '.join(found)} files: give each kind as a corpus of its own.")
    return kinds[found[0]]


def is_table(location: str) -> bool:
    """Whether documents come in shuffled order, so that reading may stop before the end."""
    files = corpus_files(location)
    return not files or files[0].name.endswith(TABLE_SUFFIXES)


def read_source(
    location: str, report: ReadReport, *, seed: int, shuffle_rows: int = SHUFFLE_ROWS
) -> Iterator[Document]:
    """Stream the documents of one file, folder or hub data set (``ORG/NAME[@revision][:config[:split]]``).

    Raises:
        CorpusError: a table cannot be read, or has no column that holds text.
    """
    files = corpus_files(location)
    if not files:
        yield from _read_table(
            location, location.partition(":")[0], _hub_arguments(location), report, seed, shuffle_rows
        )
    elif files[0].name.endswith(TABLE_SUFFIXES):
        _check_columns(files)
        options = {"path": files[0].suffix[1:], "data_files": [glob.escape(str(f)) for f in files], "split": "train"}
        yield from _read_table(location, Path(location).name, options, report, seed, shuffle_rows)
        return
    for file in files:
        if file.name.endswith(TEXT_SUFFIXES):
            yield from _read_text(file)
        elif file.name.endswith(JSON_SUFFIXES):
            yield from _read_jsonl(file, report)


def _read_text(file: Path) -> Iterator[Document]:
    """A text file is cut at blank lines into pieces of about 2,000 characters."""
    piece: list[str] = []
    size = number = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in itertools.chain(lines, [None]):
            if line is None or (size > 2000 and not line.strip()) or size > 8000:
                if text := "".join(piece).strip():
                    yield Document(id=f"{file.stem}-{number}", group=text_group(text), source=file.name, text=text)
                    number += 1
                piece, size = [], 0
            if line is not None:
                piece.append(line)
                size += len(line)


def _read_jsonl(file: Path, report: ReadReport) -> Iterator[Document]:
    opener: Callable[..., Any] = gzip.open if file.name.endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), ""), 1):
                if not line.strip():
                    continue
                if len(line) == LONGEST_LINE:
                    report.problem(f"{file.name} line {number}", f"longer than {LONGEST_LINE:,} characters")
                    return  # A few packed bytes can hold a line without end; what comes after it is not read.
                try:
                    row = read_json(line)
                except ValueError as error:
                    report.problem(f"{file.name} line {number}", f"not JSON ({error})")
                    continue
                document, problem = to_document(row, f"{file.stem}-{number}", file.name)
                if document is None:
                    report.problem(f"{file.name} line {number}", problem)
                else:
                    yield document
    except (OSError, EOFError, zlib.error) as error:  # a torn gzip stream
        report.problem(file.name, f"cannot be read to its end ({error})")


def _hub_arguments(location: str) -> dict[str, Any]:
    name, config, split = (*location.split(":", 2), "", "")[:3]
    path, _, revision = name.partition("@")
    return {"path": path, "name": config or None, "split": split or "train", "revision": revision or None}


def _read_table(
    location: str, name: str, options: dict[str, Any], report: ReadReport, seed: int, shuffle_rows: int
) -> Iterator[Document]:
    """Rows of ``datasets.load_dataset(**options)``, streamed and shuffled by the seed."""
    import datasets

    try:
        opened = patiently(location, lambda: datasets.load_dataset(**options, streaming=True))
        rows = opened.shuffle(seed=seed, buffer_size=shuffle_rows)
        for number, row in enumerate(rows):
            if not number:
                _require_text(row, name)
            document, problem = to_document(row, f"{name}-{number}", name)
            if document is None:
                report.problem(f"{name} row {number}", problem)
            else:
                yield document
    except CorpusError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        advice = (
            "Files of one folder need the same columns; name them one by one if theirs differ."
            if "data_files" in options
            else "Name a local file instead."
        )
        raise CorpusError(
            f"Cannot read the data set {location!r}: {reason[0] if reason else type(error).__name__}. {advice}"
        ) from error


def _check_columns(files: list[Path]) -> None:
    """Read the head of every table before any long work: a torn file or one without text is named at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            if file.name.endswith(".parquet"):
                names = pq.read_schema(file).names
            else:
                with pa.memory_map(str(file)) as data:
                    try:
                        names = pa.ipc.open_file(data).schema.names
                    except pa.ArrowInvalid:
                        data.seek(0)
                        names = pa.ipc.open_stream(data).schema.names
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(
                f"{file} cannot be read ({str(error).splitlines()[0]}). It may be torn; fetch or write it again."
            ) from error
        _require_text(names, file.name)


def _require_text(columns: Any, name: str) -> None:
    if not set(columns) & {*CHAT_COLUMNS, *TEXT_COLUMNS}:
        raise CorpusError(
            f"{name} has the columns {', '.join(sorted(columns)) or '(none)'}; text is looked for in "
            f"{', '.join((*TEXT_COLUMNS, *CHAT_COLUMNS))}. Rename the column that holds it."
        )
