"""Asynchronous work seen as a plain generator: its results come out as they are made."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def stream(work: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[T]:
    """Run ``work(put)`` in an event loop of its own, in a thread, and yield whatever it puts.

    It works inside a notebook, whose own loop is running. An error of ``work`` is raised after everything put before
    it was yielded. Closing the generator cancels the work and waits for its end.
    """
    results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stop: list[Callable[[], Any]] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        results.put(("started", None))
        await work(lambda item: results.put(("item", item)))

    def run() -> None:
        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            results.put(("end", None))
        except BaseException as error:
            results.put(("error", error))
        else:
            results.put(("end", None))

    thread = threading.Thread(target=run, name="questions", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = results.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            elif kind == "end":
                return
    finally:
        if thread.is_alive() and stop:
            with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
                stop[0]()
        thread.join()
