"""The first signal stops cleanly, the second at once; libraries' own processes die as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeldiff_eval import stopping

ROOT = Path(__file__).resolve().parents[1]
_HEAD = "import os, signal, sys, time\nfrom modeldiff_eval import cli, commands, stopping\nstopping.install()\n"


def start(body: str) -> subprocess.Popen[str]:
    """A process of ours that has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HEAD + body],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # As at a terminal.
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends_with_the_shells_code_and_says_how_to_go_on(number: signal.Signals, code: int) -> None:
    """``main`` itself, with a command that takes long."""
    process = start(
        "@commands.app.command('long')\ndef long() -> None:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "cli.main(['long'])"
    )
    process.send_signal(number)
    returned, _, err = ended(process)
    assert returned == code
    assert ("interrupted" if code == 130 else "terminated") + "; run the same command again to resume" in err
    assert "Traceback" not in err


def test_work_that_holds_back_reaches_its_safe_place_first() -> None:
    process = start(
        "try:\n    with stopping.held_back() as stop:\n        print('ready', flush=True)\n"
        "        while not stop:\n            time.sleep(0.01)\n        print('saved', flush=True)\n"
        "except stopping.Terminated:\n    print('stopped', stopping.exit_code())\n"
    )
    process.send_signal(signal.SIGTERM)
    returned, out, err = ended(process)
    assert (returned, out.split()) == (0, ["saved", "stopped", "143"])
    assert "Stopping at the next safe place (SIGTERM again to stop at once)" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    process = start(
        "try:\n    with stopping.held_back():\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "finally:\n    time.sleep(60)\n"
    )
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert "Stopping" in process.stderr.readline()
    process.send_signal(number)
    assert ended(process)[0] == code


def test_a_forked_child_dies_as_if_nothing_were_installed() -> None:
    process = start(
        "there, here = os.pipe()\nchild = os.fork()\n"
        "if child == 0:\n    os.write(here, b'x')\n    time.sleep(60)\n    os._exit(1)\n"
        "os.read(there, 1)\nos.kill(child, signal.SIGTERM)\n_, status = os.waitpid(child, 0)\n"
        "print('ready')\nsys.exit(100 + os.WTERMSIG(status))\n"
    )
    assert ended(process)[0] == 100 + signal.SIGTERM


def test_a_background_job_that_ignores_ctrl_c_still_saves_on_sigterm() -> None:
    process = start(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nstopping.install()\n"
        "try:\n    with stopping.held_back() as stop:\n        print('ready', flush=True)\n"
        "        while not stop:\n            time.sleep(0.01)\n"
        "except stopping.Terminated:\n    print('stopped')\n"
    )
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[:2] == (0, "stopped\n")


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """``nohup`` and background jobs of a shell start like that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.install()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_nothing_is_taken_over_in_a_thread_or_a_notebook() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=stopping.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stopping.held_back():  # As Python itself has it.
        signal.raise_signal(signal.SIGINT)
