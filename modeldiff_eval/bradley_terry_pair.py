"""Two models of a set of battles against each other: Elo difference, style effect and win rates, from the same resamples.

Everything about one resample is computed from the same weights, so that a difference of two fits (with style control and
without) keeps what they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from modeldiff_eval.bradley_terry import ELO, Battles, Fit, FloatArray, Likelihood, Rows, add_up, without_style
from modeldiff_eval.bradley_terry_errors import DRAWS, difference_error, resamples, sandwich
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import Estimate
from modeldiff_eval.stats import Z, estimate

LMARENA_SHRINK = 1.0
"""LMArena's penalty of style coefficients beside the mean log-likelihood."""
_TAIL = (0.025, 0.975)


class StyleFit(NamedTuple):
    """A fit with style covariates."""

    delta: Estimate
    """Elo, tuned minus base, at equal style."""
    effect: Estimate
    """``delta`` minus the difference without style control."""
    coefficients: list[Estimate]
    """Log-odds of one standard difference [features]."""


class PairFit(NamedTuple):
    """What battles say about base and tuned."""

    base: float
    """Elo, without style control."""
    tuned: float
    delta: Estimate
    sandwich_half_width: float
    """Half of the 95 % interval of ``delta`` by the sandwich, in Elo."""
    win_rate: Estimate
    """Percent of the points between the two that tuned is expected to take."""
    base_win_rate: Estimate
    """Percent of its points that base took, from all opponents."""
    tuned_win_rate: Estimate
    shrunken: StyleFit | None
    unpenalised: StyleFit | None
    style_failure: str | None
    """Why style has no (unpenalised) fit, where covariates were given."""


def rate_pair(
    battles: Battles,
    base: int,
    tuned: int,
    *,
    draws: int = DRAWS,
    rng: np.random.Generator,
    on_draws: Callable[[int], None] | None = None,
) -> PairFit:
    """Fit and resample battles among models that can be rated together.

    Args:
        battles: battles of these models only (:func:`modeldiff_eval.arena_graph.keep_models`).
        base: index of the base model.
        tuned: index of the tuned model.
        draws: resamples of prompts.
        rng: the only source of randomness.
        on_draws: told how many resamples were done.

    Raises:
        EvidenceError: the ratings have no finite maximum.
    """
    rows = add_up(battles)
    plain_rows = without_style(rows)
    likelihoods = [Likelihood(plain_rows)]
    shrinks = [0.0]
    fits = [likelihoods[0].fit()]
    failure = None
    if rows.style.shape[1]:
        styled = Likelihood(rows)
        for shrink in (LMARENA_SHRINK, 0.0):
            try:
                fits.append(styled.fit(shrink=shrink))
            except EvidenceError as error:
                failure = str(error)
                break
            likelihoods.append(styled)
            shrinks.append(shrink)
    starts = [np.concatenate([f.theta, f.beta])[:, None] for f in fits]
    found: list[list[FloatArray]] = [[] for _ in fits]
    rates: list[FloatArray] = []
    for group in resamples(battles, rows, draws=draws, rng=rng):
        points, weight = (np.add.reduceat(part, rows.starts, axis=0) for part in (group.points, group.weight))
        rates.append(_win_rates(plain_rows, points, weight, (base, tuned)))
        for i, (likelihood, shrink, start) in enumerate(zip(likelihoods, shrinks, starts, strict=True)):
            data = (points, weight) if i == 0 else (group.points, group.weight)
            solved = likelihood.solve(*data, shrink=shrink, start=start)
            found[i].append(np.vstack([ELO * (solved[tuned] - solved[base]), solved[battles.n_models :]]))
        if on_draws is not None:
            on_draws(group.points.shape[1])
    drawn = [np.concatenate(parts, axis=1) for parts in found]
    values = [_difference(f, base, tuned) for f in fits]
    delta = _interval(values[0], drawn[0][0])
    taken = _win_rates(plain_rows, plain_rows.points[:, None], plain_rows.weight[:, None], (base, tuned))[:, 0]
    taken_drawn = np.concatenate(rates, axis=1)
    base_rate, tuned_rate = (_interval(float(taken[i]), taken_drawn[i]) for i in range(2))
    styles = [
        StyleFit(
            delta=_interval(values[i], drawn[i][0]),
            effect=_interval(values[i] - values[0], drawn[i][0] - drawn[0][0]),
            coefficients=[_interval(float(b), drawn[i][1 + f]) for f, b in enumerate(fits[i].beta)],
        )
        for i in range(1, len(fits))
    ]
    covariance = sandwich(battles._replace(style=np.zeros((len(battles.first), 0))), fits[0])
    return PairFit(
        base=round(float(fits[0].ratings[base]), 6),
        tuned=round(float(fits[0].ratings[tuned]), 6),
        delta=delta,
        sandwich_half_width=Z * ELO * difference_error(covariance, base, tuned),
        win_rate=_expected(delta),
        base_win_rate=base_rate,
        tuned_win_rate=tuned_rate,
        shrunken=styles[0] if styles else None,
        unpenalised=styles[1] if len(styles) > 1 else None,
        style_failure=failure,
    )


def _difference(fitted: Fit, base: int, tuned: int) -> float:
    return ELO * float(fitted.theta[tuned] - fitted.theta[base])


def _interval(value: float, draws: FloatArray) -> Estimate:
    """95 % percentile interval; it holds the value itself."""
    low, high = np.quantile(draws, _TAIL)
    value = round(value, 6)
    return estimate(value, min(float(low), value), max(float(high), value))


def _expected(delta: Estimate) -> Estimate:
    """Expected share of points in percent, from an Elo difference."""
    value, low, high = (100 * float(expit(x / ELO)) for x in (delta.value or 0.0, delta.low or 0.0, delta.high or 0.0))
    return estimate(value, low, high)


def _win_rates(rows: Rows, points: FloatArray, weight: FloatArray, models: tuple[int, ...]) -> FloatArray:
    """Percent of their points that models took from all opponents [models, draws]; ``rows`` has one row a pair."""
    out = []
    for model in models:
        first, second = rows.first == model, rows.second == model
        taken = points[first].sum(axis=0) + (weight[second] - points[second]).sum(axis=0)
        out.append(100 * taken / (weight[first].sum(axis=0) + weight[second].sum(axis=0)))
    return np.array(out)
