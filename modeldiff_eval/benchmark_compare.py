"""Benchmarks of base and tuned, paired by document: differences, intervals, tests and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from modeldiff_eval.benchmark_flips import Tally, asks_for_harm, examples, tally
from modeldiff_eval.benchmark_metrics import additive
from modeldiff_eval.benchmark_pair import Pair, clusters_of, pair, scored_pairs
from modeldiff_eval.benchmark_resample import Contest, Outcome, contest, resample
from modeldiff_eval.benchmark_samples import Samples, Score, TaskSamples
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import BenchmarkRow, Estimate, Flip, LevelEstimate
from modeldiff_eval.stats import LEVEL, Z, benjamini_hochberg, estimate, number, smallest_detectable, verdict
from modeldiff_eval.stats_bootstrap import DRAWS, mcnemar_p

FEW_CLUSTERS = 20
"""Below so many clusters an interval over them is a rough one, and the card says so."""


class _Test(NamedTuple):
    """One compared metric before resampling and adjustment."""

    task: str
    metric: str
    n: int
    base: float
    tuned: float
    headline: bool
    higher_is_better: bool | None
    contest: Contest | None = None
    """What is resampled; ``None`` where ``outcome`` comes from published standard errors."""
    outcome: Outcome | None = None
    tally: Tally | None = None
    clusters: int | None = None
    flips: Sequence[Flip] = ()


def compare(
    base: Samples, tuned: Samples, *, draws: int = DRAWS, rng: np.random.Generator
) -> tuple[list[BenchmarkRow], list[str]]:
    """Tuned minus base for every task and metric that both models have.

    Where both models' documents are known they are paired on (task, filter, document hash, occurrence), and interval and
    test are over documents, or over clusters of them where documents name one
    (:mod:`~modeldiff_eval.benchmark_resample`). Otherwise the reported standard errors are used as if both models had
    been scored on independent documents, which is too wide (``paired`` is false). The verdict is the direction of the
    metric, not better or worse. p is adjusted by Benjamini-Hochberg over the tasks, one headline metric each (the first
    that the task lists); all other metrics are a second family. Intervals speak about documents, not about training seeds.

    Returns:
        The rows in the order of ``base``, and caveats.

    Raises:
        EvidenceError: no task in common, or documents, versions or few-shot counts that differ between the models.
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
    tests: list[_Test] = []
    for task in common:
        found, said = _tests(task, theirs[task.task])
        tests += found
        caveats += said
    outcomes = iter(resample([test.contest for test in tests if test.contest], draws=draws, rng=rng))
    tests = [test._replace(outcome=next(outcomes)) if test.contest else test for test in tests]
    source = base.source if base.source == tuned.source else f"{base.source}; {tuned.source}"
    families = [test.headline for test in tests]
    adjusted = _adjusted([test.outcome.p if test.outcome else None for test in tests], families)
    sizes = {kind: _size(tests, headline=kind) for kind in (True, False)}
    rows = [_row(test, p, source, sizes[test.headline]) for test, p in zip(tests, adjusted, strict=True)]
    return rows, [*caveats, *_said(tests)]


def _adjusted(p: Sequence[float | None], families: Sequence[bool]) -> list[float | None]:
    """Benjamini-Hochberg within each family; a row without p counts in neither."""
    out: list[float | None] = [None] * len(p)
    for family in (True, False):
        members = [number for number, own in enumerate(families) if own is family]
        for member, value in zip(members, benjamini_hochberg([p[member] for member in members]), strict=True):
            out[member] = value
    return out


def _size(tests: Sequence[_Test], *, headline: bool) -> int:
    """How many p values the family adjusts over."""
    return sum(test.headline is headline and test.outcome is not None and test.outcome.p is not None for test in tests)


def _row(test: _Test, p_adjusted: float | None, source: str, size: int) -> BenchmarkRow:
    assert test.outcome is not None
    delta, p = test.outcome
    error = math.nan if delta.low is None or delta.high is None else (delta.high - delta.low) / (2 * Z)
    family = f"{size} {'headline metric' if test.headline else 'further metric'}{'s' if size != 1 else ''}"
    return BenchmarkRow(
        task=test.task,
        metric=test.metric,
        n=test.n,
        base=test.base,
        tuned=test.tuned,
        delta=LevelEstimate(value=delta.value, low=delta.low, high=delta.high, level=LEVEL),
        p=None if p is None else number(p),
        p_adjusted=None if p_adjusted is None else number(p_adjusted),
        mde=smallest_detectable(error),
        verdict=verdict(delta.value, p_adjusted),
        paired=test.contest is not None,
        source=source if p is None else f"{source}; Benjamini-Hochberg over {family}",
        headline=test.headline,
        higher_is_better=test.higher_is_better,
        wins=test.tally.wins if test.tally else None,
        ties=test.tally.ties if test.tally else None,
        losses=test.tally.losses if test.tally else None,
        clusters=test.clusters,
        p_mcnemar=number(mcnemar_p(test.tally.wins, test.tally.losses)) if test.tally and test.tally.binary else None,
        flips=list(test.flips),
    )


def _tests(base: TaskSamples, tuned: TaskSamples) -> tuple[list[_Test], list[str]]:
    """Every metric that both models have, and what was left out."""
    tests: list[_Test] = []
    caveats: list[str] = []
    pairs: dict[str, list[Pair]] = {}
    if base.documents and tuned.documents:
        pairs, said = pair(base, tuned)
        caveats += said
    theirs = {(score.metric, score.filter): score for score in tuned.scores}
    for score in base.scores:
        other = theirs.pop((score.metric, score.filter), None)
        name = _name(score)
        if other is None:
            caveats.append(f"{base.task}: only base has the metric {name}; it is left out.")
            continue
        headline = not any(test.headline for test in tests)
        test, said = _paired(base.task, name, score, other, pairs.get(score.filter, []), headline)
        caveats += said
        if test is None:
            test = _unpaired(base, tuned, name, score, other, headline)
            if test is None:
                caveats.append(f"{base.task} {name}: the number of documents or a score is not known; it is left out.")
                continue
        tests.append(test)
    caveats += [f"{base.task}: only tuned has the metric {_name(score)}; it is left out." for score in theirs.values()]
    return tests, caveats


def _name(score: Score) -> str:
    """The metric as a row calls it."""
    return score.metric if score.filter == "none" else f"{score.metric},{score.filter}"


def _paired(
    task: str, name: str, base: Score, tuned: Score, pairs: Sequence[Pair], headline: bool
) -> tuple[_Test | None, list[str]]:
    """A paired comparison, or ``None`` where there is nothing to pair or the metric cannot be aggregated here."""
    both, *without = scored_pairs(pairs, base.metric)
    said = []
    if any(without):
        said.append(
            f"{task} {name}: {without[0]} documents have no score under base and {without[1]} none under tuned; "
            f"both models' scores are over the other {len(both)}."
        )
    if not both:
        return None, said
    sides = []
    for score, documents in ((base, [a for a, _ in both]), (tuned, [b for _, b in both])):
        values = [document.values[score.metric] for document in documents]
        made = additive(score.aggregation, values, reported=None if any(without) else score.value)
        if made is None:
            said.append(
                f"{task} {name}: this metric cannot be put together again from documents, so its difference is not paired "
                "and its interval uses the reported standard errors."
            )
            return None, said
        sides.append(made)
    clusters = clusters_of(both)
    one = contest(sides[0], sides[1], clusters)
    shown = [
        made.value() if any(without) or score.value is None else score.value
        for made, score in zip(sides, (base, tuned), strict=True)
    ]
    counts = tally(both, base.metric)
    return _Test(
        task, name, len(both), shown[0], shown[1], headline, base.higher_is_better, contest=one, tally=counts,
        clusters=None if clusters is None else one.units,
        flips=examples(both, base.metric) if headline and counts and counts.binary and not asks_for_harm(task) else (),
    ), said  # fmt: skip


def _unpaired(
    base: TaskSamples, tuned: TaskSamples, name: str, first: Score, second: Score, headline: bool
) -> _Test | None:
    """A comparison from reported scores and standard errors alone."""
    if base.n is None or tuned.n is None or first.value is None or second.value is None:
        return None
    value = second.value - first.value
    delta, p = Estimate(value=value, low=None, high=None), None
    if (
        first.stderr is not None
        and second.stderr is not None
        and (error := math.hypot(first.stderr, second.stderr)) > 0
    ):
        delta = estimate(value, value - Z * error, value + Z * error)
        p = float(2 * norm.sf(abs(value) / error))
    return _Test(
        base.task, name, min(base.n, tuned.n), first.value, second.value, headline, first.higher_is_better,
        outcome=Outcome(delta, p),
    )  # fmt: skip


def _named(tests: Sequence[_Test], most: int = 12) -> str:
    names = [f"{test.task} {test.metric}" for test in tests]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _said(tests: Sequence[_Test]) -> list[str]:
    """What a reader of the rows must know: spread that is not known, clusters, the family of tests, and the flips."""
    out = []
    published = [test for test in tests if test.contest is None and test.outcome and test.outcome.p is not None]
    if published:
        out.append(
            "Without both models' documents these intervals are from the published standard errors, as if the documents were "
            f"not the same ones (not paired, too wide): {_named(published)}."
        )
    if unknown := [test for test in tests if test.outcome and test.outcome.delta.low is None]:
        out.append(f"No spread over documents is known, so there is no interval: {_named(unknown)}.")
    clustered = {test.task: test for test in tests if test.clusters is not None}
    if clustered:
        sizes = ", ".join(f"{test.task} {test.clusters} of {test.n} documents" for test in clustered.values())
        out.append(f"Benchmark intervals are over clusters of documents: {sizes}. McNemar's p ignores the clusters.")
    if few := [task for task, test in clustered.items() if (test.clusters or 0) < FEW_CLUSTERS]:
        out.append(f"Fewer than {FEW_CLUSTERS} clusters make a rough interval: {', '.join(few)}.")
    if len(tests) > 1:
        out.append(
            f"Benchmark p values are adjusted by Benjamini-Hochberg over {_size(tests, headline=True)} tasks, one "
            "headline metric each (the first that the task lists); all other metrics are a family of their own."
        )
    moved = [
        (test, test.tally)
        for test in tests
        if test.headline and test.tally and test.tally.binary and test.tally.wins + test.tally.losses
    ]
    if moved:
        flipped = [f"{test.task} {test.metric} +{held.wins} −{held.losses} of {test.n}" for test, held in moved]
        more = f" and {len(flipped) - 12} more tasks" if len(flipped) > 12 else ""
        out.append(f"Documents that only tuned (+) or only base (−) gets right: {', '.join(flipped[:12])}{more}.")
    if withheld := [test for test, _ in moved if asks_for_harm(test.task)]:
        out.append(f"Their texts are only in flips.jsonl where a task asks for harm: {_named(withheld)}.")
    return out
