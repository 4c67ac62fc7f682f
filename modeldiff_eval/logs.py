"""What a run says while it works: notes for the terminal, and one JSON object a line for machines (``--log-json``).

Everything goes through Python's logging below the logger ``modeldiff_eval``, so an application that embeds the package
decides for itself. An event carries its numbers as ``extra={"event": …, "numbers": {…}}``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import OutputError
from modeldiff_eval.progress import Advance, Reporter
from modeldiff_eval.redact import redact

ROOT = "modeldiff_eval"
PROGRESS_SECONDS = 10.0
log = logging.getLogger(__name__)


def tell(event: str, message: str, *, level: int = logging.INFO, **numbers: Any) -> None:
    """Log an event with its numbers."""
    log.log(level, "%s", message, extra={"event": event, "numbers": numbers})


class JsonLine(logging.Formatter):
    """``{"time", "level", "event", "message", …}``: UTC, keys hidden, and the event's own numbers."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": redact(record.getMessage()),
        }
        line |= {name: value for name, value in getattr(record, "numbers", {}).items() if name not in line}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False, default=str)


class _Notes(logging.Handler):
    """Warnings as a line of the terminal, between its bars."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(redact(record.getMessage()))


def begin(show: Callable[[str], None] | None, log_json: str | None) -> None:
    """Set up what the command line shows and writes; what an earlier call set up goes.

    Args:
        show: prints one note; None where nothing but errors is wanted.
        log_json: file to append to, or ``-`` for standard error, where nothing else is written then.

    Raises:
        OutputError: the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if log_json is not None:
        handlers.append(_json_handler(log_json))
    if show is not None and log_json != "-":
        handlers.append(_Notes(show))
    own, warned = logging.getLogger(ROOT), logging.getLogger("py.warnings")
    for logger in (own, warned):
        for handler in [h for h in logger.handlers if isinstance(h, _Notes | logging.NullHandler) or _is_json(h)]:
            logger.removeHandler(handler)
            handler.close()
    for handler in handlers or [logging.NullHandler()]:
        own.addHandler(handler)
        if _is_json(handler):
            warned.addHandler(handler)
    own.setLevel(logging.INFO if log_json is not None else logging.WARNING)
    logging.captureWarnings(False)  # Whoever has changed how warnings are shown since would be overlooked.
    logging.captureWarnings(log_json is not None)


def failed(message: str, exit_code: int) -> bool:
    """Log the error that ends a command; True where standard error is the log, so that nothing else may be written to it."""
    mine = [handler for handler in logging.getLogger(ROOT).handlers if _is_json(handler)]
    record = log.makeRecord(
        log.name, logging.ERROR, __file__, 0, "%s", (message,), None,
        extra={"event": "failed", "numbers": {"exit_code": exit_code}},
    )  # fmt: skip
    for handler in mine:
        handler.handle(record)
    return any(not isinstance(handler, logging.FileHandler) for handler in mine)


def _is_json(handler: logging.Handler) -> bool:
    return isinstance(handler.formatter, JsonLine)


def _json_handler(target: str) -> logging.Handler:
    try:
        handler: logging.Handler
        if target == "-":
            handler = logging.StreamHandler(sys.stderr)
        else:
            Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(target, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"Cannot write the log {target}: {error.strerror or error}. Give another --log-json."
        ) from error
    handler.setFormatter(JsonLine())
    return handler


class LogReporter(Reporter):
    """Passes everything on to another reporter, and logs it: beginning, progress every ten seconds, end, notes."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    @contextmanager
    def task(self, title: str, *, unit: str = "") -> Iterator[Advance]:
        tell("task began", title, task=title)
        began = said = time.monotonic()
        at: dict[str, Any] = {}
        with self._inner.task(title, unit=unit) as advance:

            def both(done: int, total: int) -> None:
                nonlocal said
                advance(done, total)
                at.update(done=done, total=total, unit=unit or None)
                if time.monotonic() - said >= PROGRESS_SECONDS:
                    said = time.monotonic()
                    tell("progress", title, task=title, seconds=round(said - began, 2), **at)

            yield both
        tell("task ended", title, task=title, seconds=round(time.monotonic() - began, 2), **at)

    def note(self, text: str) -> None:
        self._inner.note(text)
        tell("note", text)
