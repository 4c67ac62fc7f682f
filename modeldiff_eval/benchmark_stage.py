"""The benchmarks of one run: both models scored here, or read from saved results, then compared document by document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modeldiff_eval.benchmark_models import model_of
from modeldiff_eval.benchmark_scores import score_table
from modeldiff_eval.benchmarks import Samples, compare, read_pair, run_benchmarks, write_flips
from modeldiff_eval.models import is_adapter, public_name
from modeldiff_eval.records import BenchmarkRow
from modeldiff_eval.settings import Settings
from modeldiff_eval.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def benchmark_stage(work: Workspace, out: Path) -> tuple[list[BenchmarkRow], list[str], pd.DataFrame | None]:
    """The rows of the card, their caveats, and the scores by document; empty where no benchmark was asked for.

    ``out/benchmarks`` gets the logs of what was run here, ``out/flips.jsonl`` every document that only one model gets right.

    Raises:
        EvidenceError: a task or file is unusable, or the models were scored on different documents.
    """
    settings = work.settings
    if settings.benchmarks:
        both = saved_results(settings)
    elif settings.tasks:
        both = (score(work, "base", out), score(work, "tuned", out))
    else:
        return [], [], None
    rows, caveats = compare(*both, draws=settings.draws, rng=np.random.default_rng([settings.seed, 41]))
    write_flips(out / "flips.jsonl", *both)
    return rows, caveats, score_table(*both)


def saved_results(settings: Settings) -> tuple[Samples, Samples]:
    """What ``--benchmarks`` names, of base and of tuned.

    Raises:
        EvidenceError: nothing is there, a file is malformed, or it does not say which model is which.
    """
    base, tuned = (public_name(name) if is_adapter(name) else name for name in (settings.base, settings.tuned))
    return read_pair(str(settings.benchmarks), cluster_by=settings.cluster_by, base=base, tuned=tuned)


def score(work: Workspace, role: str, out: Path | None = None) -> Samples:
    """One model's benchmarks, from the cache or run now; ``out/benchmarks/ROLE`` gets the logs."""
    settings = work.settings
    with model_of(work, role) as model, work.reporter.task(f"Benchmarks of {role}", unit="documents") as advance:
        return run_benchmarks(
            model.model, model.tokenizer, list(settings.tasks), model_key=model.key, cache_dir=work.cache / "benchmarks",
            log_dir=out / "benchmarks" / role if out else None, limit=settings.task_limit, num_fewshot=settings.num_fewshot,
            cluster_by=settings.cluster_by, seed=settings.seed, on_progress=advance,
        )  # fmt: skip
