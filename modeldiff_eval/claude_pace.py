"""Asking as fast as a server allows and no faster, by its rate-limit headers.

The API fills a bucket of requests steadily up to its limit a minute. While much of it is left, nothing waits; when
little is left, requests go out at the rate at which it fills. A refusal (429) holds everything back for as long as
the server says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modeldiff_eval.claude_errors import KEPT, StoppedError

LIMIT = "anthropic-ratelimit-requests-limit"
REMAINING = "anthropic-ratelimit-requests-remaining"
SHARE = 0.99
"""Part of the rate that is used once the bucket is low."""
LONGEST_WAIT = 900.0
"""A server that asks for more waiting than this ends the run instead (seconds)."""


class Pacer:
    """When the next request may go out. ``reserve``: how many requests left in the bucket count as few."""

    def __init__(self, reserve: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.reserve = reserve
        self._clock = clock
        self._rate: float | None = None
        self._low = False
        self._next = 0.0
        self._held_until = 0.0

    def slot(self) -> float:
        """Take the next slot: seconds from now."""
        now = self._clock()
        slot = max(now, self._next, self._held_until)
        if self._low and self._rate:
            self._next = slot + 1.0 / (SHARE * self._rate)
        return slot - now

    def held(self) -> float:
        """Seconds for which nothing may go out, whatever its slot."""
        return self._held_until - self._clock()

    def observe(self, status: int, headers: Mapping[str, str]) -> None:
        """Learn from one response.

        Raises:
            StoppedError: the server wants a wait of more than :data:`LONGEST_WAIT`.
        """
        limit, left = _number(headers.get(LIMIT)), _number(headers.get(REMAINING))
        if limit and limit > 0:
            self._rate = limit / 60.0
            if left is not None:
                self._low = left <= self.reserve
        if status != 429:
            return
        wait = _number(headers.get("retry-after"))
        if wait is not None and wait > LONGEST_WAIT:
            raise StoppedError(f"The server asks to wait for {wait:.0f} s (rate limit). Run again after that. {KEPT}")
        self._low = True
        self._held_until = max(self._held_until, self._clock() + (1.0 if wait is None else max(wait, 0.0)))

    async def __call__(self, request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Middleware of the SDK: runs around every single attempt, retries included.

        A refusal by rate is no failure: the same request waits and goes out again, and uses up none of the retries.
        A refusal that says not to try again (``x-should-retry: false``) is passed on.
        """
        until = self._clock() + LONGEST_WAIT
        while True:
            seconds = self.slot()
            while seconds > 0:
                await asyncio.sleep(seconds)
                seconds = self.held()
            response = await call_next(request)
            status, headers = response.http_response.status_code, response.http_response.headers
            self.observe(status, headers)
            if status != 429 or headers.get("x-should-retry") == "false" or self._clock() > until:
                return response


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
