"""The public trainers that ours is measured against, each at the fastest setting we found for it.

Each contender is a step, with a function ``reconstruct`` that gives its own reconstruction of some inputs.

A step is what the library's own trainer does with one batch: forward, loss, backward, clipping, optimiser. Both see the
two models' rows side by side, [B, 2·d]. bf16 autocast is faster than float32 for both on CPUs with bf16 units.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

Step = Callable[[Tensor], float]


def ours(D: int, k: int, mean: Tensor, scale: Tensor, *, steps: int, lr: float) -> Step:
    from modeldiff_eval.train_step import Trainer, TrainSettings

    settings = TrainSettings(n_latents=D, k=k, steps=steps, lr=lr)
    trainer = Trainer(settings, mean, scale)

    def step(rows: Tensor) -> float:
        return trainer.step(rows)["loss"]

    def reconstruct(inputs: Tensor) -> Tensor:
        codes = trainer.selector(inputs, trainer.W_enc, trainer.b_enc, trainer.norms(), k * len(inputs))
        return codes.times(trainer.W_dec) + trainer.b_dec

    step.reconstruct = reconstruct  # type: ignore[attr-defined]
    return step


def _inputs(rows: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((rows - mean) * scale[:, None]).flatten(1)


@torch.no_grad()
def heldout_fve(step: Step, rows: Tensor, mean: Tensor, scale: Tensor) -> float:
    """Pooled fve over both models, with k active latents a row chosen over batches of 2,048 as in training."""
    inputs = _inputs(rows, mean, scale)
    error = sum(float((x - step.reconstruct(x)).square().sum()) for x in inputs.split(2048))  # type: ignore[attr-defined]
    return 1 - error / float((inputs - inputs.mean(0)).square().sum())


def sae_lens(
    D: int, k: int, mean: Tensor, scale: Tensor, *, steps: int, lr: float, batch: int = 2048, autocast: bool = True
) -> Step:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=mean.numel(), d_sae=D, k=k, device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=steps * batch, train_batch_size_samples=batch, lr=lr, lr_end=lr / 10, autocast=autocast,
        dead_feature_window=max(1, steps // 8), lr_warm_up_steps=max(1, steps // 20), lr_decay_steps=steps // 5,
    )  # fmt: skip
    trainer = SAETrainer(config, sae, iter(()))

    def step(rows: Tensor) -> float:
        out = trainer.step(_inputs(rows, mean, scale))
        trainer.n_training_steps += 1
        return float(out.loss)

    step.reconstruct = lambda inputs: sae.decode(sae.encode(inputs))  # type: ignore[attr-defined]
    return step


def dictionary_learning(
    D: int, k: int, mean: Tensor, scale: Tensor, *, steps: int, lr: float, autocast: bool = True
) -> Step:
    # Its package imports nnsight for the activation buffer, which is not used here.
    if "nnsight" not in sys.modules:
        stub = types.ModuleType("nnsight")
        stub.LanguageModel = object  # type: ignore[attr-defined]
        sys.modules["nnsight"] = stub
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=steps, activation_dim=mean.numel(), dict_size=D, k=k, layer=0, lm_name="", lr=lr, device="cpu", seed=0,
        warmup_steps=max(1, steps // 20), decay_start=steps - steps // 5, threshold_start_step=0,
    )  # fmt: skip
    trainer.dead_feature_threshold = max(1, steps * 2048 // 8)
    numbers = iter(range(steps + 1_000_000))

    def step(rows: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            return float(trainer.update(next(numbers), _inputs(rows, mean, scale)))

    ae = trainer.ae
    step.reconstruct = lambda inputs: ae.decode(ae.encode(inputs, use_threshold=False))  # type: ignore[attr-defined]
    return step


CONTENDERS = {"ours": ours, "sae_lens": sae_lens, "dictionary_learning": dictionary_learning}
