"""The sparse training step against the dense reference, and training as a whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeldiff_eval import train as T
from modeldiff_eval.errors import ActivationsError, SettingsError

D_MODEL = 6


def trainer(latents: int, *, seed: int = 0, k: int = 2, steps: int = 10) -> T.Trainer:
    made = T.Trainer(
        T.TrainSettings(n_latents=latents, k=k, steps=steps, seed=seed), torch.zeros(2, D_MODEL), torch.ones(2)
    )
    g = torch.Generator().manual_seed(seed + 1)
    for parameter in made.parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
    return made


def dense_gradients(made: T.Trainer, inputs: Tensor, budget: int, dead: Tensor) -> tuple[Tensor, list[Tensor]]:
    parameters = [p.clone().requires_grad_() for p in made.parameters]
    loss = T.dense_loss(inputs, *parameters, budget=budget, dead=dead, aux_k=made.aux_k)
    loss.backward()
    return loss.detach(), [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 12), latents=st.integers(2, 20), k=st.integers(1, 20), seed=st.integers(0, 10_000),
    dead_share=st.sampled_from([0.0, 0.3, 1.0]), empty_rows=st.booleans(),
)  # fmt: skip
def test_every_gradient_equals_the_dense_reference(
    rows: int, latents: int, k: int, seed: int, dead_share: float, empty_rows: bool
) -> None:
    made = trainer(latents, seed=seed, k=min(k, latents))
    inputs = torch.randn(rows, 2 * D_MODEL, generator=torch.Generator().manual_seed(seed + 2))
    if empty_rows:
        inputs[0] = 0
        made.b_enc.clamp_(max=-0.01)  # a row of zeros then activates nothing
    n_dead = int(dead_share * latents)
    made.silent_rows[:n_dead] = made.dead_window + 1
    budget = min(k, latents) * rows
    loss, grads, codes = made.gradients(inputs, budget, approximate=False)
    expected_loss, expected = dense_gradients(made, inputs, budget, torch.arange(n_dead))
    assert loss == pytest.approx(float(expected_loss), rel=1e-4, abs=1e-6)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert len(codes.values) <= budget


def test_ties_keep_the_budget() -> None:
    made = trainer(8, k=1)
    made.W_enc[:] = made.W_enc[0]
    made.W_dec[:] = made.W_dec[0]
    made.b_enc[:] = 1.0
    codes = T.select(torch.ones(4, 2 * D_MODEL) * 0.1, made.W_enc, made.b_enc, torch.ones(8), 4, approximate=False)
    assert len(codes.values) == 4


@pytest.mark.parametrize("approximate", [True, False])
def test_selection_on_a_large_batch_is_the_exact_top(approximate: bool) -> None:
    g = torch.Generator().manual_seed(3)
    inputs, weights = torch.randn(700, 32, generator=g), torch.randn(1024, 32, generator=g)
    norms = torch.rand(1024, generator=g) + 0.5
    budget = 700 * 8
    codes = T.select(inputs, weights, torch.zeros(1024), norms, budget, approximate=approximate)
    scores = torch.relu(inputs @ weights.T) * norms
    exact = torch.topk(scores.flatten(), budget).values.sum()
    chosen = (codes.values * norms[codes.latent]).sum()
    assert len(codes.values) == budget
    # Values are exact in float32; screening in bf16 may only swap entries at the very edge.
    assert float(chosen / exact) == pytest.approx(1.0, abs=1e-6 if not approximate else 1e-4)
    torch.testing.assert_close(codes.values, (inputs @ weights.T)[codes.row, codes.latent], rtol=1e-4, atol=1e-4)


def test_k_is_annealed_down_to_k_and_stays_there() -> None:
    made = trainer(64, k=4, steps=100)
    seen = []
    for step in range(100):
        made.step_number = step
        seen.append(made.current_k())
    assert seen[0] == 16
    assert seen == sorted(seen, reverse=True)
    assert set(seen[20:]) == {4}


def planted(seed: int = 0, tokens: int = 6000) -> tuple[Tensor, Tensor]:
    """Sparse sums of 24 known directions, the last four only in the second model."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=g), dim=1)
    codes = (torch.rand(tokens, 24, generator=g) < 0.08) * (torch.rand(tokens, 24, generator=g) + 1)
    second = codes @ directions
    codes[:, 20:] = 0
    return torch.stack([codes @ directions, second], 1) * 3, directions


def run(folder: Path, x: Tensor, *, steps: int = 200, on_step: object = None, seed: int = 0) -> object:
    folder.mkdir(exist_ok=True)
    rows = torch.arange(len(x))
    options = T.TrainSettings(n_latents=48, k=3, steps=steps, batch=256, lr=5e-3, seed=seed)
    return T.train(lambda i: x[i], rows[:5000], rows[5000:], options, folder=folder, on_step=on_step)  # type: ignore[arg-type]


def test_training_explains_planted_structure_and_calibrates_l0(tmp_path: Path) -> None:
    x, _ = planted()
    crosscoder = run(tmp_path / "a", x)
    quality = T.evaluate(crosscoder, lambda i: x[i], torch.arange(5000, 6000), torch.arange(5000))  # type: ignore[arg-type]
    assert quality.fve_first > 0.8
    assert quality.fve_second > 0.8
    assert quality.l0 == pytest.approx(3, rel=0.02)
    assert (tmp_path / "a" / "training.jsonl").read_text().count("\n") == 8
    assert not (tmp_path / "a" / "checkpoint.safetensors").exists()


def test_identical_models_stay_identical(tmp_path: Path) -> None:
    x, _ = planted()
    crosscoder = run(tmp_path / "a", x[:, :1].repeat(1, 2, 1), steps=40)
    first, second = crosscoder.W_dec.view(48, 2, 16).unbind(1)  # type: ignore[attr-defined]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = planted()
    whole = run(tmp_path / "whole", x, steps=60)
    monkeypatch.setattr(T, "CHECKPOINT_SECONDS", 0.0)

    def stop(step: int, steps: int, report: object) -> None:
        if step == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", x, steps=60, on_step=stop)
    resumed_from: list[int] = []
    resumed = run(tmp_path / "cut", x, steps=60, on_step=lambda step, *_: resumed_from.append(step))
    assert resumed_from[0] == 33  # the checkpoint of step 32
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(getattr(whole, name), getattr(resumed, name), rtol=0, atol=0)
    assert whole.threshold == resumed.threshold  # type: ignore[attr-defined]


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    made = trainer(8, seed=0)
    made.step(torch.randn(16, 2, D_MODEL))
    made.save(tmp_path)
    assert not trainer(8, seed=5).restore(tmp_path)
    other = trainer(8, seed=0)
    assert other.restore(tmp_path)
    assert other.step_number == 1


def test_nan_activations_stop_training_with_advice() -> None:
    with pytest.raises(ActivationsError, match="loss became nan"):
        trainer(8).step(torch.full((16, 2, D_MODEL), math.nan))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    x, _ = planted()
    with pytest.raises(SettingsError, match="fewer than one batch"):
        T.train(
            lambda i: x[i],
            torch.arange(10),
            torch.arange(10, 20),
            T.TrainSettings(n_latents=8, k=2, steps=2),
            folder=tmp_path,
        )


def test_k_beyond_the_dictionary_is_refused() -> None:
    with pytest.raises(SettingsError, match="exceeds"):
        T.Trainer(T.TrainSettings(n_latents=4, k=5, steps=1), torch.zeros(2, 3), torch.ones(2))


def test_pooled_fve_by_hand() -> None:
    """A crosscoder that always answers the mean explains nothing: fve 0, whatever the batches."""
    x, _ = planted()
    mean, scale = T.normaliser(lambda i: x[i], torch.arange(len(x)), seed=0)
    from modeldiff_eval.crosscoder import Crosscoder

    silent = Crosscoder(
        torch.zeros(4, 32), torch.zeros(4), torch.zeros(4, 32), torch.zeros(32), mean, scale, threshold=0.0, k=1
    )
    quality = T.evaluate(silent, lambda i: x[i], torch.arange(len(x)), torch.arange(0))
    assert quality.fve_first == pytest.approx(0, abs=1e-5)
    assert quality.dead_share == 1.0
    assert quality.l0 == 0.0


def test_the_normaliser_gives_both_models_the_same_energy() -> None:
    x, _ = planted()
    x = x * torch.tensor([1.0, 40.0])[:, None] + 7
    mean, scale = T.normaliser(lambda i: x[i], torch.arange(len(x)), seed=0)
    energy = (((x - mean) * scale[:, None]) ** 2).sum(2).mean(0)
    torch.testing.assert_close(energy, torch.full((2,), 16.0), rtol=1e-3, atol=0)
