"""Where the cards of a leaderboard are: folders are searched, and what is no card, or a second copy of one, is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.leaderboard_records import Skipped
from modeldiff_eval.records import Card, ModelInfo
from modeldiff_eval.store import fingerprint

LARGEST = 64 * 2**20
"""Bytes of a card.json above which it is not read."""


@dataclass(frozen=True)
class Found:
    """One card, the bytes it was read from, and what it is called (the folder's name and the file's)."""

    card: Card
    raw: bytes
    name: str

    @cached_property
    def digest(self) -> str:
        """Of the bytes; equal files are one card."""
        return hashlib.sha256(self.raw).hexdigest()


def find_cards(paths: Sequence[Path], *, without: Path | None = None) -> tuple[list[Found], list[Skipped]]:
    """Every card at or below ``paths``, newest of each comparison only, and what was passed over.

    Two files are one comparison when models, method, settings, text and seeds are equal; the one made last stays.

    Args:
        paths: card files, or folders that are searched for ``card.json``.
        without: a folder that is not searched, such as the site itself.

    Raises:
        UsageError: a path that does not exist.
    """
    skipped: list[Skipped] = []
    newest: dict[str, Found] = {}
    seen: set[Path] = set()
    for file in _files(paths, without):
        if (real := file.resolve()) in seen:
            continue
        seen.add(real)
        name = f"{file.parent.name}/{file.name}" if file.parent.name else file.name
        try:
            if file.stat().st_size > LARGEST:
                raise UsageError(f"It is larger than {LARGEST // 2**20} MiB.")
            found = Found(read_card(file), file.read_bytes(), name)
        except (UsageError, RecursionError, OSError) as error:
            reason = "It is nested too deeply." if isinstance(error, RecursionError) else str(error)
            skipped.append(Skipped(file=name, reason=reason.replace(str(file), name)[:500]))
            continue
        key = _comparison(found.card)
        other = newest.get(key)
        if other is None:
            newest[key] = found
        elif found.card.created > other.card.created:
            newest[key] = found
            skipped.append(Skipped(file=other.name, reason=f"The same comparison was made again later: {name}."))
        else:
            same = other.digest == found.digest
            reason = "An equal copy of" if same else "The same comparison was made later or at the same time:"
            skipped.append(Skipped(file=name, reason=f"{reason} {other.name}."))
    return list(newest.values()), skipped


def model_name(info: ModelInfo) -> str:
    """``id`` or ``id + adapter``."""
    return f"{info.id} + {info.adapter}" if info.adapter else info.id


def _files(paths: Sequence[Path], without: Path | None) -> Iterator[Path]:
    leave = without.resolve() if without else None
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir():
            for folder, names, files in os.walk(path):
                names[:] = sorted(n for n in names if leave is None or (Path(folder) / n).resolve() != leave)
                if (
                    "card.json" in files
                    and (Path(folder) / "card.json").is_file()
                    and (leave is None or Path(folder).resolve() != leave)
                ):
                    yield Path(folder) / "card.json"
        else:
            raise UsageError(f"There is nothing at {path}. Name folders with cards in them, or card.json files.")


def _comparison(card: Card) -> str:
    made = card.provenance
    return fingerprint(
        [
            card.title, card.models.model_dump(), card.mode, card.method, [c.layer for c in card.crosscoders],
            made.command, made.corpus, made.tokens, made.seeds, made.annotator,
        ]
    )  # fmt: skip
