"""Benchmark rows of a counts file: intervals from item counts, published bounds or standard errors, and what has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modeldiff_eval.counts_spec_evidence import BenchmarkSpec, OtherScore
from modeldiff_eval.findings import interval, signed
from modeldiff_eval.records import BenchmarkRow, Estimate, LevelEstimate
from modeldiff_eval.stats import (
    Z,
    difference_of_estimates,
    estimate,
    holm,
    interval_p,
    newcombe,
    smallest_detectable,
    verdict,
    wilson,
)


def benchmarks_from_spec(specs: Sequence[BenchmarkSpec]) -> tuple[list[BenchmarkRow], list[str]]:
    """Benchmark records (unpaired) and their caveats; Holm over the rows that have an interval.

    A row that lacks a score, or is excluded, is no record: a sentence gives its numbers and the reason.
    """
    both = [
        (spec, spec.base, spec.tuned)
        for spec in specs
        if spec.base is not None and spec.tuned is not None and spec.excluded is None
    ]
    kept = [spec for spec, _, _ in both]
    deltas = [_delta(spec) for spec in kept]
    p = [interval_p(delta) for delta, _ in deltas]
    rows = [
        BenchmarkRow(
            task=spec.task,
            metric=spec.metric,
            n=spec.n,
            base=base,
            tuned=tuned,
            delta=LevelEstimate(value=delta.value, low=delta.low, high=delta.high),
            p=raw,
            p_adjusted=adjusted,
            mde=None if error is None else smallest_detectable(error),
            verdict=verdict(delta.value, adjusted),
            paired=False,
            source=spec.source,
        )
        for (spec, base, tuned), (delta, error), raw, adjusted in zip(both, deltas, p, holm(p), strict=True)
    ]
    caveats = []
    if rows:
        caveats.append(
            "Benchmarks: published scores without item results, so the intervals are unpaired and speak about items only; "
            f"Holm over the {sum(value is not None for value in p)} rows that have one."
        )
    if wide := [_name(spec) for spec in kept if spec.graded]:
        caveats.append(
            f"Items of these score between nothing and all, so the interval is rather too wide: {', '.join(wide)}."
        )
    bare = [
        f"{_name(spec)}{f' ({spec.missing})' if spec.missing else ''}"
        for spec, value in zip(kept, p, strict=True)
        if value is None
    ]
    if bare:
        caveats.append(f"No standard error is published for both models: {', '.join(bare)}; these stay unclear.")
    return rows, [*caveats, *_left_out(specs), *_other_sources(specs)]


def _name(spec: BenchmarkSpec) -> str:
    return f"{spec.task} {spec.metric}"


def _delta(spec: BenchmarkSpec) -> tuple[Estimate, float | None]:
    """Tuned minus base with its interval and standard error, in the metric's unit."""
    if spec.base is None or spec.tuned is None:
        return estimate(math.nan, math.nan, math.nan), None
    delta = spec.tuned - spec.base
    if spec.proportion is not None:
        scale = float(spec.proportion)
        base, tuned = spec.base / scale, spec.tuned / scale
        unit = newcombe(base * spec.n, spec.n, tuned * spec.n, spec.n)
        pooled = (base + tuned) / 2
        error = scale * math.sqrt(2 * pooled * (1 - pooled) / spec.n)
        bounds = [math.nan if bound is None else bound * scale for bound in (unit.low, unit.high)]
        return estimate(delta, bounds[0], bounds[1]), error
    sides = (_side(spec.base, spec.base_se, spec.base_bounds), _side(spec.tuned, spec.tuned_se, spec.tuned_bounds))
    found = difference_of_estimates(*sides)
    if found.low is None or found.high is None:
        return found, None
    return found, (found.high - found.low) / (2 * Z)


def _side(score: float, se: float | None, bounds: tuple[float, float] | None) -> Estimate:
    """One published score with its 95 % bounds, from a standard error where none are given."""
    if bounds is not None:
        return Estimate(value=score, low=bounds[0], high=bounds[1])
    return estimate(score, score - Z * se, score + Z * se) if se is not None else estimate(score, math.nan, math.nan)


def _left_out(specs: Sequence[BenchmarkSpec]) -> list[str]:
    """What is published of one model only, and what is published but not used."""
    out = []
    for spec in specs:
        digits = 3 if spec.proportion == 1 else 1
        n = f"n {spec.n:,}; {spec.source}"
        if spec.base is None or spec.tuned is None:
            have, lack = ("tuned", "base") if spec.base is None else ("base", "tuned")
            score = _one(spec)
            bounds = (
                "no interval"
                if score.low is None
                else f"95 % {_plain(score.low, digits)} to {_plain(score.high, digits)}"
            )
            said = f"{_name(spec)}: {have} {_plain(score.value, digits)} ({bounds}, {n}); {lack} not listed: {spec.missing}."
            out.append(said + " There is no difference to give.")
        elif spec.excluded is not None:
            delta, _ = _delta(spec)
            out.append(
                f"Left out of the table: {_name(spec)}, {_plain(spec.base, digits)} to {_plain(spec.tuned, digits)}, "
                f"{signed(delta.value, digits)} (95 % {interval(delta, digits)}, {n}): {spec.excluded}."
            )
    return out


def _one(spec: BenchmarkSpec) -> Estimate:
    """The score of the one model that has one."""
    score, se, bounds = spec.base, spec.base_se, spec.base_bounds
    if score is None:
        score, se, bounds = spec.tuned, spec.tuned_se, spec.tuned_bounds
    if score is None:
        return estimate(math.nan, math.nan, math.nan)
    if se is not None or bounds is not None or spec.proportion is None:
        return _side(score, se, bounds)
    low, high = wilson(score / spec.proportion * spec.n, spec.n)
    return estimate(score, low * spec.proportion, high * spec.proportion)


def _other_sources(specs: Sequence[BenchmarkSpec]) -> list[str]:
    """Whether another publication's figure bears the score out."""
    return [_compared(spec, other) for spec in specs for other in spec.also]


def _compared(spec: BenchmarkSpec, other: OtherScore) -> str:
    ours = spec.base if other.side == "base" else spec.tuned
    there = _side(other.score, other.se, other.bounds)
    digits = 3 if spec.proportion == 1 else 1
    inside = ours is not None and there.low is not None and there.high is not None and there.low <= ours <= there.high
    covered = "covers" if inside else "does not cover"
    return (
        f"{_name(spec)}, {other.side}: {_plain(ours, digits)} by {spec.source}; {_plain(there.value, digits)} by "
        f"{other.source}, whose 95 % interval of {_plain(there.low, digits)} to {_plain(there.high, digits)} {covered} it."
    )


def _plain(value: float | None, digits: int) -> str:
    return "not given" if value is None else f"{value:.{digits}f}"
