"""Harvest against the bare truncated forward pass, in one run (pytest tests/benchmarks --benchmark-only)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import corpus as corpora
from modeldiff_eval import models

pytestmark = pytest.mark.usefixtures("embedded_model")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[models.Loaded, corpora.TokenCorpus, Path]:
    cache = tmp_path_factory.mktemp("cache")
    device = models.pick_device(None)
    loaded = models.load(models.resolve("embedded"), device=device, dtype=models.pick_dtype(None, device), cache=cache)
    corpus = corpora.tokenise(["packaged"], loaded.tokenizer, template=None, cache=cache, tokens=10_000)
    return loaded, corpus, cache


@pytest.mark.benchmark(group="harvest")
def test_bare_truncated_forward(benchmark: object, setting: tuple[models.Loaded, corpora.TokenCorpus, Path]) -> None:
    loaded, corpus, _ = setting
    rate = benchmark.pedantic(acts.truncated_forward_rate, args=(loaded, corpus), kwargs={"layer": 14}, rounds=3)  # type: ignore[attr-defined]
    benchmark.extra_info["tokens_per_second"] = rate  # type: ignore[attr-defined]


@pytest.mark.benchmark(group="harvest")
def test_harvest(benchmark: object, setting: tuple[models.Loaded, corpora.TokenCorpus, Path]) -> None:
    loaded, corpus, cache = setting
    fresh = iter(range(100))

    def once() -> None:
        done = acts.harvest(loaded, corpus, layer=14, cache=cache / str(next(fresh)))
        assert done.tokens == corpus.tokens

    benchmark.pedantic(once, rounds=3)  # type: ignore[attr-defined]


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize("path", ["sparse", "dense reference"])
def test_training_step(benchmark: object, path: str) -> None:
    from modeldiff_eval import train_step as train

    settings = train.TrainSettings(n_latents=4096, k=32, steps=100)
    trainer = train.Trainer(settings, torch.zeros(2, 576), torch.ones(2))
    rows = torch.randn(2048, 2, 576)
    inputs = rows.flatten(1)

    def sparse() -> None:
        trainer.gradients(inputs, 32 * 2048)

    def dense() -> None:
        parameters = [p.clone().requires_grad_() for p in trainer.parameters]
        nothing = torch.zeros(0, dtype=torch.int64)
        train.dense_loss(inputs, *parameters, budget=32 * 2048, dead=nothing, aux_k=288).backward()

    benchmark.pedantic(sparse if path == "sparse" else dense, rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]
