"""lighteval's details: ``details_<task>_<stamp>.parquet``, a row per document, and ``results_<stamp>.json`` where it is there.

Columns as lighteval 0.13 writes them (``doc``, ``metric``, ``model_response``) or up to 0.12 with underscores around
(``__doc__``, …). Tasks are called ``gsm8k|5`` or ``lighteval|gsm8k|5``: the last number is the few-shot count. Earlier
releases wrote other columns and are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeldiff_eval.benchmark_lm_eval import cluster_of
from modeldiff_eval.benchmark_samples import (
    Document,
    Samples,
    Score,
    TaskSamples,
    finite,
    mean_scores,
    plain,
    shortened,
)
from modeldiff_eval.errors import EvidenceError

_STAMP = re.compile(r"details_(?P<task>.+)_(?P<stamp>\d{4}-\d\d-\d\dT[\d.:\-]+)$")


def read_lighteval(path: Path, files: list[Path], *, cluster_by: str | None = None) -> Samples:
    """What one model scored, from its details; of several runs the newest counts for each task.

    Args:
        path: what the user named: aggregated results are looked for in it, too.
        files: details files.

    Raises:
        EvidenceError: a file is no details file of a known release, or a document has no field ``cluster_by``.
    """
    caveats: list[str] = []
    tasks: dict[str, TaskSamples] = {}
    for stamp, name, file in sorted(((*_named(file), file) for file in files), reverse=True):
        task, fewshot = _task(name)
        if task in tasks:
            caveats.append(f"{task} was run more than once in {path.name}; the newest run counts.")
            continue
        documents = [_document(row, task, cluster_by) for row in _rows(file)]
        reported, version = _reported(path, file, stamp, name)
        if reported is None:
            caveats.append(f"{task}: no results_{stamp}.json was found; its scores are means over the documents.")
        tasks[task] = TaskSamples(
            task=task,
            n=len(documents),
            scores=mean_scores(documents) if reported is None else reported,
            documents=documents,
            version=version,
            fewshot=fewshot,
        )
    return Samples(
        source=f"lighteval details {path.name}", tasks=[tasks[name] for name in sorted(tasks)], caveats=caveats
    )


def _named(file: Path) -> tuple[str, str]:
    """Stamp and task of a details file."""
    found = _STAMP.match(file.stem)
    if found is None:
        raise EvidenceError(f"{file.name} is not named details_TASK_STAMP.parquet, as lighteval names its details.")
    return found["stamp"], found["task"]


def _task(name: str) -> tuple[str, int | None]:
    """Task and few-shot count from ``suite|task|5`` or ``task|5``; a trailing ``|0`` of old releases means "do not truncate"."""
    parts = name.split("|")
    numbers = [part for part in parts if part.isdigit()]
    words = [part for part in parts if not part.isdigit()]
    return words[-1] if words else name, int(numbers[0]) if numbers else None


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows as ``{"doc": …, "metric": …, "model_response": …}``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        columns = {
            plain_name: name for name in names if (plain_name := name.strip("_")) in ("doc", "metric", "model_response")
        }
        if not {"doc", "metric"} <= columns.keys():
            raise EvidenceError(
                f"{file.name} has the columns {', '.join(names[:8])} instead of doc and metric: "
                "details of lighteval before 0.10 are not read. Export the scores as CSV (task, document, base, tuned)."
            )
        table = pq.read_table(file, columns=list(columns.values()))
    except (OSError, pa.ArrowException) as error:
        raise EvidenceError(f"{file} cannot be read as parquet: {str(error).splitlines()[0]}") from error
    return [{short: row[name] for short, name in columns.items()} for row in table.to_pylist()]


def _document(row: Mapping[str, Any], task: str, cluster_by: str | None) -> Document:
    doc, metric = _mapping(row["doc"]), _mapping(row["metric"])
    if not metric:
        raise EvidenceError(f"{task}: a document has no metric; the details are not whole.")
    response = _mapping(row.get("model_response"))
    texts = response.get("text")
    answer = texts[0] if isinstance(texts, list) and texts else texts
    specific = _mapping(doc.get("specific"))
    choices, gold = doc.get("choices"), doc.get("gold_index")
    return Document(
        filter="none",
        doc_id=doc.get("id") if isinstance(doc.get("id"), int | str) and doc.get("id") != "" else None,
        doc_hash=_hash([doc.get("query"), choices]),
        target_hash=_hash([choices, gold]),
        prompt_hash=_hash(response["input"]) if response.get("input") else None,
        values={str(name): plain(value) for name, value in metric.items() if value is not None},
        cluster=cluster_of({**specific, **doc}, cluster_by, task),
        prompt=shortened(doc.get("query")),
        target=shortened(_gold(choices, gold)),
        answer=shortened(answer),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _gold(choices: Any, gold: Any) -> Any:
    """The right choice, or the first of several."""
    first = gold[0] if isinstance(gold, list) and gold else gold
    return (
        choices[first] if isinstance(choices, list) and isinstance(first, int) and 0 <= first < len(choices) else None
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _reported(path: Path, file: Path, stamp: str, name: str) -> tuple[list[Score] | None, str | None]:
    """Aggregated scores and version of one task from the results file of the same run, if it is near."""
    roots = [parent.parent for parent in file.parents if parent.name == "details"]
    folders = dict.fromkeys(
        [path if path.is_dir() else path.parent, file.parent, *(root / "results" for root in roots)]
    )
    near = [found for folder in folders for found in folder.rglob(f"results_{stamp}.json")]
    model = file.parent.parent.name
    near.sort(key=lambda found: found.parent.name != model)
    for results in near:
        try:
            read = _mapping(json.loads(results.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise EvidenceError(f"{results} cannot be read as JSON: {error}") from error
        mine = _mapping(
            _mapping(read.get("results")).get(name) or _mapping(read.get("results")).get(name.replace("|", ":"))
        )
        if mine:
            scores = [
                Score(metric=metric, filter="none", value=finite(value), stderr=finite(mine.get(f"{metric}_stderr")))
                for metric, value in mine.items()
                if not metric.endswith("_stderr")
            ]
            version = _mapping(read.get("versions")).get(name)
            return scores, None if version is None else str(version)
    return None, None
