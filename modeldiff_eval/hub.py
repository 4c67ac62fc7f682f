"""Asking a model hub again: its servers are busy, lines break, and what was fetched until then stays on the disk.

The hub's own client keeps a partial download and goes on from its last byte, so a second try costs only what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 4
"""Each of them is several requests: the hub's client asks again on its own, for about half a minute."""
FIRST_WAIT = 2.0
"""Seconds before the second try; each further wait is twice as long."""
LONGEST_WAIT = 60.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = ("timeout", "connection", "protocolerror", "readerror", "incompleteread", "chunkedencoding", "networkerror")


def passing(error: BaseException) -> bool:
    """Whether the same question may be answered later: a time-out, a broken line or a busy server, and not a refusal."""
    for cause in _chain(error):
        if (status := getattr(getattr(cause, "response", None), "status_code", None)) is not None:
            return status in _PASSING
        if type(cause).__name__ in ("OfflineModeIsEnabled", "GatedRepoError", "RepositoryNotFoundError"):
            return False
    names = [base.__name__.lower() for cause in _chain(error) for base in type(cause).__mro__]
    return any(word in name for name in names for word in _BROKEN)


def patiently(
    what: str, ask: Callable[[], T], *, tries: int | None = None, sleep: Callable[[float], None] = time.sleep
) -> T:
    """The answer of ``ask``, which is called up to ``tries`` times while its errors are passing ones.

    Args:
        what: for the notes: ``"org/model"``.
        tries: :data:`TRIES` by default.

    Raises:
        Exception: the last error of ``ask``, unchanged.
    """
    tries = tries or TRIES
    for number in range(1, tries + 1):
        try:
            return ask()
        except Exception as error:
            if number == tries or not passing(error):
                raise
            asked = _asked_for(error)
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1) if asked is None else asked)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            log.warning(
                "%s: %s Trying again in %.0f s (%d of %d); what has arrived is kept.",
                what, reason if reason.endswith(".") else f"{reason}.", wait, number + 1, tries,
            )  # fmt: skip
        sleep(wait)
    raise AssertionError("tries must be at least 1")


def _asked_for(error: BaseException) -> float | None:
    """Seconds that the server asks to wait (``Retry-After``)."""
    for cause in _chain(error):
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        if str(headers.get("retry-after", "")).isdigit():
            return float(headers["retry-after"])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__
