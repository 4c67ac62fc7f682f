"""The figures of the causal panel: matched random sets, and a verdict that seldom speaks where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from modeldiff_eval.causal_stats import causal_measure, matched, mean_estimate, resampled
from modeldiff_eval.errors import SettingsError


def test_two_documents_by_hand() -> None:
    """Sums 2 and 4 over 1 and 3 tokens: 6/4 = 1.5; random sets 0.5 and 1.0; difference 0.75."""
    tokens = np.array([1.0, 3.0])
    weights = resampled(2, draws=500, rng=np.random.default_rng(0))
    made = causal_measure(
        np.array([2.0, 4.0]), np.array([[1.0, 1.0], [1.0, 3.0]]), tokens, weights, rng=np.random.default_rng(1)
    )
    assert made.effect.value == 1.5
    assert (made.effect.low, made.effect.high) == (pytest.approx(4 / 3), 2.0)
    assert (made.random.value, made.random.low, made.random.high) == (0.75, 0.5, 1.0)
    assert made.difference.value == 0.75
    assert made.verdict == "unclear"  # two random sets say little: t with one degree of freedom


def test_a_set_far_beyond_its_random_ones_is_told_apart_and_its_mirror_image_too() -> None:
    rng = np.random.default_rng(3)
    tokens, weights = np.full(30, 20.0), resampled(30, draws=2000, rng=rng)
    effect, random = rng.normal(-10, 1, 30), rng.normal(0, 1, (8, 30))
    made = causal_measure(effect, random, tokens, weights, rng=np.random.default_rng(1))
    mirrored = causal_measure(-effect, -random, tokens, weights, rng=np.random.default_rng(1))
    assert (made.verdict, mirrored.verdict) == ("down", "up")
    assert made.difference.low < made.difference.value < made.difference.high < 0


def test_no_verdict_where_only_the_random_sets_did_something() -> None:
    rng = np.random.default_rng(4)
    tokens, weights = np.full(30, 20.0), resampled(30, draws=2000, rng=rng)
    made = causal_measure(rng.normal(0, 1, 30), rng.normal(10, 1, (8, 30)), tokens, weights, rng=rng)
    assert made.difference.high is not None
    assert made.difference.high < 0
    assert made.verdict == "unclear"


def test_a_set_like_the_random_ones_gets_a_verdict_in_at_most_one_of_twenty() -> None:
    """Sets that differ from one another far more than documents do: the case in which a mean of eight is a poor yardstick."""
    rng = np.random.default_rng(5)
    tokens, weights = np.full(24, 10.0), resampled(24, draws=1000, rng=rng)
    excluded = 0
    for _ in range(200):
        sets = 5 + rng.normal(0, 2, (9, 1)) + rng.normal(0, 0.5, (9, 24))
        made = causal_measure(sets[0], sets[1:], tokens, weights, rng=rng)
        excluded += not (made.difference.low <= 0 <= made.difference.high)  # type: ignore[operator]
    assert excluded <= 18  # 5 % of 200, and two and a half standard errors


def test_without_random_sets_there_is_no_difference() -> None:
    tokens, weights = np.ones(4), resampled(4, draws=50, rng=np.random.default_rng(0))
    made = causal_measure(np.full(4, -1.0), np.zeros((1, 4)), tokens, weights, rng=np.random.default_rng(0))
    assert (made.difference.value, made.random.value, made.verdict) == (None, None, "unclear")
    with pytest.raises(SettingsError, match="must agree"):
        causal_measure(np.ones(3), np.zeros((2, 4)), tokens, weights, rng=np.random.default_rng(0))
    assert mean_estimate(np.ones(4), tokens, weights).low == 1.0


def test_random_sets_are_matched_and_never_repeat_a_latent() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([rng.normal(0, 2, 2000), rng.normal(0, 0.3, 2000)], axis=1)
    own = rng.choice(2000, 20, replace=False)
    pool = np.setdiff1d(np.arange(2000), own)
    drawn = matched(own, pool, features, draws=8, rng=rng)
    assert drawn.shape == (8, 20)
    assert all(len(set(row.tolist())) == 20 for row in drawn)
    assert not np.isin(drawn, own).any()
    assert len({tuple(row.tolist()) for row in drawn}) == 8
    far = np.abs(features[drawn] - features[own]) / features.std(0)
    inner = np.abs(features[own]).max(1) < 2  # at the edge of the cloud there are no close neighbours
    assert np.median(far) < 0.1
    assert far[:, inner].mean() < 0.25
    anything = np.abs(features[rng.choice(pool, (8, 20))] - features[own]) / features.std(0)
    assert far.mean() < anything.mean() / 4


def test_too_small_a_pool_gives_no_random_set() -> None:
    features = np.zeros((5, 2))
    assert matched(np.array([0, 1, 2]), np.array([3, 4]), features, draws=8, rng=np.random.default_rng(0)).shape == (
        0,
        3,
    )
    full = matched(np.array([0, 1]), np.array([3, 4]), features, draws=4, rng=np.random.default_rng(0))
    assert {tuple(sorted(row)) for row in full.tolist()} == {(3, 4)}
