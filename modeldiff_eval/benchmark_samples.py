"""What one model scored on benchmarks: per document where it is known, aggregated always.

Made by :mod:`modeldiff_eval.benchmark_run` or read from the files that ``lm_eval --output_path`` leaves:
``results_<stamp>.json`` (aggregated scores) and ``samples_<task>_<stamp>.jsonl`` (one line per document and filter,
written with ``--log_samples``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import Record

Value = float | list[Any]
"""A score of one document: a number, or what a metric needs to aggregate, such as ``[log-likelihood, words]``."""
COMPARISON = "modeldiff"
"""Request type of our own lm-eval task, which compares two models and is no benchmark of one."""


class Document(Record):
    """One document under one filter, with the value of every metric."""

    filter: str
    doc_id: int | None
    doc_hash: str
    target_hash: str | None
    prompt_hash: str | None
    values: dict[str, Value]


class Score(Record):
    """One aggregated metric as lm-eval reports it. ``aggregation`` is its name or its source text, if known."""

    metric: str
    filter: str
    value: float
    stderr: float | None
    aggregation: str | None = None


class TaskSamples(Record):
    """One task: ``n`` documents were scored; ``documents`` is empty when samples were not saved."""

    task: str
    n: int | None
    scores: list[Score]
    documents: list[Document]


class Samples(Record):
    """All tasks of one model, where they come from, and what was left out."""

    source: str
    tasks: list[TaskSamples]
    caveats: list[str] = Field(default_factory=list)


def task_samples(
    task: str,
    *,
    results: Mapping[str, Any],
    n: int | None,
    config: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
) -> TaskSamples:
    """One task from lm-eval's own objects.

    Args:
        task: its name.
        results: ``results["results"][task]`` with keys such as ``"acc,none"`` and ``"acc_stderr,none"``.
        n: documents that were scored.
        config: ``results["configs"][task]``; names the aggregation of each metric.
        samples: the logged samples, one per document and filter.
    """
    aggregations = {
        str(entry["metric"]): str(entry["aggregation"])
        for entry in config.get("metric_list") or []
        if isinstance(entry, Mapping) and "metric" in entry and isinstance(entry.get("aggregation"), str)
    }
    scores = []
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = results.get(f"{metric}_stderr,{kind}")
        scores.append(
            Score(
                metric=metric,
                filter=kind,
                value=float(value),
                stderr=float(str(stderr)) if _is_number(stderr) else None,
                aggregation=aggregations.get(metric),
            )
        )
    return TaskSamples(task=task, n=n, scores=scores, documents=[_document(sample) for sample in samples])


def read_results(path: Path) -> Samples:
    """What one model scored, from a saved lm-eval run.

    Args:
        path: a ``results_*.json`` file or a folder that holds some, directly or in one subfolder (lm-eval makes one per
            model). Of several runs the newest counts for each task.

    Raises:
        EvidenceError: nothing is there, several models are, or a file is malformed (with its line).
    """
    caveats: list[str] = []
    tasks: dict[str, TaskSamples] = {}
    files = _result_files(path)
    for file in files:
        results = _read_json(file)
        stamp = file.stem.partition("_")[2]
        for task in sorted(_tasks_of(results, file)):
            if task in tasks:
                caveats.append(f"{task} was run more than once in {path.name}; the newest run counts.")
                continue
            samples = file.parent / f"samples_{task}_{stamp}.jsonl"
            if not samples.is_file():
                caveats.append(
                    f"{task}: {samples.name} is missing, so documents cannot be paired (--log_samples saves them)."
                )
            counted = results.get("n-samples", {}).get(task, {}).get("effective")
            tasks[task] = task_samples(
                task,
                results=results["results"][task],
                n=int(counted) if _is_number(counted) else None,
                config=results["configs"][task],
                samples=_read_lines(samples) if samples.is_file() else [],
            )
    return Samples(source=f"saved lm-eval results {path.name}", tasks=list(tasks.values()), caveats=caveats)


def read_pair(path: Path, *, base: str, tuned: str) -> tuple[Samples, Samples]:
    """Both models' saved results under one folder.

    The two are found as subfolders ``base`` and ``tuned``, or by the names lm-eval gives to its model folders for the
    ids ``base`` and ``tuned``.

    Raises:
        EvidenceError: a model's folder is missing; the folders that are there are listed.
    """
    if not path.is_dir():
        raise EvidenceError(f"{path} is not a folder. Pass the folder that holds both models' lm-eval results.")
    folders = {folder.name.lower(): folder for folder in sorted(path.iterdir()) if folder.is_dir()}

    def find(role: str, model: str) -> Samples:
        names = [role, _sanitized(model), _sanitized(model.partition("@")[0]), Path(model).name]
        for name in names:
            if name.lower() in folders:
                return read_results(folders[name.lower()])
        raise EvidenceError(
            f"{path} holds no results of the {role} model {model}: looked for a folder {role!r} or "
            f"{_sanitized(model)!r}, found {sorted(folders) or 'none'}. Rename the right one to {role!r}."
        )

    return find("base", base), find("tuned", tuned)


def _sanitized(model: str) -> str:
    """The folder name that lm-eval gives to a model."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)


def _result_files(path: Path) -> list[Path]:
    """Result files of one model, newest first."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise EvidenceError(f"{path} does not exist. Pass a results_*.json of lm-eval or the folder that holds it.")
    files = list(path.glob("results_*.json"))
    if not files:
        folders = sorted({file.parent for file in path.glob("*/results_*.json")})
        if len(folders) > 1:
            names = ", ".join(folder.name for folder in folders)
            raise EvidenceError(f"{path} holds results of several models ({names}). Pass one of these folders.")
        files = list(folders[0].glob("results_*.json")) if folders else []
    if not files:
        raise EvidenceError(f"{path} holds no results_*.json. Run lm_eval with --output_path and --log_samples.")
    return sorted(files, key=lambda file: file.name, reverse=True)


def _tasks_of(results: Any, file: Path) -> list[str]:
    """Names of the benchmarks in a result file: tasks, not groups, and not our own comparison beside them."""
    for key in ("results", "configs"):
        if not isinstance(results, Mapping) or not isinstance(results.get(key), Mapping):
            raise EvidenceError(f"{file}: the field {key!r} is missing; this is not a results file of lm-eval.")
    configs = results["configs"]
    return [
        task
        for task, config in configs.items()
        if task in results["results"] and not (isinstance(config, Mapping) and config.get("output_type") == COMPARISON)
    ]


def _document(sample: Mapping[str, Any]) -> Document:
    """One logged sample without its texts."""
    return Document(
        filter=str(sample["filter"]),
        doc_id=sample.get("doc_id"),
        doc_hash=str(sample["doc_hash"]),
        target_hash=sample.get("target_hash"),
        prompt_hash=sample.get("prompt_hash"),
        values={metric: plain(sample[metric]) for metric in sample["metrics"]},
    )


def plain(value: Any) -> Value:
    """A metric's value as finite floats and lists; anything else becomes a list with its text.

    Tuples become lists, booleans and NumPy or torch numbers become floats.
    """
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return [str(value)]
    return number if math.isfinite(number) else [str(number)]


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{file} cannot be read as JSON: {error}. Run lm_eval again to rewrite it.") from error


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The samples of one file; every line must be whole."""
    samples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            for field in ("filter", "doc_hash", "metrics"):
                sample[field]
            for metric in sample["metrics"]:
                sample[metric]
        except ValueError as error:
            raise EvidenceError(f"{file.name}, line {number}: not JSON ({error}).") from error
        except (KeyError, TypeError) as error:
            raise EvidenceError(f"{file.name}, line {number}: the field {error} is missing.") from error
        samples.append(sample)
    return samples
