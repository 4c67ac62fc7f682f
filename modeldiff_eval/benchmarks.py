"""Benchmarks beside the card: run them on both models, or read what lm-eval saved, and compare by document.

::

    base = run_benchmarks(model, tokenizer, ["modeldiff_smoke"], model_key=…, cache_dir=…)
    tuned = run_benchmarks(…)
    rows, caveats = compare(base, tuned, rng=np.random.default_rng(0))
"""

from __future__ import annotations

from modeldiff_eval.benchmark_compare import compare
from modeldiff_eval.benchmark_run import SMOKE, run_benchmarks, tasks_dir
from modeldiff_eval.benchmark_samples import Samples, TaskSamples, read_pair, read_results

__all__ = ["SMOKE", "Samples", "TaskSamples", "compare", "read_pair", "read_results", "run_benchmarks", "tasks_dir"]
