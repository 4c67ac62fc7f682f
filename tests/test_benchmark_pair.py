"""Documents of both models side by side: what does not match is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modeldiff_eval.benchmark_flips import all_flips, asks_for_harm
from modeldiff_eval.benchmark_pair import pair
from modeldiff_eval.benchmark_samples import Document, Samples, Score, TaskSamples
from modeldiff_eval.benchmarks import compare
from modeldiff_eval.errors import EvidenceError


def _task(scores: list[float], *, filters: tuple[str, ...] = ("none",), first: int = 0, **changes: Any) -> TaskSamples:
    documents = [
        Document(
            filter=name, doc_id=first + i, doc_hash=f"d{first + i}", target_hash="t", prompt_hash="p", values={"acc": score}
        )
        for name in filters
        for i, score in enumerate(scores)
    ]  # fmt: skip
    reported = [
        Score(metric="acc", filter=name, value=sum(scores) / len(scores), stderr=None, aggregation="mean") for name in filters
    ]  # fmt: skip
    return TaskSamples.model_validate(
        {"task": "quiz", "n": len(scores), "scores": reported, "documents": documents, **changes}
    )


def _compare(base: TaskSamples, tuned: TaskSamples) -> tuple[list[Any], list[str]]:
    both = [Samples(source="x", tasks=[task]) for task in (base, tuned)]
    return compare(*both, draws=200, rng=np.random.default_rng(0))


def test_documents_of_one_model_only_are_listed_and_counted() -> None:
    base, tuned = _task([0.0, 1.0] * 5), _task([0.0, 1.0] * 5, first=8)
    with pytest.raises(
        EvidenceError,
        match=r"8 are only in base \(0, 1, 2, 3, 4 and 3 more\) and 8 are only in tuned \(10, 11, 12, 13, 14 and",
    ):
        pair(base, tuned)


@pytest.mark.parametrize(("field", "values", "said"), [
    ("version", ("1.0", "2.0"), "base has version 1.0 and tuned 2.0"),
    ("fewshot", (0, 5), "base has number of few-shot examples 0 and tuned 5"),
])  # fmt: skip
def test_another_setup_is_refused(field: str, values: tuple[Any, Any], said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        pair(*(_task([0.0, 1.0], **{field: value}) for value in values))
    assert pair(_task([0.0, 1.0], **{field: values[0]}), _task([0.0, 1.0])).filters, "unknown is not different"


def test_a_document_logged_twice_is_refused() -> None:
    once = _task([0.0, 1.0, 1.0])
    twice = once.model_copy(update={"documents": [*once.documents, once.documents[1]]})
    with pytest.raises(EvidenceError, match=r"1 documents are logged more than once under tuned \(1\)"):
        pair(once, twice)


def test_a_missing_filter_is_a_named_gap() -> None:
    base, tuned = _task([0.0, 1.0, 1.0], filters=("strict", "loose")), _task([1.0, 1.0, 1.0], filters=("loose", "own"))
    rows, caveats = _compare(base, tuned)
    assert [row.metric for row in rows] == ["acc,loose"]
    assert rows[0].paired
    assert rows[0].headline
    for said in (
        "only base has samples of the filter strict", "only tuned has samples of the filter own",
        "only base has the metric acc,strict", "only tuned has the metric acc,own",
    ):  # fmt: skip
        assert any(said in caveat for caveat in caveats)


def test_nan_scores_are_counted_and_both_scores_are_of_the_rest() -> None:
    base, tuned = _task([1.0, 0.0, 1.0, 0.0]), _task([1.0, 1.0, 1.0, 1.0])
    broken = [tuned.documents[0].model_copy(update={"values": {"acc": ["nan"]}}), *tuned.documents[1:]]
    reported = [tuned.scores[0].model_copy(update={"value": None})]
    rows, caveats = _compare(base, tuned.model_copy(update={"documents": broken, "scores": reported}))
    assert (rows[0].n, rows[0].base, rows[0].tuned) == (3, pytest.approx(1 / 3), 1.0)
    assert "0 documents have no score under base and 1 none under tuned" in caveats[0]


def test_every_flip_is_listed_with_both_answers() -> None:
    base, tuned = _task([1.0, 0.0, 0.0, 1.0]), _task([0.0, 1.0, 0.0, 1.0])
    documents = [d.model_copy(update={"answer": f"was {i}", "prompt": "why"}) for i, d in enumerate(base.documents)]
    both = [Samples(source="x", tasks=[task]) for task in (base.model_copy(update={"documents": documents}), tuned)]
    found = [
        (task, name, metric, f.document, f.base, f.tuned, f.base_answer) for task, name, metric, f in all_flips(*both)
    ]
    assert found == [("quiz", "none", "acc", "0", 1.0, 0.0, "was 0"), ("quiz", "none", "acc", "1", 0.0, 1.0, "was 1")]


def test_only_a_few_flips_reach_the_card_and_they_are_short() -> None:
    base, tuned = _task([0.0] * 9 + [1.0]), _task([1.0] * 9 + [0.0])
    documents = [d.model_copy(update={"answer": "<b>" + "x" * 390}) for d in base.documents]
    rows, _ = _compare(base.model_copy(update={"documents": documents}), tuned)
    assert [flip.document for flip in rows[0].flips] == ["0", "1", "9"]
    assert all(len(flip.base_answer) == 200 for flip in rows[0].flips)


@pytest.mark.parametrize(
    ("task", "harm"),
    [
        ("mdx_refuse_harmful", True), ("harmbench", True), ("xstest_unsafe", True), ("StrongREJECT", True), ("toxigen", True),
        ("mdx_answer_harmless", False), ("xstest_safe", False), ("gsm8k", False),
    ],
)  # fmt: skip
def test_a_card_has_counts_and_no_texts_of_requests_for_harm(task: str, harm: bool) -> None:
    base, tuned = (_task(scores, task=task) for scores in ([0.0, 1.0, 1.0], [1.0, 1.0, 0.0]))
    [row], caveats = _compare(base, tuned)
    assert asks_for_harm(task) is harm
    assert (row.wins, row.ties, row.losses) == (1, 1, 1)
    assert len(row.flips) == (0 if harm else 2)
    assert any(caveat.startswith("Their texts are only in flips.jsonl") for caveat in caveats) is harm
    assert len(list(all_flips(*(Samples(source="x", tasks=[each]) for each in (base, tuned))))) == 2
