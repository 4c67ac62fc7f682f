"""The terminal of a run: progress with rates and time left on standard error, and errors in one line."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from modeldiff_eval.progress import Advance, Reporter


class TerminalReporter(Reporter):
    """Draws each stage; on a pipe or in a log file it prints one line when a stage is done, and one a minute until then: a job
    that writes nothing for minutes is taken for dead."""

    EVERY = 60.0
    """Seconds between the lines of a long stage that is not drawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal

    @contextmanager
    def task(self, title: str, *, unit: str = "") -> Iterator[Advance]:
        text = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
        columns = (SpinnerColumn(), *text, TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=not self._live, disable=not self._live) as progress:
            task = progress.add_task(title, total=None, rate="")
            yield self._advance(progress, task, title, unit)
            progress.update(task, completed=progress.tasks[0].total or 1, total=progress.tasks[0].total or 1)
            if not self._live:
                self.note(f"{title}: {progress.tasks[0].finished_time or 0:.0f} s")

    def _advance(self, progress: Progress, task: TaskID, title: str, unit: str) -> Advance:
        first: list[tuple[int, float]] = []  # What a resumed stage begins with was not done now.
        said = 0.0

        def advance(done: int, total: int) -> None:
            nonlocal said
            elapsed = progress.tasks[0].elapsed or 0
            if not first:
                first.append((done, elapsed))
            since = elapsed - first[0][1]
            pace = (done - first[0][0]) / since if since > 0.5 else 0.0
            rate = f"{done:,}/{total:,} {unit}{f' ({pace:,.0f}/s)' if pace else ''}"
            progress.update(task, completed=done, total=total, rate=rate)
            if not self._live and elapsed - said >= self.EVERY:
                said = elapsed
                left = f", about {max(1, math.ceil((total - done) / pace / 60))} min left" if pace else ""
                self.note(f"{title}: {rate}{left}")

        return advance

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)  # Paths stay whole.


def hush() -> None:
    """Keep the libraries' own bars and warnings off the terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lm_eval", "datasets", "fontTools", "weasyprint"):
        logging.getLogger(name).setLevel(logging.ERROR)
