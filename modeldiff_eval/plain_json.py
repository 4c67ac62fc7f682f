"""JSON that somebody else wrote: what cannot be read is a ``ValueError``, however it is broken."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from pydantic_core import from_json


def read_json(text: str | bytes) -> Any:
    """The plain data of ``text``; a byte order mark before it is passed over.

    Raises:
        ValueError: not JSON, not UTF-8, or nested so deeply that reading it would use up the stack.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")
    # pydantic's parser needs half of json's time and refuses some of what json takes, such as single surrogates.
    with suppress(ValueError, TypeError):
        return from_json(text)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
