"""Who runs the stages of a batch: this process, one after the other, or an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from modeldiff_eval.progress import Advance, Reporter


class Executor(Protocol):
    """Runs functions whose arguments may be results of earlier ones."""

    def submit(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        """Have ``stage`` run once its arguments are there; gives what stands for its result."""

    def finished(self, tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """(key, result) of submitted stages as they end; the result is an exception where the engine itself failed."""


class Later:
    """The result of a stage that runs when it is first asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None

    def __call__(self) -> Any:
        if self._make is not None:
            self._value, self._make = self._make(), None
        return self._value


class Local:
    """One stage after the other in this process, each under its name in ``reporter``."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def submit(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Later:
        """See :class:`Executor`."""

        def run() -> Any:
            values = [value() if isinstance(value, Later) else value for value in arguments]
            return stage(*values, reporter=Named(self._reporter, name))

        return Later(run)

    def finished(self, tasks: Mapping[str, Later]) -> Iterator[tuple[str, Any]]:
        """See :class:`Executor`."""
        for key, task in tasks.items():
            yield key, task()


class Named(Reporter):
    """Says of everything which part of the batch it belongs to."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self._reporter, self._name = reporter, name

    @contextmanager
    def task(self, title: str, *, unit: str = "") -> Iterator[Advance]:
        """See :class:`Reporter`."""
        with self._reporter.task(f"{self._name}: {title}", unit=unit) as advance:
            yield advance

    def note(self, text: str) -> None:
        """See :class:`Reporter`."""
        self._reporter.note(f"{self._name}: {text}")
