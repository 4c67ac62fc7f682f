"""Where Claude, or a server that speaks like it, is reached: the address, the key, and what to say without one."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from modeldiff_eval.errors import AnnotationError, UsageError
from modeldiff_eval.redact import redact

OFFICIAL = "https://api.anthropic.com"
DEFAULT_MODEL = "claude-sonnet-5-5"
"""The newest model of the middle size: a few dollars for five hundred latents."""
_NO_KEY = "local-server-without-a-key"


class Endpoint(NamedTuple):
    """An address and a key; neither is ever printed with the key in it."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Endpoint({self.shown})"

    @property
    def shown(self) -> str:
        """The address as a message may show it."""
        return redact(self.url)

    @property
    def official(self) -> bool:
        """Whether this is Anthropic's own API."""
        return self.host == "api.anthropic.com"

    @property
    def host(self) -> str:
        """Host, with the port where one is given."""
        parts = urlsplit(self.url)
        return (parts.hostname or "") + (f":{parts.port}" if parts.port else "")

    def options(self, *, timeout: float, retries: int) -> dict[str, Any]:
        """What both clients of the SDK take."""
        return {"base_url": self.url, "api_key": self.key, "timeout": timeout, "max_retries": retries}

    def version(self, model: str) -> str:
        """What a reply depends on; another server's model of the same name is another model."""
        return model if self.official else f"{model}@{self.host}"


def find_endpoint(base_url: str | None = None) -> Endpoint:
    """From the argument, ``ANTHROPIC_BASE_URL`` and ``ANTHROPIC_API_KEY``. Other servers than Anthropic's need no key.

    Raises:
        AnnotationError: Anthropic's API, and no key.
        UsageError: the address is not an http(s) URL.
    """
    url = (base_url or os.environ.get("ANTHROPIC_BASE_URL") or OFFICIAL).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{redact(url)!r} is no address of a server; ANTHROPIC_BASE_URL looks like http://localhost:8080."
        )
    key = (os.environ.get("ANTHROPIC_API_KEY") or "").strip()
    endpoint = Endpoint(url, key or _NO_KEY)
    if endpoint.official and not key:
        raise AnnotationError(
            "There is no key for Claude. Set ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL to a local server that speaks the "
            "Messages API, or use --annotator offline, which needs neither."
        )
    if not key.isascii() or any(c.isspace() for c in key):
        raise AnnotationError("ANTHROPIC_API_KEY holds spaces or letters that no key has; set it again.")
    return endpoint
