"""Benchmarks beside the card: run them on both models, or read what was saved, and compare by document.

::

    base = run_benchmarks(model, tokenizer, ["modeldiff_smoke"], model_key=…, cache_dir=…)
    tuned = run_benchmarks(…)
    rows, caveats = compare(base, tuned, rng=np.random.default_rng(0))
"""

from __future__ import annotations

from modeldiff_eval.benchmark_compare import compare
from modeldiff_eval.benchmark_flips import write_flips
from modeldiff_eval.benchmark_read import read_pair, read_results, result_files, split_paths
from modeldiff_eval.benchmark_run import run_benchmarks
from modeldiff_eval.benchmark_samples import Samples, TaskSamples
from modeldiff_eval.benchmark_tasks import SMOKE, tasks_dir

__all__ = [
    "SMOKE",
    "Samples",
    "TaskSamples",
    "compare",
    "read_pair",
    "read_results",
    "result_files",
    "run_benchmarks",
    "split_paths",
    "tasks_dir",
    "write_flips",
]
