"""``modeldiff-eval compare`` as a user meets it: usage, plan, exit codes, what is printed where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval import batch_run, cli, commands
from modeldiff_eval.batch import Pair
from modeldiff_eval.batch_run import Report
from modeldiff_eval.batch_stages import Outcome
from modeldiff_eval.settings import Settings
from modeldiff_eval.settings_options import settings_flags

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call ``compare`` in an empty working folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["compare", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Pair], str, dict[str, Any]]]:
    """Stands for the work: one pair done, the last one failed."""
    seen: list[tuple[list[Pair], str, dict[str, Any]]] = []

    def batch(pairs: list[Pair], out: str, **options: Any) -> Report:
        seen.append((pairs, out, options))
        *good, bad = pairs
        done = [Outcome(name=p.name, state="done", headline="Nothing [bold]changed[/bold].\x1b[31m") for p in good]
        failed = Outcome(name=bad.name, state="failed", error="There is no model at org/z.", seconds=2.4)
        return Report(pairs=[*done, failed], files={"html": "comparison.html"})

    monkeypatch.setattr(batch_run, "run_batch", batch)
    return seen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "x"], r"Name the tuned models"),
        (["--base", "x", "--tuned", "y"], r"--tuned y=y"),
        (["--base", "x", "--tuned", "a=y", "--tuned", "a=z"], r"Two pairs are called 'a'"),
        (["--base", "x", "--tuned", "a=x"], r"tuned is the base itself"),
        (["--base", "x", "--tuned", "a=y", "--executor", "rey"], r"no executor 'rey'\. Did you mean 'ray'\?"),
        (["--base", "x", "--tuned", "a=y", "--ray-address", "auto"], r"no effect without --executor ray"),
        (["--base", "x", "--tuned", "a=y", "--layr", "3"], r"(?s)No such option: --layr.*--layer"),
        (["--base", "x", "--tuned", "a=y", "--matrix", "m.yaml"], r"leave --tuned and --config out"),
        (["--matrix", "absent.yaml"], r"Cannot read the matrix file absent\.yaml"),
        (["--tuned", "a=y"], r"--base is missing"),
        (["--base", "x", "--tuned", "a=y", "--title", "t"], r"No such option: --title"),
    ],
)
def test_usage_errors(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.search(message, err), err


def test_torchrun_is_pointed_to_the_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("--base", "x", "--tuned", "a=y")
    assert code == 2
    assert "torchrun … crosscoder train" in err


def test_dry_run_says_what_is_shared_and_does_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--base", "o/x", "--anchor", "o/p", "--tuned", "a=o/y", "--tuned", "b=o/z", "--dry-run")
    assert (code, err) == (0, "")
    for text in (
        "2 pairs",
        "o/x → o/y, anchored in o/p; writes runs/compare/a",
        "128 prompts",
        "crosscoder of (anchor, base)",
    ):
        assert text in out
    assert list(tmp_path.iterdir()) == []


def test_flags_hold_for_every_pair_and_a_failure_is_exit_code_3(run: Run, batches: list[Any]) -> None:
    code, out, _ = run(
        *(
            "--base",
            "o/x",
            "--tuned",
            "a=o/y",
            "--tuned",
            "b=o/z",
            "--steps",
            "7",
            "--tasks",
            "none",
            "--corpus",
            "t.jsonl",
        ),
        *("--batch", "--annotator", "claude", "--out", "s3://bucket/x/", "--force"),
    )
    assert code == 3
    ((pairs, where, options),) = batches
    assert (where, options["force"]) == ("s3://bucket/x", True)
    own = [(p.name, p.settings.steps, p.settings.tasks, p.settings.corpus, p.settings.batches) for p in pairs]
    assert own == [("a", 7, (), ("t.jsonl",), True), ("b", 7, (), ("t.jsonl",), True)]
    for text in (
        "FAILED",
        "There is no model at org/z.",
        "[bold]changed[/bold]",
        "1 of 2 pairs done",
        "s3://bucket/x/comparison.html",
    ):
        assert text in out
    assert "\x1b[31m" not in out


def test_json_and_quiet(run: Run, batches: list[Any]) -> None:
    words = ("--base", "o/x", "--tuned", "a=o/y", "--tuned", "b=o/z")
    code, out, _ = run(*words, "--json", "-q")
    assert code == 3
    assert [pair["state"] for pair in json.loads(out)["pairs"]] == ["done", "failed"]
    assert run(*words, "-q") == (3, "runs/compare/compare.json\n", "")


def test_every_setting_of_the_main_command_is_one_of_a_batch() -> None:
    import typer

    group: Any = typer.main.get_command(commands.app)
    main, own = ({p.name for p in command.params} for command in (group, group.commands["compare"]))
    ours = set(Settings.model_fields)
    assert {name for name in main if set(settings_flags({name: None})) & ours} - own == {"title"}
    assert settings_flags({"batch": True, "tasks": "a,b", "log_to": [], "trust_remote_code": False}) == {
        "batches": True, "tasks": ("a", "b"), "log_to": None, "trust_remote_code": None,
    }  # fmt: skip


def test_a_batch_keeps_a_log_like_a_run(run: Run, batches: list[Any], tmp_path: Path) -> None:
    code, _, err = run("--base", "o/x", "--tuned", "a=o/y", "--log-json", tmp_path / "log.jsonl")
    ((_, _, options),) = batches
    options["reporter"].note("[1/1] a: done")
    assert code == 3
    assert "1 pairs" in err
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["message"]) == ("note", "[1/1] a: done")
