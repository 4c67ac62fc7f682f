"""inspect_ai's logs: ``.eval`` (a zip) and ``.json``, log format version 2, one task each.

An ``.eval`` holds ``header.json`` (written when the run ends) and ``summaries.json``, or ``samples/*.json``. A score is a
number, a letter (C right, I wrong, P half, N no answer) or a mapping of them. Of several epochs the mean is taken, which is
inspect's default reducer. Logs are read as data; inspect_ai is not needed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modeldiff_eval.benchmark_lm_eval import cluster_of
from modeldiff_eval.benchmark_samples import Document, Samples, Score, TaskSamples, Value, finite, shortened
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.plain_json import read_json

LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_MOST_BYTES = 2 << 30
"""Unpacked size at which a log is refused."""


def read_inspect(path: Path, files: Iterable[Path], *, cluster_by: str | None = None) -> Samples:
    """What one model scored, from its logs; the newest log of each task counts.

    Args:
        path: what the user named, for messages.
        cluster_by: a key of the samples' metadata.

    Raises:
        EvidenceError: a log is not finished, not readable, or of another format version.
    """
    logs = sorted((_log(file) for file in files), key=lambda log: str(log["eval"].get("created")), reverse=True)
    caveats: list[str] = []
    tasks: dict[str, TaskSamples] = {}
    for log in logs:
        task = str(log["eval"].get("task") or "?").rpartition("/")[2]
        if task in tasks:
            caveats.append(f"{task} was run more than once in {path.name}; the newest log counts.")
            continue
        tasks[task] = _task(task, log, cluster_by)
    return Samples(
        source=f"inspect_ai logs {path.name}", tasks=[tasks[name] for name in sorted(tasks)], caveats=caveats
    )


def model_of(file: Path) -> str:
    """The model that a log is of."""
    return str(_log(file, samples=False)["eval"].get("model") or "")


def is_inspect(value: Any) -> bool:
    """Whether a JSON value is a log of inspect_ai."""
    return isinstance(value, Mapping) and isinstance(value.get("eval"), Mapping) and "status" in value


def _log(file: Path, *, samples: bool = True) -> dict[str, Any]:
    """The whole log as one mapping, in the shape of the ``.json`` format."""
    try:
        if file.suffix == ".eval":
            log = _unzipped(file, samples)
        else:
            log = read_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise EvidenceError(
            f"{file} cannot be read as a log of inspect_ai: {error}. `inspect log convert --to json` writes one that can."
        ) from error
    if not is_inspect(log):
        raise EvidenceError(f"{file}: the field 'eval' or 'status' is missing; this is not a log of inspect_ai.")
    if log["status"] != "success":
        raise EvidenceError(
            f"{file.name}: the run ended as {log['status']!r}, not 'success'. Finish it: `inspect eval-retry`."
        )
    if log.get("version", 2) != 2:
        raise EvidenceError(f"{file.name} has log format version {log.get('version')!r}; version 2 is read here.")
    return log


def _unzipped(file: Path, samples: bool) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        wanted = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
        wanted = (["summaries.json"] if "summaries.json" in names else sorted(wanted)) if samples else []
        if sum(archive.getinfo(name).file_size for name in [*wanted, *names & {"header.json"}]) > _MOST_BYTES:
            raise ValueError("it unpacks to more than 2 GiB")
        if "header.json" not in names:
            raise ValueError("it has no header.json, so the run did not end")
        log: dict[str, Any] = read_json(archive.read("header.json"))
        found = [read_json(archive.read(name)) for name in wanted]
        log["samples"] = found[0] if wanted == ["summaries.json"] else found
    return log


def _task(task: str, log: Mapping[str, Any], cluster_by: str | None) -> TaskSamples:
    documents: list[Document] = []
    epochs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in log.get("samples") or []:
        if not isinstance(sample, Mapping) or "id" not in sample:
            raise EvidenceError(f"{task}: a sample has no id; the log is not whole.")
        epochs[str(sample["id"])].append(sample)
    for name, samples in epochs.items():
        values: dict[str, list[float | None]] = defaultdict(list)
        for sample in samples:
            for scorer, value in _values(sample).items():
                values[scorer].append(value)
        first = samples[0]
        for scorer, each in values.items():
            known = [value for value in each if value is not None]
            mean: Value = sum(known) / len(known) if len(known) == len(samples) else ["nan"]
            documents.append(
                Document(
                    filter=scorer,
                    doc_id=name,
                    doc_hash=name,
                    target_hash=_hash(first.get("target")),
                    prompt_hash=_hash(first.get("input")),
                    values={"score": mean},
                    cluster=cluster_of(first.get("metadata") or {}, cluster_by, task),
                    prompt=shortened(first.get("input")),
                    target=shortened(first.get("target")),
                    answer=shortened(_answer(first, scorer)),
                )
            )
    spec, results = log["eval"], log.get("results") or {}
    version = spec.get("task_version")
    return TaskSamples(
        task=task,
        n=len(epochs) or finite_int(results.get("completed_samples")),
        scores=list(_scores(results, {document.filter for document in documents})),
        documents=documents,
        version=None if version is None else str(version),
    )


def finite_int(value: Any) -> int | None:
    """A whole number, or ``None``."""
    number = finite(value)
    return None if number is None else int(number)


def _values(sample: Mapping[str, Any]) -> dict[str, float | None]:
    """Scores of one sample by scorer; a mapping of values gives one entry for each of its keys."""
    out: dict[str, float | None] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, Mapping) else score
        if isinstance(value, Mapping):
            out |= {str(key): _number(each) for key, each in value.items()}
        else:
            out[str(scorer)] = _number(value)
    return out


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if (letter := LETTERS.get(value, LETTERS.get(value.lower()))) is not None:
            return letter
        try:
            value = float(value)
        except ValueError:
            return None
    return finite(value)


def _answer(sample: Mapping[str, Any], scorer: str) -> Any:
    score = (sample.get("scores") or {}).get(scorer)
    return score.get("answer") if isinstance(score, Mapping) else None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _scores(results: Mapping[str, Any], scorers: set[str]) -> Iterable[Score]:
    """The mean (or accuracy) of every scorer with its standard error, as the log reports it."""
    for score in results.get("scores") or []:
        metrics = score.get("metrics") or {}
        values = {name: finite(metric.get("value")) for name, metric in metrics.items() if isinstance(metric, Mapping)}
        named = next((name for name in ("accuracy", "mean") if values.get(name) is not None), None)
        if named is None and str(score.get("name")) not in scorers:
            continue
        yield Score(
            metric="score",
            filter=str(score.get("name")),
            value=values.get(named) if named else None,
            stderr=values.get("stderr"),
            aggregation="mean",
        )
