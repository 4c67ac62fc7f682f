"""Per-document logs of benchmarks that were run here, in lm-eval's own file layout.

``OUT/benchmarks/base/results_run.json`` and ``samples_<task>_run.jsonl`` beside it, the same for tuned: anything that reads
lm-eval's logs reads these, ``--benchmarks OUT/benchmarks`` included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.records import Record
from modeldiff_eval.store import write_text

STAMP = "run"


class TaskLog(Record):
    """One task as lm-eval returned it: aggregates, configuration, and a sample per document and filter."""

    task: str
    results: dict[str, Any]
    n: int
    config: dict[str, Any]
    version: str | None
    fewshot: int | None
    samples: list[dict[str, Any]]


def jsonable(value: Any) -> Any:
    """The value as JSON can hold it: NaN becomes ``None``, whatever else it cannot becomes text."""
    return json.loads(json.dumps(value, default=_text, ensure_ascii=False), parse_constant=lambda _: None)


def _text(value: Any) -> Any:
    item = getattr(value, "item", None)  # NumPy and torch numbers
    if callable(item):
        try:
            return item()
        except (ValueError, RuntimeError):
            return str(value)
    return str(value)


def write_samples(folder: Path, log: TaskLog) -> Path:
    """The samples of one task, as soon as it is done."""
    lines = [json.dumps(_as_saved(sample), ensure_ascii=False) for sample in log.samples]
    return write_text(folder / f"samples_{log.task}_{STAMP}.jsonl", "\n".join(lines) + "\n" if lines else "")


def write_results(folder: Path, logs: Sequence[TaskLog]) -> Path:
    """The aggregates of all tasks of one model."""
    results = {
        "results": {log.task: log.results for log in logs},
        "configs": {log.task: log.config for log in logs},
        "versions": {log.task: log.version for log in logs},
        "n-shot": {log.task: log.fewshot for log in logs},
        "n-samples": {log.task: {"effective": log.n} for log in logs},
    }
    return write_text(folder / f"results_{STAMP}.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _as_saved(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample with its requests under the names that lm-eval gives them on the disk."""
    requests = sample.get("arguments") or []
    named = {
        f"gen_args_{i}": {
            f"arg_{j}": part for j, part in enumerate(request if isinstance(request, list) else [request])
        }
        for i, request in enumerate(requests)
    }
    return {**sample, "arguments": named}
