"""Memory that runs out: the batch is halved with a note, the numbers stay, and a batch of one is an error with advice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import models, train_step
from modeldiff_eval.backoff import Room, is_out_of_memory, twice
from modeldiff_eval.benchmarks import run_benchmarks
from modeldiff_eval.corpus import tokenise
from modeldiff_eval.errors import CrosscoderError, EvidenceError, ModelError
from modeldiff_eval.rollouts import packaged_prompts, rollouts
from modeldiff_eval.weighting import divergences

OURS = (
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError(OURS), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_memory_that_ran_out(error: Exception, found: bool) -> None:
    assert is_out_of_memory(error) is found


def test_a_batch_is_halved_until_it_fits_and_the_next_one_begins_there(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def run(part: slice) -> int:
        tried.append(part.stop - part.start)
        if tried[-1] > 3:
            raise RuntimeError(OURS)
        return tried[-1]

    room = Room("A test")
    assert [(p.start, p.stop) for p, _ in room.parts(8, 10, run)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert tried == [8, 4, 2, 2, 2, 2]
    assert [p.stop - p.start for p, _ in room.parts(5, 10, run)] == [2, 2, 1]
    assert "A test: out of memory with a batch of 8" in caplog.text
    assert "Going on with 2." in caplog.text


def test_a_batch_of_one_that_does_not_fit_is_an_error_with_advice() -> None:
    def never(part: slice) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(ModelError, match=r"A test: out of memory with a batch of one \(CUDA .*\)\. Do this\."):
        list(Room("A test", "Do this.").parts(4, 1, never))


def test_other_errors_pass_through() -> None:
    def broken(part: slice) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Room("x").parts(4, 1, broken))


class Small:
    """Stands in for a model's forward: no memory for more than ``most`` rows."""

    def __init__(self, forward: Callable[..., Any], most: int) -> None:
        self.forward, self.most, self.failures = forward, most, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None and len(ids) > self.most:
            self.failures += 1
            raise RuntimeError(OURS)
        return self.forward(*args, **kwargs)


@pytest.fixture
def loaded(base_model: Path, tmp_path: Path) -> models.Loaded:
    return models.load(
        models.resolve(str(base_model)), device=torch.device("cpu"), dtype=torch.float32, cache=tmp_path / "models"
    )


def test_a_harvest_gives_the_same_rows_in_smaller_batches(
    loaded: models.Loaded, small_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    corpus = tokenise([str(small_corpus)], loaded.tokenizer, template=None, cache=tmp_path)
    whole = acts.harvest(loaded, corpus, layer=1, cache=tmp_path / "a", batch_tokens=2048)
    inner = loaded.model.get_decoder()
    small = Small(inner.forward, most=3)
    monkeypatch.setattr(inner, "forward", small)
    with caplog.at_level(logging.WARNING):
        parts = acts.harvest(loaded, corpus, layer=1, cache=tmp_path / "b", batch_tokens=2048)
    assert 1 <= small.failures < 10  # What has failed once is not tried again and again.
    assert "out of memory with a batch of" in caplog.text
    torch.testing.assert_close(parts.mapped(), whole.mapped(), rtol=1e-5, atol=1e-5)


def test_the_divergence_of_two_models_survives_it(
    loaded: models.Loaded, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tokenise([str(small_corpus)], loaded.tokenizer, template=None, cache=tmp_path)
    whole = divergences(loaded, loaded, corpus, cache=tmp_path / "a")
    small = Small(loaded.model.forward, most=2)
    monkeypatch.setattr(loaded.model, "forward", small)
    parts = divergences(loaded, loaded, corpus, cache=tmp_path / "b")
    assert small.failures
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_answers_stay_the_same_in_smaller_batches(loaded: models.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = packaged_prompts(6, seed=0)
    template = "{% for m in messages %}{{ m['content'][:40] }}{% endfor %}"

    def answers() -> list[str]:
        made = rollouts(
            loaded.model, loaded.tokenizer, prompts, model_key="x", max_new_tokens=8, chat_template=template
        )
        return [answer.text for answer in made]

    whole = answers()
    small = Small(loaded.model.generate, most=2)

    def generate(ids: torch.Tensor | None = None, **settings: Any) -> Any:
        return small(**({"input_ids": ids} if ids is not None else {}), **settings)

    monkeypatch.setattr(loaded.model, "generate", generate)
    assert answers() == whole
    assert small.failures


@pytest.mark.slow
def test_a_benchmark_is_asked_again_in_smaller_batches(
    loaded: models.Loaded, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(**more: Any) -> list[Any]:
        found = run_benchmarks(
            loaded.model, loaded.tokenizer, ["mdx_arithmetic"], model_key="x", cache_dir=None, limit=8, **more
        )
        return found.tasks

    whole = scores()
    small = Small(loaded.model.forward, most=4)
    monkeypatch.setattr(loaded.model, "forward", small)
    assert [task.model_dump(exclude={"config"}) for task in scores(batch_size=8)] == [
        task.model_dump(exclude={"config"}) for task in whole
    ]
    assert small.failures
    assert "out of memory with batches of 8" in caplog.text
    small.most = 0
    with pytest.raises(EvidenceError, match="runs out of memory with one document at a time"):
        scores(batch_size=2)


def trainer() -> train_step.Trainer:
    settings = train_step.TrainSettings(n_latents=32, k=4, steps=10, batch=64, seed=0)
    return train_step.Trainer(settings, torch.zeros(2, 8), torch.ones(2))


def test_a_training_step_is_tried_twice_and_changes_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(64, 2, 8, generator=torch.Generator().manual_seed(1))
    plain, shaken = trainer(), trainer()
    compute, failures = shaken.selector.__call__, [1]

    def failing(*args: Any) -> Any:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(*args)

    monkeypatch.setattr(shaken, "selector", failing)
    for one in (plain, shaken):
        one.step(rows)
    assert "Training, step 0: out of memory" in caplog.text
    for a, b in zip(plain.parameters, shaken.parameters, strict=True):
        assert torch.equal(a, b)


def test_a_training_step_without_memory_twice_is_an_error_that_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = trainer()
    before = [p.clone() for p in one.parameters]

    def failing(*_: Any) -> Any:
        raise RuntimeError(OURS)

    monkeypatch.setattr(one, "selector", failing)
    with pytest.raises(CrosscoderError, match=r"step 0: out of memory .* The last checkpoint is kept"):
        one.step(torch.randn(64, 2, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters, strict=True))
    with pytest.raises(ZeroDivisionError):
        twice(lambda: 1 // 0, "x")()
