"""Our paired resampling against ``scipy.stats.bootstrap(paired=True)``: ``pytest tests/benchmarks --benchmark-only``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import bootstrap

from modeldiff_eval.benchmark_metrics import additive
from modeldiff_eval.benchmark_resample import Outcome, contest, resample

TASKS, DOCUMENTS, DRAWS = 20, 1000, 10_000
SCIPY_TASKS = 4
"""scipy takes the same time for every task, so four of the twenty are timed and counted five times."""


def _scores(kind: str, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both models' scores [documents], correlated as scores of the same documents are."""
    if kind == "right or wrong":
        base = (rng.random(DOCUMENTS) < 0.55).astype(float)
        tuned = np.where(rng.random(DOCUMENTS) < 0.6, base, (rng.random(DOCUMENTS) < 0.6).astype(float))
        return base, tuned
    base = rng.normal(size=DOCUMENTS)
    return base, base + rng.normal(0.05, 0.7, size=DOCUMENTS)


def _difference(base: NDArray[Any], tuned: NDArray[Any], axis: int = -1) -> Any:
    return np.mean(tuned, axis=axis) - np.mean(base, axis=axis)


def _processor_seconds(run: Callable[[], Any]) -> float:
    """Processor time, which other programs on the machine change less than the clock's."""
    began = time.process_time()
    run()
    return time.process_time() - began


@pytest.mark.parametrize("kind", ["right or wrong", "real numbers"])
def test_twenty_tasks_of_a_thousand_documents(benchmark: BenchmarkFixture, kind: str) -> None:
    """Intervals *and* p values of 20 tasks on our side, intervals alone (vectorised, percentile: the fastest) on scipy's."""
    rng = np.random.default_rng(0)
    scores = [_scores(kind, rng) for _ in range(TASKS)]

    def ours() -> list[Outcome]:
        contests = []
        for both in scores:
            base, tuned = (additive("mean", own.tolist(), reported=None) for own in both)
            assert base is not None
            assert tuned is not None
            contests.append(contest(base, tuned, None))
        return resample(contests, draws=DRAWS, rng=np.random.default_rng(1))

    runner: Any = benchmark
    outcomes: list[Outcome] = runner.pedantic(ours, rounds=5, warmup_rounds=1)
    mine = min(_processor_seconds(ours) for _ in range(5))
    theirs, began = [], time.process_time()
    for base, tuned in scores[:SCIPY_TASKS]:
        found = bootstrap(
            (base, tuned), _difference, paired=True, vectorized=True, n_resamples=DRAWS, method="percentile", rng=rng
        )  # fmt: skip
        theirs.append(found.confidence_interval)
    seconds = (time.process_time() - began) * TASKS / SCIPY_TASKS
    for outcome, interval in zip(outcomes, theirs, strict=False):
        assert outcome.delta.low is not None
        assert outcome.delta.high is not None
        near = 0.04 * (interval.high - interval.low)
        assert outcome.delta.low == pytest.approx(interval.low, abs=near)
        assert outcome.delta.high == pytest.approx(interval.high, abs=near)
    ratio = seconds / mine
    benchmark.extra_info |= {
        "ours_cpu_s": round(mine, 3),
        "scipy_cpu_s": round(seconds, 3),
        "times_faster": round(ratio, 1),
    }
    print(f"\n{kind}: ours {mine:.3f} s, scipy {seconds:.2f} s, {ratio:.0f} times")
    assert ratio >= 50
