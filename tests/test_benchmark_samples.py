"""Reading the files that lm-eval leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval.benchmarks import Samples, compare, read_pair, read_results, run_benchmarks, tasks_dir
from modeldiff_eval.errors import EvidenceError

STAMP = "2026-01-02T03-04-05.678"


def _save(folder: Path, *, scores: tuple[float, ...] = (0, 1, 1), samples: bool = True, stamp: str = STAMP) -> Path:
    """Files as lm-eval writes them, for one task "t" with accuracy and word perplexity."""
    folder.mkdir(parents=True, exist_ok=True)
    value = sum(scores) / len(scores)
    perplexity = float(np.exp(sum(1 + s for s in scores) / (4 * len(scores))))
    results = {
        "results": {
            "t": {
                "alias": "t",
                "acc,none": value,
                "acc_stderr,none": 0.2,
                "word_perplexity,none": perplexity,
                "word_perplexity_stderr,none": "N/A",
            },
            "group": {"alias": "group", "acc,none": value},
        },
        "groups": {"group": {"acc,none": value}},
        "configs": {
            "t": {
                "task": "t",
                "metric_list": [
                    {"metric": "acc", "aggregation": "mean"},
                    {"metric": "word_perplexity", "aggregation": "weighted_perplexity"},
                ],
            }
        },
        "n-samples": {"t": {"original": len(scores), "effective": len(scores)}},
    }
    (folder / f"results_{stamp}.json").write_text(json.dumps(results))
    if samples:
        lines = [
            json.dumps(
                {
                    "doc_id": i,
                    "filter": "none",
                    "doc_hash": f"d{i}",
                    "prompt_hash": "p",
                    "target_hash": "t",
                    "metrics": ["acc", "word_perplexity"],
                    "acc": score,
                    "word_perplexity": [-(1.0 + score), 4],
                }
            )
            for i, score in enumerate(scores)
        ]
        (folder / f"samples_t_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _rows(base: Samples, tuned: Samples) -> dict[str, Any]:
    rows, _ = compare(base, tuned, draws=500, rng=np.random.default_rng(0))
    return {row.metric: row for row in rows}


def test_saved_results_are_read_with_their_documents(tmp_path: Path) -> None:
    samples = read_results(_save(tmp_path))
    [task] = samples.tasks
    assert (task.task, task.n, len(task.documents)) == ("t", 3, 3)
    assert {score.metric: score.stderr for score in task.scores} == {"acc": 0.2, "word_perplexity": None}
    assert task.scores[0].metric == "acc", "the metric that the task lists first is its headline"
    assert [("group" in caveat, "no samples of their own" in caveat) for caveat in samples.caveats] == [(True, True)]
    assert read_results(tmp_path / f"results_{STAMP}.json").tasks == samples.tasks


def test_both_models_pair_by_document(tmp_path: Path) -> None:
    base, tuned = read_results(_save(tmp_path / "a")), read_results(_save(tmp_path / "b", scores=(1, 1, 1)))
    rows = _rows(base, tuned)
    assert rows["acc"].paired
    assert rows["word_perplexity"].paired
    assert rows["word_perplexity"].delta.value == pytest.approx(np.exp(6 / 12) - np.exp(5 / 12))


def test_without_samples_the_rows_are_not_paired(tmp_path: Path) -> None:
    base, tuned = read_results(_save(tmp_path / "a", samples=False)), read_results(_save(tmp_path / "b"))
    assert "--log_samples" in base.caveats[0]
    row = _rows(base, tuned)["acc"]
    assert not row.paired
    assert row.delta.low < row.delta.value < row.delta.high or row.delta.value == 0


def test_the_newest_run_counts(tmp_path: Path) -> None:
    _save(tmp_path, scores=(0, 0, 0))
    _save(tmp_path, scores=(1, 1, 1), stamp="2026-02-02T00-00-00")
    samples = read_results(tmp_path)
    assert samples.tasks[0].scores[0].value == 1
    assert "newest" in samples.caveats[0]


def test_one_model_folder_is_entered_and_several_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "org__base")
    assert read_results(tmp_path).tasks[0].task == "t"
    _save(tmp_path / "org__tuned")
    with pytest.raises(EvidenceError, match="several models"):
        read_results(tmp_path)


@pytest.mark.parametrize("names", [("base", "tuned"), ("org__Base-1b", "org__tuned")])
def test_a_pair_is_found_by_role_or_by_name(tmp_path: Path, names: tuple[str, str]) -> None:
    _save(tmp_path / names[0], scores=(0, 0, 1))
    _save(tmp_path / names[1], scores=(1, 1, 1))
    base, tuned = read_pair(tmp_path, base="org/Base-1b@main", tuned="org/tuned")
    assert base.tasks[0].scores[0].value == pytest.approx(1 / 3)
    assert tuned.tasks[0].scores[0].value == 1


def test_a_missing_model_of_a_pair_is_named(tmp_path: Path) -> None:
    _save(tmp_path / "base")
    with pytest.raises(EvidenceError, match=r"tuned model org/other.*'base'"):
        read_pair(tmp_path, base="x", tuned="org/other")


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"doc_id": 0', "line 2: not JSON"), ('{"filter": "none", "metrics": []}', "line 2: .*'doc_hash'")],
)
def test_a_broken_sample_is_named_by_line(tmp_path: Path, line: str, said: str) -> None:
    file = _save(tmp_path) / f"samples_t_{STAMP}.jsonl"
    whole = file.read_text().splitlines()
    file.write_text("\n".join([whole[0], line, whole[2]]))
    with pytest.raises(EvidenceError, match=said):
        read_results(tmp_path)


def test_what_is_not_lm_evals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="does not exist"):
        read_results(tmp_path / "none")
    with pytest.raises(EvidenceError, match=r"no results_\*.json"):
        read_results(tmp_path)
    (tmp_path / "results_x.json").write_text('{"results": {}}')
    with pytest.raises(EvidenceError, match="'configs' is missing"):
        read_results(tmp_path)
    (tmp_path / "results_x.json").write_text("{")
    with pytest.raises(EvidenceError, match="JSON"):
        read_results(tmp_path)


def test_what_lm_eval_saves_equals_what_our_runner_scores(tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=tiny_model(), tokenizer=tiny_tokenizer(), batch_size=32)
    tracker = EvaluationTracker(output_path=str(tmp_path))
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    results = simple_evaluate(
        lm,
        tasks=["mdx_refuse_harmful"],
        limit=4,
        task_manager=manager,
        apply_chat_template=True,
        evaluation_tracker=tracker,
        bootstrap_iters=10,
    )
    logged = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=logged)
    tracker.save_results_samples(task_name="mdx_refuse_harmful", samples=logged["mdx_refuse_harmful"])
    saved = read_results(tmp_path)
    ours = run_benchmarks(
        tiny_model(), tiny_tokenizer(), ["mdx_refuse_harmful"], model_key="a", cache_dir=None, limit=4
    )
    assert [task.documents for task in saved.tasks] == [task.documents for task in ours.tasks]
    rows = _rows(ours, saved)
    assert rows["margin"].delta.value == 0
    assert rows["margin"].paired
