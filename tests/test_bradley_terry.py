"""Bradley-Terry: against a general optimiser, by hand, by symmetry, and against evalica."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sample_battles import battles
from scipy.optimize import minimize

from modeldiff_eval.bradley_terry import ELO, ORIGIN, Battles, FloatArray, Likelihood, add_up, without_style
from modeldiff_eval.errors import EvidenceError

STRENGTHS = np.array([0.8, 0.2, 0.0, -0.3, -0.7])


def by_hand(first: list[int], second: list[int], points: list[float], n_models: int = 2) -> Battles:
    n = len(points)
    return Battles(n_models, np.array(first), np.array(second), np.array(points), np.ones(n), None, np.zeros((n, 0)))


def by_optimiser(data: Battles, *, shrink: float) -> FloatArray:
    """The same maximum by SciPy's general minimiser, battle by battle."""

    def loss(values: FloatArray) -> float:
        theta, beta = values[: data.n_models], values[data.n_models :]
        odds = theta[data.first] - theta[data.second] + data.style @ beta
        each = data.weight * (np.logaddexp(0, odds) - data.points * odds)
        return float(each.sum() / data.weight.sum() + shrink / 2 * (beta @ beta) + 1e-3 * theta.mean() ** 2)

    found = minimize(loss, np.zeros(data.n_models + data.style.shape[1]), method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x, dtype=np.float64)


def test_two_models_are_their_win_rate() -> None:
    fitted = Likelihood(add_up(by_hand([0, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 0.5]))).fit()
    share = (1 + 1 + 0 + 0.5) / 4
    assert fitted.theta[0] - fitted.theta[1] == pytest.approx(math.log(share / (1 - share)), abs=1e-10)
    assert fitted.theta.sum() == pytest.approx(0, abs=1e-12)


def test_a_tie_is_half_a_win_and_ratings_have_the_mean_1000() -> None:
    ties = Likelihood(add_up(by_hand([0, 0], [1, 1], [0.5, 0.5]))).fit()
    split = Likelihood(add_up(by_hand([0, 0], [1, 1], [1, 0]))).fit()
    assert ties.ratings == pytest.approx([ORIGIN, ORIGIN])
    assert split.theta == pytest.approx(ties.theta)
    assert pytest.approx(400 / math.log(10)) == ELO  # 10 to 1 odds are 400 points


@pytest.mark.parametrize("shrink", [0.0, 1.0])
def test_the_maximum_is_that_of_a_general_optimiser(shrink: float) -> None:
    data = battles(STRENGTHS, 2000, style=np.array([0.3, -0.2]))._replace(
        weight=np.random.default_rng(1).uniform(0.5, 3, 2000)
    )
    fitted = Likelihood(add_up(data)).fit(shrink=shrink)
    other = by_optimiser(data, shrink=shrink)
    assert fitted.theta == pytest.approx(other[:5] - other[:5].mean(), abs=2e-5)
    assert fitted.beta == pytest.approx(other[5:], abs=2e-5)


def test_lmarenas_penalty_takes_away_a_part_of_style_only() -> None:
    data = battles(STRENGTHS, 20_000, style=np.array([0.5]), ties=0)
    likelihood = Likelihood(add_up(data))
    shrunken, free = likelihood.fit(shrink=1.0), likelihood.fit()
    assert free.beta[0] == pytest.approx(0.5, abs=0.05)
    assert 0.05 < shrunken.beta[0] < 0.15  # about 0.5 · h / (h + 1), h = mean p(1 − p) x² of 0.2


def test_exchanging_the_sides_of_any_battle_changes_nothing() -> None:
    data = battles(STRENGTHS, 3000, style=np.array([0.3]))
    turned = np.random.default_rng(3).random(3000) < 0.5
    other = Battles(
        5,
        np.where(turned, data.second, data.first),
        np.where(turned, data.first, data.second),
        np.where(turned, 1 - data.points, data.points),
        data.weight,
        None,
        np.where(turned[:, None], -data.style, data.style),
    )
    one, two = (Likelihood(add_up(d)).fit() for d in (data, other))
    assert one.theta == pytest.approx(two.theta, abs=1e-9)
    assert one.beta == pytest.approx(two.beta, abs=1e-9)


def test_alike_battles_are_added_up() -> None:
    data = battles(STRENGTHS, 3000)
    rows = add_up(data)
    assert len(rows.first) == 10  # pairs of five
    assert rows.weight.sum() == 3000
    assert np.all(rows.first < rows.second)
    twice = data._replace(weight=np.full(3000, 2.0))
    doubled = Likelihood(add_up(twice)).fit()
    assert doubled.theta == pytest.approx(Likelihood(rows).fit().theta, abs=1e-10)
    styled = battles(STRENGTHS, 3000, style=np.array([0.0]))
    forgotten = without_style(add_up(styled))
    assert len(forgotten.first) == 10
    assert forgotten.points.sum() == pytest.approx(add_up(styled).points.sum())


def test_strengths_far_apart_are_found_from_a_start_at_zero() -> None:
    strengths = np.array([9.0, 4.0, 0.0, -4.0, -9.0])
    data = battles(strengths, 40_000, ties=0)
    fitted = Likelihood(add_up(data)).fit()
    assert np.diff(fitted.theta) == pytest.approx(np.diff(strengths), abs=0.6)


def test_style_that_tells_all_winners_from_all_losers_has_no_maximum() -> None:
    data = by_hand([0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1])._replace(style=np.array([[1.0], [2.0], [1.0], [0.5]]))
    with pytest.raises(EvidenceError, match="no single most likely ratings"):
        Likelihood(add_up(data)).fit()
    assert np.isfinite(Likelihood(add_up(data)).fit(shrink=1.0).beta).all()


def test_ratings_are_those_of_evalica() -> None:
    evalica = pytest.importorskip("evalica")
    data = battles(np.random.default_rng(5).normal(0, 0.7, 20), 5000)
    names = [f"m{i:02}" for i in range(20)]
    outcome = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [names[i] for i in data.first],
        [names[i] for i in data.second],
        [outcome[p] for p in data.points],
        tolerance=1e-13,
        limit=100_000,
    ).scores
    strengths = np.log(theirs.reindex(names).to_numpy())
    assert Likelihood(add_up(data)).fit().theta == pytest.approx(strengths - strengths.mean(), abs=1e-10)
