"""Memory and disk from sizes: against what the real trainer holds, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modeldiff_eval import plan_costs as c
from modeldiff_eval.plan_shape import GEMMA_2_9B, Shape
from modeldiff_eval.train_step import Trainer, TrainSettings

SMALL = Shape(d_model=24, n_layers=4, layer_params=1000, other_params=500)


def job(**changed: Any) -> c.Job:
    values: dict[str, Any] = {
        "shape": SMALL, "layer": 2, "n_latents": 128, "k": 4, "steps": 10, "batch": 64, "tokens": 10_000,
    }  # fmt: skip
    return c.Job(**values | changed)


def named(parts: list[c.Part], start: str) -> int:
    return next(part.size for part in parts if part.name.startswith(start))


def test_the_trainer_holds_what_is_planned() -> None:
    trainer = Trainer(TrainSettings(n_latents=128, k=4, steps=10, batch=64), torch.zeros(2, 24), torch.ones(2))
    trainer.step(torch.randn(64, 2, 24, generator=torch.Generator().manual_seed(0)))
    parts = c.trainer_memory(job())

    def held(tensors: list[torch.Tensor]) -> int:
        return sum(t.numel() * t.element_size() for t in tensors if t.ndim == 2)

    moments = [state[name] for state in trainer.optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert named(parts, "encoder and decoder") == held(trainer.parameters)
    assert named(parts, "Adam") == held(moments)
    assert named(parts, "gradients") == held([p.grad for p in trainer.parameters if p.grad is not None])
    buffers = {name.split()[0]: held for name, held in trainer.selector._buffers.items()}
    # The right side has fewer columns while the models are close.
    columns = -(-(2 * 24 + 2) // 32) * 32
    whole = held([buffers["screen"], buffers["mask"]]) + 2 * columns * len(buffers["right"])
    assert named(parts, "screening") == whole
    assert buffers["right"].shape[1] <= columns


def test_the_paper_on_one_rank() -> None:
    paper = job(shape=GEMMA_2_9B, layer=20, n_latents=114_688, k=100, batch=2048, steps=97_656, tokens=200_000_000)
    parts = c.trainer_memory(paper)
    matrix = 4 * 114_688 * 7168
    assert named(parts, "encoder and decoder") == 2 * matrix
    assert named(parts, "Adam") == 4 * matrix
    assert sum(part.size for part in parts) == pytest.approx(9.5 * matrix, rel=0.02)
    assert named(c.disk(paper), "activations") == 2 * 200_000_000 * (3584 * 2 + 4)
    models = c.models_memory(paper, batch_tokens=512)
    assert [part.size for part in models] == [0, 0]  # Too big to stay, and gone before the larger trainer comes.


def test_ranks_divide_the_latents_and_nothing_else() -> None:
    one, four = job(n_latents=4096), job(n_latents=4096, ranks=4)
    for start in ("encoder and decoder", "Adam", "gradients"):
        assert 4 * named(c.trainer_memory(four), start) == named(c.trainer_memory(one), start)
    assert named(c.trainer_memory(four), "rows") == named(c.trainer_memory(one), "rows")
    assert c.disk(four) == c.disk(one)
    assert job(n_latents=10, ranks=4).latents_of_rank == 3


def test_streaming_trades_disk_for_memory() -> None:
    kept, streamed = job(), job(streaming=True)
    assert not [part for part in c.disk(streamed) if part.name.startswith("activations")]
    measured = c.disk(job(streaming=True, measured=1000))
    assert 10 * named(measured, "activations") == named(c.disk(kept), "activations") == 2 * 10_000 * (24 * 2 + 4)
    assert named(c.models_memory(streamed, batch_tokens=64), "both models") == 2 * 2 * 4500
    assert named(c.models_memory(streamed, batch_tokens=64), "two blocks") == 2 * c.BLOCK_BYTES


def test_a_model_on_the_way_to_the_disk_and_the_trainer_are_never_there_together() -> None:
    """Together they need the larger of the two; small models stay, and that is counted."""
    trainer = sum(part.size for part in c.trainer_memory(job()))
    small = c.models_memory(job(), batch_tokens=64)
    assert [part.size for part in small] == [(2 + 2) * 2 * 4500, 0]
    params = 2 * c.KEEP_LOADED_BYTES
    large = c.models_memory(job(shape=Shape(d_model=24, n_layers=1, layer_params=params)), batch_tokens=64)
    assert [part.size for part in large] == [0, 2 * params + 6 * 2 * 64 * 4 * 24 - trainer]


def test_blocks_are_those_of_the_stream() -> None:
    stream = pytest.importorskip("modeldiff_eval.stream")
    assert (c.BLOCK_BYTES, c.BLOCK_BATCHES) == (stream.BLOCK_BYTES, stream.BLOCK_BATCHES)


def test_an_anchor_costs_a_model_and_a_crosscoder() -> None:
    direct, anchored = job(), job(n_models=3, n_crosscoders=2)
    assert 2 * named(c.disk(anchored), "activations") == 3 * named(c.disk(direct), "activations")
    assert named(c.disk(anchored), "crosscoders") == 2 * named(c.disk(direct), "crosscoders")


def test_forward_flops_and_passes() -> None:
    assert c.forward_flops(job()) == 3 * (2 * 1000 + 4 * 24 * 256)
    assert c.passes(job(steps=15, batch=1000), heldout_share=0.25) == 2.0


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 kB"), (999_000, "999 kB"), (1.5e6, "1.5 MB"), (3.29e9, "3.3 GB"), (2.5e12, "2.5 TB")],
)
def test_sizes_for_people(number: float, text: str) -> None:
    assert c.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3.0 s"), (90, "1.5 min"), (5400, "1.5 h"), (90_000, "25.0 h"), (259_200, "3.0 days")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert c.duration(seconds) == text
