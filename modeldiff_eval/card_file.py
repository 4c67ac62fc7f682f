"""Reading a card that somebody made earlier: here, elsewhere, or by hand."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import SCHEMA_VERSION, Card


def read_card(path: Path | str) -> Card:
    """The card at ``path``: a ``card.json``, or a run's folder with one in it.

    Raises:
        UsageError: there is none, it is not JSON, of another schema version, or a field is wrong (which one is said).
    """
    path = Path(path)
    file = path / "card.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
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
        return Card.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{file} is not a card of schema version {SCHEMA_VERSION}: {where}: {first['msg']} ({error.error_count()} such places)."
        ) from error
