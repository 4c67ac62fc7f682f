"""What a cache holds: its entries with their size, last use and state, and what is wrong with them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from modeldiff_eval import manifest
from modeldiff_eval.errors import OutputError, SettingsError, did_you_mean
from modeldiff_eval.locks import KINDS, clearing
from modeldiff_eval.store import DAMAGED, PARTIAL

State = Literal["finished", "unfinished", "set aside"]
_AGE = re.compile(r"(\d+)\s*(d|h|m)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


@dataclass(frozen=True)
class Entry:
    """One folder or file of the cache. ``used``: when a run last made or read it. ``sealed``: it carries checksums."""

    kind: str
    name: str
    path: Path
    state: State
    size: int
    used: datetime
    sealed: bool

    def row(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "kind": self.kind, "name": self.name, "state": self.state, "bytes": self.size,
            "last_used": self.used.isoformat(timespec="seconds"), "checksums": self.sealed,
        }  # fmt: skip


def entries(cache: Path, kinds: Sequence[str] | None = None) -> list[Entry]:
    """The entries of a cache, by kind and name; those of some kinds only where ``kinds`` names them.

    Nothing but the folders of :data:`modeldiff_eval.locks.KINDS` is the cache's: whatever else lies there is left alone.

    Raises:
        SettingsError: a cache has no such kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise SettingsError(
                f"A cache holds no {kind!r}.{did_you_mean(kind, KINDS)} It may hold: {', '.join(KINDS)}."
            )
    return [
        _entry(kind, path)
        for kind in (KINDS if kinds is None else kinds)
        if (cache / kind).is_dir()
        for path in sorted((cache / kind).iterdir())
        if not path.name.endswith(".lock") and (path.is_file() or path.is_dir())
    ]


def _entry(kind: str, path: Path) -> Entry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    seal = path / manifest.NAME
    newest = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
    state: State = "finished"
    if path.name.endswith(PARTIAL):
        state = "unfinished"
    elif path.name.endswith(DAMAGED):
        state = "set aside"
    return Entry(
        kind, path.name, path, state, sum(stat.st_size for stat in stats), datetime.fromtimestamp(newest, UTC),
        sealed=seal.is_file() if path.is_dir() else _carries_hash(path),
    )  # fmt: skip


def _carries_hash(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 73))
        return re.search(rb"(^|\n)sha256 [0-9a-f]{64}\n$", file.read()) is not None


def fault(entry: Entry) -> str | None:
    """What is wrong with an entry, every byte read; None when it is whole or has no checksums to compare with."""
    if entry.state == "unfinished":
        return "unfinished: a run is making it, or was stopped; the next one goes on from here"
    if entry.state == "set aside":
        return "damaged, and set aside by a run that met it"
    if entry.path.is_dir():
        return manifest.damage(entry.path, every_byte=True)
    try:
        whole = manifest.unsealed(entry.path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        whole = False
    return None if whole else "it holds other bytes than were written"


def older_than(found: Iterable[Entry], age: str, *, now: datetime | None = None) -> list[Entry]:
    """Those that no run has used for ``age``: ``30d``, ``12h`` or ``90m``.

    Raises:
        SettingsError: not an age.
    """
    match = _AGE.fullmatch(age.strip())
    if match is None:
        raise SettingsError(f"--older-than {age!r} is not an age. Write 30d, 12h or 90m.")
    try:
        limit = (now or datetime.now(UTC)) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise SettingsError(f"--older-than {age!r} is longer than there is time. Write 30d, 12h or 90m.") from None
    return [entry for entry in found if entry.used < limit]


def remove(cache: Path, chosen: Iterable[Entry]) -> None:
    """Delete entries, their locks, and kinds that are empty then.

    Raises:
        OutputError: a run uses the cache, or something cannot be deleted.
    """
    try:
        with clearing(cache):
            for entry in chosen:
                if entry.path.is_dir():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
                entry.path.with_name(entry.name.removesuffix(PARTIAL).removesuffix(DAMAGED) + ".lock").unlink(
                    missing_ok=True
                )
            for kind in [cache / name for name in KINDS if (cache / name).is_dir()]:
                if all(path.name.endswith(".lock") for path in kind.iterdir()):
                    shutil.rmtree(kind)
    except OSError as error:
        raise OutputError(f"Cannot remove from {cache}: {error.strerror or error}.") from error
