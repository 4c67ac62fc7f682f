"""Class totals from a sample of latents."""

from __future__ import annotations

import numpy as np
import pytest

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.shift_sample import draw, horvitz_thompson, inclusion


def test_totals_by_hand() -> None:
    """Latents 1, 2 and 3 with probabilities 1, 1/2, 1/4: 3 stands for four of its kind."""
    mass = np.array([[3.0, 2.0, 1.0], [0.0, 1.0, 5.0]])
    total = horvitz_thompson(mass, np.array([1.0, 0.5, 0.25]), np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(total, [[7, 4], [2, 20]])


def test_unlabelled_latents_are_in_no_total() -> None:
    assert horvitz_thompson(np.ones((1, 2)), np.ones(2), np.array([-1, 0]), 1).tolist() == [[1.0]]


def test_inclusion_adds_up_and_never_exceeds_one() -> None:
    found = inclusion(np.array([100.0, 1.0, 1.0, 2.0, 0.0]), 3)
    assert found.tolist() == pytest.approx([1, 0.5, 0.5, 1, 0])
    assert inclusion(np.array([1.0, 3.0]), 2).tolist() == [1, 1]


def test_draws_keep_the_probabilities() -> None:
    probability = inclusion(np.arange(1.0, 21.0), 6)
    seen = np.zeros(20)
    for seed in range(3000):
        chosen = draw(probability, rng=np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == 6
        seen[chosen] += 1
    np.testing.assert_allclose(seen / 3000, probability, atol=0.035)


def test_totals_are_unbiased_where_the_largest_shifts_are_not() -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(0.5, size=300)
    tuned = base * np.exp(rng.normal(0, 0.3, size=300))
    group = (np.arange(300) % 2).astype(np.int64)
    truth = np.array([tuned[group == g].sum() for g in (0, 1)])
    probability = inclusion(base, 60)
    totals = []
    for seed in range(1000):
        chosen = draw(probability, rng=np.random.default_rng(seed))
        totals.append(horvitz_thompson(tuned[None, chosen], probability[chosen], group[chosen], 2)[0])
    np.testing.assert_allclose(np.mean(totals, axis=0), truth, rtol=0.02)


@pytest.mark.parametrize(("weight", "n"), [([1.0, -1.0], 1), ([1.0, 0.0], 2), ([1.0, np.nan], 1), ([1.0], 0)])
def test_impossible_samples_are_refused(weight: list[float], n: int) -> None:
    with pytest.raises(SettingsError, match="cannot be sampled"):
        inclusion(np.array(weight), n)


def test_impossible_probabilities_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"probability in \(0, 1\]"):
        horvitz_thompson(np.ones((1, 1)), np.zeros(1), np.zeros(1, dtype=np.int64), 1)
