"""Keys never reach a message, a file or a screen."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "[key hidden]"
_KEYS = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{6,}"
    r"|\bhf_\w{8,}"
    r"|(?i:\bbearer\s+)[^\s\"',}]{6,}"
    r"|(?i:\b(?:x-)?api[-_]?key['\"]?\s*[:=]\s*['\"]?)[^\s\"',}]{6,}"
    r"|://[^/\s:@]+:[^/\s@]+@"
)


def redact(text: str, *secrets: str | None) -> str:
    """``text`` without the given secrets and without anything that looks like a key, a bearer token or a password in a URL."""
    for secret in secrets:
        if secret and len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    return _KEYS.sub(lambda found: f"://{HIDDEN}@" if found[0].startswith("://") else HIDDEN, text)


def redacted(value: Any) -> Any:
    """:func:`redact` for every text in nested lists and dictionaries."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redacted(inner) for name, inner in value.items()}
    return [redacted(inner) for inner in value] if isinstance(value, list | tuple) else value
