"""``training.jsonl``: what a training says of itself while it runs, and the curve of it that a card shows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from modeldiff_eval.errors import OutputError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.records import TrainingCurve
from modeldiff_eval.store import write_text
from modeldiff_eval.trackers import Tracker

if TYPE_CHECKING:
    from modeldiff_eval.train_step import TrainSettings

FILE = "training.jsonl"
_LINES = 400
_POINTS = 60


class TrainingLog:
    """About 400 lines over the run: step, rows presented, and the figures of that step.

    All lines are held here and written together, just before every checkpoint and at the end: the file is whole whenever
    the process is killed, and a run that continues from a checkpoint finds every line before it. Lines after it are dropped
    and made again.

    Args:
        done: steps that lie behind.
        track: gets the same lines as they are made.
        leader: whether this rank writes; the logs of the others do nothing.
    """

    def __init__(
        self, folder: Path, settings: TrainSettings, *, done: int, track: Tracker | None = None, leader: bool = True
    ) -> None:
        self._folder, self._settings, self._done, self._leader = folder, settings, done, leader
        self._track = track if leader else None
        self._every = max(1, settings.steps // _LINES)
        self._lines = [line for line in read_log(folder) if line["step"] <= done] if done else []

    def __enter__(self) -> Self:
        if self._track:
            self._track.start(self._done, self._settings.model_dump())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.save()
        if self._track:
            self._track.stop(failed=kind is not None)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of ``step``, counted from 1."""
        if self._leader and (step % self._every == 0 or step == self._settings.steps):
            self._lines.append({"step": step, "rows": step * self._settings.batch, **figures})
            if self._track:
                self._track.log(step, figures)

    def save(self) -> None:
        """Put all lines on the disk; a full one costs a warning, not the training."""
        if not self._leader:
            return
        try:
            write_text(self._folder / FILE, "".join(json.dumps(line) + "\n" for line in self._lines))
        except OutputError as error:
            warnings.warn(f"The training log was not written: {error}", RuntimeWarning, stacklevel=2)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``training.jsonl``, none where there is no such file; a torn last line is left out."""
    lines: list[dict[str, Any]] = []
    path = folder / FILE
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = read_json(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def log_beside(folder: Path) -> list[dict[str, Any]]:
    """The log of a finished crosscoder: in its folder, or beside its ``native`` and ``jumprelu`` forms."""
    return read_log(folder) or (read_log(folder.parent) if folder.name in ("native", "jumprelu") else [])


def curve(folder: Path) -> TrainingCurve | None:
    """What a card shows of the log of the crosscoder in ``folder``: at most 60 lines of it, the first and the last among them.

    Returns:
        None where there is no log, or one that another program wrote.
    """
    lines = log_beside(folder)
    last = len(lines) - 1
    points = min(len(lines), _POINTS)
    kept = [lines[round(i * last / max(1, points - 1))] for i in range(points)]
    try:
        return TrainingCurve(
            rows=[line["rows"] for line in kept],
            loss=[_short(line["loss"]) for line in kept],
            fve_first=[_short(line["fve_first"]) for line in kept],
            fve_second=[_short(line["fve_second"]) for line in kept],
            dead=[line["dead"] for line in kept],
            steps=lines[-1]["step"],
        )
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _short(value: float) -> float:
    """Five significant digits: more than a chart shows, and half the length in ``card.json``."""
    return float(f"{value:.5g}")
