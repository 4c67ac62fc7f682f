"""The first JSON object in what a chat model wrote."""

from __future__ import annotations

import json
from typing import Any

_TRIES = 50


def first_object(text: str) -> dict[str, Any] | None:
    """The first whole JSON object in a text, whatever stands around it; None where there is none.

    NaN and infinities are not JSON; an object that holds one does not count. After 50 opening brackets it is given up.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse, strict=False)
    start = -1
    for _ in range(_TRIES):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
