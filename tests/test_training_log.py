"""The training log: whole after any kill, no step doubled or missing, and a short curve of it for the card."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from modeldiff_eval import checkpoint, training_log
from modeldiff_eval.errors import OutputError
from modeldiff_eval.records import TrainingCurve
from modeldiff_eval.train import MappedSource, train
from modeldiff_eval.train_step import TrainSettings
from modeldiff_eval.training_log import FILE, TrainingLog, curve, read_log

FIGURES = {"loss": 0.5, "fve_first": 0.25, "fve_second": 0.125, "k": 4.0, "lr": 0.001, "dead": 3.0}


def asked(steps: int) -> TrainSettings:
    return TrainSettings(n_latents=48, k=3, steps=steps, batch=256, lr=5e-3)


def write_log(folder: Path, n: int, **changed: Any) -> None:
    lines = [{"step": i + 1, "rows": 256 * (i + 1), **FIGURES, "loss": 1 / (i + 1)} | changed for i in range(n)]
    (folder / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


class Listener:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, done: int, config: Mapping[str, Any]) -> None:
        self.told.append(("start", done, config["steps"]))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.told.append(step)

    def stop(self, *, failed: bool) -> None:
        self.told.append(("stop", failed))


def test_a_long_training_has_about_400_lines_and_its_last_step(tmp_path: Path) -> None:
    listener = Listener()
    with TrainingLog(tmp_path, asked(5003), done=0, track=listener) as log:
        for step in range(1, 5004):
            log.write(step, FIGURES)
    steps = [line["step"] for line in read_log(tmp_path)]
    assert 400 <= len(steps) <= 420
    assert steps[-1] == 5003
    assert read_log(tmp_path)[0] == {"step": 12, "rows": 12 * 256, **FIGURES}
    assert listener.told == [("start", 0, 5003), *steps, ("stop", False)]


def test_only_the_leader_writes(tmp_path: Path) -> None:
    listener = Listener()
    with TrainingLog(tmp_path, asked(3), done=0, track=listener, leader=False) as log:
        log.write(1, FIGURES)
        log.save()
    assert list(tmp_path.iterdir()) == []
    assert listener.told == []


def test_lines_after_the_checkpoint_are_dropped_and_a_training_from_the_start_begins_anew(tmp_path: Path) -> None:
    write_log(tmp_path, 9)
    with TrainingLog(tmp_path, asked(20), done=5) as log:
        log.write(6, FIGURES)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    with TrainingLog(tmp_path, asked(20), done=0) as log:
        log.write(1, FIGURES)
    assert [line["step"] for line in read_log(tmp_path)] == [1]


def test_a_kill_right_after_a_resume_costs_no_line(tmp_path: Path) -> None:
    write_log(tmp_path, 9)
    TrainingLog(tmp_path, asked(20), done=5).write(6, FIGURES)
    assert len(read_log(tmp_path)) == 9


def test_a_failed_training_is_saved_and_said_to_have_failed(tmp_path: Path) -> None:
    listener = Listener()

    def interrupted() -> None:
        with TrainingLog(tmp_path, asked(20), done=0, track=listener) as log:
            log.write(1, FIGURES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(read_log(tmp_path)) == 1
    assert listener.told[-1] == ("stop", True)


def test_a_full_disk_costs_a_warning_and_the_next_save_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left on device")

    with TrainingLog(tmp_path, asked(20), done=0) as log:
        log.write(1, FIGURES)
        with monkeypatch.context() as patch:
            patch.setattr(training_log, "write_text", full)
            with pytest.warns(RuntimeWarning, match="No space left"):
                log.save()
        log.write(2, FIGURES)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', "3\n", '{"rows": 3}\n', "\udcff"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    write_log(tmp_path, 2)
    with (tmp_path / FILE).open("ab") as file:
        file.write(tail.encode(errors="surrogateescape"))
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


TRAINING = """
import sys, time
from pathlib import Path
import torch
from test_training_log import asked, source_of
from modeldiff_eval.train import train

torch.set_num_threads(1)
rows, source, heldout = source_of(60)
step_time = float(sys.argv[2])
train(source, asked(60), folder=Path(sys.argv[1]), heldout=heldout, checkpoint_minutes=0.0, on_step=lambda *_: time.sleep(step_time))
"""


def source_of(steps: int) -> tuple[torch.Tensor, MappedSource, tuple[Any, torch.Tensor]]:
    x = torch.randn(2000, 2, 16, generator=torch.Generator().manual_seed(0))
    source = MappedSource(lambda i: x[i], torch.arange(1500), batch=256, seed=0)
    return x, source, (lambda i: x[i], torch.arange(1500, 2000))


@pytest.mark.slow
def test_a_training_killed_again_and_again_leaves_the_log_of_one_that_was_not(tmp_path: Path) -> None:
    """kill -9 at four moments, then to the end."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    train(source_of(60)[1], asked(60), folder=whole, heldout=source_of(60)[2])
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-c", textwrap.dedent(TRAINING), str(cut)]
    reached = [0]
    for wanted in (3, 8, 17, 33):
        running = subprocess.Popen([*command, "0.05"], env=environment)
        until = time.monotonic() + 90
        while time.monotonic() < until and reached[-1] < wanted:
            time.sleep(0.02)
            reached.append(
                max([int(p.name.split("-")[1]) for p in cut.glob("checkpoint-*-of-1.safetensors")], default=0)
            )
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert reached[-1] >= wanted
        steps = [line["step"] for line in read_log(cut)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= wanted  # a checkpoint never lacks a line before it
    done = subprocess.run([*command, "0"], env=environment, timeout=120)
    assert done.returncode == 0
    assert read_log(cut) == read_log(whole)
    checkpoint.remove(cut)  # Whoever has written the result down does this.
    assert sorted(path.name for path in cut.iterdir()) == [FILE]


@pytest.mark.parametrize("n", [1, 2, 59, 60, 61, 400, 799])
def test_a_curve_keeps_the_ends_and_is_short(tmp_path: Path, n: int) -> None:
    write_log(tmp_path, n)
    made = curve(tmp_path)
    assert made is not None
    assert len(made.rows) == min(n, 60)
    assert made.rows == sorted(set(made.rows))
    assert (made.rows[0], made.rows[-1], made.steps) == (256, 256 * n, n)
    assert (made.loss[0], made.loss[-1]) == (1.0, float(f"{1 / n:.5g}"))
    assert made.dead == [3] * len(made.rows)


def test_a_curve_is_found_beside_the_forms(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    for name in ("native", "jumprelu", "other"):
        (tmp_path / name).mkdir()
    assert curve(tmp_path / "native") == curve(tmp_path / "jumprelu") == curve(tmp_path)
    assert curve(tmp_path / "other") is None


@pytest.mark.parametrize("changed", [{"loss": float("nan")}, {"loss": "low"}, {"rows": None}, {"dead": 0.5}])
def test_a_log_of_something_else_is_no_curve(tmp_path: Path, changed: dict[str, Any]) -> None:
    write_log(tmp_path, 3, **changed)
    assert curve(tmp_path) is None
    (tmp_path / FILE).write_text('{"step": 1, "loss": 0.5}\n')
    assert curve(tmp_path) is None


def test_lists_of_different_lengths_are_no_curve() -> None:
    with pytest.raises(ValidationError, match="equally long"):
        TrainingCurve(rows=[1, 2], loss=[0.1], fve_first=[0.1, 0.2], fve_second=[0.1, 0.2], dead=[0, 0], steps=2)
