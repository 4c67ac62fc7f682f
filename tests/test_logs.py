"""``--log-json``: one object a line whatever happens, keys hidden, numbers as numbers; memory by stage."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval import cli, logs
from modeldiff_eval.errors import OutputError
from modeldiff_eval.memory_meter import MemoryMeter, high_water
from modeldiff_eval.progress import Reporter


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    logger = logging.getLogger(logs.ROOT)
    handlers, level = logger.handlers[:], logger.level
    yield
    logs.begin(None, None)
    logger.handlers[:] = handlers
    logger.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_is_one_object_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.log"
    logs.begin(None, str(path))
    logs.tell("stage", "latents", stage="latents", seconds=1.25, peak=10**9, level_of="x")
    logging.getLogger("modeldiff_eval.store").warning("two\nlines and “quotes”")
    warnings.warn("a library says", RuntimeWarning, stacklevel=1)
    found = lines(path)
    assert [line["event"] for line in found] == ["stage", "message", "message"]
    assert found[0] | {"time": ""} == {
        "time": "", "level": "info", "event": "stage", "message": "latents", "stage": "latents", "seconds": 1.25,
        "peak": 10**9, "level_of": "x",
    }  # fmt: skip
    assert found[1]["level"] == "warning"
    assert "a library says" in found[2]["message"]
    assert found[0]["time"].endswith("+00:00")


def test_keys_are_hidden_in_the_log_and_on_the_terminal(tmp_path: Path) -> None:
    shown: list[str] = []
    logs.begin(shown.append, str(tmp_path / "log"))
    logging.getLogger("modeldiff_eval").warning("refused: x-api-key: sk-ant-abcdefghijk and hf_abcdefghijkl")
    assert "abcdefghijk" not in (tmp_path / "log").read_text() + shown[0]
    assert "[key hidden]" in shown[0]


def test_a_task_is_logged_with_progress_at_most_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.begin(None, str(tmp_path / "log"))
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen: list[int] = []

    class Inner(Reporter):
        def note(self, text: str) -> None:
            seen.append(len(text))

    reporter = logs.LogReporter(Inner())
    with reporter.task("Training", unit="steps") as advance:
        for step in range(25):
            now[0] += 1
            advance(step, 25)
    reporter.note("four")
    found = lines(tmp_path / "log")
    assert [line["event"] for line in found] == ["task began", "progress", "progress", "task ended", "note"]
    assert (found[1]["done"], found[1]["total"], found[1]["unit"], found[1]["seconds"]) == (9, 25, "steps", 10)
    assert found[3]["seconds"] == 25
    assert seen == [4]


def test_an_unwritable_log_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Give another --log-json"):
        logs.begin(None, str(tmp_path / "file" / "log"))


def test_beginning_again_replaces_what_was_set_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        logs.begin(None, str(tmp_path / name))
        logs.tell("x", "y")
    assert len(lines(tmp_path / "one")) == len(lines(tmp_path / "two")) == 1


def test_a_failing_command_logs_its_error_and_writes_nothing_else_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", str(tmp_path / "none"), "--tuned", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    for target in ("-", str(tmp_path / "log")):
        with pytest.raises(SystemExit):
            cli.main([*words, "--force", "--log-json", target])
        err = capsys.readouterr().err
        text = err if target == "-" else (tmp_path / "log").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        assert (found[-1]["event"], found[-1]["level"], found[-1]["exit_code"]) == ("failed", "error", 3)
        assert "There is no model at" in found[-1]["message"]
        assert ("error:" in err) == (target != "-")


def test_the_meter_sees_a_stage_that_raises_the_mark_and_a_smaller_one_after_it() -> None:
    meter = MemoryMeter()
    big = bytearray(b"x" * (300 << 20))
    size = len(big)
    time.sleep(0.25)  # The process may have held more before: then its mark stays, and the thread has to see this.
    del big
    first = meter.lap()["process"]
    assert first >= size
    small = bytearray(b"x" * (40 << 20))
    time.sleep(0.25)
    second = meter.lap()["process"]
    assert second < first - (200 << 20)
    assert second > len(small)
    assert high_water() >= first
