"""lm-eval's own files: ``results_<stamp>.json`` and, with ``--log_samples``, ``samples_<task>_<stamp>.jsonl``.

Format of lm-eval 0.4.13: a sample line per document *and per filter*, with one key per metric (a number, a pair such as
``[log-likelihood, words]``, or a list). Groups have an aggregate and no samples: their tasks are compared one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modeldiff_eval.benchmark_samples import COMPARISON, Document, Samples, Score, TaskSamples, finite, plain, shortened
from modeldiff_eval.errors import EvidenceError, did_you_mean
from modeldiff_eval.plain_json import read_json as read_json_text

HASHES = ("doc_hash", "prompt_hash", "target_hash")
"""What a sample may be clustered by besides the fields of its document."""


def task_samples(
    task: str,
    *,
    results: Mapping[str, Any],
    n: int | None,
    config: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
    version: Any = None,
    fewshot: Any = None,
    cluster_by: str | None = None,
) -> TaskSamples:
    """One task from lm-eval's own objects.

    Args:
        task: its name.
        results: ``results["results"][task]`` with keys such as ``"acc,none"`` and ``"acc_stderr,none"``.
        n: documents that were scored.
        config: ``results["configs"][task]``; names the aggregation of each metric.
        samples: the logged samples, one per document and filter.
        version: ``results["versions"][task]``; fewshot: ``results["n-shot"][task]``.
        cluster_by: a field of the documents, or one of :data:`HASHES`.

    Raises:
        EvidenceError: a document has no field ``cluster_by``.
    """
    listed = {
        str(entry["metric"]): entry
        for entry in config.get("metric_list") or []
        if isinstance(entry, Mapping) and "metric" in entry
    }
    scores = []
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, str | list | Mapping):
            continue
        entry = listed.get(metric, {})
        aggregation, better = entry.get("aggregation"), entry.get("higher_is_better")
        scores.append(
            Score(
                metric=metric,
                filter=kind,
                value=finite(value),
                stderr=finite(results.get(f"{metric}_stderr,{kind}")),
                aggregation=aggregation if isinstance(aggregation, str) else None,
                higher_is_better=better if isinstance(better, bool) else None,
            )
        )
    order = list(listed)
    scores.sort(key=lambda score: order.index(score.metric) if score.metric in order else len(order))
    return TaskSamples(
        task=task,
        n=n,
        scores=scores,
        documents=[_document(sample, task, cluster_by) for sample in samples],
        version=None if version in (None, "N/A", "Yaml") else str(version),
        fewshot=int(fewshot) if isinstance(fewshot, int) else None,
    )


def read_lm_eval(path: Path, files: list[Path], *, cluster_by: str | None = None) -> Samples:
    """What one model scored, from result files of lm-eval, newest first; the newest counts for each task.

    Args:
        path: what the user named, for messages.
        files: ``results_*.json``; samples are looked for beside each.

    Raises:
        EvidenceError: a file is malformed (with its line).
    """
    caveats: list[str] = []
    tasks: dict[str, TaskSamples] = {}
    groups: set[str] = set()
    for file in files:
        results = read_json(file)
        stamp = file.stem.partition("_")[2]
        groups |= set(results["results"]) - set(results["configs"])
        for task in sorted(_tasks_of(results, file)):
            if task in tasks:
                caveats.append(f"{task} was run more than once in {path.name}; the newest run counts.")
                continue
            samples = file.parent / f"samples_{task}_{stamp}.jsonl"
            if not samples.is_file():
                caveats.append(
                    f"{task}: {samples.name} is missing, so documents cannot be paired (--log_samples saves them)."
                )
            counted = finite(_of(results, "n-samples", task, "effective"))
            tasks[task] = task_samples(
                task,
                results=results["results"][task],
                n=None if counted is None else int(counted),
                config=results["configs"][task],
                samples=_read_lines(samples) if samples.is_file() else [],
                version=_of(results, "versions", task),
                fewshot=_of(results, "n-shot", task),
                cluster_by=cluster_by,
            )
    if groups := groups - set(tasks):
        caveats.append(f"Groups of tasks have no samples of their own; their tasks are compared: {_some(groups)}.")
    return Samples(source=f"saved lm-eval results {path.name}", tasks=list(tasks.values()), caveats=caveats)


def _of(results: Mapping[str, Any], *keys: str) -> Any:
    """A nested value, ``None`` where it is not there."""
    found: Any = results
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _some(names: Iterable[str], most: int = 5) -> str:
    known = sorted(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def _tasks_of(results: Any, file: Path) -> list[str]:
    """Names of the benchmarks in a result file: tasks, not groups, and not our own comparison beside them."""
    return [
        task
        for task, config in results["configs"].items()
        if isinstance(results["results"].get(task), Mapping)
        and not (isinstance(config, Mapping) and config.get("output_type") == COMPARISON)
    ]


def cluster_of(fields: Any, name: str | None, task: str) -> str | None:
    """The value of the field that documents are clustered by, as text.

    Raises:
        EvidenceError: there is no such field; says which there are.
    """
    if name is None:
        return None
    if not isinstance(fields, Mapping) or fields.get(name) is None:
        known = sorted(str(key) for key in fields) if isinstance(fields, Mapping) else []
        raise EvidenceError(
            f"{task}: a document has no field {name!r} to cluster by.{did_you_mean(name, known)} "
            f"It has {_some(known, 12) or 'none'}. Choose one of them with --cluster-by, or leave it out."
        )
    value = fields[name]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _document(sample: Mapping[str, Any], task: str, cluster_by: str | None) -> Document:
    """One logged sample, its texts shortened."""
    prompt, answer = _texts(sample)
    doc = sample.get("doc")
    fields = {**(doc if isinstance(doc, Mapping) else {}), **{name: sample.get(name) for name in HASHES}}
    return Document(
        filter=str(sample["filter"]),
        doc_id=sample.get("doc_id"),
        doc_hash=str(sample["doc_hash"]),
        target_hash=sample.get("target_hash"),
        prompt_hash=sample.get("prompt_hash"),
        values={metric: plain(sample[metric]) for metric in sample["metrics"]},
        cluster=cluster_of(fields, cluster_by, task),
        prompt=shortened(prompt),
        target=shortened(sample.get("target")),
        answer=shortened(answer),
    )


def _texts(sample: Mapping[str, Any]) -> tuple[Any, Any]:
    """Prompt and answer: what was generated, or the likeliest of the offered continuations. Either may be missing.

    ``arguments`` is a list of tuples in memory and ``{"gen_args_0": {"arg_0": …}}`` on the disk.
    """
    arguments, replies = sample.get("arguments") or [], sample.get("filtered_resps") or []
    if isinstance(arguments, Mapping):
        arguments = [list(each.values()) for each in arguments.values() if isinstance(each, Mapping)]
    if not isinstance(arguments, list) or not arguments or not isinstance(replies, list) or not replies:
        return None, None
    prompt = arguments[0][0] if isinstance(arguments[0], list | tuple) and arguments[0] else None
    if isinstance(replies[0], str):
        return prompt, replies[0]
    likelihoods = [
        plain(reply[0]) for reply in replies if isinstance(reply, list | tuple) and reply
    ]  # text on the disk
    known = [value for value in likelihoods if isinstance(value, float)]
    if len(known) < 2 or not len(known) == len(replies) == len(arguments):
        return prompt, None
    best = arguments[max(range(len(known)), key=known.__getitem__)]
    return prompt, best[1] if isinstance(best, list | tuple) and len(best) > 1 else None


def read_json(file: Path) -> Any:
    """A results file of lm-eval, with the two parts that everything needs.

    Raises:
        EvidenceError: not readable, or not lm-eval's.
    """
    try:
        results = read_json_text(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{file} cannot be read as JSON: {error}. Run lm_eval again to rewrite it.") from error
    for key in ("results", "configs"):
        if not isinstance(results, Mapping) or not isinstance(results.get(key), Mapping):
            raise EvidenceError(f"{file}: the field {key!r} is missing; this is not a results file of lm-eval.")
    return results


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The samples of one file; every line must be whole."""
    samples = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                sample = read_json_text(line)
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
