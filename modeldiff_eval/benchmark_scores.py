"""Scores by document as a run keeps them, so that tuned models of one base can be compared on the same documents."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from modeldiff_eval.benchmark_compare import pair
from modeldiff_eval.benchmark_metrics import additive
from modeldiff_eval.benchmark_samples import Document, Samples

if TYPE_CHECKING:
    import pandas as pd


def score_table(base: Samples, tuned: Samples) -> pd.DataFrame:
    """One row for each document of a metric that is a mean over documents: task, metric, document, base, tuned.

    ``metric`` is named as in the card's rows; ``document`` is the hash of the document and its occurrence. Other metrics,
    and tasks whose documents were not saved, have no rows.
    """
    import pandas as pd

    columns: dict[str, list[object]] = {name: [] for name in ("task", "metric", "document", "base", "tuned")}
    theirs = {task.task: task for task in tuned.tasks}
    for task in base.tasks:
        other = theirs.get(task.task)
        if other is None or not task.documents or not other.documents:
            continue
        pairs = pair(task, other)
        values = {(score.metric, score.filter): score for score in other.scores}
        for score in task.scores:
            second = values.get((score.metric, score.filter))
            both = [
                (a, b) for a, b in pairs.get(score.filter, []) if score.metric in a.values and score.metric in b.values
            ]
            if second is None or not both:
                continue
            mine = additive(score.aggregation, [a.values[score.metric] for a, _ in both], reported=score.value)
            yours = additive(second.aggregation, [b.values[score.metric] for _, b in both], reported=second.value)
            if mine is None or yours is None or not (mine.is_mean and yours.is_mean):
                continue
            name = score.metric if score.filter == "none" else f"{score.metric},{score.filter}"
            columns["task"] += [task.task] * len(both)
            columns["metric"] += [name] * len(both)
            columns["document"] += _names([a for a, _ in both])
            columns["base"] += mine.features[:, 0].tolist()
            columns["tuned"] += yours.features[:, 0].tolist()
    return pd.DataFrame(columns)


def _names(documents: list[Document]) -> list[str]:
    seen: dict[str, int] = defaultdict(int)
    out = []
    for document in documents:
        out.append(f"{document.doc_hash}#{seen[document.doc_hash]}")
        seen[document.doc_hash] += 1
    return out
