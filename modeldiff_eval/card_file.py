"""Reading a card that somebody made earlier: here, elsewhere, or by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from modeldiff_eval.card_digest import Seal, seal_of
from modeldiff_eval.errors import UsageError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.records import SCHEMA_VERSION, Card, problem_of


class CardFile(NamedTuple):
    """A card, its file, and whether its checksum is that of its content."""

    card: Card
    file: Path
    seal: Seal


def read_card(path: Path | str) -> Card:
    """The card at ``path``: a ``card.json``, or a run's folder with one in it.

    Raises:
        UsageError: there is none, it is not JSON, of another schema version, or a field is wrong (which one is said).
    """
    return _read(_file(path))[0]


def read_card_file(path: Path | str) -> CardFile:
    """:func:`read_card`, with its file and what its checksum says (which takes twice as long as to read it)."""
    file = _file(path)
    card, found = _read(file)
    return CardFile(card, file, seal_of(found))


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path / "card.json" if path.is_dir() else path


def _read(file: Path) -> tuple[Card, dict[str, Any]]:
    try:
        # Read as text, its line ends would be looked for, which takes a fifth of the time.
        found = read_json(file.read_bytes().decode())
    except OSError as error:
        raise UsageError(
            f"There is no card at {file} ({error.strerror}). Name a card.json or a run's folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{file} is not a card: it is not JSON ({error}). Make it again with the run's command."
        ) from error
    version = found.get("schema_version", SCHEMA_VERSION) if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{file} is not a card of schema version {SCHEMA_VERSION} (it says {version!r:.40}). "
            "Make it again with this version, or read it with the one that made it."
        )
    try:
        return Card.model_validate(found), found
    except ValidationError as error:
        raise UsageError(
            f"{file} is not a card of schema version {SCHEMA_VERSION}: {problem_of(error)} ({error.error_count()} such places)."
        ) from error
