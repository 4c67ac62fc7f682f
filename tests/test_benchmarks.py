"""Running benchmarks on a model and comparing two models by document."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval.benchmark_metrics import additive
from modeldiff_eval.benchmark_samples import Document, Samples, Score, TaskSamples
from modeldiff_eval.benchmarks import compare, run_benchmarks
from modeldiff_eval.errors import EvidenceError

TASKS = ["mdx_refusal", "mdx_constraints"]


def _run(model: Any, cache: Path | None, *, key: str = "a", **settings: Any) -> Samples:
    settings = {"limit": 3, **settings}
    return run_benchmarks(model, tiny_tokenizer(), TASKS, model_key=key, cache_dir=cache, **settings)


def _samples(
    scores: Sequence[Any], *, task: str = "t", metric: str = "acc", aggregation: str = "mean", **changes: Any
) -> Samples:
    values = [float(s) if not isinstance(s, list) else [float(x) for x in s] for s in scores]
    made = additive(aggregation, values, reported=None)
    documents = [
        Document(filter="none", doc_id=i, doc_hash=str(i), target_hash="t", prompt_hash="p", values={metric: value})
        for i, value in enumerate(values)
    ]
    score = Score(
        metric=metric, filter="none", value=0.0 if made is None else made.value(), stderr=None, aggregation=aggregation
    )
    fields = {"task": task, "n": len(values), "scores": [score], "documents": documents, **changes}
    return Samples(source="test", tasks=[TaskSamples(**fields)])


def _compare(base: Samples, tuned: Samples, *, draws: int = 2000) -> tuple[list[Any], list[str]]:
    return compare(base, tuned, draws=draws, rng=np.random.default_rng(0))


# --- running -------------------------------------------------------------------------------------------------------


def test_a_run_scores_every_document_and_tells_its_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    samples = _run(tiny_model(), tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert [task.task for task in samples.tasks] == ["mdx_answer_harmless", "mdx_constraints", "mdx_refuse_harmful"]
    assert [len(task.documents) for task in samples.tasks] == [3, 3, 3]
    for task in samples.tasks:
        for score in task.scores:
            values = [document.values[score.metric] for document in task.documents]
            assert score.value == pytest.approx(np.mean(values))
            assert score.aggregation == "mean"
    assert told == sorted(told)
    assert told[-1] == (9, 9)
    assert samples.caveats == []


def test_a_second_run_asks_the_model_nothing(tmp_path: Path) -> None:
    first = _run(tiny_model(), tmp_path)
    assert _run(None, tmp_path) == first


@pytest.mark.parametrize("change", [{"key": "b"}, {"limit": 2}, {"seed": 1}, {"apply_chat_template": False}])
def test_nothing_is_shared_between_models_or_settings(tmp_path: Path, change: dict[str, Any]) -> None:
    _run(tiny_model(), tmp_path)
    files = len(list(tmp_path.rglob("*.json")))
    _run(tiny_model(1), tmp_path, **change)
    assert len(list(tmp_path.rglob("*.json"))) == 2 * files


def test_another_model_gets_its_own_scores(tmp_path: Path) -> None:
    assert _run(tiny_model(), tmp_path, key="a") != _run(tiny_model(1), tmp_path, key="b")


def test_a_broken_cache_entry_is_made_again(tmp_path: Path) -> None:
    first = _run(tiny_model(), tmp_path)
    for file in tmp_path.rglob("*.json"):
        file.write_text(file.read_text()[:50])
    assert _run(tiny_model(), tmp_path) == first


def test_a_run_leaves_generators_and_tokenizer_as_they_were() -> None:
    import torch

    model, tokenizer = tiny_model(), tiny_tokenizer()
    before = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    run_benchmarks(model, tokenizer, ["mdx_constraints"], model_key="a", cache_dir=None, limit=1)
    after = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert tokenizer.pad_token is None


def test_without_a_chat_template_the_run_says_so() -> None:
    plain = tiny_tokenizer(template=None)
    samples = run_benchmarks(tiny_model(), plain, ["mdx_constraints"], model_key="a", cache_dir=None, limit=1)
    assert "no chat template" in samples.caveats[0]


def test_our_own_task_is_no_benchmark() -> None:
    with pytest.raises(EvidenceError, match="compares two models"):
        run_benchmarks(None, None, ["modeldiff"], model_key="a", cache_dir=None)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_the_closest_one() -> None:
    with pytest.raises(EvidenceError, match="mdx_arithmetic"):
        run_benchmarks(None, tiny_tokenizer(), ["mdx_aritmetic"], model_key="a", cache_dir=None)


def test_a_model_against_itself_changes_nothing(tmp_path: Path) -> None:
    samples = _run(tiny_model(), tmp_path)
    rows, _ = _compare(samples, samples)
    assert rows
    for row in rows:
        assert row.paired
        assert row.delta.value == 0
        assert row.verdict == "unclear"
        assert row.p_adjusted == 1
        if row.metric != "margin":
            assert row.delta.low < 0 < row.delta.high, "identical answers are not a proof of identity"


# --- comparing -----------------------------------------------------------------------------------------------------


def test_six_of_eight_documents_gained_by_hand() -> None:
    base, tuned = _samples([0, 0, 0, 0, 0, 0, 1, 0]), _samples([1, 1, 1, 1, 1, 1, 1, 0])
    [row], caveats = _compare(base, tuned)
    assert (row.task, row.metric, row.n, row.base, row.tuned) == ("t", "acc", 8, 1 / 8, 7 / 8)
    assert row.delta.value == 0.75
    assert row.p == row.p_adjusted == 2 * 0.5**6  # exact McNemar: six moved, all one way
    assert row.verdict == "up"
    assert row.paired
    assert 0 < row.delta.low < 0.75 < row.delta.high <= 1
    assert row.mde == pytest.approx(2.8016 / 3.9199 * (row.delta.high - row.delta.low), rel=1e-3)
    assert (row.wins, row.ties, row.losses, row.p_mcnemar) == (6, 2, 0, row.p)
    assert [flip.document for flip in row.flips] == ["0", "1"], "the first ones, not chosen"
    assert caveats == ["Documents that only tuned (+) or only base (−) gets right: t acc +6 −0 of 8."]


def test_benjamini_hochberg_runs_over_tasks_by_their_first_metric() -> None:
    """Three tasks with p 1/32, 1/32 and 1, the first with a second metric that must not count for them."""
    won, lost = _samples([0] * 6 + [1, 0]), _samples([1] * 7 + [0])

    def side(own: Samples) -> Samples:
        first = own.tasks[0]
        more = first.scores[0].model_copy(update={"metric": "acc_norm"})
        documents = [
            d.model_copy(update={"values": {**d.values, "acc_norm": d.values["acc"]}}) for d in first.documents
        ]
        two = first.model_copy(update={"scores": [first.scores[0], more], "documents": documents})
        same = _samples([0, 1] * 4, task="v").tasks[0]
        return Samples(source="test", tasks=[two, first.model_copy(update={"task": "u"}), same])

    rows, caveats = _compare(side(won), side(lost))
    assert [(row.task, row.metric, row.headline) for row in rows] == [
        ("t", "acc", True), ("t", "acc_norm", False), ("u", "acc", True), ("v", "acc", True)
    ]  # fmt: skip
    assert [row.p for row in rows] == [0.03125, 0.03125, 0.03125, 1.0]
    assert [row.p_adjusted for row in rows] == [0.046875, 0.03125, 0.046875, 1.0]
    assert [row.verdict for row in rows] == ["up", "up", "up", "unclear"]
    assert "over 3 headline metrics" in rows[0].source
    assert "over 1 further metric" in rows[1].source
    assert any("3 tasks, one headline metric each" in caveat for caveat in caveats)


@pytest.mark.parametrize("aggregation", ["mean", "perplexity", "weighted_perplexity", "f1"])
def test_swapping_the_models_mirrors_the_row(aggregation: str) -> None:
    rng = np.random.default_rng(1)
    values: list[Any] = [rng.normal(-2, 1, 60).tolist(), rng.normal(-1, 1, 60).tolist()]
    if aggregation == "weighted_perplexity":
        values = [[[v, 5 + i % 3] for i, v in enumerate(model)] for model in values]
    if aggregation == "f1":
        values = [rng.integers(0, 2, (60, 2)).tolist(), [[1, 1]] * 40 + [[0, 0]] * 20]
    one, two = (_samples(model, aggregation=aggregation, metric="m") for model in values)
    [forth], _ = _compare(one, two, draws=4000)
    [back], _ = _compare(two, one, draws=4000)
    assert forth.paired
    assert forth.delta.value == pytest.approx(-back.delta.value)
    assert forth.delta.low == pytest.approx(-back.delta.high, rel=0.1)
    assert {forth.verdict, back.verdict} == {"up", "down"}


def test_the_order_of_documents_does_not_matter() -> None:
    scores = [0, 1, 1, 0, 1, 0], [1, 1, 0, 1, 1, 1]
    base, tuned = (_samples(s) for s in scores)
    shuffled = Samples(
        source="test", tasks=[tuned.tasks[0].model_copy(update={"documents": tuned.tasks[0].documents[::-1]})]
    )
    assert _compare(base, tuned)[0] == _compare(base, shuffled)[0]


def test_repeated_documents_pair_by_occurrence() -> None:
    base, tuned = _samples([0, 1, 0]), _samples([1, 1, 1])
    same = [[d.model_copy(update={"doc_hash": "same"}) for d in s.tasks[0].documents] for s in (base, tuned)]
    [row], _ = _compare(_samples([0, 1, 0], documents=same[0]), _samples([1, 1, 1], documents=same[1]))
    assert row.n == 3
    assert row.delta.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("change", [{"target_hash": "other"}, {"doc_id": 7}, {"doc_hash": "other"}])
def test_documents_that_differ_are_refused(change: dict[str, Any]) -> None:
    base, tuned = _samples([0, 1]), _samples([0, 1])
    documents = [tuned.tasks[0].documents[0].model_copy(update=change), tuned.tasks[0].documents[1]]
    with pytest.raises(EvidenceError, match=r"t: .*same version of the task"):
        _compare(base, _samples([0, 1], documents=documents))


def test_other_prompts_are_a_caveat() -> None:
    tuned = _samples([0, 1])
    documents = [d.model_copy(update={"prompt_hash": "q"}) for d in tuned.tasks[0].documents]
    rows, caveats = _compare(_samples([0, 1]), _samples([0, 1], documents=documents))
    assert rows[0].paired
    assert "2 prompts differ" in caveats[0]


def test_without_documents_the_reported_errors_are_used() -> None:
    def reported(value: float, stderr: float | None) -> Samples:
        score = Score(metric="acc", filter="none", value=value, stderr=stderr)
        return Samples(source="x", tasks=[TaskSamples(task="t", n=100, scores=[score], documents=[])])

    [row], caveats = _compare(reported(0.5, 0.03), reported(0.6, 0.04))
    assert not row.paired
    assert row.delta.value == pytest.approx(0.1)
    assert row.delta.low == pytest.approx(0.1 - 1.959964 * 0.05, abs=1e-6)
    assert row.p == pytest.approx(0.0455, abs=1e-4)  # z = 2
    assert "published standard errors" in caveats[0]
    assert (row.wins, row.p_mcnemar, row.clusters) == (None, None, None)
    [row], caveats = _compare(reported(0.5, 0.03), reported(0.6, None))
    assert row.delta.low is None
    assert row.p is None
    assert row.verdict == "unclear"
    assert any("no interval" in caveat for caveat in caveats)


def test_a_family_counts_only_what_has_a_p_value() -> None:
    def reported(value: float, *, stderr: float | None) -> list[TaskSamples]:
        tasks = (("t", 0.03), ("u", stderr))
        return [
            TaskSamples(task=t, n=100, scores=[Score(metric="acc", filter="none", value=value, stderr=e)], documents=[])
            for t, e in tasks
        ]

    base, tuned = (Samples(source="x", tasks=reported(value, stderr=None)) for value in (0.5, 0.6))
    rows, caveats = _compare(base, tuned)
    assert [row.p is None for row in rows] == [False, True]
    assert rows[0].p_adjusted == rows[0].p
    assert rows[0].source == "x; Benjamini-Hochberg over 1 headline metric"
    assert rows[1].source == "x"
    assert any("Benjamini-Hochberg over 1 tasks" in caveat for caveat in caveats)


def test_a_metric_that_cannot_be_put_together_is_not_paired() -> None:
    values = [[1.0, 2.0, 3.0], [2.0]]
    [row], caveats = _compare(_samples(values, aggregation="bleu"), _samples(values, aggregation="bleu"))
    assert row.paired, "pooled lists are understood by their shape"
    texts = _samples([[1.0], [2.0]], metric="bleu", aggregation="bleu").tasks[0]
    documents = [d.model_copy(update={"values": {"bleu": [["a"], ["b"]]}}) for d in texts.documents]
    [row], caveats = _compare(*(Samples(source="x", tasks=[texts.model_copy(update={"documents": documents})]),) * 2)
    assert not row.paired
    assert "cannot be put together" in caveats[0]


def test_what_only_one_model_has_is_left_out_and_said() -> None:
    base = Samples(source="x", tasks=_samples([0, 1]).tasks + _samples([0, 1], task="u").tasks)
    rows, caveats = _compare(base, _samples([0, 1]))
    assert [row.task for row in rows] == ["t"]
    assert "left out: u" in caveats[0]
    with pytest.raises(EvidenceError, match="no task in common"):
        _compare(_samples([0, 1]), _samples([0, 1], task="u"))


def test_equal_seeds_give_equal_rows() -> None:
    rng = np.random.default_rng(3)
    base, tuned = _samples(rng.normal(size=30).tolist()), _samples(rng.normal(size=30).tolist())
    assert _compare(base, tuned) == _compare(base, tuned)


# --- aggregation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aggregation", ["mean", "perplexity", "weighted_perplexity", "bits_per_byte", "f1", "matthews_corrcoef"]
)
def test_sums_reproduce_lm_evals_own_aggregation(aggregation: str) -> None:
    import lm_eval.api.metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import get_aggregation

    rng = np.random.default_rng(0)
    values: list[Any] = rng.normal(-3, 1, 50).tolist()
    if aggregation in ("weighted_perplexity", "bits_per_byte"):
        values = [[v, float(n)] for v, n in zip(values, rng.integers(3, 30, 50), strict=True)]
    if aggregation in ("f1", "matthews_corrcoef"):
        values = rng.integers(0, 2, (50, 2)).astype(float).tolist()
    expected = float(get_aggregation(aggregation)(values))
    made = additive(aggregation, values, reported=expected)
    assert made is not None
    assert made.value() == pytest.approx(expected, rel=1e-9)


def test_an_aggregate_that_is_not_reproduced_is_not_used() -> None:
    assert additive("mean", [0.0, 1.0], reported=0.7) is None
    assert additive(None, [[1.0, 0.0], [1.0]], reported=2 / 3) is not None
    assert additive("f1", [[0.0, 2.0]], reported=None) is None
    assert additive("mean", [], reported=None) is None
