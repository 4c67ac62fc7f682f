"""The checksum of a card: has a person changed a number in ``card.json`` since it was made?

SHA-256 over the card as canonical JSON, without the time stamp, the gate's verdict and the checksum itself. What is null or empty is
left out and 5.0 is 5, so another version's new fields, key order and white space change nothing. It finds slips and quiet
corrections; it is no signature, since anyone can compute it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from modeldiff_eval.records import Card

Seal = Literal["whole", "edited", "none"]
_PLAIN = {str, int, bool}


def digest(record: Mapping[str, Any]) -> str:
    """``sha256:…`` of a card's JSON object."""
    kept = {name: value for name, value in record.items() if name not in ("created", "gate")}
    made = kept.get("provenance")
    if isinstance(made, Mapping):
        kept["provenance"] = {name: value for name, value in made.items() if name != "digest"}
    text = json.dumps(_canonical(kept), sort_keys=True, separators=(",", ":"), allow_nan=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def seal(card: Card) -> Card:
    """The card with its checksum; the last step of making one."""
    made = card.provenance.model_copy(update={"digest": digest(card.model_dump(by_alias=True))})
    return card.model_copy(update={"provenance": made})


def seal_of(record: Mapping[str, Any]) -> Seal:
    """Whether the card in a file is as it was made; "none" for a card that carries no checksum."""
    made = record.get("provenance")
    stated = made.get("digest") if isinstance(made, Mapping) else None
    if stated is None:
        return "none"
    return "whole" if stated == digest(record) else "edited"


def _canonical(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        kept = {}
        for name, inner in value.items():
            # No call for what stays as it is: a third of the time, and a leaderboard checks hundreds of cards.
            if type(inner) in _PLAIN or (inner is not None and (inner := _canonical(inner)) not in ([], {})):
                kept[str(name)] = inner
        return kept
    if isinstance(value, (list, tuple)):
        return [inner if type(inner) in _PLAIN else _canonical(inner) for inner in value]
    return value
