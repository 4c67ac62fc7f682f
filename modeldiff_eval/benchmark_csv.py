"""Both models' scores as a plain CSV: ``task, document, base, tuned`` and, where there is more to say, ``metric, filter, cluster``.

The format for whatever has no reader here: one line a document, scores as numbers, an empty cell or ``nan`` where a model
has none. The score of a task is the mean over its documents.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from modeldiff_eval.benchmark_samples import Document, Samples, TaskSamples, Value, mean_scores
from modeldiff_eval.errors import EvidenceError, did_you_mean

NEEDED = ("task", "document", "base", "tuned")
OPTIONAL = ("metric", "filter", "cluster")


def read_csv(path: Path, *, cluster_by: str | None = None) -> tuple[Samples, Samples]:
    """Both models' scores from one file.

    Args:
        cluster_by: any column of the file; the column ``cluster`` is used without being asked for.

    Raises:
        EvidenceError: a column is missing, a score is no number, or a document comes twice; with the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvidenceError(f"{path} cannot be read as CSV: {error}") from error
    cluster_by = cluster_by.strip().lower() if cluster_by else None  # As the columns are read.
    wanted = [*NEEDED, *([cluster_by] if cluster_by else [])]
    if absent := [name for name in wanted if name not in columns]:
        raise EvidenceError(
            f"{path.name} has no column {absent[0]!r}, it has {', '.join(columns) or 'none'}."
            f"{did_you_mean(absent[0], columns)} It needs {', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}."
        )
    cluster = cluster_by or ("cluster" if "cluster" in columns else None)
    seen: dict[tuple[str, str, str, str], int] = {}
    found: dict[str, dict[str, dict[tuple[str, str], Document]]] = {"base": {}, "tuned": {}}
    for line, row in rows:
        cells = {name: (row.get(name) or "").strip() for name in columns}
        task, document = cells["task"], cells["document"]
        metric, kind = cells.get("metric") or "score", cells.get("filter") or "none"
        if not task or not document:
            raise EvidenceError(f"{path.name}, line {line}: the cell 'task' or 'document' is empty.")
        if (key := (task, kind, metric, document)) in seen:
            raise EvidenceError(
                f"{path.name}, line {line}: document {document!r} of {task} ({metric}) was on line {seen[key]} already. "
                "Give every document one line."
            )
        seen[key] = line
        for role, tasks in found.items():
            value = _value(cells[role], f"{path.name}, line {line}, column {role!r}")
            documents = tasks.setdefault(task, {})
            before = documents.get((kind, document))
            documents[kind, document] = Document(
                filter=kind,
                doc_id=document,
                doc_hash=document,
                target_hash=None,
                prompt_hash=None,
                values={**(before.values if before else {}), metric: value},
                cluster=(cells[cluster] or None) if cluster else None,
            )
    if not rows:
        raise EvidenceError(f"{path.name} has a header and no line. Write one line for each document.")

    def samples(tasks: dict[str, dict[tuple[str, str], Document]]) -> Samples:
        made = [
            TaskSamples(
                task=name,
                n=len({document for _, document in documents}),
                scores=mean_scores(documents.values()),
                documents=list(documents.values()),
            )
            for name, documents in tasks.items()
        ]
        return Samples(source=f"table {path.name}", tasks=made)

    return samples(found["base"]), samples(found["tuned"])


def _value(cell: str, where: str) -> Value:
    """A score; an empty cell is a score that is missing."""
    if not cell:
        return ["nan"]
    try:
        number = float(cell)
    except ValueError as error:
        raise EvidenceError(f"{where}: {cell[:40]!r} is no number. Write 0 and 1 for wrong and right.") from error
    return number if math.isfinite(number) else ["nan"]
