"""Seed agreement of crosscoders, and share intervals that cover the choice of a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeldiff_eval import graded_words, seeds
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.stats_shares import over_seeds, share_shifts

GROUPS = [("A", "first"), ("B", "second")]


def coder(seed: int, n: int = 60, d: int = 24) -> Crosscoder:
    W = torch.randn(n, 2 * d, generator=torch.Generator().manual_seed(seed))
    return Crosscoder(W, torch.zeros(n), W, torch.zeros(2 * d), torch.zeros(2, d), torch.ones(2), 0.0, 4)


def test_identical_crosscoders_agree_wholly_and_unrelated_ones_not_at_all() -> None:
    alive = np.ones(60, dtype=bool)
    same = seeds.agree(coder(0), alive, [(coder(0), alive)], seed=0)
    assert same == seeds.Agreement(1.0, 1.0, 1.0, 60, 1.0, 1.0, 1)
    other = seeds.agree(coder(0), alive, [(coder(1), alive)], seed=0)
    assert other is not None
    assert other.value == 0
    both = seeds.agree(coder(0), alive, [(coder(0), alive), (coder(1), alive)], seed=0)
    assert both is not None
    assert (both.value, both.lowest, both.highest, both.seeds) == (0.5, 0.0, 1.0, 2)


def test_only_live_latents_count_on_either_side() -> None:
    alive, half = np.ones(60, dtype=bool), np.arange(60) < 45
    there = seeds.agree(coder(0), half, [(coder(0), alive)], seed=0)
    back = seeds.agree(coder(0), alive, [(coder(0), half)], seed=0)
    assert there is not None
    assert back is not None
    assert (there.value, there.n) == (1.0, 45)
    assert (back.value, back.n) == (0.75, 60)
    assert back.low == pytest.approx(0.75 - 1.96 * np.sqrt(0.75 * 0.25 / 60), abs=0.03)
    assert seeds.agree(coder(0), alive, [], seed=0) is None
    assert seeds.agree(coder(0), ~alive, [(coder(0), alive)], seed=0) is None


def test_agreement_in_words() -> None:
    alive = np.ones(60, dtype=bool)
    found = seeds.agree(coder(0), alive, [(coder(0), alive), (coder(1), alive)], seed=0)
    agreement, seeded = seeds.caveats([("base", "tuned")], [found], 3)
    assert "0.500 of 60 live latents" in agreement
    assert "from 0.000 to 1.000 over 2 seeds" in agreement
    assert "3 seeds" in seeded
    assert seeds.caveats([("base", "tuned")], [None], 1) == []


def side(in_a: int, n: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(labels, families) of n independent latents, the first ``in_a`` of them in group A."""
    return (np.arange(n) >= in_a).astype(np.int64), np.arange(start, start + n)


def seed_of(base_a: int, tuned_a: int, n: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    base, tuned = side(base_a, n), side(tuned_a, n, n)
    return base[0], tuned[0], base[1], tuned[1]


def test_another_seed_that_says_the_same_changes_nothing_and_one_that_differs_widens() -> None:
    rng = np.random.default_rng(0)
    first = seed_of(20, 60)
    rows = share_shifts(*first, groups=GROUPS, covered=None, draws=4000, rng=rng).rows
    assert rows[0].verdict == "up"
    same, _ = over_seeds(rows, [first, first], draws=8000, rng=rng)
    assert same[0].diff.low == pytest.approx(rows[0].diff.low, abs=1.5)
    assert same[0].verdict == "up"
    wide, values = over_seeds(rows, [first, seed_of(50, 40)], draws=8000, rng=rng)
    assert [float(v[0]) for v in values] == [40, -10]
    assert wide[0].diff.value == rows[0].diff.value
    assert wide[0].diff.low is not None
    assert wide[0].diff.low < -10
    assert wide[0].diff.high == pytest.approx(rows[0].diff.high, abs=1.5)
    assert wide[0].verdict == "unclear"
    assert wide[0].diff_simultaneous is not None
    assert wide[0].diff_simultaneous.low is not None
    assert wide[0].diff_simultaneous.low <= wide[0].diff.low
    assert "-10.0 … +40.0" in graded_words.over_seeds(GROUPS, [first, seed_of(50, 40)], values)[0]


def test_a_seed_without_specific_latents_is_left_out_and_said() -> None:
    rng = np.random.default_rng(0)
    first, empty = seed_of(20, 60), seed_of(0, 0, 0)
    rows = share_shifts(*first, groups=GROUPS, covered=None, draws=1000, rng=rng).rows
    same, values = over_seeds(rows, [first, empty], draws=1000, rng=rng)
    assert same == rows
    assert np.isnan(values[1]).all()
    assert "Fewer than two seeds" in graded_words.over_seeds(GROUPS, [first, empty], values)[0]
