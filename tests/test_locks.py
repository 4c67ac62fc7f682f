"""Locks between real processes: waiting, refusing, and that a dead process holds nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modeldiff_eval import locks
from modeldiff_eval.errors import OutputError

ROOT = Path(__file__).resolve().parents[1]
_HEAD = "import sys, time; from pathlib import Path; from modeldiff_eval import locks, store; p = Path(sys.argv[1])\n"


@contextmanager
def process(body: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has printed its first line; killed at the end if it is still there."""
    with subprocess.Popen(
        [sys.executable, "-c", _HEAD + body, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "ready", other.stderr
        try:
            yield other
        finally:
            other.kill()


MAKE = """
def make(partial):
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
    (partial / "x").write_text("first")
store.once(p, make)
"""


def test_a_second_process_waits_for_the_entry_and_says_for_whom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from modeldiff_eval import store

    with process(MAKE, tmp_path / "entry") as other:
        assert not store.once(tmp_path / "entry", lambda partial: pytest.fail("made twice"))
        assert f"Waiting for process {other.pid} on " in caplog.text
        assert "which is making" in caplog.text
    assert (tmp_path / "entry" / "x").read_text() == "first"


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    from modeldiff_eval import store

    with process(MAKE.replace("1.0", "600"), tmp_path / "entry") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert store.once(tmp_path / "entry", lambda partial: (partial / "x").write_text("second"))
    assert (tmp_path / "entry" / "x").read_text() == "second"


HOLD = "with locks.alone_in(p):\n    print('ready', flush=True)\n    time.sleep(600)\n"


def test_a_second_run_of_one_folder_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as other:
        with (
            pytest.raises(OutputError, match=rf"Another run is writing to .*: process {other.pid} on .* --out"),
            locks.alone_in(tmp_path),
        ):
            pytest.fail("two runs in one folder")
        other.kill()
        other.wait()
        with locks.alone_in(tmp_path):
            assert (tmp_path / locks.RUNNING).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_let_go_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.alone_in(tmp_path):
        raise ZeroDivisionError
    with locks.alone_in(tmp_path), pytest.raises(OutputError), locks.alone_in(tmp_path):
        pass


def test_many_processes_never_hold_one_folder_together(tmp_path: Path) -> None:
    """The lock's file goes away with its holder: whoever opened the old one must not believe in it."""
    body = """
print("ready", flush=True)
won = 0
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        with locks.alone_in(p):
            (p / "held").mkdir()  # Fails where somebody else is in here.
            (p / "held").rmdir()
            won += 1
    except locks.OutputError:
        pass
print(won)
"""
    others = [
        subprocess.Popen(
            [sys.executable, "-c", _HEAD + body, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [other.communicate() for other in others]
    assert [other.returncode for other in others] == [0] * 4, said
    assert sum(int(out.split()[-1]) for out, _ in said) > 10


def test_a_torn_note_of_the_holder_is_no_error(tmp_path: Path) -> None:
    with locks.alone_in(tmp_path):
        (tmp_path / locks.RUNNING).write_text('{"pid": "rm -rf')
        with pytest.raises(OutputError, match="another process"), locks.alone_in(tmp_path):
            pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OutputError, match=r"has no locks .* on a local disk"), locks.locked(tmp_path / "entry"):
        pass


def test_a_cache_that_is_read_only_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", denied)
    with locks.in_use(tmp_path):
        pass
