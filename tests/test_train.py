"""The sparse training step against the dense reference, and training as a whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modeldiff_eval import checkpoint, crosscoder_files
from modeldiff_eval import quality as Q
from modeldiff_eval import train as L
from modeldiff_eval import train_select as S
from modeldiff_eval import train_step as T
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import ActivationsError, CrosscoderError, OutputError, SettingsError
from modeldiff_eval.sparse import Sparse
from modeldiff_eval.training_log import read_log

D_MODEL = 6


def trainer(latents: int, *, seed: int = 0, k: int = 2, steps: int = 10, **options: int) -> T.Trainer:
    settings = T.TrainSettings(n_latents=latents, k=k, steps=steps, seed=seed, **options)
    made = T.Trainer(settings, torch.zeros(2, D_MODEL), torch.ones(2))
    g = torch.Generator().manual_seed(seed + 1)
    for parameter in made.parameters:
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)
    made.selector = S.Selector(dtype=torch.float32)
    return made


def dense_gradients(made: T.Trainer, inputs: Tensor, budget: int, dead: Tensor) -> tuple[Tensor, list[Tensor]]:
    parameters = [p.clone().requires_grad_() for p in made.parameters]
    rows = slice(made.step_number % made.aux_every, None, made.aux_every)
    loss = T.dense_loss(inputs, *parameters, budget=budget, dead=dead, aux_k=made.aux_k, aux_rows=rows)
    loss.backward()
    return loss.detach(), [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 12), latents=st.integers(2, 20), k=st.integers(1, 20), seed=st.integers(0, 10_000),
    dead_share=st.sampled_from([0.0, 0.3, 1.0]), empty_rows=st.booleans(), short=st.booleans(), every=st.integers(1, 3),
)  # fmt: skip
def test_every_gradient_equals_the_dense_reference(
    rows: int, latents: int, k: int, seed: int, dead_share: float, empty_rows: bool, short: bool, every: int
) -> None:
    made = trainer(latents, seed=seed, k=min(k, latents))
    made.selector = S.Selector(dtype=torch.float32, short=short)
    made.aux_every = every
    inputs = torch.randn(rows, 2 * D_MODEL, generator=torch.Generator().manual_seed(seed + 2))
    if empty_rows:
        inputs[0] = 0
        made.b_enc.clamp_(max=-0.01)  # a row of zeros then activates nothing
    n_dead = int(dead_share * latents)
    made.silent_rows[:n_dead] = made.dead_window + 1
    budget = min(k, latents) * rows
    losses, grads, codes = made.gradients(inputs, budget)
    loss = float(losses[0])
    expected_loss, expected = dense_gradients(made, inputs, budget, torch.arange(n_dead))
    assert loss == pytest.approx(float(expected_loss), rel=1e-4, abs=1e-6)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert len(codes.values) <= budget


def select(inputs: Tensor, W_enc: Tensor, norms: Tensor, budget: int, **options: object) -> Sparse:
    return S.Selector(**options)(inputs, W_enc, torch.zeros(len(W_enc)), norms, budget)  # type: ignore[arg-type]


def assert_top(codes: Sparse, scores: Tensor, budget: int, *, rounding: float = 1e-5) -> None:
    """The chosen places are those of the largest scores; only scores equal up to rounding may change places."""
    flat = scores.flatten()
    best = torch.topk(flat, budget)
    exact = set(best.indices[best.values > 0].tolist())
    chosen = set((codes.row * scores.shape[1] + codes.latent).tolist())
    assert len(chosen) == len(exact)
    edge = float(best.values[-1])
    assert all(abs(float(flat[place]) - edge) < rounding * edge for place in chosen ^ exact)


def test_ties_keep_the_budget() -> None:
    made = trainer(8, k=1)
    made.W_enc[:] = made.W_enc[0]
    inputs = (made.W_enc[:1] * 0.1).repeat(4, 1)
    codes = select(inputs, made.W_enc, torch.ones(8), 4, dtype=torch.float32)
    assert len(codes.values) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("short", [True, False])
def test_selection_on_a_large_batch_is_the_exact_top(dtype: torch.dtype, short: bool) -> None:
    """Two batches: the first threshold comes from a sample, the second from the batch before."""
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(1024, 32, generator=g)
    norms = torch.rand(1024, generator=g) + 0.5
    selector = S.Selector(dtype=dtype, short=short)
    budget = 700 * 8
    for _ in range(2):
        inputs = torch.randn(700, 32, generator=g)
        codes = selector(inputs, weights, torch.zeros(1024), norms, budget)
        scores = torch.relu(inputs @ weights.T) * norms
        assert_top(codes, scores, budget)
        torch.testing.assert_close(codes.values, (inputs @ weights.T)[codes.row, codes.latent], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("latents", [1024, 1000])
def test_screening_in_many_pieces_misses_nothing(latents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike models, then equal ones: from the whole product back to the short one, in pieces that do not divide the latents."""
    monkeypatch.setattr(S, "SCREEN_ENTRIES", {"cpu": 40 * 96})
    g = torch.Generator().manual_seed(0)
    weights, norms = torch.randn(latents, 16, generator=g), torch.rand(latents, generator=g) + 0.5
    bias = -0.3 * torch.rand(latents, generator=g)
    selector, budget = S.Selector(), 40 * 4
    pauses = []
    for number in range(30):
        if number == 2:
            weights = weights[:, :8].repeat(1, 2)
        half = torch.randn(40, 8, generator=g)
        inputs = torch.cat([half, torch.randn(40, 8, generator=g) if number < 2 else half], 1)
        codes = selector(inputs, weights, bias, norms, budget)
        assert_top(codes, torch.relu(inputs @ weights.T + bias) * norms, budget, rounding=1e-4)
        pauses.append(selector._pause)
    assert pauses[0] > 0
    assert 0 in pauses  # the short product was taken again


def test_a_batch_without_rows_is_refused() -> None:
    made = trainer(8)
    with pytest.raises(ActivationsError, match="holds no rows"):
        made.step(torch.zeros(0, 2, D_MODEL))
    assert made.step_number == 0


def test_close_models_are_screened_by_their_mean_and_nothing_is_missed() -> None:
    """One latent reads only the difference of the models: the mean shows nothing of it, the bound keeps it."""
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(512, 64, generator=g)
    inputs = torch.cat([mean + 0.05 * torch.randn(512, 64, generator=g), mean], 1)
    half = torch.randn(2048, 64, generator=g)
    weights = torch.cat([half, half], 1)
    direction = torch.randn(64, generator=g)
    weights[7] = 200 * torch.cat([direction, -direction])
    selector = S.Selector()
    budget = 512 * 16
    for _ in range(2):  # the first threshold is a guess from a few rows
        codes = selector(inputs, weights, torch.zeros(2048), torch.ones(2048), budget)
    assert (codes.latent == 7).sum() > 100
    # The two halves of latent 7 nearly cancel, which costs float32 digits in the reference as well.
    assert_top(codes, torch.relu(inputs @ weights.T), budget, rounding=1e-3)
    assert selector.screenings == 2
    assert selector.candidates < 2 * budget
    assert selector._pause == 0  # the short product was enough


def test_models_that_differ_fall_back_to_the_whole_product() -> None:
    g = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(256, 128, generator=g), torch.randn(1024, 128, generator=g)
    selector = S.Selector()
    codes = selector(inputs, weights, torch.zeros(1024), torch.ones(1024), 256 * 4)
    assert selector._pause > 0
    assert_top(codes, torch.relu(inputs @ weights.T), 256 * 4)


def test_a_guess_that_is_too_high_is_mended() -> None:
    """The second batch is ten times smaller than the first: its threshold lies far below the guess."""
    g = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(64, 16, generator=g), torch.randn(128, 16, generator=g)
    selector = S.Selector()
    for scale in (1.0, 0.1, 0.0, 1.0):
        codes = selector(inputs * scale, weights, torch.zeros(128), torch.ones(128), 64 * 4)
        assert_top(codes, torch.relu(inputs * scale @ weights.T), 64 * 4)


def test_a_threshold_that_falls_a_little_is_mended_without_a_flood_of_candidates() -> None:
    """θ of the second batch lies 10 % lower: enough candidates to bound it, not enough to be sure of all."""
    g = torch.Generator().manual_seed(0)
    inputs, weights = torch.randn(256, 32, generator=g), torch.randn(512, 32, generator=g)
    selector, budget = S.Selector(short=False), 256 * 8
    for scale in (1.0, 1.0, 0.9):
        codes = selector(inputs * scale, weights, torch.zeros(512), torch.ones(512), budget)
        assert_top(codes, torch.relu(inputs * scale @ weights.T), budget)
        assert selector.candidates < 2.5 * budget
    assert selector.screenings == 4


@pytest.mark.parametrize("n", [5, 8, 64, 1001])
def test_places_of_a_mask(n: int) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.2
    torch.testing.assert_close(S._places(mask), mask.nonzero().squeeze(1))


def test_gather_and_scatter_equal_the_csr_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices without CSR matrices use."""
    from modeldiff_eval import sparse

    made = trainer(20, k=3)
    inputs = torch.randn(9, 2 * D_MODEL, generator=torch.Generator().manual_seed(0))
    loss, grads, _ = made.gradients(inputs, 27)
    kept = [g.clone() for g in grads]
    monkeypatch.setattr(sparse, "_CSR_DEVICES", ())
    monkeypatch.setattr(sparse, "_PIECE", 5)
    again, others, _ = made.gradients(inputs, 27)
    torch.testing.assert_close(loss, again)
    for ours, theirs in zip(kept, others, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_joint_norm() -> None:
    """One step with clipping equals one step of plain Adam on gradients that were scaled by hand."""
    made, by_hand = trainer(16, seed=4), trainer(16, seed=4)
    rows = 50 * torch.randn(32, 2, D_MODEL, generator=torch.Generator().manual_seed(1))
    inputs = rows.flatten(1)
    _, grads, _ = by_hand.gradients(inputs, by_hand.current_k() * 32)
    norm = torch.cat([g.flatten() for g in grads]).norm()
    assert norm > 1
    plain = [p.clone().requires_grad_() for p in by_hand.parameters]
    for p, g in zip(plain, grads, strict=True):
        p.grad = g / norm
    optimiser = torch.optim.Adam(plain, lr=made.current_lr(), betas=made.settings.betas)
    optimiser.step()
    made.step(rows)
    for ours, theirs in zip(made.parameters, plain, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-7)


def test_k_is_annealed_down_to_k_and_stays_there() -> None:
    made = trainer(64, k=4, steps=100, k_start=4)
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


def run(
    folder: Path, x: Tensor, *, steps: int = 200, on_step: L.OnStep | None = None, seed: int = 0, minutes: float = 60.0
) -> Crosscoder:
    folder.mkdir(exist_ok=True)
    options = T.TrainSettings(n_latents=48, k=3, steps=steps, batch=256, lr=5e-3, seed=seed)
    source = L.MappedSource(lambda i: x[i], torch.arange(5000), batch=256, seed=seed)
    heldout = (lambda i: x[i], torch.arange(5000, len(x)))
    return L.train(source, options, folder=folder, heldout=heldout, on_step=on_step, checkpoint_minutes=minutes)


def test_training_explains_planted_structure_and_calibrates_l0(tmp_path: Path) -> None:
    x, _ = planted()
    crosscoder = run(tmp_path / "a", x)
    quality = Q.evaluate(crosscoder, lambda i: x[i], torch.arange(5000, 6000), torch.arange(5000))
    assert quality.fve_first > 0.8
    assert quality.fve_second > 0.8
    assert quality.l0 == pytest.approx(3, rel=0.02)
    log = read_log(tmp_path / "a")
    assert [line["step"] for line in log] == list(range(1, 201))
    assert log[-1]["fve_first"] > 0.8 > log[0]["fve_first"]


def test_identical_models_stay_identical(tmp_path: Path) -> None:
    x, _ = planted()
    crosscoder = run(tmp_path / "a", x[:, :1].repeat(1, 2, 1), steps=40)
    first, second = crosscoder.W_dec.view(48, 2, 16).unbind(1)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    x, _ = planted()
    whole = run(tmp_path / "whole", x, steps=60)

    def stop(step: int, steps: int, report: dict[str, float]) -> None:
        if step == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", x, steps=60, on_step=stop, minutes=0.0)
    with (tmp_path / "cut" / "training.jsonl").open("a") as log:
        log.write('{"step": 33, "loss": 1.0}\n{"step": 34, "lo')  # lines that the kill left behind
    resumed_from: list[int] = []
    resumed = run(tmp_path / "cut", x, steps=60, on_step=lambda step, *_: resumed_from.append(step))
    assert 1 < resumed_from[0] <= 33
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(getattr(whole, name), getattr(resumed, name), rtol=0, atol=0)
    assert whole.threshold == resumed.threshold
    assert read_log(tmp_path / "cut") == read_log(tmp_path / "whole")


def test_the_last_checkpoint_stays_until_the_result_is_written(tmp_path: Path) -> None:
    x, _ = planted()
    run(tmp_path, x, steps=5, minutes=0.0)
    assert checkpoint.newest(tmp_path, 1)


def test_removing_checkpoints_leaves_nothing_of_an_earlier_kill(tmp_path: Path) -> None:
    x, _ = planted()
    (tmp_path / "sub.partial").mkdir()
    for name in ("checkpoint-3-0-of-1.safetensors.99.partial", "training.jsonl.99.partial"):
        (tmp_path / name).touch()
    run(tmp_path, x, steps=5)
    checkpoint.remove(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"sub.partial", "training.jsonl"}


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    made = trainer(8, seed=0)
    made.step(torch.randn(16, 2, D_MODEL))
    checkpoint.save(made, tmp_path)
    with pytest.raises(CrosscoderError, match=r"seed 0 there, 5 now"):
        checkpoint.restore(trainer(8, seed=5), tmp_path)
    other = trainer(8, seed=0)
    assert checkpoint.restore(other, tmp_path)
    assert other.step_number == 1
    for ours, theirs in zip(made.parameters, other.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("keep", [0, 7, 400])
def test_a_torn_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    made = trainer(8)
    made.step(torch.randn(16, 2, D_MODEL))
    checkpoint.save(made, tmp_path)
    path = next(tmp_path.glob("checkpoint*"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CrosscoderError, match=r"checkpoint-1-0-of-1.*cannot be read"):
        checkpoint.restore(trainer(8), tmp_path)


def test_a_full_disk_keeps_the_checkpoint_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(8)
    made.step(torch.randn(16, 2, D_MODEL))
    checkpoint.save(made, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crosscoder_files.os, "fsync", full)
    made.step(torch.randn(16, 2, D_MODEL))
    with pytest.raises(OutputError, match="No space"):
        checkpoint.save(made, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_training_goes_on_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = planted()
    whole = run(tmp_path / "whole", x, steps=20)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crosscoder_files.os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        same = run(tmp_path / "full", x, steps=20, minutes=0.0)
    torch.testing.assert_close(whole.W_dec, same.W_dec, rtol=0, atol=0)


def test_a_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"checkpoint-5-{rank}-of-2.safetensors").touch()
    with pytest.raises(CrosscoderError, match="written by 2 processes; this run has 1"):
        checkpoint.newest(tmp_path, 1)
    (tmp_path / "checkpoint-6-0-of-2.safetensors").touch()  # its other half was never written
    assert checkpoint.newest(tmp_path, 2) == 5


def test_nan_activations_stop_training_and_say_which_row() -> None:
    rows = torch.randn(16, 2, D_MODEL)
    rows[5, 1, 2] = math.nan
    made = trainer(8)
    before = [p.clone() for p in made.parameters]
    with pytest.raises(ActivationsError, match=r"Row 5 of the batch at step 0 holds NaN"):
        made.step(rows)
    for ours, theirs in zip(made.parameters, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_infinite_weights_are_told_from_bad_rows() -> None:
    made = trainer(8)
    made.b_dec[0] = math.inf
    with pytest.raises(ActivationsError, match="Lower the learning rate"):
        made.step(torch.randn(16, 2, D_MODEL))


def test_too_little_text_is_refused() -> None:
    with pytest.raises(SettingsError, match="fewer than one batch"):
        L.MappedSource(lambda i: torch.zeros(len(i), 2, 3), torch.arange(10), batch=2048, seed=0)


def test_k_beyond_the_dictionary_is_refused() -> None:
    with pytest.raises(SettingsError, match="exceeds"):
        T.Trainer(T.TrainSettings(n_latents=4, k=5, steps=1), torch.zeros(2, 3), torch.ones(2))


def test_a_batch_is_the_same_whatever_came_before() -> None:
    x, _ = planted()
    source = L.MappedSource(lambda i: x[i], torch.arange(1000), batch=256, seed=1)
    from_start = list(source.batches(0, 8))
    for number, rows in enumerate(source.batches(5, 8), 5):
        torch.testing.assert_close(rows, from_start[number], rtol=0, atol=0)
    assert not torch.equal(from_start[0], from_start[3])  # another permutation in the second pass


def test_pooled_fve_by_hand() -> None:
    """A crosscoder that always answers the mean explains nothing: fve 0, whatever the batches."""
    x, _ = planted()
    mean, scale = L.normaliser(x)
    silent = Crosscoder(
        torch.zeros(4, 32), torch.zeros(4), torch.zeros(4, 32), torch.zeros(32), mean, scale, threshold=0.0, k=1
    )
    quality = Q.evaluate(silent, lambda i: x[i], torch.arange(len(x)), torch.arange(0))
    assert quality.fve_first == pytest.approx(0, abs=1e-5)
    assert quality.dead_share == 1.0
    assert quality.l0 == 0.0


def test_the_normaliser_gives_both_models_the_same_energy() -> None:
    x, _ = planted()
    x = x * torch.tensor([1.0, 40.0])[:, None] + 7
    mean, scale = L.normaliser(x)
    energy = (((x - mean) * scale[:, None]) ** 2).sum(2).mean(0)
    torch.testing.assert_close(energy, torch.full((2,), 16.0), rtol=1e-3, atol=0)


def test_activations_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ActivationsError, match="do not vary"):
        L.normaliser(torch.ones(10, 2, 4))


def test_a_crosscoder_without_a_budget_gets_no_threshold() -> None:
    plain = Crosscoder(
        torch.zeros(4, 6), torch.zeros(4), torch.zeros(4, 6), torch.zeros(6), torch.zeros(2, 3), torch.ones(2), 0.0, 0
    )
    with pytest.raises(SettingsError, match="without a budget"):
        Q.calibrate(plain, lambda i: torch.zeros(len(i), 2, 3), torch.arange(4))


def test_when_another_rank_cannot_write_the_checkpoint_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(8)
    checkpoint.save(made, tmp_path)
    made.step_number = 5
    monkeypatch.setattr(type(made.ranks), "minimum", lambda self, value: 0)
    with pytest.raises(OutputError, match="Another rank"):
        checkpoint.save(made, tmp_path)
    assert any(path.name.startswith("checkpoint-0-") for path in tmp_path.iterdir())
