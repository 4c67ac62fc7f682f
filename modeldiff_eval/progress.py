"""What long work tells the outside: stages, progress, notes. Silent unless someone listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]


class Reporter:
    """The silent reporter; the command line has one that draws."""

    @contextmanager
    def task(self, title: str, *, unit: str = "") -> Iterator[Advance]:
        """One piece of long work; call the result with (done, total)."""
        yield lambda done, total: None

    def note(self, text: str) -> None:
        """One line that is worth reading."""
