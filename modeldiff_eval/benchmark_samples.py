"""What one model scored on benchmarks: per document where it is known, aggregated always.

Made by :mod:`modeldiff_eval.benchmark_run`, or read from files by :mod:`modeldiff_eval.benchmark_read`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from modeldiff_eval.records import Record

Value = float | list[Any]
"""A score of one document: a number, or what a metric needs to aggregate, such as ``[log-likelihood, words]``."""
COMPARISON = "modeldiff"
"""Request type of our own lm-eval task, which compares two models and is no benchmark of one."""

TEXT = 400
"""Characters kept of a document's texts; they are only ever shown as examples."""


class Document(Record):
    """One document under one filter, with the value of every metric.

    ``cluster`` names what the document shares with others (a passage, a prompt). ``prompt``, ``target`` and ``answer``
    are shortened texts of unknown origin: whoever shows them escapes them.
    """

    filter: str
    doc_id: int | str | None
    doc_hash: str
    target_hash: str | None
    prompt_hash: str | None
    values: dict[str, Value]
    cluster: str | None = None
    prompt: str | None = None
    target: str | None = None
    answer: str | None = None


class Score(Record):
    """One aggregated metric as its harness reports it; a value of None was reported as NaN, or not at all.

    ``aggregation`` is its name or its source text, if known.
    """

    metric: str
    filter: str
    value: float | None
    stderr: float | None
    aggregation: str | None = None
    higher_is_better: bool | None = None


class TaskSamples(Record):
    """One task: ``n`` documents were scored; ``documents`` is empty when samples were not saved.

    The first of ``scores`` is the task's headline metric: the one that its author lists first.
    """

    task: str
    n: int | None
    scores: list[Score]
    documents: list[Document]
    version: str | None = None
    fewshot: int | None = None


class Samples(Record):
    """All tasks of one model, where they come from, and what was left out."""

    source: str
    tasks: list[TaskSamples]
    caveats: list[str] = Field(default_factory=list)


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


def finite(value: Any) -> float | None:
    """A finite number, or ``None`` for everything else ("N/A", NaN, text)."""
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def shortened(text: Any) -> str | None:
    """The end of a text (a prompt's own question is at its end); ``None`` for nothing."""
    if text is None or text == "":
        return None
    whole = text if isinstance(text, str) else str(text)
    return whole if len(whole) <= TEXT else "…" + whole[1 - TEXT :]


def missing(value: Value | None) -> bool:
    """Whether a document's score is no number (NaN, an empty cell), as :func:`plain` writes it."""
    return value is None or value in (["nan"], ["inf"], ["-inf"], ["None"])


def mean_scores(documents: Iterable[Document]) -> list[Score]:
    """Every metric's mean over its documents, for files that come without aggregated scores; in order of appearance."""
    sums: dict[tuple[str, str], list[float]] = {}
    for document in documents:
        for metric, value in document.values.items():
            known = sums.setdefault((metric, document.filter), [])
            if isinstance(value, float):
                known.append(value)
    return [
        Score(
            metric=metric, filter=name, value=math.fsum(values) / len(values) if values else None, stderr=None, aggregation="mean"
        )
        for (metric, name), values in sums.items()
    ]  # fmt: skip
