"""Documents of both models side by side: same task, same filter, same document. What does not match is named."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeldiff_eval.benchmark_samples import Document, TaskSamples, missing
from modeldiff_eval.errors import EvidenceError

Pair = tuple[Document, Document]
"""(base, tuned) of one document."""
_FIX = "Run both models on the same version of the task with the same --limit."


class Paired(NamedTuple):
    """The pairs of one task by filter, and what was left out."""

    filters: dict[str, list[Pair]]
    caveats: list[str]


def pair(base: TaskSamples, tuned: TaskSamples) -> Paired:
    """Documents of both models by filter, matched on hash and occurrence.

    Raises:
        EvidenceError: another version of the task or number of few-shot examples, a document that is logged twice,
            documents that only one model has (which and how many), or other targets.
    """
    _same_setup(base, tuned)
    for role, task in (("base", base), ("tuned", tuned)):
        _logged_once(role, task)
    caveats, kept = [], {document.filter for document in base.documents} & {d.filter for d in tuned.documents}
    for role, task, other in (("base", base, "tuned"), ("tuned", tuned, "base")):
        if lone := sorted({document.filter for document in task.documents} - kept):
            caveats.append(
                f"{base.task}: only {role} has samples of the filter {', '.join(lone)}; without {other}'s it is left out."
            )
    first, second = _keyed(base, kept), _keyed(tuned, kept)
    if first.keys() != second.keys():
        raise EvidenceError(_unmatched(base.task, first, second))
    filters: dict[str, list[Pair]] = defaultdict(list)
    for key, document in first.items():
        other_document = second[key]
        _same_document(base.task, document, other_document)
        filters[document.filter].append((document, other_document))
    changed = sum(a.prompt_hash != b.prompt_hash for both in filters.values() for a, b in both)
    if changed:
        caveats.append(f"{base.task}: {changed} prompts differ between the models (another chat template?).")
    return Paired(dict(filters), caveats)


def _same_setup(base: TaskSamples, tuned: TaskSamples) -> None:
    for what, mine, yours in (
        ("version", base.version, tuned.version),
        ("number of few-shot examples", base.fewshot, tuned.fewshot),
    ):
        if mine is not None and yours is not None and mine != yours:
            raise EvidenceError(
                f"{base.task}: base has {what} {mine} and tuned {yours}; scores of different tests cannot be compared. "
                "Run both models on the same one."
            )


def _logged_once(role: str, task: TaskSamples) -> None:
    """lm-eval appends to a samples file that is there, so a document may be in it twice."""
    logged = Counter((d.filter, d.doc_id, d.doc_hash) for d in task.documents if d.doc_id is not None)
    if twice := [key[1] for key, times in logged.items() if times > 1]:
        raise EvidenceError(
            f"{task.task}: {len(twice)} documents are logged more than once under {role} ({_list(twice)}). "
            "Two runs may have written one samples file; keep one of them."
        )


def _keyed(task: TaskSamples, filters: Collection[str]) -> dict[tuple[str, str, int], Document]:
    """Documents by (filter, hash, occurrence)."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    out = {}
    for document in task.documents:
        if document.filter in filters:
            same = (document.filter, document.doc_hash)
            out[(*same, seen[same])] = document
            seen[same] += 1
    return out


def _unmatched(
    task: str, first: dict[tuple[str, str, int], Document], second: dict[tuple[str, str, int], Document]
) -> str:
    """Which documents only one model has, and how many."""
    said = []
    for role, mine, yours in (("base", first, second), ("tuned", second, first)):
        lone = {d.doc_hash if d.doc_id is None else d.doc_id for key, d in mine.items() if key not in yours}
        said.append(f"{len(lone)} are only in {role}" + (f" ({_list(lone)})" if lone else ""))
    counts = [len({key[1:] for key in keyed}) for keyed in (first, second)]
    return (
        f"{task}: base has {counts[0]} scored documents and tuned {counts[1]}; {said[0]} and {said[1]}. {_FIX}"
    )  # fmt: skip


def _list(names: Iterable[int | str | None], most: int = 5) -> str:
    """The first few of them: "documents 3, 4, 7 and 12 more"."""
    known = sorted(names, key=lambda name: (isinstance(name, str), name or 0))
    shown = ", ".join(str(name)[:24] for name in known[:most])
    return f"{shown} and {len(known) - most} more" if len(known) > most else shown


def _same_document(task: str, mine: Document, yours: Document) -> None:
    for field in ("target_hash", "doc_id"):
        first, second = getattr(mine, field), getattr(yours, field)
        if None not in (first, second) and first != second:
            raise EvidenceError(
                f"{task}: document {mine.doc_id} has another {field} under tuned than under base. "
                "Run both models on the same version of the task."
            )


def scored_pairs(pairs: Iterable[Pair], metric: str) -> tuple[list[Pair], int, int]:
    """The pairs with a score of this metric, and how many have none under base and under tuned."""
    kept, without = [], [0, 0]
    for base, tuned in pairs:
        if metric not in base.values and metric not in tuned.values:
            continue
        gaps = [missing(document.values.get(metric)) for document in (base, tuned)]
        without = [count + gap for count, gap in zip(without, gaps, strict=True)]
        if not any(gaps):
            kept.append((base, tuned))
    return kept, without[0], without[1]


def clusters_of(pairs: Iterable[Pair]) -> NDArray[np.int64] | None:
    """The cluster number of every document [documents]; one without a name is its own. ``None`` where none has a name."""
    names = [base.cluster for base, _ in pairs]
    if all(name is None for name in names):
        return None
    numbers: dict[object, int] = {}
    keys = ((number,) if name is None else name for number, name in enumerate(names))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
