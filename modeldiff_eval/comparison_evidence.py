"""Benchmarks and arena of several tuned models of one base: differences of their differences to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from modeldiff_eval.comparison_records import ComparedArena, ComparedBenchmark, PairDifference, ScoreDifference
from modeldiff_eval.comparison_runs import RunFiles
from modeldiff_eval.records import ArenaRow, BenchmarkRow, Estimate
from modeldiff_eval.stats import Z, difference_of_estimates, holm, interval_p, number, smallest_detectable, verdict
from modeldiff_eval.stats_bootstrap import paired_bootstrap, sign_flip_p

NOTHING = Estimate(value=None, low=None, high=None)
Differing = TypeVar("Differing", bound=PairDifference)
Pairs = Sequence[tuple[RunFiles, RunFiles]]


def compare_benchmarks(
    runs: Sequence[RunFiles], pairs: Pairs, *, draws: int, rng: np.random.Generator
) -> list[ComparedBenchmark]:
    """Every metric that two runs have; over the same documents where the runs keep their scores. p by Holm over all of them."""
    rows = {(run.name, row.task, row.metric): row for run in runs for row in run.card.benchmarks}
    keys = list(dict.fromkeys((row.task, row.metric) for run in runs for row in run.card.benchmarks))
    made: list[tuple[tuple[str, str], list[ScoreDifference]]] = []
    for task, metric in keys:
        own = [
            _scores(a, b, rows[a.name, task, metric], rows[b.name, task, metric], draws=draws, rng=rng)
            for a, b in pairs
            if (a.name, task, metric) in rows and (b.name, task, metric) in rows
        ]
        if own:
            made.append(((task, metric), own))
    adjusted = iter(holm([d.p for _, own in made for d in own]))
    out = []
    for (task, metric), own in made:
        named = {run.name: rows[run.name, task, metric] for run in runs if (run.name, task, metric) in rows}
        differences = [_adjusted(d, next(adjusted)) for d in own]
        out.append(ComparedBenchmark(task=task, metric=metric, runs=named, differences=differences))
    return out


def compare_arena(runs: Sequence[RunFiles], pairs: Pairs) -> list[ComparedArena]:
    """Every arena category that two runs have, from the intervals of their deltas by the square-root rule, independence assumed.

    Base's own error is in both deltas and would cancel, so these intervals are too wide rather than too narrow. p by Holm over categories,
    raw and style-controlled apart.
    """
    rows = {(run.name, row.category): row for run in runs if run.card.arena for row in run.card.arena.rows}
    categories = list(dict.fromkeys(category for _, category in rows))
    found: list[tuple[str, dict[str, ArenaRow], list[PairDifference], list[PairDifference]]] = []
    for category in categories:
        both = [(a, b) for a, b in pairs if (a.name, category) in rows and (b.name, category) in rows]
        if both:
            own = {run.name: rows[run.name, category] for run in runs if (run.name, category) in rows}
            raw = [_elo(a, b, own[a.name].delta, own[b.name].delta) for a, b in both]
            style = [_elo(a, b, own[a.name].delta_style, own[b.name].delta_style) for a, b in both]
            found.append((category, own, raw, style))
    p_raw = iter(holm([d.p for _, _, raw, _ in found for d in raw]))
    p_style = iter(holm([d.p for _, _, _, style in found for d in style]))
    return [
        ComparedArena(
            category=category, runs=own, raw=[_adjusted(d, next(p_raw)) for d in raw],
            style=[_adjusted(d, next(p_style)) for d in style],
        )
        for category, own, raw, style in found
    ]  # fmt: skip


def _scores(
    first: RunFiles, second: RunFiles, mine: BenchmarkRow, yours: BenchmarkRow, *, draws: int, rng: np.random.Generator
) -> ScoreDifference:
    names = {"first": first.name, "second": second.name}
    shots = [run.notes["settings"].get("num_fewshot") for run in (first, second) if run.notes]
    if len(set(shots)) > 1:  # None: the task's own number.
        return ScoreDifference(
            **names, value=NOTHING, missing="The two runs asked with different numbers of examples (--num-fewshot)."
        )
    a, b = (_documents(run, mine) for run in (first, second))
    shared = sorted(set(a) & set(b))
    if shared:
        gains = [np.asarray([own[d][1] - own[d][0] for d in shared]) for own in (a, b)]
        scores = np.asarray([own[d] for own in (a, b) for d in shared])
        # Base scored alike in both runs drops out, so one document can show a difference of 1 at most, else of 2.
        same_base = all(a[d][0] == b[d][0] for d in shared)
        span = (1.0 if same_base else 2.0) if np.isin(scores, (0.0, 1.0)).all() else None
        value = paired_bootstrap(gains[1], gains[0], span=span, draws=draws, rng=rng)
        if value.low == value.high:
            value = Estimate(value=value.value, low=None, high=None)
        p = sign_flip_p(gains[1], gains[0], draws=draws, rng=rng)
        n, paired = len(shared), True
    else:
        value = difference_of_estimates(_plain(yours), _plain(mine))
        p, n, paired = interval_p(value), min(mine.n, yours.n), False
    error = math.nan if value.low is None or value.high is None else (value.high - value.low) / (2 * Z)
    missing = "No interval is known on one side." if value.low is None and value.high is None else None
    return ScoreDifference(
        **names,
        value=value,
        mde=smallest_detectable(error),
        p=None if p is None else number(p),
        n=n,
        paired=paired,
        missing=missing,
    )


def _documents(run: RunFiles, row: BenchmarkRow) -> dict[str, tuple[float, float]]:
    if run.scores is None:
        return {}
    own = run.scores[(run.scores["task"] == row.task) & (run.scores["metric"] == row.metric)]
    columns = (own["document"].astype(str), own["base"].astype(float), own["tuned"].astype(float))
    return {d: (b, t) for d, b, t in zip(*columns, strict=True) if math.isfinite(b) and math.isfinite(t)}


def _elo(first: RunFiles, second: RunFiles, mine: Estimate | None, yours: Estimate | None) -> PairDifference:
    names = {"first": first.name, "second": second.name}
    arenas = [run.card.arena for run in (first, second)]
    snapshots = [(arena.source, arena.snapshot) for arena in arenas if arena]
    if snapshots[0] != snapshots[1]:
        return PairDifference(**names, value=NOTHING, missing="The two cards read different arena snapshots.")
    if mine is None or yours is None or mine.value is None or yours.value is None:
        return PairDifference(**names, value=NOTHING, missing="Not listed for both.")
    value = difference_of_estimates(yours, mine)
    p = interval_p(value)
    return PairDifference(**names, value=value, p=None if p is None else number(p))


def _plain(row: BenchmarkRow) -> Estimate:
    if row.delta.level != 0.95:
        return Estimate(value=row.delta.value, low=None, high=None)
    return Estimate(value=row.delta.value, low=row.delta.low, high=row.delta.high)


def _adjusted(difference: Differing, p: float | None) -> Differing:
    adjusted = None if p is None else number(p)
    return difference.model_copy(update={"p_adjusted": adjusted, "verdict": verdict(difference.value.value, adjusted)})
