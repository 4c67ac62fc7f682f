"""Ctrl-C and SIGTERM: the first stops cleanly, the second at once.

The first signal raises KeyboardInterrupt, or Terminated, wherever the run is; partial folders stay for the next run. Where
stopping in the middle would cost work (a training between two checkpoints), the loop holds the signal back with
:func:`held_back` and stops at its next safe place. The second signal ends the process without another word: every file on
the disk is whole, or has a partial name.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
_AGAIN = {signal.SIGINT: "Ctrl-C again to stop at once", signal.SIGTERM: "SIGTERM again to stop at once"}


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Whatever ends on Ctrl-C ends on it as well."""


class Asked:
    """Whether a stop was asked for while signals were held back."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


_owner = 0
_received: list[int] = []
_holding: list[Asked] = []


def install() -> None:
    """Take both signals over for this process, as the command line does. In a thread, or where they are ignored, nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    global _owner
    _owner = os.getpid()
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM, as a shell says it."""
    return TERMINATED if _received and _received[0] == signal.SIGTERM else INTERRUPTED


def _on_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _owner:  # A forked helper of some library: it dies as if this module were not there.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _received.append(number)
    if len(_received) > 1:
        os._exit(exit_code())
    if _holding:
        _holding[-1].number = number
        print(f"\nStopping at the next safe place ({_AGAIN[signal.Signals(number)]}).", file=sys.stderr, flush=True)
        return
    _raise(number)


def _raise(number: int) -> NoReturn:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[Asked]:
    """Hold the first signal back: the block looks at what is yielded and leaves when it is safe; then the stop is raised.

    Without :func:`install` (in a notebook, a test, a thread) signals stay as they are.
    """
    asked = Asked()
    ours = any(signal.getsignal(number) is _on_signal for number in _AGAIN)
    if not ours or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    _holding.append(asked)
    try:
        yield asked
    finally:
        _holding.remove(asked)
    if asked.number is not None:
        _raise(asked.number)
