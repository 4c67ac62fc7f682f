"""Latents and passages a second of the offline annotator: ``pytest tests/benchmarks --benchmark-only``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from modeldiff_eval.annotate import Evidence, Excerpt
from modeldiff_eval.annotate_offline import OfflineAnnotator
from modeldiff_eval.embedding import SentenceEmbedder
from modeldiff_eval.resources import resource
from modeldiff_eval.taxonomy import Taxonomy

LATENTS = 400


@pytest.fixture(scope="module")
def passages() -> list[str]:
    lines = resource("demo/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"][-1]["content"] for line in lines]


def test_latents_a_second_with_known_passages(benchmark: BenchmarkFixture, passages: list[str]) -> None:
    rng = np.random.default_rng(0)
    items = []
    for latent in range(LATENTS):
        chosen = rng.choice(len(passages), 12, replace=False)
        examples = []
        for i in chosen:
            words = passages[i].split(" ")[:24]
            examples.append(
                Excerpt(
                    text=" ".join(words), tokens=[f" {word}" for word in words], context=passages[i],
                    activations=rng.random(len(words)).tolist(), document=str(i),
                )
            )  # fmt: skip
        items.append(Evidence(latent=latent, examples=examples))
    annotator = OfflineAnnotator(Taxonomy.load(), background=passages)
    list(annotator.annotate(items))
    answers = benchmark(lambda: list(annotator.annotate(items)))
    assert len(answers) == LATENTS
    # The target: 200 latents a second once the model is loaded and the passages are embedded.
    timed: Any = benchmark.stats
    assert LATENTS / timed.stats.mean >= 200


def test_passages_a_second(benchmark: BenchmarkFixture, passages: list[str]) -> None:
    embedder = SentenceEmbedder()
    embedder.embed(passages[:64])

    def run() -> None:
        embedder._cache.clear()
        embedder.embed(passages)

    runner: Any = benchmark
    runner.pedantic(run, rounds=2, iterations=1)
