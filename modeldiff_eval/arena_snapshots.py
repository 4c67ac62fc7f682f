"""Which snapshot of LMArena's tables is read: one file that holds several, or a folder of files named by date.

In a folder the date comes from a file's own ``snapshot`` column, else from its name or its folder's (``2025-12-17``,
``20251217``), and a file is of style control where its name says "style". Scales drift between snapshots, so everything is
taken from one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modeldiff_eval.arena_files import SUFFIXES, kind_of, suffix
from modeldiff_eval.arena_names import find_model
from modeldiff_eval.arena_tables import Rating, merged, read_table
from modeldiff_eval.errors import EvidenceError, NotListedError, did_you_mean

_DATE = re.compile(r"(?<!\d)(20\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?!\d)")
_STYLE = re.compile(r"style", re.IGNORECASE)
_MOST_FILES = 2000


class Tables(NamedTuple):
    """Ratings of one path, from any number of snapshots."""

    source: str
    ratings: list[Rating]
    caveats: list[str]


class Snapshot(NamedTuple):
    """The ratings of one snapshot, and what the two models are called there."""

    name: str | None
    ratings: list[Rating]
    base: str
    tuned: str
    caveats: list[str]


def read_tables(path: Path) -> Tables:
    """All ratings of a file, or of the files in a folder and its folders.

    Raises:
        EvidenceError: nothing is there, a file is malformed or holds battles, or two files of one date contradict each
            other.
    """
    if not path.is_dir():
        ratings, dropped = read_table(path)
        if _STYLE.search(path.name) and not any(r.style_control for r in ratings):
            ratings = [r._replace(style_control=True) for r in ratings]
        return Tables(path.name, ratings, _repeated(dropped, path.name))
    files, caveats = _files(path)
    found: list[tuple[str, Rating]] = []
    for file in files:
        date = _date_of(file, path)
        style = bool(_STYLE.search(file.name))
        for rating in read_table(file)[0]:
            own = rating._replace(snapshot=rating.snapshot or date, style_control=rating.style_control or style)
            found.append((str(file.relative_to(path)), own))
    ratings, dropped = merged(found, path.name)
    if any(r.snapshot is None for r in ratings) and any(r.snapshot for r in ratings):
        caveats.append(f"Files of {path.name} that name no date are left out.")
        ratings = [r for r in ratings if r.snapshot is not None]
    return Tables(path.name, ratings, [*caveats, *_repeated(dropped, path.name)])


def choose(tables: Tables, *, base: str, tuned: str, snapshot: str | None) -> Snapshot:
    """The snapshot that is asked for, or the newest one that lists both models without style control.

    Raises:
        EvidenceError: there is no such snapshot, or only ratings with style control.
        NotListedError: a model is in none of them.
    """
    plain = [r for r in tables.ratings if not r.style_control]
    if not plain:
        raise EvidenceError(f"{tables.source} holds only ratings with style control; pass it as --arena-style.")
    dates = sorted({r.snapshot for r in plain if r.snapshot is not None}, reverse=True)
    if not dates:
        return _of(tables, snapshot, plain, base, tuned, ratings=tables.ratings)
    if snapshot is not None:
        if snapshot not in dates:
            raise EvidenceError(
                f"{tables.source} has no snapshot {snapshot!r}.{did_you_mean(snapshot, dates)} It has {_listing(dates)}."
            )
        return _of(tables, snapshot, plain, base, tuned)
    for date in dates:
        try:
            found = _of(tables, date, plain, base, tuned)
        except NotListedError:
            continue
        if date != dates[0]:
            found.caveats.append(
                f"{tables.source}: the newest snapshot, {dates[0]}, does not list both models; {date} is the newest that does."
            )
        elif len(dates) > 1:
            found.caveats.append(f"{tables.source} holds {len(dates)} snapshots; the newest, {date}, was taken.")
        return found
    for model in (base, tuned):
        find_model(model, [r.model for r in plain], source=tables.source)
    raise NotListedError(f"{tables.source} has both {base} and {tuned}, but no snapshot that lists the two together.")


def _of(
    tables: Tables,
    date: str | None,
    plain: Sequence[Rating],
    base: str,
    tuned: str,
    *,
    ratings: list[Rating] | None = None,
) -> Snapshot:
    """One snapshot; ``ratings`` where the table has no dates."""
    inside = [r for r in tables.ratings if r.snapshot == date] if ratings is None else ratings
    names = {r.model for r in plain if ratings is not None or r.snapshot == date}
    first, second = (find_model(model, names, source=tables.source) for model in (base, tuned))
    if first == second:
        raise EvidenceError(f"{base} and {tuned} are one model in {tables.source}, {first!r}.")
    return Snapshot(date, inside, first, second, [])


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The tables of a folder: of the text arena where file names tell several arenas apart."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and suffix(p) in SUFFIXES)
    if len(found) > _MOST_FILES:
        raise EvidenceError(f"{folder} holds {len(found):,} files; pass a folder of at most {_MOST_FILES:,} tables.")
    if not found:
        raise EvidenceError(f"{folder} holds no CSV or JSON. Pass LMArena's tables, or a folder of them named by date.")
    if battles := [p.name for p in found if kind_of(p) == "battles"]:
        raise EvidenceError(
            f"{folder} holds battles ({', '.join(battles[:3])}); pass one such file by itself, and tables as a folder."
        )
    text = [p for p in found if "text" in re.split(r"[-_.]", p.name.lower())]
    if text and len(text) < len(found):
        return text, [f"{folder.name}: {len(found) - len(text)} files of other arenas than text are left out."]
    return found, []


def _date_of(file: Path, root: Path) -> str | None:
    """A date in the file's name, else in its folders' up to ``root``."""
    for part in reversed(file.relative_to(root).parts):
        if found := _DATE.search(part):
            return "-".join(found.groups())
    return None


def _repeated(dropped: int, name: str) -> list[str]:
    return [f"{dropped} repeated rows of {name} were dropped."] if dropped else []


def _listing(dates: Sequence[str]) -> str:
    shown = ", ".join(dates[:6])
    return shown if len(dates) <= 6 else f"{shown} and {len(dates) - 6} older ones"
