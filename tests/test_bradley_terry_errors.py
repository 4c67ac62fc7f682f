"""Intervals of Bradley-Terry ratings: sandwich and bootstrap, by prompt, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sample_battles import battles

from modeldiff_eval.bradley_terry import ELO, Battles, Likelihood, add_up
from modeldiff_eval.bradley_terry_errors import difference_error, resamples, sandwich, units
from modeldiff_eval.bradley_terry_pair import rate_pair
from modeldiff_eval.records import Estimate

STRENGTHS = np.array([0.6, 0.2, 0.0, -0.3, -0.5])


def error(data: Battles) -> float:
    fitted = Likelihood(add_up(data)).fit()
    return difference_error(sandwich(data, fitted), 0, 1)


def width(value: Estimate) -> float:
    assert value.low is not None
    assert value.high is not None
    return value.high - value.low


def test_without_style_and_two_models_the_sandwich_is_the_binomial_error() -> None:
    points = np.array([1.0] * 60 + [0.0] * 40)
    data = Battles(2, np.zeros(100, int), np.ones(100, int), points, np.ones(100), None, np.zeros((100, 0)))
    assert error(data) == pytest.approx(1 / np.sqrt(100 * 0.6 * 0.4), rel=0.006)  # n / (n − 1)


def test_the_same_game_three_times_is_one_opinion() -> None:
    data = battles(STRENGTHS, 800)
    tripled = Battles(
        5,
        *(np.repeat(part, 3, axis=0) for part in data[1:5]),
        np.repeat(np.arange(800), 3),
        np.repeat(data.style, 3, axis=0),
    )
    assert units(tripled) == 800
    assert error(tripled) == pytest.approx(error(data), rel=1e-6)
    assert error(tripled._replace(unit=None)) == pytest.approx(error(data) / np.sqrt(3), rel=0.01)


def test_bootstrap_and_sandwich_agree() -> None:
    for prompts, taste in ((None, 0.0), (300, 1.0)):
        data = battles(STRENGTHS, 4000, prompts=prompts, taste=taste)
        fit = rate_pair(data, 0, 1, draws=2000, rng=np.random.default_rng(0))
        assert width(fit.delta) / 2 == pytest.approx(fit.sandwich_half_width, rel=0.08)


def test_prompts_that_favour_models_widen_the_interval() -> None:
    data = battles(STRENGTHS, 4000, prompts=100, taste=1.0)
    apart = rate_pair(data._replace(unit=None), 0, 1, draws=500, rng=np.random.default_rng(0))
    together = rate_pair(data, 0, 1, draws=500, rng=np.random.default_rng(0))
    assert width(together.delta) > 1.2 * width(apart.delta)


def test_resamples_keep_the_total_and_the_mean() -> None:
    data = battles(STRENGTHS, 500, prompts=50)
    rows = add_up(data)
    groups = list(resamples(data, rows, draws=400, rng=np.random.default_rng(1)))
    points = np.concatenate([g.points for g in groups], axis=1)
    weight = np.concatenate([g.weight for g in groups], axis=1)
    assert points.shape == (10, 400)
    assert np.all(points <= weight + 1e-9)
    assert weight.mean(axis=1) == pytest.approx(rows.weight, rel=0.12)
    assert points.mean(axis=1) == pytest.approx(rows.points, rel=0.2)


def test_the_joint_covariance_is_that_of_the_difference_not_of_two_models_alone() -> None:
    data = battles(STRENGTHS, 4000)
    covariance = sandwich(data, Likelihood(add_up(data)).fit())
    apart = float(np.sqrt(covariance[0, 0] + covariance[1, 1]))
    assert covariance[0, 1] != pytest.approx(0, abs=1e-6)
    assert difference_error(covariance, 0, 1) > apart  # ratings around their mean move against each other


def test_the_style_effect_is_paired_with_the_difference() -> None:
    data = battles(STRENGTHS, 2000, style=np.array([0.4]))
    fit = rate_pair(data, 0, 1, draws=200, rng=np.random.default_rng(0))
    assert fit.shrunken is not None
    assert fit.unpenalised is not None
    assert fit.delta.value is not None
    assert fit.shrunken.delta.value is not None
    assert fit.shrunken.effect.value == pytest.approx(fit.shrunken.delta.value - fit.delta.value, abs=1e-6)
    assert width(fit.shrunken.effect) < width(fit.delta)  # paired: both fits see the same prompts
    assert fit.tuned - fit.base == pytest.approx(fit.delta.value, abs=2e-6)


def test_style_that_is_collinear_has_a_shrunken_fit_only() -> None:
    data = battles(STRENGTHS, 500, style=np.array([0.4]))
    fit = rate_pair(data._replace(style=np.repeat(data.style, 2, axis=1)), 0, 1, draws=50, rng=np.random.default_rng(0))
    assert fit.shrunken is not None
    assert fit.unpenalised is None
    assert fit.style_failure is not None
    assert "no single most likely ratings" in fit.style_failure


def test_two_models_only_give_the_win_rate() -> None:
    points = np.array([1.0] * 30 + [0.5] * 10 + [0.0] * 20)
    data = Battles(2, np.zeros(60, int), np.ones(60, int), points, np.ones(60), None, np.zeros((60, 0)))
    fit = rate_pair(data, 0, 1, draws=2000, rng=np.random.default_rng(0))
    assert fit.win_rate.value == pytest.approx(100 * 25 / 60)
    assert fit.tuned_win_rate.value == pytest.approx(100 * 25 / 60)
    assert fit.base_win_rate.value == pytest.approx(100 * 35 / 60)
    assert fit.win_rate.low == pytest.approx(fit.tuned_win_rate.low, abs=0.01)


def test_equal_seeds_give_equal_numbers() -> None:
    data = battles(STRENGTHS, 600)
    one, two, other = (rate_pair(data, 0, 1, draws=100, rng=np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert one == two
    assert one.delta.low != other.delta.low


@pytest.mark.slow(minutes=0.5)
@pytest.mark.parametrize(("prompts", "taste"), [(None, 0.0), (150, 0.7)])
def test_intervals_hold_the_truth_95_times_in_100(prompts: int | None, taste: float) -> None:
    runs = 600
    held = {"bootstrap": 0, "sandwich": 0, "style": 0}
    beta = np.array([0.4]) if prompts is None else None
    # A prompt's taste flattens the marginal odds, so the truth is what very many battles give.
    large = battles(
        STRENGTHS, 400_000, seed=10_000, prompts=None if prompts is None else 100_000, taste=taste, style=beta
    )
    fitted = Likelihood(add_up(large)).fit()
    plain = fitted if beta is None else Likelihood(add_up(large._replace(style=np.zeros((400_000, 0))))).fit()
    truth = ELO * float(plain.theta[1] - plain.theta[0])
    styled = ELO * float(fitted.theta[1] - fitted.theta[0])
    for seed in range(runs):
        data = battles(STRENGTHS, 800, seed=seed, prompts=prompts, taste=taste, style=beta)
        fit = rate_pair(data, 0, 1, draws=400, rng=np.random.default_rng(seed))
        assert fit.delta.low is not None
        assert fit.delta.high is not None
        assert fit.delta.value is not None
        held["bootstrap"] += fit.delta.low <= truth <= fit.delta.high
        held["sandwich"] += abs(fit.delta.value - truth) <= fit.sandwich_half_width
        if fit.unpenalised is not None:
            assert fit.unpenalised.effect.low is not None
            assert fit.unpenalised.effect.high is not None
            held["style"] += fit.unpenalised.effect.low <= styled - truth <= fit.unpenalised.effect.high
    print({name: count / runs for name, count in held.items()})
    for name, count in held.items():
        if name != "style":
            assert 0.925 <= count / runs <= 0.975, name
        elif beta is not None:  # a small effect of a skewed distribution: a little too narrow at 800 battles
            assert 0.90 <= count / runs <= 0.975
