"""When a latent's shift counts: against its own control, and against latents of its mass."""

from __future__ import annotations

import numpy as np
import pytest

from modeldiff_eval.shift_null import beyond_null, enough, null_bars

BLOCKS = 40


def control(noise: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """[2, blocks, latents]: base, and base moved by ``noise`` [latents] as a whole."""
    base = np.random.default_rng(seed).gamma(5.0, size=(BLOCKS, len(noise)))
    return np.stack([base, base * (1 + noise)])


def bars(null_mass: np.ndarray) -> np.ndarray:
    return null_bars(null_mass, null_mass[0].sum(0), draws=200, rng=np.random.default_rng(1))


def test_verdict_by_hand() -> None:
    """Interval over 0; above 0 but below the bar; above both; the same downwards; undefined."""
    value = np.array([0.10, 0.10, 0.30, -0.30, -0.30, np.nan])
    low = np.array([-0.01, 0.05, 0.20, -0.40, -0.40, np.nan])
    high = np.array([0.20, 0.15, 0.40, -0.20, 0.01, np.nan])
    verdict = beyond_null(value, low, high, np.full(6, 0.2))
    assert verdict.tolist() == [False, False, True, True, False, False]


def test_without_control_nothing_is_changed() -> None:
    assert not beyond_null(np.array([5.0]), np.array([4.0]), np.array([6.0]), np.array([np.inf])).any()


def test_an_unstable_latent_gets_its_own_bar() -> None:
    noise = np.full(200, 0.01)
    noise[7] = -0.4
    found = bars(control(noise))
    assert found[7] == pytest.approx(0.4, abs=1e-3)
    assert np.delete(found, 7).max() < 0.41
    assert np.median(found) == pytest.approx(0.01, abs=1e-3)


def test_a_quiet_latent_is_judged_by_its_peers() -> None:
    """Two strata of 100: in the rare one every 20th latent moves by 30 %, so its quiet ones must exceed that as well."""
    noise = np.zeros(100)
    noise[::20] = 0.3
    base = np.random.default_rng(0).gamma(5.0, size=(BLOCKS, 100))
    mass = np.concatenate([base, 100 * base], axis=1)
    tuned = mass * (1 + np.concatenate([noise, np.zeros(100)]))
    found = bars(np.stack([mass, tuned]))
    assert (found[:100] >= 0.3 - 1e-9).all()
    assert (found[100:] < 0.01).all()


def test_a_latent_the_control_did_not_reach_is_judged_with_the_rarest() -> None:
    noise = np.where(np.arange(100) % 10 == 0, 0.2, 0.0)
    null_mass = control(noise)
    null_mass[:, :, 5] = 0
    found = null_bars(null_mass, np.where(np.arange(100) == 5, 1e-6, 1.0), draws=200, rng=np.random.default_rng(1))
    assert found[5] >= 0.2 - 1e-9


def test_too_few_latents_in_the_control_say_nothing() -> None:
    assert np.isinf(bars(control(np.zeros(9)))).all()


def test_the_control_itself_hardly_passes_its_own_bar() -> None:
    """Two halves of one noisy control: the bars of one leave almost nothing of the other."""
    rng = np.random.default_rng(5)
    base = rng.gamma(2.0, size=(2 * BLOCKS, 1000))
    moved = base * np.exp(rng.normal(0, 0.02, size=1000)) * np.exp(rng.normal(0, 0.1, size=base.shape))
    first, second = np.stack([base, moved])[:, :BLOCKS], np.stack([base, moved])[:, BLOCKS:]
    value = second[1].sum(0) / second[0].sum(0) - 1
    assert (np.abs(value) > bars(first)).mean() < 0.01
    assert (np.abs(value) > 0.005).mean() > 0.5


def test_enough_counts_blocks_of_either_model() -> None:
    mass = np.zeros((2, 20, 3))
    mass[0, :8, 0] = mass[1, :8, 1] = mass[0, :7, 2] = 1
    assert enough(mass).tolist() == [True, True, False]
