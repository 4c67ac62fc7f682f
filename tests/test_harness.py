"""The lm-eval task ``modeldiff`` in lm-eval's table, around comparisons that are stood in for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from local_arc import NAME, write_arc_easy
from sample_cards import full_card
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval import harness, harness_run
from modeldiff_eval.benchmarks import read_results, tasks_dir
from modeldiff_eval.errors import UsageError
from modeldiff_eval.harness_metrics import card_metrics

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "benchmarks" / "arc_easy.jsonl"
Calls = list[tuple[Any, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What comparisons were asked for; each answers with the same card, and spends random numbers."""
    seen: Calls = []

    def compare(lm: Any, metadata: dict[str, Any]) -> Any:
        seen.append((lm, metadata))
        torch.rand(17)
        return full_card(), Path("runs/x/card.json")

    monkeypatch.setattr(harness_run, "compare", compare)
    return seen


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    return write_arc_easy(tmp_path / "tasks")


def evaluate(metadata: dict[str, Any], tasks: list[str], *folders: Path, **settings: Any) -> dict[str, Any]:
    """What ``simple_evaluate`` returns for the tiny model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    paths = [str(tasks_dir()), *map(str, folders)]
    manager = TaskManager(include_path=paths, include_defaults=False, metadata=metadata)
    lm = HFLM(pretrained=tiny_model(), tokenizer=tiny_tokenizer(), batch_size=settings.pop("batch_size", 8))
    settings = {"limit": 2, "bootstrap_iters": 10} | settings
    results = simple_evaluate(lm, tasks=tasks, task_manager=manager, **settings)
    assert isinstance(results, dict)
    return results


def test_one_table_with_a_benchmark_and_one_comparison(calls: Calls, arc: Path) -> None:
    from lm_eval.utils import make_table

    results = evaluate({"base_model": "org/base"}, ["modeldiff", NAME], arc)
    assert [(lm.model, metadata["base_model"]) for lm, metadata in calls] == [(tiny_model(), "org/base")]
    shown = results["results"]["modeldiff"]
    values = card_metrics(full_card()).values
    for name, value in values.items():
        assert shown[f"{name},none"] == value
    lines = {cells[5].strip(): cells for line in make_table(results).splitlines() if len(cells := line.split("|")) > 8}
    assert float(lines["A_diff"][7]) == pytest.approx(values["A_diff"], abs=5e-5)
    assert float(lines["A_diff"][9]) == pytest.approx(values["A_diff_stderr"], abs=5e-5)
    assert float(lines["specific_base"][7]) == 113
    assert {"acc", "acc_norm", "fve_tuned", "A_base", "A_tuned", "A_activation"} <= set(lines)
    assert not [name for name in lines if name.startswith("B_")], "what is undefined has no row"


def test_what_is_left_out_is_said(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lm_eval.modeldiff"):
        results = evaluate({"base_model": "b"}, ["modeldiff"])
    assert "not in the table: B_base, B_tuned, B_diff, B_activation: the text does not reach the class" in caplog.text
    assert str(Path("runs/x/card.json").absolute()) in caplog.text
    saved = results["configs"]["modeldiff"]["metadata"]
    assert saved["card"] == str(Path("runs/x/card.json").absolute())
    assert saved["absent"]["B_diff"] == "the text does not reach the class"


@pytest.mark.parametrize(
    "settings",
    [
        {"apply_chat_template": True},
        {
            "apply_chat_template": True,
            "system_instruction": "Be brief.",
            "fewshot_as_multiturn": True,
            "num_fewshot": 2,
        },
        {"limit": None},
        {"limit": 0.3},
        {"limit": None, "samples": {"modeldiff": [0], NAME: [1, 2]}},
        {"batch_size": 1},
        {"batch_size": "auto"},
        {"bootstrap_iters": 0},
        {"log_samples": False},
        {"write_out": True},
    ],
)
def test_other_options_of_lm_eval_change_nothing(calls: Calls, arc: Path, settings: dict[str, Any]) -> None:
    # Sampled few-shot examples need a split that the local file does not have.
    tasks = ["modeldiff"] if "num_fewshot" in settings else ["modeldiff", NAME]
    shown = evaluate({"base_model": "b"}, tasks, arc, **settings)["results"]["modeldiff"]
    assert len(calls) == 1
    assert shown["A_diff,none"] == full_card().classes[0].diff.value
    assert shown["A_diff_stderr,none"] > 0


def test_a_group_of_it_and_a_benchmark(calls: Calls, arc: Path) -> None:
    results = evaluate({"base_model": "b"}, ["with_arc"], arc)
    assert len(calls) == 1
    assert results["groups"]["with_arc"]["acc,none"] == results["results"][NAME]["acc,none"]
    assert set(results["group_subtasks"]["with_arc"]) == {"modeldiff", NAME}
    assert results["results"]["modeldiff"]["A_diff,none"] == full_card().classes[0].diff.value


def test_the_benchmark_beside_it_does_not_notice(calls: Calls, arc: Path) -> None:
    alone = evaluate({}, [NAME], arc)["results"][NAME]
    assert evaluate({"base_model": "b"}, ["modeldiff", NAME], arc)["results"][NAME] == alone
    before = torch.random.get_rng_state()
    task = harness.ModelDiffTask({"task": "modeldiff", "metadata": {"base_model": "b"}})
    harness._answer(None, [task.construct_requests({"pair": "b"}, "", metadata=("modeldiff", 0, 1))])
    assert torch.equal(before, torch.random.get_rng_state()), "the comparison drew numbers, and put them back"


def test_tasks_of_their_own_settings_get_runs_of_their_own(calls: Calls, tmp_path: Path) -> None:
    task = "task: modeldiff_{}\nclass: !function modeldiff_eval.harness.ModelDiffTask\nmetadata: {{layer: {}}}\n"
    for name, layer in (("early", 0), ("late", 1), ("again", 1)):
        (tmp_path / f"{name}.yaml").write_text(task.format(name, layer))
    names = [f"modeldiff_{name}" for name in ("early", "late", "again")]
    results = evaluate({"base_model": "b"}, names, tmp_path)
    assert sorted(metadata["layer"] for _, metadata in calls) == [0, 1]
    assert all("A_diff,none" in results["results"][name] for name in names)


def test_caches_of_lm_eval_do_not_answer_for_another_base(
    calls: Calls, arc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.caching.cache

    monkeypatch.setattr(lm_eval.caching.cache, "PATH", str(tmp_path / "requests"))
    for base in ("first", "second", "second"):
        evaluate(
            {"base_model": base}, ["modeldiff", NAME], arc, use_cache=str(tmp_path / "responses"), cache_requests=True
        )  # fmt: skip
    assert [metadata["base_model"] for _, metadata in calls] == ["first", "second", "second"]
    kept = [path.name for path in (tmp_path / "requests").iterdir()]
    assert [name for name in kept if NAME in name], "the benchmark was cached"
    assert not [name for name in kept if "modeldiff" in name]


def test_saved_results_and_samples_are_json(calls: Calls, arc: Path, tmp_path: Path) -> None:
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    results = evaluate({"base_model": "b"}, ["modeldiff", NAME], arc, evaluation_tracker=tracker, log_samples=True)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    [saved] = (tmp_path / "out").rglob("results_*.json")
    shown = json.loads(saved.read_text())
    assert shown["results"]["modeldiff"]["A_diff,none"] == full_card().classes[0].diff.value
    assert shown["configs"]["modeldiff"]["metadata"]["card"].endswith("card.json")
    [logged] = (tmp_path / "out").rglob("samples_modeldiff_*.jsonl")
    [line] = logged.read_text().splitlines()
    assert json.loads(line)["A_diff"] == full_card().classes[0].diff.value
    assert [task.task for task in read_results(tmp_path / "out").tasks] == [NAME], "read back, it is no benchmark"


def test_a_finished_card_needs_no_comparison(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(full_card().to_json(), encoding="utf-8")
    shown = evaluate({"card": str(path)}, ["modeldiff"])["results"]["modeldiff"]
    assert shown["A_diff,none"] == full_card().classes[0].diff.value
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"card\.json is not a card"):
        evaluate({"card": str(path)}, ["modeldiff"])
    with pytest.raises(UsageError, match="There is no card at"):
        evaluate({"card": str(tmp_path / "nowhere")}, ["modeldiff"])


def test_the_base_must_be_named() -> None:
    with pytest.raises(UsageError, match="--metadata base_model=ID"):
        evaluate({}, ["modeldiff"])


def task_with(**metadata: Any) -> harness.ModelDiffTask:
    return harness.ModelDiffTask({"task": "modeldiff", "metadata": metadata})


def test_mistakes_are_found_before_anything_is_loaded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lm-eval's own set-up, in whatever test ran before, silences loggers below its own.
    monkeypatch.setattr(harness, "_log", logging.getLogger("test_harness"))
    with pytest.raises(UsageError, match="--metadata base_model=ID"):
        task_with(pretrained="org/tuned")
    with pytest.raises(UsageError, match="Did you mean 'base_model'"):
        task_with(base_modle="org/base")
    with caplog.at_level("WARNING"):
        task_with(pretrained="org/base", peft="lora", max_seq_lengths=[4096])
    assert "'max_seq_lengths' means nothing to this task" in caplog.text


def test_a_model_that_cannot_be_looked_into_is_refused() -> None:
    from lm_eval.models.dummy import DummyLM

    request = task_with(base_model="b").construct_requests({"pair": "b"}, "against b", metadata=("modeldiff", 0, 1))
    with pytest.raises(UsageError, match="--model hf"):
        DummyLM().modeldiff([request])


def test_several_processes_are_refused_on_every_rank() -> None:
    for rank in (0, 1):
        with pytest.raises(UsageError, match="one process"):
            task_with(base_model="b").build_all_requests(rank=rank, world_size=2)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_file(), reason="the shared data folder is not here")
def test_beside_the_real_arc_easy(calls: Calls, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in SHARED.read_text(encoding="utf-8").splitlines()[:40]]
    folder = write_arc_easy(tmp_path / "tasks", ((row["question"], row["choices"], row["answer"]) for row in rows))
    results = evaluate({"base_model": "b"}, ["modeldiff", NAME], folder, limit=None)
    assert results["n-samples"][NAME]["effective"] == 40
    assert results["results"]["modeldiff"]["A_diff,none"] == full_card().classes[0].diff.value
    assert 0 < results["results"][NAME]["acc_stderr,none"] < 0.1


def test_the_pair_is_named_in_the_log() -> None:
    shown: Callable[..., str] = lambda **metadata: task_with(**metadata).test_docs()[0]["pair"]  # noqa: E731
    assert shown(base_model="org/base") == "org/base"
    assert shown(pretrained="org/base", peft="lora") == "itself with the adapter off"
