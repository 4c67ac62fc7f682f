"""Five estimators of a latent's mass: laws that all keep, and one dictionary worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from modeldiff_eval import shift_estimators as S
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import SettingsError

D, N, ROWS, GROUPS = 6, 11, 3000, 5
ALL = ("gated", "hard", "soft", "beta", "calibrated")


@pytest.fixture
def crosscoder() -> Crosscoder:
    """Decoders that point about where the encoders do, as trained ones."""
    g = torch.Generator().manual_seed(3)
    encoder = torch.randn(N, 2 * D, generator=g)
    return Crosscoder(
        encoder, torch.randn(N, generator=g) * 0.1, encoder + 0.5 * torch.randn(N, 2 * D, generator=g),
        torch.zeros(2 * D), torch.zeros(2, D), torch.ones(2), threshold=4.0, k=3,
    )  # fmt: skip


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS, 2, D, generator=torch.Generator().manual_seed(4))


GROUPING = S.Grouping(np.arange(ROWS) % GROUPS, GROUPS)


def masses(crosscoder: Crosscoder, x: Tensor, *names: str) -> dict[str, np.ndarray]:
    thresholds = S.calibrate(crosscoder, lambda i: x[i], torch.arange(len(x)))
    found = S.group_masses(
        crosscoder, lambda i: x[i], torch.arange(len(x)), [GROUPING], estimators=names or ALL, thresholds=thresholds
    )
    return {name: found[name][0] for name in found}


def swapped(crosscoder: Crosscoder) -> Crosscoder:
    def turn(w: Tensor) -> Tensor:
        return torch.cat([w[:, D:], w[:, :D]], 1)

    return replace(crosscoder, W_enc=turn(crosscoder.W_enc), W_dec=turn(crosscoder.W_dec))


def test_identical_models_have_equal_masses_to_the_last_bit(crosscoder: Crosscoder, x: Tensor) -> None:
    for name, mass in masses(crosscoder, x[:, :1].repeat(1, 2, 1)).items():
        np.testing.assert_array_equal(mass[0], mass[1], err_msg=name)
        assert mass.any(), name


def test_swapping_the_models_mirrors_the_shift(crosscoder: Crosscoder, x: Tensor) -> None:
    there, back = masses(crosscoder, x), masses(swapped(crosscoder), x.flip(1))
    for name in ALL:
        base, tuned = there[name].sum(1)
        usable = (base > 0) & (tuned > 0)
        mirrored = back[name].sum(1)
        assert usable.sum() >= 5
        np.testing.assert_allclose(
            np.log(tuned[usable] / base[usable]),
            -np.log(mirrored[1][usable] / mirrored[0][usable]),
            rtol=1e-3,
            atol=1e-5,
        )


def test_masses_by_definition(crosscoder: Crosscoder, x: Tensor) -> None:
    """Every estimator against the plain formula, in float64, one model and latent at a time."""
    found = masses(crosscoder, x)
    thresholds = S.calibrate(crosscoder, lambda i: x[i], torch.arange(len(x)))
    norm = crosscoder.code_norm().double()
    f = crosscoder.encode(x.flatten(1)).double()
    decoder = crosscoder.W_dec.double().view(N, 2, D).mean(1)
    unit = (f.square().sum(0) * decoder.square().sum(1)) / (f.sum(0) * norm)
    for model in (0, 1):
        pre = torch.relu(x[:, model].double().repeat(1, 2) @ crosscoder.W_enc.double().T + crosscoder.b_enc) * norm
        expected = {
            "hard": (pre * (pre > 4.0)).sum(0),
            "soft": (pre - 4.0).clamp(min=0).sum(0),
            "calibrated": (pre * (pre > thresholds.double())).sum(0),
            "gated": (pre * (f > 0)).sum(0),
            "beta": torch.einsum("rl,rd,ld->l", f, x[:, model].double(), decoder) / unit,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][model].sum(0), value.numpy(), rtol=2e-4, err_msg=name)


def by_hand(scale: float) -> tuple[Crosscoder, Tensor]:
    """Three orthogonal latents, the same in both models, each alone in some rows; tuned has ``scale`` of the second."""
    eye = torch.eye(3)
    crosscoder = Crosscoder(
        torch.cat([eye, eye], 1) / 2, torch.zeros(3), torch.cat([eye, eye], 1), torch.zeros(6), torch.zeros(2, 3),
        torch.ones(2), threshold=2.0, k=1,
    )  # fmt: skip
    rows = torch.zeros(6, 2, 3)
    for row, (latent, size) in enumerate([(0, 2.0), (0, 3.0), (1, 2.0), (1, 4.0), (2, 0.5), (2, 1.5)]):
        rows[row, :, latent] = size
    rows[:, 1, 1] *= scale
    return crosscoder, rows


def test_a_latent_half_as_strong_again_reads_as_fifty_percent_more() -> None:
    """v = 2·x: hard adds 4 + 8 and 6 + 12; soft (4−2) + (8−2) and (6−2) + (12−2); β sees the rows themselves."""
    crosscoder, rows = by_hand(1.5)
    everything = S.Grouping(np.zeros(6, dtype=np.int64), 1)
    found = S.group_masses(
        crosscoder, lambda i: rows[i], torch.arange(6), [everything], estimators=("gated", "hard", "soft", "beta")
    )
    mass = {name: value[0][:, 0] for name, value in found.items()}
    np.testing.assert_allclose(mass["hard"], [[10, 12, 3], [10, 18, 3]])
    np.testing.assert_allclose(mass["soft"], [[6, 8, 1], [6, 14, 1]])
    np.testing.assert_allclose(mass["gated"], mass["hard"])
    np.testing.assert_allclose(mass["beta"][1] / mass["beta"][0], [1, 1.5, 1])
    # The pair fires with (5, 10): the models' masses are what each has of it, 12 and 18, weighted by f = 2.5 and 5.
    np.testing.assert_allclose(mass["beta"][:, 1], [12, 18])


def test_soft_exaggerates_what_hard_and_beta_read_as_fifty_percent() -> None:
    crosscoder, rows = by_hand(1.5)
    everything = S.Grouping(np.zeros(6, dtype=np.int64), 1)
    found = S.group_masses(
        crosscoder, lambda i: rows[i], torch.arange(6), [everything], estimators=("gated", "hard", "soft", "beta")
    )
    shifts = {name: float(value[0][1, 0, 1] / value[0][0, 0, 1] - 1) for name, value in found.items()}
    assert shifts == pytest.approx({"gated": 0.5, "hard": 0.5, "soft": 0.75, "beta": 0.5})


def test_a_token_at_the_threshold_counts_for_both_models_or_for_none() -> None:
    """Latent 1 at v = 2.1 in base and 1.9 in tuned, θ = 2: hard loses all of it, gated a tenth."""
    crosscoder, rows = by_hand(1.0)
    rows = rows[2:3].clone()
    rows[0, :, 1] = torch.tensor([1.06, 0.96])
    found = S.group_masses(
        crosscoder, lambda i: rows[i], torch.arange(1), [S.Grouping(np.zeros(1, dtype=np.int64), 1)],
        estimators=("gated", "hard"),
    )  # fmt: skip
    assert found["hard"][0][:, 0, 1].tolist() == pytest.approx([2.12, 0])
    assert found["gated"][0][:, 0, 1].tolist() == pytest.approx([2.12, 1.92])


def test_groupings_add_up_and_leave_rows_out(crosscoder: Crosscoder, x: Tensor) -> None:
    some = np.where(np.arange(ROWS) % 3 == 0, -1, np.arange(ROWS) % 2)
    whole, part = S.group_masses(
        crosscoder, lambda i: x[i], torch.arange(ROWS), [GROUPING, S.Grouping(some, 2)], estimators=("hard",)
    )["hard"]
    kept = torch.from_numpy(np.flatnonzero(some >= 0))
    (alone,) = S.group_masses(
        crosscoder, lambda i: x[i], kept, [S.Grouping(some[kept.numpy()], 2)], estimators=("hard",)
    )["hard"]
    np.testing.assert_allclose(part, alone, rtol=1e-5)
    assert part.sum() < whole.sum()


def test_calibrated_models_alone_fire_as_often_as_the_pair(crosscoder: Crosscoder, x: Tensor) -> None:
    thresholds = S.calibrate(crosscoder, lambda i: x[i], torch.arange(ROWS), chunk=4)
    pair = (crosscoder.encode(x.flatten(1)) > 0).sum(0)
    norm = crosscoder.code_norm()
    alone = sum(
        (torch.relu(x[:, m].repeat(1, 2) @ crosscoder.W_enc.T + crosscoder.b_enc) * norm > thresholds).sum(0)
        for m in (0, 1)
    )
    np.testing.assert_allclose(alone.numpy(), 2 * pair.numpy(), atol=2)


def test_a_latent_silent_in_the_calibration_keeps_the_threshold(crosscoder: Crosscoder, x: Tensor) -> None:
    silent = replace(crosscoder, b_enc=torch.full((N,), -1e3))
    thresholds = S.calibrate(silent, lambda i: x[i], torch.arange(50))
    assert thresholds.tolist() == [4.0] * N
    assert S.calibrate(silent, lambda i: x[i], torch.arange(0)).tolist() == [4.0] * N


def test_bad_requests_are_refused(crosscoder: Crosscoder, x: Tensor) -> None:
    rows = torch.arange(4)
    with pytest.raises(SettingsError, match="run calibrate"):
        S.group_masses(crosscoder, lambda i: x[i], rows, [GROUPING], estimators=("calibrated",))
    with pytest.raises(SettingsError, match="no shift estimator 'gentle'"):
        S.group_masses(crosscoder, lambda i: x[i], rows, [GROUPING], estimators=("gentle",))
