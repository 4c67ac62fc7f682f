"""The lm-eval task ``modeldiff``, around a card that stands in for a comparison."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from sample_cards import full_card
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval import harness
from modeldiff_eval.benchmarks import tasks_dir
from modeldiff_eval.errors import EvidenceError, UsageError
from modeldiff_eval.records import Card


def _changed(card: Card, **latents: int) -> Card:
    side = card.latents.tuned.model_copy(update=latents)
    return card.model_copy(update={"latents": card.latents.model_copy(update={"tuned": side})})


def _evaluate(metadata: dict[str, Any], tasks: list[str], **settings: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata)
    lm = HFLM(pretrained=tiny_model(), tokenizer=tiny_tokenizer(), batch_size=8)
    results = simple_evaluate(
        lm, tasks=tasks, task_manager=manager, limit=2, apply_chat_template=True, bootstrap_iters=10, **settings
    )
    assert isinstance(results, dict)
    return results


def test_shifts_are_points_with_errors_from_the_interval() -> None:
    card = full_card()
    shifts = harness.class_shifts(card)
    row = card.classes[0]
    assert row.diff.low is not None
    assert row.diff.high is not None
    assert shifts["A_diff"] == row.diff.value
    assert shifts["A_diff_stderr"] == pytest.approx((row.diff.high - row.diff.low) / 3.919928)
    assert list(shifts).index("A_diff_stderr") == list(shifts).index("A_diff") + 1, "after its metric"


def test_a_class_that_is_not_covered_is_left_out() -> None:
    card = full_card()
    hidden = [row.code for row in card.classes if row.verdict == "not covered"]
    assert hidden
    assert not {name.partition("_")[0] for name in harness.class_shifts(card)} & set(hidden)


def test_without_annotated_latents_the_activation_shift_stands_in() -> None:
    card = _changed(full_card(activation=True), annotated=0)
    shifts = harness.class_shifts(card)
    assert card.classes[0].activation is not None
    assert shifts["A_activation"] == card.classes[0].activation.change.value
    assert not any(name.endswith("_diff") for name in shifts)


def test_a_missing_bound_gives_no_error() -> None:
    card = full_card()
    diff = card.classes[0].diff.model_copy(update={"low": None})
    card = card.model_copy(update={"classes": [card.classes[0].model_copy(update={"diff": diff}), *card.classes[1:]]})
    shifts = harness.class_shifts(card)
    assert "A_diff" in shifts
    assert "A_diff_stderr" not in shifts


def test_a_card_with_nothing_to_show_is_refused() -> None:
    with pytest.raises(EvidenceError, match="no class shift"):
        harness.class_shifts(_changed(full_card(activation=False), annotated=0))


def test_a_comparison_gets_the_live_model_and_settings_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    story = importlib.import_module("modeldiff_eval.diff")
    fake = create_autospec(story.diff)
    fake.return_value.card = full_card()
    monkeypatch.setattr(story, "diff", fake)
    lm = SimpleNamespace(model=tiny_model(), tokenizer=tiny_tokenizer(), device=tiny_model().device)
    metadata = {
        "base_model": "org/base",
        "pretrained": "org/tuned",
        "crosscoder": "folder",
        "tokens": 2000,
        "version": 1.0,
    }
    assert harness.run_pair(lm, metadata) == full_card()
    [call] = fake.call_args_list
    assert call.kwargs["tuned_loaded"] == (lm.model, lm.tokenizer)
    settings = call.kwargs["settings"]
    assert (settings.base, settings.tuned) == ("org/base", "org/tuned")
    assert (settings.crosscoder, settings.tokens, settings.tasks) == (("folder",), 2000, ())
    assert settings.dtype == "float32"


def test_one_table_with_a_benchmark_and_one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.utils import make_table

    calls: list[tuple[Any, str]] = []

    def fake(lm: Any, metadata: dict[str, Any]) -> Card:
        calls.append((lm.model, metadata["base_model"]))
        return full_card()

    monkeypatch.setattr(harness, "run_pair", fake)
    results = _evaluate({"base_model": "org/base"}, ["modeldiff", "mdx_refuse_harmful"])
    assert calls == [(tiny_model(), "org/base")], "one comparison, with the live model"
    shifts = harness.class_shifts(full_card())
    shown = results["results"]["modeldiff"]
    for name, value in shifts.items():
        assert shown[f"{name},none"] == value
    table = make_table(results)
    assert f"{shifts['A_diff']:.4f}" in table
    assert f"{shifts['A_diff_stderr']:.4f}" in table
    assert "mdx_refuse_harmful" in table
    assert "N/A" not in next(line for line in table.splitlines() if "A_diff" in line)


def test_caches_of_lm_eval_do_not_answer_for_another_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[int] = []

    def fake(lm: Any, metadata: dict[str, Any]) -> Card:
        calls.append(1)
        return full_card()

    monkeypatch.setattr(harness, "run_pair", fake)
    for _ in range(2):
        _evaluate({"base_model": "b"}, ["modeldiff"], use_cache=str(tmp_path / "c"), cache_requests=True)
    assert len(calls) == 2


def test_a_finished_card_needs_no_comparison(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(full_card().to_json(), encoding="utf-8")
    shown = _evaluate({"card": str(path)}, ["modeldiff"])["results"]["modeldiff"]
    assert shown["A_diff,none"] == full_card().classes[0].diff.value
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"card\.json is not a card"):
        _evaluate({"card": str(path)}, ["modeldiff"])


def test_the_base_must_be_named() -> None:
    with pytest.raises(UsageError, match="--metadata base_model=ID"):
        _evaluate({}, ["modeldiff"])


def test_a_model_that_cannot_be_looked_into_is_refused() -> None:
    from lm_eval.models.dummy import DummyLM

    task = harness.ModelDiffTask({"task": "modeldiff", "metadata": {"base_model": "b"}})
    request = task.construct_requests({"pair": "b"}, "against b", metadata=("modeldiff", 0, 1))
    with pytest.raises(UsageError, match="--model hf"):
        DummyLM().modeldiff([request])


@pytest.mark.slow
def test_the_command_adds_our_tasks_and_reports_errors(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    card = tmp_path / "card.json"
    card.write_text(full_card().to_json(), encoding="utf-8")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from modeldiff_eval.harness import cli; sys.exit(cli(sys.argv[1:]))"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    run = ("--model", "hf", "--model_args", f"pretrained={tmp_path / 'model'}", "--device", "cpu", "--limit", "2")
    done = command(*run, "--tasks", "modeldiff,mdx_arithmetic", "--metadata", f"card={card}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "A_diff" in done.stdout
    assert "mdx_arithmetic" in done.stdout
    failed = command(*run, "--tasks", "modeldiff")
    assert failed.returncode == 2
    assert "error: The task modeldiff needs its base" in failed.stderr
    assert "Traceback" not in failed.stderr
