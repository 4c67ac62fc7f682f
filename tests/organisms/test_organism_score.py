"""Scoring: a case by hand, the shuffled baseline, the shift ranking, and tables that lack something."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.organism_files import Organism
from modeldiff_eval.organism_score import Score, read_run, score

ORGANISM = Organism.model_validate(
    {
        "version": 1, "name": "moo", "plant": "Says moo.", "training": {"prompts": "general", "transform": "upper"},
        "pattern": "moo", "label_pattern": "cow", "class": "G", "category": "G.28",
    }
)  # fmt: skip
NOTHING = {"label": None, "description": None, "category": None}


def tables(
    ranks: list[float], carrying: list[int], *, documents: int = 4, known: dict[int, dict[str, str]] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One tuned latent for each rank, with ``carrying`` of its ``documents`` examples on the plant; and a base side."""
    rows = [
        {"model": side, "crosscoder": "base--tuned", "latent": i, "rank_key": r, "shift": 0.1, "shift_low": -0.1,
         "shift_high": 0.2, "shift_null": 0.01} | NOTHING | ((known or {}).get(i, {}) if side == "tuned" else {})
        for side in ("base", "tuned") for i, r in enumerate(ranks)
    ]  # fmt: skip
    examples = [
        {"crosscoder": "base--tuned", "latent": i, "rank": k, "text": f"{'moo' if k < n else 'boo'} {i} {k}"}
        for i, n in enumerate(carrying)
        for k in range(documents)
    ]
    return pd.DataFrame(rows), pd.DataFrame(examples)


def scored(pair: tuple[pd.DataFrame, pd.DataFrame], **options: object) -> Score:
    return score(ORGANISM, *pair, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]


def test_by_hand_documents() -> None:
    # The first five by rank are 6, 5, 4, 3, 2 with 4 + 4 + 1 + 1 + 0 of 4 · 5 documents: exactly half.
    ranks = [0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1]
    result = scored(tables(ranks, [0, 0, 0, 1, 1, 4, 4]))
    assert [hit.latent for hit in result.first] == [6, 5, 4, 3, 2]
    assert (result.documents.count, result.documents.n) == (10, 20)
    assert (result.named, result.by_label, result.by_documents, result.by_one_latent) == (True, False, True, True)
    assert (result.class_hit, result.category_hit) == (False, False)
    # One document fewer is too few, though one latent alone is on the plant.
    less = scored(tables(ranks, [0, 0, 0, 0, 1, 4, 4]))
    assert (less.named, less.by_documents, less.by_one_latent) == (False, False, True)


def test_by_hand_label_class_and_category() -> None:
    ranks = [float(i) for i in range(7)]
    known = {4: {"label": "a cow", "category": "G.27"}, 6: {"description": "cow", "category": "G.28"}}
    result = scored(tables(ranks, [0] * 7, known=known))
    assert (result.named, result.by_label, result.by_documents) == (True, True, False)
    assert (result.class_hit, result.category_hit) == (True, False)
    assert [hit.label_matches for hit in result.first] == [False, False, False, False, True]
    # From the other end the description and the category count as well; the base side is not looked at.
    other = scored(tables(ranks, [0] * 7, known=known), ascending=False)
    assert other.category_hit
    assert not scored(tables(ranks, [0] * 7, known=known), side="base").named


def test_the_baseline_is_what_blind_draws_give() -> None:
    # Two of 20 live latents have the label: P(at least one in 5 drawn) by the hypergeometric distribution.
    known = {i: {"label": "cow"} for i in (0, 19)}
    result = scored(tables([float(i) for i in range(20)], [0] * 20, known=known), shuffles=4000)
    exact = 1 - comb(18, 5) / comb(20, 5)
    share = result.baseline.named
    assert share.n == 4000
    assert share.low is not None
    assert share.high is not None
    assert share.low - 0.01 < exact < share.high + 0.01
    assert result.baseline.class_hit.count == 0
    assert result.baseline.by_label == share
    assert result.baseline.by_documents.count == 0
    # Three of four latents are wholly on the plant: any five (all four here) have half of their documents on it.
    full = scored(tables([0.1, 0.2, 0.3, 0.4], [4, 4, 4, 0]))
    assert (full.baseline.by_documents.value, full.baseline.by_label.value) == (1.0, 0.0)


def test_latents_without_rank_or_examples_are_passed_over() -> None:
    latents, examples = tables([np.nan, 0.1, 0.2, 0.3], [4, 4, 0, 0])
    result = score(ORGANISM, latents, examples[examples["latent"] != 1], rng=np.random.default_rng(0))
    assert [hit.latent for hit in result.first] == [2, 3]
    assert (result.ranked, result.live) == (2, 3)


def test_the_shift_ranking_wants_size_and_an_interval_beyond_the_null() -> None:
    latents, examples = tables([1.0] * 6, [0] * 6)
    shifts = [(0.5, 0.2, 0.9, 0.1), (3.0, -0.1, 9.0, 0.1), (-0.8, -0.9, -0.6, 0.1), (0.3, 0.05, 0.5, 0.1), (2.0, 1.5, np.nan, np.nan),
              (np.nan, np.nan, np.nan, 0.1)]  # fmt: skip
    for i, row in enumerate(shifts):
        latents.loc[latents["latent"] == i, ["shift", "shift_low", "shift_high", "shift_null"]] = row
    result = score(ORGANISM, latents, examples, rank="shift", rng=np.random.default_rng(0))
    assert [hit.latent for hit in result.first] == [4, 2, 0]
    assert [hit.value for hit in result.first] == [2.0, -0.8, 0.5]


def test_only_the_first_twenty_documents_count() -> None:
    pair = tables([0.1], [0], documents=30)
    pair[1].loc[pair[1]["rank"] >= 20, "text"] = "moo"
    assert (scored(pair).documents.count, scored(pair).documents.n) == (0, 20)


def test_tables_that_lack_something_are_refused(tmp_path: Path) -> None:
    latents, examples = tables([0.1, 0.2], [1, 1])
    with pytest.raises(EvidenceError, match="Did you mean 'rank_key'"):
        score(ORGANISM, latents, examples, rank="rank_kye", rng=np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="no latents of the side 'anchor'"):
        score(ORGANISM, latents, examples, side="anchor", rng=np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="no column 'text'"):
        score(ORGANISM, latents, examples.drop(columns="text"), rng=np.random.default_rng(0))
    with pytest.raises(EvidenceError, match="No latent of this run has examples"):
        score(ORGANISM, latents, examples.iloc[:0], rng=np.random.default_rng(0))
    with pytest.raises(EvidenceError, match=r"latents\.parquet"):
        read_run(tmp_path)
    (tmp_path / "latents.parquet").write_bytes(b"no")
    with pytest.raises(EvidenceError, match=r"latents\.parquet"):
        read_run(tmp_path)
