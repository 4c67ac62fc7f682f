"""Where the cards of a leaderboard are: folders are searched, and what is no card, or a second copy of one, is named."""

from __future__ import annotations

import hashlib
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from modeldiff_eval.card_digest import Seal
from modeldiff_eval.card_file import read_card_file
from modeldiff_eval.errors import UsageError
from modeldiff_eval.leaderboard_records import Skipped
from modeldiff_eval.records import Card, ModelInfo
from modeldiff_eval.store import fingerprint

LARGEST = 64 * 2**20
"""Bytes of a card.json above which it is not read."""


EDITED = "It was changed since it was made: its checksum is not that of its content."
_SEALS: tuple[Seal, ...] = ("edited", "none", "whole")


class Copy(NamedTuple):
    """What tells the files of one comparison apart."""

    name: str
    digest: str
    seal: Seal
    created: str

    @property
    def standing(self) -> tuple[int, bool, datetime]:
        """The file with the greatest is listed: as it was made, with a time, the newest."""
        time = time_of(self.created)
        return _SEALS.index(self.seal), time is not None, time or datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Found:
    """One card, the bytes it was read from, what it is called (the folder's name and the file's), and what its checksum says."""

    card: Card
    raw: bytes
    name: str
    seal: Seal

    @cached_property
    def digest(self) -> str:
        """Of the bytes; equal files are one card."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def copy(self) -> Copy:
        """Without its content."""
        return Copy(self.name, self.digest, self.seal, self.card.created)


def find_cards(paths: Sequence[Path], *, without: Path | None = None) -> tuple[list[Found], list[Skipped]]:
    """Every card at or below ``paths``, one of each comparison, and what was passed over.

    Two files are one comparison when models, method, settings, text and seeds are equal; the one made last stays, but one that
    was edited, or carries no checksum, or no time, gives way to one that is better in this. Links to folders are followed.

    Args:
        paths: card files, or folders that are searched for ``card.json``.
        without: a folder that is not searched, such as the site itself.

    Raises:
        UsageError: a path that does not exist.
    """
    skipped: list[Skipped] = []
    listed: dict[str, Found] = {}
    others: list[tuple[str, Copy]] = []
    seen: set[str] = set()
    for file in _files(paths, without, skipped):
        if (real := os.path.realpath(file)) in seen:
            continue
        seen.add(real)
        name = _name(file)
        try:
            found = _read(file, name)
        except (UsageError, RecursionError, OSError) as error:
            skipped.append(Skipped(file=name, reason=_problem(error).replace(str(file), name)[:500]))
            continue
        key = _comparison(found.card)
        other = listed.setdefault(key, found)
        if other is found:
            continue
        if found.copy.standing > other.copy.standing:
            listed[key] = found
            found = other
        others.append((key, found.copy))
    skipped += [Skipped(file=copy.name, reason=_why(copy, listed[key].copy)) for key, copy in others]
    return list(listed.values()), skipped


def time_of(created: str) -> datetime | None:
    """The moment that an ISO 8601 text names, in UTC where it names no zone; None where it names none."""
    try:
        time = datetime.fromisoformat(created.strip())
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def model_name(info: ModelInfo) -> str:
    """``id`` or ``id + adapter``."""
    return f"{info.id} + {info.adapter}" if info.adapter else info.id


def _read(file: Path, name: str) -> Found:
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UsageError("It is no file.")
    if about.st_size > LARGEST:
        raise UsageError(f"It is larger than {LARGEST // 2**20} MiB.")
    card, _, seal = read_card_file(file)
    return Found(card, file.read_bytes().removeprefix(BOM_UTF8), name, seal)


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "It is nested too deeply."
    return f"It cannot be read ({error.strerror})." if isinstance(error, OSError) else str(error)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _why(copy: Copy, listed: Copy) -> str:
    """Why a file of a comparison is not listed, and which one is."""
    if copy.digest == listed.digest:
        return f"An equal copy of {listed.name}."
    if copy.seal != listed.seal:
        return f"{EDITED if copy.seal == 'edited' else 'It carries no checksum.'} The same comparison is listed from {listed.name}."
    own, other = time_of(copy.created), time_of(listed.created)
    if own is None:
        return f"It does not say when it was made. The same comparison is listed from {listed.name}."
    return f"The same comparison was made {'at the same time' if own == other else 'again later'}: {listed.name}."


def _files(paths: Sequence[Path], without: Path | None, skipped: list[Skipped]) -> Iterator[Path]:
    """The card files; folders that cannot be searched are added to ``skipped``. No folder is searched twice, however links lead to it."""

    def unread(error: OSError) -> None:
        folder = Path(str(error.filename))
        skipped.append(Skipped(file=f"{_name(folder)}/", reason=f"The folder cannot be searched ({error.strerror})."))

    leave = os.path.realpath(without) if without else None
    seen: set[str] = set()
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            raise UsageError(
                f"There is nothing at {path} ({error.strerror}). Name folders with cards in them, or card.json files."
            ) from error
        if not is_folder:
            yield path
            continue
        # Whoever names the site, or a folder in it, means it.
        apart = leave is not None and not _within(os.path.realpath(path), leave)
        for folder, names, files in os.walk(path, onerror=unread, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or (apart and leave and _within(real, leave)):
                names.clear()
                continue
            seen.add(real)
            names.sort()
            if "card.json" in files and real != leave:
                yield Path(folder) / "card.json"


def _within(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(other.rstrip(os.sep) + os.sep)


def _comparison(card: Card) -> str:
    made = card.provenance
    return fingerprint(
        [
            card.title, card.models.model_dump(), card.mode, card.method, [c.layer for c in card.crosscoders],
            made.command, made.corpus, made.tokens, made.seeds, made.annotator,
        ]
    )  # fmt: skip
