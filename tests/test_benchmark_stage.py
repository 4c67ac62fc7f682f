"""Benchmarks within a run: few-shot counts, task files, logs, and one set of weights for an adapter and its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval.benchmark_models import adapted, model_of
from modeldiff_eval.benchmark_stage import benchmark_stage
from modeldiff_eval.benchmark_tasks import load_tasks, set_fewshot
from modeldiff_eval.benchmarks import read_results, run_benchmarks, tasks_dir
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.models import resolve_all
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings
from modeldiff_eval.workspace import Pool

QUESTIONS = [
    {"question": f"Is {n} even?", "answer": n % 2, "options": ["yes", "no"], "passage": n // 3} for n in range(12)
]  # fmt: skip


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A task of our own with few-shot examples, whose documents come in fours."""
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))
    path = tmp_path / "parity.yaml"
    files = json.dumps({"data_files": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}})
    path.write_text(
        f"task: parity\ndataset_path: json\ndataset_kwargs: {files}\ntest_split: test\nfewshot_split: train\n"
        "output_type: multiple_choice\ndoc_to_text: 'Q: {{question}} A:'\ndoc_to_choice: options\ndoc_to_target: answer\n"
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\nmetadata: {version: 2.0}\n"
    )
    return path


def _run(tasks: list[str], **settings: Any) -> Any:
    settings = {"model_key": "a", "cache_dir": None, **settings}
    return run_benchmarks(tiny_model(), tiny_tokenizer(), tasks, **settings)


def test_a_task_file_with_few_shot_examples(task_file: Path, tmp_path: Path) -> None:
    none = _run([str(task_file)], cache_dir=tmp_path / "cache")
    two = _run([str(task_file)], cache_dir=tmp_path / "cache", num_fewshot=2, cluster_by="passage")
    assert [(s.tasks[0].task, s.tasks[0].fewshot, s.tasks[0].version) for s in (none, two)] == [
        ("parity", 0, "2.0"), ("parity", 2, "2.0")
    ]  # fmt: skip
    prompts = [samples.tasks[0].documents[3].prompt for samples in (none, two)]
    assert [prompt.count("Q: Is") for prompt in prompts] == [1, 3]
    assert two.tasks[0].scores[0].higher_is_better is True
    assert {document.cluster for document in two.tasks[0].documents} == {"0", "1", "2", "3"}
    assert none.caveats == two.caveats == []


def test_a_task_that_allows_no_examples_says_so() -> None:
    samples = _run(["mdx_constraints"], limit=1, num_fewshot=3)
    assert samples.tasks[0].fewshot == 0
    assert "these tasks allow none: mdx_constraints" in samples.caveats[0]
    assert set_fewshot(load_tasks(["mdx_constraints"]), 0) == []


def test_a_task_file_that_is_not_there_is_named() -> None:
    with pytest.raises(EvidenceError, match=r"no task file mine/none\.yaml"):
        load_tasks(["mine/none.yaml"])


def test_a_task_file_that_is_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("task: [\n")
    with pytest.raises(EvidenceError, match=r"task file .*broken\.yaml"):
        load_tasks([str(path)])


def test_the_logs_of_a_run_are_read_like_lm_evals(task_file: Path, tmp_path: Path) -> None:
    samples = _run([str(task_file), "mdx_constraints"], log_dir=tmp_path / "logs", limit=4)
    read = read_results(tmp_path / "logs")
    assert read.tasks == samples.tasks
    line = json.loads((tmp_path / "logs" / "samples_parity_run.jsonl").read_text().splitlines()[0])
    assert {
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "acc",
    } <= line.keys()


def test_a_run_that_was_stopped_goes_on_with_its_task(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeldiff_eval import benchmark_run

    whole, done = benchmark_run._run_one, list[str]()

    def once(lm: Any, name: str, task: Any, **more: Any) -> Any:
        if name in done:
            raise KeyboardInterrupt
        done.append(name)
        return whole(lm, name, task, **more)

    tasks = [str(task_file), "mdx_constraints"]
    monkeypatch.setattr(benchmark_run, "_run_one", lambda lm, name, task, **more: once(lm, "all", task, **more))
    with pytest.raises(KeyboardInterrupt):
        _run(tasks, cache_dir=tmp_path / "cache", log_dir=tmp_path / "logs", limit=2)
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["samples_all_run.jsonl"]
    done.clear()
    monkeypatch.setattr(benchmark_run, "_run_one", once)
    _run(tasks, cache_dir=tmp_path / "cache", log_dir=tmp_path / "logs", limit=2)
    assert done == ["parity"], "the finished task is not asked again"


def _work(base: Path, tuned: Path, cache: Path, **options: Any) -> Any:
    settings, _ = make_settings({"base": str(base), "tuned": str(tuned), "task_limit": 3, **options}, environ={})
    sources = resolve_all(str(base), str(tuned), None)
    pool = Pool(torch.device("cpu"), torch.float32, cache)
    return SimpleNamespace(settings=settings, sources=sources, pool=pool, cache=cache, reporter=Reporter())


def test_an_adapter_on_the_base_scores_as_the_merged_model(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    work = _work(base_model, adapter, tmp_path)
    ids = torch.arange(1, 30)[None]
    with model_of(work, "base") as base, torch.no_grad():
        before = base.model(ids).logits
    with model_of(work, "tuned") as merged, torch.no_grad():
        tuned = merged.model(ids).logits
    loads: list[str] = []
    plain, work.pool._load = work.pool._load, lambda source, dtype: loads.append(source.name)
    with model_of(work, "tuned", most=0) as put_on, torch.no_grad():
        assert put_on.model is base.model
        assert torch.allclose(put_on.model(ids).logits, tuned, atol=1e-4)
        assert not torch.allclose(put_on.model(ids).logits, before, atol=1e-3)
    assert loads == [], "the base that is there serves both"
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, before), "the base is as it was"
    assert len({base.key, merged.key, put_on.key}) == 3
    work.pool._load = plain


def test_the_adapter_comes_off_when_something_fails(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    work = _work(base_model, adapter, tmp_path)
    model = work.pool.get(work.sources["base"]).model
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(RuntimeError, match="stop"), adapted(model, work.sources["tuned"]):
        raise RuntimeError("stop")
    assert [name for name, _ in model.named_parameters()] == names


def test_a_stage_leaves_logs_and_flips_and_can_be_read_again(
    base_model: Path, tuned_model: Path, task_file: Path, tmp_path: Path
) -> None:
    work = _work(base_model, tuned_model, tmp_path, tasks=(str(task_file),), num_fewshot=1, cluster_by="passage")
    work.settings = work.settings.model_copy(update={"task_limit": None, "draws": 200})
    rows, _, _ = benchmark_stage(work, tmp_path / "out")
    assert [(row.task, row.metric, row.n, row.clusters, row.paired) for row in rows] == [("parity", "acc", 12, 4, True)]
    flips = [json.loads(line) for line in (tmp_path / "out" / "flips.jsonl").read_text().splitlines()]
    assert len(flips) == rows[0].wins + rows[0].losses
    settings = work.settings.model_copy(update={"benchmarks": str(tmp_path / "out" / "benchmarks")})
    again, _, _ = benchmark_stage(SimpleNamespace(**{**vars(work), "settings": settings}), tmp_path / "again")
    assert again[0].model_copy(update={"source": ""}) == rows[0].model_copy(update={"source": ""})
    shutil.rmtree(tmp_path / "out" / "benchmarks" / "tuned")
    with pytest.raises(EvidenceError, match="no results of the tuned model"):
        benchmark_stage(SimpleNamespace(**{**vars(work), "settings": settings}), tmp_path / "again")


def test_nothing_asked_for_is_nothing_done(base_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    assert benchmark_stage(_work(base_model, tuned_model, tmp_path, tasks="none"), tmp_path / "out") == ([], [], None)
    assert not (tmp_path / "out").exists()


def test_the_packaged_tasks_are_found_by_path_too() -> None:
    [(name, _)] = load_tasks([str(tasks_dir() / "mdx_constraints.yaml")])
    assert name == "mdx_constraints"
