"""Blocks of documents that other runs have too, and scores by document: what a run keeps for later comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_pair import perturbed
from tiny_run import STEPS, Runner

from modeldiff_eval.benchmark_samples import Document, Samples, Score, TaskSamples
from modeldiff_eval.benchmark_scores import score_table
from modeldiff_eval.comparison import compare_runs
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.render_comparison import render_comparison
from modeldiff_eval.shift_shared import shared_blocks

pytestmark = pytest.mark.usefixtures("quick_runs")


def corpus_of(texts: list[list[int]], sources: list[str]) -> TokenCorpus:
    ends = np.cumsum([len(t) for t in texts])
    sequences = np.stack([ends - [len(t) for t in texts], ends, np.arange(len(texts))], axis=1)
    documents: dict[str, list[Any]] = {"id": list(range(len(texts))), "source": sources}
    return TokenCorpus("k", np.concatenate(texts).astype(np.int32), sequences, documents, None)  # type: ignore[arg-type]


def test_equal_documents_fall_into_equal_blocks_whatever_else_a_run_reads() -> None:
    rng = np.random.default_rng(0)
    common = [rng.integers(0, 50, 5).tolist() for _ in range(30)]
    own = [[rng.integers(50, 99, 5).tolist() for _ in range(20)] for _ in range(2)]
    found = []
    for answers in own:
        corpus = corpus_of(answers + common, ["answers"] * 20 + ["text"] * 30)
        rows = torch.arange(corpus.tokens)
        found.append(shared_blocks(corpus, rows, corpus.document_of_token()))
    shared = set(found[0].keys) & set(found[1].keys)
    assert sum(n for key, n in zip(found[0].keys, found[0].documents, strict=True) if key in shared) == 30
    assert len(set(found[0].keys)) == len(found[0].keys) == found[0].grouping.n
    assert np.bincount(found[0].grouping.of_row, minlength=found[0].grouping.n).sum() == 250


def test_scores_by_document_are_those_of_means_only() -> None:
    def samples(values: list[float]) -> Samples:
        documents = [
            Document(filter="none", doc_id=i, doc_hash="same" if i < 2 else f"d{i}", target_hash=None, prompt_hash=None, values={"acc": v, "f": [v, 1.0]})
            for i, v in enumerate(values)
        ]  # fmt: skip
        scores = [
            Score(metric="acc", filter="none", value=sum(values) / len(values), stderr=None, aggregation="mean"),
            Score(metric="f", filter="none", value=0.123, stderr=None, aggregation="own code"),
        ]
        return Samples(source="s", tasks=[TaskSamples(task="t", n=len(values), scores=scores, documents=documents)])

    table = score_table(samples([1.0, 0.0, 1.0]), samples([1.0, 1.0, 0.0]))
    assert table["document"].tolist() == ["same#0", "same#1", "d2#0"]
    assert table["tuned"].tolist() == [1.0, 1.0, 0.0]
    assert set(table["metric"]) == {"acc"}


@pytest.fixture(scope="module")
def options(text: Path) -> dict[str, Any]:
    return {
        "method": "batchtopk", "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": 48, "k": 4, "steps": STEPS, "batch": 256,
        "null_tokens": 4000, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "thresholds": "nu_error=2,nu_reconstruction=2",
    }  # fmt: skip


def test_two_anchored_runs_of_one_base_are_compared(
    run: Runner, base_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    runs = {}
    for name, seed, scale in (("near", 11, 0.02), ("far", 12, 0.3)):
        tuned = perturbed(tuned_model, tmp_path / f"tuned-{name}", seed=seed, scale=scale)
        runs[name] = run(tuned_model, tuned, name, anchor=base_model)
    made = compare_runs({name: one.out for name, one in runs.items()}, draws=300)
    assert made.base_shared
    masses = pd.read_parquet(runs["near"].out / "masses.parquet")
    assert masses["dictionary"].nunique() == 1
    assert masses.groupby("block", observed=True)["documents"].first().sum() <= 90
    for row in made.classes:
        values = [row.runs[name].diff.value for name in ("near", "far")]
        if None not in values:
            assert row.shares[0].value.value == pytest.approx((values[0] or 0) - (values[1] or 0))
        own = row.activation[0]
        if own.value.value is not None:
            # All documents are shared here, so each run's change on them is the card's.
            change = row.runs["far"].activation
            assert change is not None
            assert own.change_second.value == pytest.approx(change.change.value, abs=1e-3)
    assert any(row.activation[0].value.value is not None for row in made.classes)
    assert any(row.shares[0].value.value is not None for row in made.classes)
    changed = made.overlaps[2]
    assert changed.same_dictionary
    assert changed.both is not None
    base = made.overlaps[1]
    assert (base.only_first, base.only_second, base.same_dictionary) == (0, 0, True)
    assert render_comparison(made, tmp_path / "out")["html"].stat().st_size < 1_000_000


def test_two_direct_runs_of_one_base_are_compared(
    run: Runner, base_model: Path, tuned_model: Path, merged_model: Path
) -> None:
    runs = {name: run(base_model, tuned, name).out for name, tuned in (("a", tuned_model), ("b", merged_model))}
    made = compare_runs(runs, draws=300)
    assert not made.base_shared
    assert any("base does not cancel" in caveat for caveat in made.caveats)
    assert made.overlaps[0].both is not None
    assert made.overlaps[2].missing
    for row in made.classes:
        values = [row.runs[name].diff.value for name in ("a", "b")]
        if None not in values:
            assert row.shares[0].value.value == pytest.approx((values[0] or 0) - (values[1] or 0))
