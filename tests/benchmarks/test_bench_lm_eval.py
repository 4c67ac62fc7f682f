"""Benchmarks of both models by our runner against bare lm-eval: ``pytest tests/benchmarks --benchmark-only``.

Ours adds to lm-eval the pairing of documents, intervals, a cache and progress. Compared by processor time, in turns, so that
neither a busy machine nor a warm cache favours one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from modeldiff_eval import models
from modeldiff_eval.benchmarks import compare, run_benchmarks, tasks_dir
from modeldiff_eval.resources import resource

TASKS = ["mdx_arithmetic", "mdx_answer_harmless"]
LIMIT = 24
ROUNDS = 3


@pytest.fixture(scope="module")
def pair(embedded_model: None, tmp_path_factory: pytest.TempPathFactory) -> list[models.Loaded]:
    """The embedded model and the demo's SimPO tune of it."""
    device = models.pick_device(None)
    base = models.resolve("embedded")
    tuned = models.resolve(str(resource("demo/adapters/simpo")), foundation=base)
    cache, dtype = tmp_path_factory.mktemp("cache"), models.pick_dtype(None, device)
    return [models.load(source, device=device, dtype=dtype, cache=cache) for source in (base, tuned)]


def bare(pair: list[models.Loaded]) -> list[float]:
    """lm-eval alone on each model; accuracies."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = []
    for model in pair:
        lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=32)
        manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
        results = simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=LIMIT, apply_chat_template=True)
        assert results is not None
        found += [results["results"][name]["acc,none"] for name in TASKS]
    return found


def ours(pair: list[models.Loaded], cache: Path) -> list[float]:
    """Our runner on each model, and the comparison by document; the same accuracies."""
    base, tuned = (
        run_benchmarks(
            model.model, model.tokenizer, TASKS, model_key=model.source.key, cache_dir=cache, limit=LIMIT,
            on_progress=lambda done, total: None,
        )
        for model in pair
    )  # fmt: skip
    rows, _ = compare(base, tuned, draws=10_000, rng=np.random.default_rng(0))
    accuracies = {row.task: row for row in rows if row.metric.startswith("acc")}
    return [accuracies[name].base for name in TASKS] + [accuracies[name].tuned for name in TASKS]


def test_overhead_over_bare_lm_eval(benchmark: BenchmarkFixture, pair: list[models.Loaded], tmp_path: Path) -> None:
    spent: dict[str, list[float]] = {"bare": [], "ours": []}

    def timed(name: str, run: Callable[[], list[float]]) -> list[float]:
        start = time.process_time()
        found = run()
        spent[name].append(time.process_time() - start)
        return found

    timed("bare", lambda: bare(pair))
    timed("ours", lambda: ours(pair, tmp_path / "warm"))
    spent["bare"].clear()
    spent["ours"].clear()
    fresh = iter(range(100))

    def both() -> None:
        plain = timed("bare", lambda: bare(pair))
        assert timed("ours", lambda: ours(pair, tmp_path / str(next(fresh)))) == pytest.approx(plain)

    runner: Any = benchmark
    runner.pedantic(both, rounds=ROUNDS, iterations=1)
    middle = {name: statistics.median(times) for name, times in spent.items()}
    overhead = middle["ours"] / middle["bare"] - 1
    runner.extra_info.update({f"{name} (processor s)": round(value, 2) for name, value in middle.items()})
    runner.extra_info["overhead"] = f"{overhead:+.1%}"
    print(f"\nbare lm-eval {middle['bare']:.2f} s, ours {middle['ours']:.2f} s of processor: overhead {overhead:+.1%}")
    assert overhead <= 0.05
