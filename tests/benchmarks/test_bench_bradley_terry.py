"""100,000 battles of 60 models: our fit and bootstrap beside evalica's, at equal ratings, and the memory it takes.

``pytest tests/benchmarks/test_bradley_terry.py --benchmark-only -s`` prints the ratio. Both are timed in one run on the same
battles; evalica's bootstrap with percentile intervals (its default, BCa, fits once for every battle besides) and fewer
resamples, as one of its takes a tenth of a second. Time is per resample.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from sample_battles import battles

from modeldiff_eval.bradley_terry import Battles, FloatArray, Likelihood, add_up
from modeldiff_eval.bradley_terry_errors import resamples

N, MODELS, DRAWS, THEIR_DRAWS = 100_000, 60, 1000, 20


def ours(data: Battles, draws: int) -> FloatArray:
    """Strengths of all resamples [models, draws]."""
    rows = add_up(data)
    likelihood = Likelihood(rows)
    start = likelihood.fit().theta[:, None]
    groups = resamples(data, rows, draws=draws, rng=np.random.default_rng(0))
    return np.concatenate([likelihood.solve(g.points, g.weight, shrink=0, start=start) for g in groups], axis=1)


@pytest.fixture(scope="module")
def data() -> Battles:
    return battles(np.random.default_rng(0).normal(0, 0.6, MODELS), N)


def test_fit_and_bootstrap_against_evalica(benchmark: Any, data: Battles) -> None:
    evalica = pytest.importorskip("evalica")
    names = [f"m{i:02}" for i in range(MODELS)]
    outcome = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    lists = (
        [names[i] for i in data.first],
        [names[i] for i in data.second],
        [outcome[p] for p in data.points],
    )

    def theirs(draws: int) -> Any:
        return evalica.bootstrap(
            evalica.bradley_terry, *lists, n_resamples=draws, bootstrap_method="percentile", random_state=0
        )

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    drawn = benchmark.pedantic(ours, args=(data, DRAWS), rounds=1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    own = _seconds(lambda: ours(data, DRAWS)) / DRAWS
    other = _seconds(lambda: theirs(THEIR_DRAWS)) / (THEIR_DRAWS + 1)
    exact = evalica.bradley_terry(*lists, tolerance=1e-12, limit=10_000).scores.reindex(names)
    strengths = np.log(exact.to_numpy())
    gap = np.abs(Likelihood(add_up(data)).fit().theta - (strengths - strengths.mean())).max()
    print(
        f"\n{N:,} battles, {MODELS} models, {DRAWS:,} resamples: ours {own * 1e3:.2f} ms each, evalica {other * 1e3:.1f} ms, "
        f"{other / own:.0f} times; strengths within {gap:.0e}; peak {memory:,.0f} MiB ({before / 1024:,.0f} before)"
    )
    assert gap < 1e-9
    assert drawn.shape == (MODELS, DRAWS)
    assert memory <= 1024
    assert other / own >= 5


def test_with_style_covariates(benchmark: Any) -> None:
    data = battles(
        np.random.default_rng(0).normal(0, 0.6, MODELS), N, style=np.array([0.3, 0.1, 0.1, 0.0]), prompts=40_000
    )
    drawn = benchmark.pedantic(ours_with_style, args=(data, 20), rounds=1)
    assert drawn.shape == (MODELS + 4, 20)


def ours_with_style(data: Battles, draws: int) -> FloatArray:
    """The unpenalised fit with style in all resamples [models + features, draws]."""
    rows = add_up(data)
    likelihood = Likelihood(rows)
    fitted = likelihood.fit()
    start = np.concatenate([fitted.theta, fitted.beta])[:, None]
    groups = resamples(data, rows, draws=draws, rng=np.random.default_rng(0))
    return np.concatenate([likelihood.solve(g.points, g.weight, shrink=0, start=start) for g in groups], axis=1)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
