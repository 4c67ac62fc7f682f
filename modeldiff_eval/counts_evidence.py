"""Arena rows of a counts file, with intervals from published bounds: the snapshot of the card, and the others at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from modeldiff_eval.counts_spec_evidence import ArenaRowSpec, ArenaSpec, RatingSpec
from modeldiff_eval.errors import NotListedError, UsageError
from modeldiff_eval.records import Arena, ArenaRow, ArenaSnapshot, Estimate
from modeldiff_eval.stats import difference_of_estimates, estimate, holm, interval_p, verdict


def arena_from_spec(spec: ArenaSpec, folder: Path) -> tuple[Arena, list[str]]:
    """The arena record and its caveats; a ``table`` is read by :mod:`modeldiff_eval.arena`, relative to ``folder``."""
    if spec.table:
        return _from_table(spec, folder)
    others = sorted(spec.other_snapshots, key=lambda item: item.snapshot)
    arena = Arena(
        source=str(spec.source),
        snapshot=spec.snapshot,
        independence_assumed=True,
        rows=_rows(spec.rows),
        other_snapshots=[ArenaSnapshot(snapshot=item.snapshot, rows=_rows(item.rows)) for item in others],
    )
    return arena, [
        "Arena differences: 95 % by the square-root rule from each model's published bounds, as if the two ratings "
        "were independent. The style effect compares two fits of the same battles, so a table gives it no interval.",
        f"Arena verdicts: Holm over the {len(arena.rows)} rows, on the difference without style control.",
    ]


def _from_table(spec: ArenaSpec, folder: Path) -> tuple[Arena, list[str]]:
    """The chosen snapshot of a table or a folder of tables, and every other one that lists both models."""
    from modeldiff_eval.arena import read_arena
    from modeldiff_eval.arena_files import kind_of
    from modeldiff_eval.arena_snapshots import read_tables

    path = folder / str(spec.table)
    if not path.exists():
        raise UsageError(f"arena.table: {path} does not exist; the path is relative to the counts file.")
    style = folder / spec.style_table if spec.style_table else None
    base, tuned = str(spec.base), str(spec.tuned)
    arena, caveats = read_arena(path, base=base, tuned=tuned, style_path=style, snapshot=spec.snapshot)
    if kind_of(path) == "battles":
        return arena, caveats
    dates = sorted({r.snapshot for r in read_tables(path).ratings if r.snapshot and not r.style_control})
    others, without = [], []
    for date in dates:
        if date == arena.snapshot:
            continue
        try:
            found, _ = read_arena(path, base=base, tuned=tuned, snapshot=date)
        except NotListedError:
            without.append(date)
            continue
        others.append(ArenaSnapshot(snapshot=date, rows=found.rows))
    if without:
        caveats.append(f"Arena snapshots in which not both models are listed: {', '.join(without)}.")
    return arena.model_copy(update={"other_snapshots": others}), caveats


def _rows(specs: Sequence[ArenaRowSpec]) -> list[ArenaRow]:
    deltas = [difference_of_estimates(_estimate(row.base), _estimate(row.tuned)) for row in specs]
    adjusted = holm([interval_p(delta) for delta in deltas])
    return [_arena_row(row, delta, p) for row, delta, p in zip(specs, deltas, adjusted, strict=True)]


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
