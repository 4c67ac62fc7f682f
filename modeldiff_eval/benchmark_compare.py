"""Benchmarks of base and tuned, paired by document: differences, intervals, tests and verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from modeldiff_eval.benchmark_metrics import Additive, additive
from modeldiff_eval.benchmark_samples import Document, Samples, Score, TaskSamples
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import BenchmarkRow, Estimate, LevelEstimate
from modeldiff_eval.stats import (
    LEVEL,
    FloatArray,
    Z,
    estimate,
    holm,
    number,
    permutation_p,
    smallest_detectable,
    verdict,
)
from modeldiff_eval.stats_bootstrap import DRAWS, paired_bootstrap, sign_flip_p

_ROWS = 4 * 2**20
"""Random numbers held at once while resampling."""


class _Test(NamedTuple):
    """One compared metric before adjustment."""

    task: str
    metric: str
    n: int
    base: float
    tuned: float
    delta: Estimate
    p: float | None
    paired: bool
    source: str


def compare(
    base: Samples, tuned: Samples, *, draws: int = DRAWS, rng: np.random.Generator
) -> tuple[list[BenchmarkRow], list[str]]:
    """Tuned minus base for every task and metric that both models have.

    Where both models' documents are known they are paired on (task, filter, document hash, occurrence) and the
    interval and test are over documents; otherwise the reported standard errors are used as if both models had been
    scored on independent documents, which is too wide (``paired`` is false). A mean of one number per document gets
    the Bayesian bootstrap of the differences (accuracies with Jeffreys' pseudo-documents) and a sign-flip test (exact
    for accuracies); other metrics are aggregated anew in every bootstrap resample and every random swap of the two
    models' documents. The verdict is the direction of the metric, not better or worse. p is adjusted by Holm over
    the rows. Intervals speak about documents, not about training seeds.

    Returns:
        The rows in the order of ``base``, and caveats.

    Raises:
        EvidenceError: no task in common, or documents that differ between the models.
    """
    caveats = [*base.caveats, *(c for c in tuned.caveats if c not in base.caveats)]
    theirs = {task.task: task for task in tuned.tasks}
    common = [task for task in base.tasks if task.task in theirs]
    lone = sorted({t.task for t in base.tasks} ^ set(theirs))
    if not common:
        raise EvidenceError(
            f"The benchmark results of base ({', '.join(t.task for t in base.tasks) or 'none'}) and tuned "
            f"({', '.join(theirs) or 'none'}) have no task in common. Run the same tasks on both."
        )
    if lone:
        caveats.append(f"Benchmarks that only one model has are left out: {', '.join(lone)}.")
    source = base.source if base.source == tuned.source else f"{base.source}; {tuned.source}"
    tests = []
    for task in common:
        found, said = _compare_task(task, theirs[task.task], source=source, draws=draws, rng=rng)
        tests += found
        caveats += said
    adjusted = holm([test.p for test in tests])
    return [_row(test, p) for test, p in zip(tests, adjusted, strict=True)], caveats


def _row(test: _Test, p_adjusted: float | None) -> BenchmarkRow:
    delta = test.delta
    error = math.nan if delta.low is None or delta.high is None else (delta.high - delta.low) / (2 * Z)
    return BenchmarkRow(
        task=test.task,
        metric=test.metric,
        n=test.n,
        base=test.base,
        tuned=test.tuned,
        delta=LevelEstimate(value=delta.value, low=delta.low, high=delta.high, level=LEVEL),
        p=None if test.p is None else number(test.p),
        p_adjusted=None if p_adjusted is None else number(p_adjusted),
        mde=smallest_detectable(error),
        verdict=verdict(delta.value, p_adjusted),
        paired=test.paired,
        source=f"{test.source}; Holm over rows",
    )


def _compare_task(
    base: TaskSamples, tuned: TaskSamples, *, source: str, draws: int, rng: np.random.Generator
) -> tuple[list[_Test], list[str]]:
    """Every metric that both models have, and what was left out."""
    tests: list[_Test] = []
    caveats: list[str] = []
    pairs: dict[str, list[tuple[Document, Document]]] = {}
    if base.documents and tuned.documents:
        pairs = pair(base, tuned)
        changed = sum(a.prompt_hash != b.prompt_hash for both in pairs.values() for a, b in both)
        if changed:
            caveats.append(f"{base.task}: {changed} prompts differ between the models (another chat template?).")
    theirs = {(score.metric, score.filter): score for score in tuned.scores}
    for score in base.scores:
        other = theirs.get((score.metric, score.filter))
        if other is None:
            caveats.append(f"{base.task}: only base has the metric {score.metric}; it is left out.")
            continue
        name = score.metric if score.filter == "none" else f"{score.metric},{score.filter}"
        test = None
        if both := [
            (a, b) for a, b in pairs.get(score.filter, []) if score.metric in a.values and score.metric in b.values
        ]:
            test = _paired(base.task, name, score, other, both, source=source, draws=draws, rng=rng)
            if test is None:
                caveats.append(
                    f"{base.task} {name}: this metric cannot be put together again from documents, so its difference "
                    "is not paired and its interval uses the reported standard errors."
                )
        if test is None:
            test = _unpaired(base, tuned, name, score, other, source=source)
        if test is None:
            caveats.append(f"{base.task} {name}: the number of documents is not known; it is left out.")
            continue
        if test.delta.low is None:
            caveats.append(f"{base.task} {name}: no spread over documents is known, so there is no interval.")
        tests.append(test)
    return tests, caveats


def pair(base: TaskSamples, tuned: TaskSamples) -> dict[str, list[tuple[Document, Document]]]:
    """Documents of both models by filter, matched on hash and occurrence.

    Raises:
        EvidenceError: the models were scored on different documents, or against different targets.
    """
    first, second = _keyed(base), _keyed(tuned)
    if first.keys() != second.keys():
        only = len(first.keys() - second.keys()), len(second.keys() - first.keys())
        raise EvidenceError(
            f"{base.task}: base has {len(base.documents)} scored documents and tuned {len(tuned.documents)}; "
            f"{only[0]} are only in base and {only[1]} only in tuned. "
            "Run both models on the same version of the task with the same --limit."
        )
    out: dict[str, list[tuple[Document, Document]]] = defaultdict(list)
    for key, document in first.items():
        other = second[key]
        for field in ("target_hash", "doc_id"):
            if None not in (mine := getattr(document, field), yours := getattr(other, field)) and mine != yours:
                raise EvidenceError(
                    f"{base.task}: document {document.doc_id} has another {field} under tuned than under base. "
                    "Run both models on the same version of the task."
                )
        out[document.filter].append((document, other))
    return dict(out)


def _keyed(task: TaskSamples) -> dict[tuple[str, str, int], Document]:
    """Documents by (filter, hash, occurrence)."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    out = {}
    for document in task.documents:
        same = (document.filter, document.doc_hash)
        out[(*same, seen[same])] = document
        seen[same] += 1
    return out


def _paired(
    task: str,
    name: str,
    base: Score,
    tuned: Score,
    both: list[tuple[Document, Document]],
    *,
    source: str,
    draws: int,
    rng: np.random.Generator,
) -> _Test | None:
    """A paired comparison, or ``None`` when the metric cannot be aggregated here."""
    first = additive(base.aggregation, [a.values[base.metric] for a, _ in both], reported=base.value)
    second = additive(tuned.aggregation, [b.values[base.metric] for _, b in both], reported=tuned.value)
    if first is None or second is None:
        return None
    if first.is_mean and second.is_mean:
        delta, p = _mean_difference(first.features[:, 0], second.features[:, 0], draws=draws, rng=rng)
    else:
        delta, p = _aggregate_difference(first, second, draws=draws, rng=rng)
    return _Test(task, name, len(both), base.value, tuned.value, delta, p, True, source)


def _mean_difference(
    base: FloatArray, tuned: FloatArray, *, draws: int, rng: np.random.Generator
) -> tuple[Estimate, float | None]:
    """Mean of tuned minus base [documents] with its interval and sign-flip p."""
    binary = bool(np.isin(base, (0.0, 1.0)).all() and np.isin(tuned, (0.0, 1.0)).all())
    delta = paired_bootstrap(base, tuned, span=1.0 if binary else None, draws=draws, rng=rng)
    return _known_width(delta), sign_flip_p(base, tuned, draws=draws, rng=rng)


def _aggregate_difference(
    base: Additive, tuned: Additive, *, draws: int, rng: np.random.Generator
) -> tuple[Estimate, float | None]:
    """Difference of two corpus-level metrics, resampled and swapped by document."""
    value = tuned.value() - base.value()
    documents = len(base.features)
    step = max(1, _ROWS // documents)
    resampled, swapped = [], []
    difference = tuned.features - base.features
    for start in range(0, draws, step):
        n = min(step, draws - start)
        weights = rng.multinomial(documents, np.full(documents, 1 / documents), size=n).astype(np.float64)
        resampled.append(tuned.finish(weights @ tuned.features) - base.finish(weights @ base.features))
        swap = rng.integers(0, 2, size=(n, documents)).astype(np.float64)
        moved = swap @ difference
        swapped.append(
            tuned.finish(tuned.features.sum(axis=0) - moved) - base.finish(base.features.sum(axis=0) + moved)
        )
    spread, null = np.concatenate(resampled), np.concatenate(swapped)
    if not math.isfinite(value) or np.isnan(spread).mean() > 0.025 or np.isnan(null).any():
        return estimate(value, math.nan, math.nan), None
    low, high = np.nanquantile(spread, (0.025, 0.975))
    return _known_width(estimate(value, float(low), float(high))), permutation_p(abs(value), np.abs(null))


def _known_width(delta: Estimate) -> Estimate:
    """Documents that all differ by the same amount say nothing about their spread: no bounds rather than width 0."""
    if delta.low is not None and delta.low == delta.high:
        return Estimate(value=delta.value, low=None, high=None)
    return delta


def _unpaired(
    base: TaskSamples, tuned: TaskSamples, name: str, first: Score, second: Score, *, source: str
) -> _Test | None:
    """A comparison from reported scores and standard errors alone."""
    if base.n is None or tuned.n is None:
        return None
    delta, p = Estimate(value=second.value - first.value, low=None, high=None), None
    if (
        first.stderr is not None
        and second.stderr is not None
        and (error := math.hypot(first.stderr, second.stderr)) > 0
    ):
        value = second.value - first.value
        delta = estimate(value, value - Z * error, value + Z * error)
        p = float(2 * norm.sf(abs(value) / error))
    return _Test(base.task, name, min(base.n, tuned.n), first.value, second.value, delta, p, False, source)
