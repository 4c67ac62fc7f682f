"""Battles of models whose strengths are known."""

from __future__ import annotations

import numpy as np

from modeldiff_eval.bradley_terry import Battles, FloatArray


def battles(
    strengths: FloatArray,
    n: int,
    *,
    seed: int = 0,
    ties: float = 0.2,
    style: FloatArray | None = None,
    prompts: int | None = None,
    taste: float = 0.0,
) -> Battles:
    """``n`` battles of random pairs by the Bradley-Terry model.

    Args:
        strengths: θ of every model [models].
        n: battles.
        seed: of everything.
        ties: share of battles that end even, whoever fights.
        style: coefficients of standard normal covariates [features].
        prompts: number of prompts; several battles share one. None: each battle has its own.
        taste: how much a prompt favours some models, in θ; makes the battles of a prompt alike.
    """
    rng = np.random.default_rng(seed)
    m = len(strengths)
    first = rng.integers(m, size=n)
    second = (first + rng.integers(1, m, size=n)) % m
    beta = np.zeros(0) if style is None else style
    x = rng.normal(size=(n, len(beta)))
    odds = strengths[first] - strengths[second] + x @ beta
    unit = None
    if prompts is not None:
        unit = np.unique(rng.integers(prompts, size=n), return_inverse=True)[1].reshape(-1)
        liking = taste * rng.normal(size=(int(unit.max()) + 1, m))
        odds += liking[unit, first] - liking[unit, second]
    points = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    points[rng.random(n) < ties] = 0.5
    return Battles(m, first, second, points, np.ones(n), unit, x)
