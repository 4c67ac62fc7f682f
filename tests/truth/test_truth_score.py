"""Matching, counting and thresholds by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from modeldiff_eval.latents import Nu
from modeldiff_eval.planted import Groups, World
from modeldiff_eval.planted_constants import Kind, constants
from modeldiff_eval.quality import Quality
from modeldiff_eval.truth_match import cosines, match
from modeldiff_eval.truth_methods import Controls, Fit, partners
from modeldiff_eval.truth_report import judge, nu_row, proportion
from modeldiff_eval.truth_rules import BothNu, Claims, by_delta_norm, by_fixed_thresholds, by_reseeding, null_threshold
from modeldiff_eval.truth_score import Counts, count, nu_errors

SCORING = constants().scoring
NAN = float("nan")
E = np.eye(6)


def world_of(kinds: list[Kind], base: np.ndarray, tuned: np.ndarray) -> World:
    n, d = base.shape
    empty = Groups(np.zeros((0, 4), np.int64), np.zeros((0, 4)), np.zeros((8, 0)), np.zeros((8, n)))
    directions = torch.from_numpy(np.stack([base, tuned], 1)).float()
    return World(tuple(kinds), np.full(n, 0.1), directions, empty, torch.zeros(d, d), 0.0, torch.zeros(2, d), 0.3)


@pytest.fixture
def world() -> World:
    """One latent of each kind, each with a direction of its own; the rescaled one is stronger in base."""
    kinds: list[Kind] = ["shared", "base_only", "tuned_only", "rescaled", "rotated"]
    base, tuned = E[:5].copy(), E[:5].copy()
    base[2] = tuned[1] = 0
    tuned[3] *= 0.3
    tuned[4] = E[5]
    return world_of(kinds, base, tuned)


def nu_of(side: int, value: list[float], half: float = 0.1) -> Nu:
    v = np.array(value)
    return Nu(side, v, v, v - half, v + half, v, v - half, v + half, v, v, v)


@dataclass(frozen=True)
class HandFit:
    """A fit written down: directions, ν and no claims of its own."""

    directions: np.ndarray
    nu: BothNu

    @property
    def scale(self) -> np.ndarray:
        return np.ones(2)

    @property
    def quality(self) -> Quality:
        return Quality(fve_first=1, fve_second=1, l0=1, dead_share=0, dead_tokens=1, heldout_tokens=1)

    def claims(self, controls: Controls, scoring: object) -> list[Claims]:
        return []


def test_matching_three_latents_by_hand() -> None:
    """The best sum of cosines, not the first come: 0 gives up its closest so that 1 finds one as well."""
    cosine = np.array([[0.95, 0.90, 0.0], [0.94, 0.1, 0.0], [0.0, 0.0, 0.79]])
    assert match(cosine, least=0.8).tolist() == [1, 0, -1]
    assert match(cosine[:2], least=0.92).tolist() == [0, -1]
    assert match(np.zeros((0, 3)), least=0.8).tolist() == []


def test_the_sign_of_a_direction_counts() -> None:
    assert cosines(np.array([[2.0, 0], [-1, 0], [0, 0]]), np.array([[1.0, 0]])).tolist() == [[1], [-1], [0]]


def test_counting_three_claims_by_hand(world: World) -> None:
    """Claimed for base: the exclusive latent, the shared one, and one that is nothing planted."""
    directions = np.zeros((4, 2, 6))
    directions[0, 0], directions[1, 0], directions[2, 0], directions[3, 0] = 3 * E[1], E[0], E[5], E[3]
    chosen = np.array([True, True, True, False])
    counts = count(directions, chosen, world, 0, least=0.8)
    assert counts == Counts(planted=1, claims=3, exclusive=1, shared=1, unmatched=1)
    assert counts.judged("specific") == 3
    assert counts + counts == Counts(planted=2, claims=6, exclusive=2, shared=2, unmatched=2)


def test_rotated_is_set_aside_and_rescaled_only_where_shifted_is_claimed(world: World) -> None:
    directions = np.stack([E, E], 1)
    for side, expected in (
        (0, Counts(planted=1, claims=6, exclusive=1, rescaled=1, rotated=1, shared=1, unmatched=2)),
        # In tuned the rescaled latent is the weaker one: claiming it there is as wrong as claiming a shared one.
        (1, Counts(planted=1, claims=6, exclusive=1, rescaled=0, rotated=1, shared=2, unmatched=2)),
    ):
        counts = count(directions, np.ones(6, dtype=bool), world, side, least=0.8)
        assert counts == expected
        assert counts.judged("specific") == 5
        assert counts.judged("shifted") == 5 - expected.rescaled


def test_a_second_claim_of_one_latent_is_false_and_shown(world: World) -> None:
    directions = np.stack([np.stack([E[1], E[1], 0.9 * E[1] + 0.1 * E[0]])] * 2, 1)
    counts = count(directions, np.ones(3, dtype=bool), world, 0, least=0.8)
    assert (counts.claims, counts.exclusive, counts.unmatched, counts.duplicates) == (3, 1, 2, 2)


def test_no_claims(world: World) -> None:
    counts = count(np.stack([E, E], 1), np.zeros(6, dtype=bool), world, 0, least=0.8)
    assert counts == Counts(planted=1)
    assert proportion(0, counts.judged("specific")).value is None


def test_swapping_the_models_swaps_the_counts(world: World) -> None:
    rng = np.random.default_rng(0)
    directions = np.stack([E, E], 1) + 0.2 * rng.standard_normal((6, 2, 6))
    chosen = np.array([True, True, False, True, True, True])
    for side in (0, 1):
        direct = count(directions, chosen, world, side, least=0.8)
        assert count(directions[:, ::-1].copy(), chosen, world.swapped(), 1 - side, least=0.8) == direct


def test_nu_errors_by_hand(world: World) -> None:
    directions = np.stack([E, E], 1)
    directions[4, 1], directions[5, 0] = E[5], 0  # the rotated latent is found with both of its directions
    directions[5, 1] = 0
    nu = nu_of(0, [1.05, 0.02, NAN, 0.25, NAN, NAN]), nu_of(1, [0.7, NAN, 0.3, NAN, 0.0, NAN])
    errors = nu_errors(HandFit(directions, nu), world, least=0.8)
    shared = nu_row("shared", errors["shared"], rng=np.random.default_rng(0))
    assert (shared.recovered.count, shared.recovered.n, shared.measured) == (2, 2, 2)
    assert shared.error.value == pytest.approx((0.05 - 0.3) / 2)
    assert shared.absolute == pytest.approx(0.175)
    assert (shared.covered.count, shared.covered.n) == (1, 2)
    exclusive = errors["exclusive"]
    assert (exclusive.planted, exclusive.recovered) == (2, 2)
    assert exclusive.value.tolist() == [0.02, 0.3]
    assert exclusive.truth.tolist() == [0, 0]
    rescaled = errors["rescaled"]
    assert (rescaled.planted, rescaled.truth.tolist()) == (1, [pytest.approx(0.3)])
    rotated = errors["rotated"]
    assert (rotated.planted, rotated.recovered, len(rotated.value)) == (2, 2, 1)
    nothing = nu_row("none", replace(shared_like(), planted=3), rng=np.random.default_rng(0))
    assert (nothing.error.value, nothing.truth, nothing.covered.value) == (None, None, None)


def shared_like() -> object:
    from modeldiff_eval.truth_score import NuErrors

    none = np.zeros(0)
    return NuErrors(0, 0, none, none, none, none)


# Rules -----------------------------------------------------------------------------------------------


def test_the_threshold_keeps_the_rate_by_hand() -> None:
    """30 latents at 0.1, 10 at 0.9; null values at 0.5: at rate 0.05, 30 claims may hold (1 + 0)·40/40 = 1 false one."""
    upper = [0.1] * 30 + [0.9] * 10
    assert null_threshold(upper, [0.95] * 40, rate=0.05) == 0.9
    assert null_threshold(upper, [0.5] + [0.95] * 39, rate=0.05) == 0.9  # (1 + 1) / 40
    assert null_threshold(upper, [0.5] * 2 + [0.95] * 38, rate=0.05) == 0.1  # (1 + 2) / 40 is too many, 1 / 30 is not
    assert null_threshold(upper, [0.05] + [0.95] * 39, rate=0.05) == 0.9
    assert null_threshold(upper, [0.05] * 2 + [0.95] * 38, rate=0.05) is None
    assert null_threshold(upper, [0.95] * 20, rate=0.05) == 0.9  # (1 + 0) · 40/20 of 40
    assert null_threshold(upper, [0.95] * 10, rate=0.05) is None  # four for each null one: too few null latents


def test_a_threshold_is_below_one_and_needs_values() -> None:
    assert null_threshold([1.0] * 100, [2.0] * 100, rate=0.05) is None
    assert null_threshold([NAN] * 5, [1.0], rate=0.05) is None
    assert null_threshold([0.1] * 50, [NAN], rate=0.05) is None
    assert null_threshold([0.1] * 50 + [NAN] * 1000, [1.0] * 50 + [NAN] * 3, rate=0.05) == 0.1


def test_fixed_thresholds_and_delta_norm_by_hand() -> None:
    both = nu_of(0, [0.1, 0.3, NAN]), nu_of(1, [0.5, 0.19, 0.0])
    claims = by_fixed_thresholds(both, SCORING)
    assert [side.tolist() for side in claims.chosen] == [[True, False, False], [False, True, True]]
    claims = by_delta_norm(np.array([0.05, 0.5, 0.95, NAN]), SCORING)
    assert [side.tolist() for side in claims.chosen] == [[True, False, False, False], [False, False, True, False]]


def test_reseeding_claims_only_what_both_dictionaries_have() -> None:
    n = 60
    low = np.r_[np.zeros(30), np.ones(30)].tolist()
    here = nu_of(0, low, half=0.01), nu_of(1, [1.0] * n, half=0.01)
    agree = np.arange(n)
    claims = by_reseeding(here, here, agree, SCORING)
    assert claims.threshold == pytest.approx(0.01)
    assert claims.chosen[0].sum() == 30
    assert claims.chosen[1].sum() == 0
    partner = np.where(agree < 2, -1, agree)
    assert by_reseeding(here, here, partner, SCORING).chosen[0].tolist() == [False] * 2 + [True] * 28 + [False] * 30
    # Dictionaries that disagree by more than 1 on many latents leave nothing to claim.
    there = nu_of(0, [2.0] * n), nu_of(1, [1.0] * n)
    assert by_reseeding(here, there, agree, SCORING).threshold is None


def test_partners_need_both_directions() -> None:
    first = np.stack([E[:3], E[:3]], 1)
    second = first[[2, 1, 0]].copy()
    second[0, 1] = E[5]  # latent 2's partner points elsewhere in tuned
    nu = nu_of(0, [1.0] * 3), nu_of(1, [1.0] * 3)
    assert partners(HandFit(first, nu), HandFit(second, nu), SCORING).tolist() == [2, 1, -1]
    assert isinstance(HandFit(first, nu), Fit)


# Verdicts --------------------------------------------------------------------------------------------


def test_verdicts_by_hand() -> None:
    assert judge(proportion(99, 100), proportion(96, 100), 0.95)[0] == "good"
    assert judge(proportion(99, 100), proportion(50, 100), 0.95) == ("bad", "recall below 0.95")
    assert judge(proportion(94, 100), proportion(96, 100), 0.95) == (
        "unclear",
        "precision below 0.95, within the interval",
    )
    assert judge(proportion(0, 0), proportion(0, 100), 0.95) == ("bad", "claims nothing")
