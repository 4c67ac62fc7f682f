"""Arena rows and benchmark rows of a counts file: intervals from published bounds, standard errors or item counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from modeldiff_eval.counts_spec import ArenaRowSpec, ArenaSpec, BenchmarkSpec, RatingSpec
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Arena, ArenaRow, BenchmarkRow, Estimate, LevelEstimate
from modeldiff_eval.stats import (
    Z,
    difference_of_estimates,
    estimate,
    holm,
    interval_p,
    newcombe,
    smallest_detectable,
    verdict,
)


def arena_from_spec(spec: ArenaSpec, folder: Path) -> tuple[Arena, list[str]]:
    """The arena record and its caveats; a ``table`` is read by :mod:`modeldiff_eval.arena`, relative to ``folder``."""
    if spec.table:
        from modeldiff_eval.arena import read_arena

        path = folder / spec.table
        if not path.exists():
            raise UsageError(f"arena.table: {path} does not exist; the path is relative to the counts file.")
        style = folder / spec.style_table if spec.style_table else None
        return read_arena(path, base=str(spec.base), tuned=str(spec.tuned), style_path=style, snapshot=spec.snapshot)
    deltas = [difference_of_estimates(_estimate(row.base), _estimate(row.tuned)) for row in spec.rows]
    adjusted = holm([interval_p(delta) for delta in deltas])
    arena = Arena(
        source=str(spec.source),
        snapshot=spec.snapshot,
        independence_assumed=True,
        rows=[_arena_row(row, delta, p) for row, delta, p in zip(spec.rows, deltas, adjusted, strict=True)],
    )
    return arena, [
        "Arena differences: 95 % by the square-root rule from each model's published bounds, as if the two ratings "
        "were independent. The style effect compares two fits of the same battles, so a table gives it no interval.",
        f"Arena verdicts: Holm over the {len(arena.rows)} rows, on the difference without style control.",
    ]


def _arena_row(row: ArenaRowSpec, delta: Estimate, p_adjusted: float | None) -> ArenaRow:
    delta_style = style_effect = None
    if row.base_style is not None and row.tuned_style is not None:
        delta_style = difference_of_estimates(_estimate(row.base_style), _estimate(row.tuned_style))
        if delta.value is not None and delta_style.value is not None:
            style_effect = estimate(delta_style.value - delta.value, math.nan, math.nan)
    return ArenaRow(
        category=row.category,
        base=row.base.rating,
        tuned=row.tuned.rating,
        delta=delta,
        delta_style=delta_style,
        style_effect=style_effect,
        verdict=verdict(delta.value, p_adjusted),
    )


def _estimate(rating: RatingSpec) -> Estimate:
    return Estimate(value=rating.rating, low=rating.low, high=rating.high)


def benchmarks_from_spec(specs: Sequence[BenchmarkSpec]) -> tuple[list[BenchmarkRow], list[str]]:
    """Benchmark records (unpaired) and their caveats; Holm over the rows that have an interval."""
    if not specs:
        return [], []
    deltas = [_benchmark_delta(spec) for spec in specs]
    p = [interval_p(delta) for delta, _ in deltas]
    rows = [
        BenchmarkRow(
            task=spec.task,
            metric=spec.metric,
            n=spec.n,
            base=spec.base,
            tuned=spec.tuned,
            delta=LevelEstimate(value=delta.value, low=delta.low, high=delta.high),
            p=raw,
            p_adjusted=adjusted,
            mde=None if error is None else smallest_detectable(error),
            verdict=verdict(delta.value, adjusted),
            paired=False,
            source=spec.source,
        )
        for spec, (delta, error), raw, adjusted in zip(specs, deltas, p, holm(p), strict=True)
    ]
    caveats = [
        f"Benchmarks: published scores without item results, so the intervals are unpaired and speak about items only; "
        f"Holm over the {sum(value is not None for value in p)} rows that have one."
    ]
    bare = [f"{row.task} {row.metric}" for row, value in zip(rows, p, strict=True) if value is None]
    if bare:
        caveats.append(f"No standard error is published for both models: {', '.join(bare)}; these stay unclear.")
    return rows, caveats


def _benchmark_delta(spec: BenchmarkSpec) -> tuple[Estimate, float | None]:
    """Tuned minus base with its interval and standard error, in the metric's unit."""
    if spec.proportion is not None:
        scale = float(spec.proportion)
        base, tuned = spec.base / scale, spec.tuned / scale
        unit = newcombe(base * spec.n, spec.n, tuned * spec.n, spec.n)
        pooled = (base + tuned) / 2
        error = scale * math.sqrt(2 * pooled * (1 - pooled) / spec.n)
        bounds = [math.nan if bound is None else bound * scale for bound in (unit.low, unit.high)]
        return estimate(spec.tuned - spec.base, bounds[0], bounds[1]), error
    delta = spec.tuned - spec.base
    if spec.base_se is None or spec.tuned_se is None:
        return estimate(delta, math.nan, math.nan), None
    error = math.hypot(spec.base_se, spec.tuned_se)
    return estimate(delta, delta - Z * error, delta + Z * error), error
