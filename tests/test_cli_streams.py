"""Standard output that nobody reads, that is closed, full, or of another encoding; and Ctrl-C while everything is imported."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeldiff_eval import disk

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "reports" / "demo" / "card.json"
ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
POLICY = "version: 1\nrules:\n  - {rule: 'latents.tuned.specific < 1', severity: fail}\n"


def ours(*words: object, shell: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own; ``shell`` follows it on a shell's line."""
    script = f'"$@" {shell}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "modeldiff_eval.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, env=os.environ | env, timeout=120, check=False)


@pytest.mark.parametrize("words", [["schema"], ["policy", "init", CARD], ["render", CARD, "--out", "{out}"]])
def test_characters_that_the_locale_has_not_are_printed_as_utf8(words: list[str], tmp_path: Path) -> None:
    ended = ours(*(str(word).format(out=tmp_path) for word in words), **ASCII)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert not ended.stdout.isascii()
    ended.stdout.decode()


def test_json_in_an_ascii_locale_is_whole(tmp_path: Path) -> None:
    counts = ROOT / "reports" / "paper_simpo.yaml"
    ended = ours("card", counts, "--out", tmp_path / "out", "--json", **ASCII)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["title"] == json.loads((tmp_path / "out" / "card.json").read_text())["title"]


def test_a_path_of_other_bytes_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    ended = ours("render", CARD, "--out", folder, "--quiet")
    assert ended.returncode == 0
    assert b"caf\\udce9" in ended.stdout
    assert (folder / "card.html").is_file()


@pytest.mark.parametrize("shell", ["| true", ">&-", "| head -c 1", "2>&1 | true"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_verdict_that_nobody_reads_is_the_verdict(shell: str, unbuffered: str, tmp_path: Path) -> None:
    strict, open_ = tmp_path / "strict.yaml", tmp_path / "open.yaml"
    strict.write_text(POLICY)
    open_.write_text(POLICY.replace("< 1", "< 500"))
    for policy, code in ((strict, 1), (open_, 0)):
        ended = ours("check", CARD, "--policy", policy, shell=shell, PYTHONUNBUFFERED=unbuffered)
        assert (ended.returncode, ended.stderr) == (code, b"")


def test_files_are_written_though_nobody_reads_standard_output(tmp_path: Path) -> None:
    policy, junit, summary = tmp_path / "policy.yaml", tmp_path / "gate.xml", tmp_path / "summary.md"
    policy.write_text(POLICY)
    words = ("check", CARD, "--policy", policy, "--format", "text", "--format", f"junit={junit}", "--summary")
    ended = ours(*words, shell="| true", GITHUB_STEP_SUMMARY=str(summary), PYTHONUNBUFFERED="1")
    assert ended.returncode == 1
    assert "<testsuite" in junit.read_text()
    assert "FAIL" in summary.read_text()


@pytest.mark.parametrize("shell", ["2>&1 >&- | true", "2>/dev/full", "2>&-"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_error_that_nobody_reads_is_no_verdict(shell: str, unbuffered: str) -> None:
    for words, code in ((("check", CARD, "--policy", "nope.yaml"), 2), (("check", CARD, "--bogus"), 2)):
        assert ours(*words, shell=shell, PYTHONUNBUFFERED=unbuffered).returncode == code


def test_a_connection_that_breaks_is_no_reader_that_left() -> None:
    script = (
        "import errno\nfrom modeldiff_eval import cli, commands\n@commands.app.command('long')\n"
        "def long() -> None:\n    raise BrokenPipeError(errno.EPIPE, 'Broken pipe')\ncli.main(['long'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, timeout=120, check=False)
    assert ended.returncode == 3
    assert b"The other side closed a connection" in ended.stderr


@pytest.mark.parametrize("how", ["print('x' * 60)", "rich.print('x' * 60)"])
def test_long_output_that_is_cut_off_ends_as_a_shell_says_it(how: str) -> None:
    """Far more than a pipe holds, printed by Python and by rich."""
    script = (
        "import rich\nfrom modeldiff_eval import cli, commands\n"
        f"@commands.app.command('long')\ndef long() -> None:\n    for _ in range(20_000):\n        {how}\n"
        "cli.main(['long'])"
    )
    line = '"$0" -c "$1" | head -1; exit ${PIPESTATUS[0]}'
    command = ["bash", "-c", line, sys.executable, script]
    ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=120, check=False)
    assert (ended.returncode, ended.stderr, len(ended.stdout)) == (141, b"", 61)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_does_not_fit_is_an_error() -> None:
    ended = ours("tasks-dir", shell="> /dev/full")
    assert ended.returncode == 3
    assert b"No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_ctrl_c_while_everything_is_imported_is_quiet() -> None:
    """The first moments of a command, where most of it is not there yet."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "modeldiff_eval.cli", "--help"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith("modeldiff_eval.stopping"):
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode in (0, 130)
    assert "Traceback" not in err
    if process.returncode == 130:
        assert "interrupted" in err


def test_an_error_does_not_claim_to_know_whether_it_was_reading() -> None:
    closed = PermissionError(errno.EACCES, "Permission denied", "/data/corpus.jsonl")
    assert (
        disk.explained(closed) == "Cannot open /data/corpus.jsonl: Permission denied. Check who may read and write it."
    )
    assert "No space left on device" in str(disk.explained(OSError(errno.ENOSPC, "x")))
    assert disk.explained(FileNotFoundError(errno.ENOENT, "x", "y")) is None
