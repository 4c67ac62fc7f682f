"""Arena rows from LMArena's published tables: differences of two ratings that are taken as independent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeldiff_eval.arena_names import slug
from modeldiff_eval.arena_snapshots import choose, read_tables
from modeldiff_eval.arena_tables import Rating
from modeldiff_eval.arena_verdicts import CORRECTION_NAMES, Correction, verdicts
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import Arena, ArenaRow, Estimate
from modeldiff_eval.stats import difference_of_estimates, number


def arena_from_tables(
    path: Path,
    *,
    base: str,
    tuned: str,
    style_path: Path | None = None,
    snapshot: str | None = None,
    correction: Correction = "holm",
) -> tuple[Arena, list[str]]:
    """Elo of both models from published tables, and caveats.

    ``delta`` is tuned minus base without style control, its interval by the square-root rule on each side;
    ``style_effect`` has no interval, because both its parts use the same battles.

    Raises:
        NotListedError: a model is not in the table.
        EvidenceError: a file is malformed, or has no such snapshot.
    """
    tables = read_tables(path)
    chosen = choose(tables, base=base, tuned=tuned, snapshot=snapshot)
    caveats = [*tables.caveats, *chosen.caveats]
    plain = [r for r in chosen.ratings if not r.style_control]
    styled = [r for r in chosen.ratings if r.style_control]
    if style_path is not None:
        styled = _styled(style_path, chosen.name, caveats)
    first, second = ({r.category: r for r in plain if r.model == name} for name in (chosen.base, chosen.tuned))
    both = [category for category in first if category in second]
    if not both:
        raise EvidenceError(f"{path.name} has {base} and {tuned}, but no category with both of them.")
    if lone := sorted(first.keys() ^ second.keys()):
        caveats.append(f"Arena categories that only one model has are left out: {', '.join(lone)}.")
    deltas = [difference_of_estimates(_estimate(first[c]), _estimate(second[c])) for c in both]
    if bare := [c for c, d in zip(both, deltas, strict=True) if d.low is None or d.high is None]:
        caveats.append(f"The arena table has no bounds, so there is no interval and no verdict: {', '.join(bare)}.")
    with_style = _style_deltas(styled, base, tuned, caveats)
    rows = [
        ArenaRow(
            category=category,
            base=first[category].rating,
            tuned=second[category].rating,
            delta=delta,
            delta_style=with_style.get(category),
            style_effect=_effect(delta, with_style.get(category)),
            verdict=judgement,
        )
        for category, delta, judgement in zip(both, deltas, verdicts(deltas, correction), strict=True)
    ]
    caveats.append(
        f"Arena verdicts are adjusted by {CORRECTION_NAMES[correction]} over {len(rows)} rows, which share battles; the "
        "two models' ratings are taken as independent, which a table does not prove."
    )
    if with_style:
        caveats.append("The arena's style effect has no interval: both tables are fits of the same battles.")
    source = path.name if style_path is None else f"{path.name}, {style_path.name}"
    return Arena(source=source, snapshot=chosen.name, independence_assumed=True, rows=rows), caveats


def _styled(path: Path, snapshot: str | None, caveats: list[str]) -> list[Rating]:
    """The style-controlled ratings of a file of their own, from the same snapshot where they are dated."""
    tables = read_tables(path)
    caveats += tables.caveats
    ratings = [r for r in tables.ratings if r.style_control] or tables.ratings
    dates = sorted({r.snapshot for r in ratings if r.snapshot is not None})
    if not dates:
        if snapshot is not None:
            caveats.append(f"{tables.source} names no snapshot; it is taken to belong to {snapshot}.")
        return ratings
    if snapshot is None and len(dates) == 1:
        caveats.append(f"The table without style control is taken to belong to {dates[0]}, as {tables.source} says.")
        return ratings
    if snapshot not in dates:
        asked = "and the table without style control names none" if snapshot is None else f"none of them {snapshot}"
        raise EvidenceError(
            f"{tables.source} holds the snapshots {', '.join(dates[-6:])}, {asked}. Ratings of different snapshots are not "
            "compared: pass two tables of one date."
        )
    return [r for r in ratings if r.snapshot == snapshot]


def _style_deltas(styled: Sequence[Rating], base: str, tuned: str, caveats: list[str]) -> dict[str, Estimate]:
    """Tuned minus base with style control, by category."""
    if not styled:
        caveats.append("No arena table with style control was given, so the effect of style is not known.")
        return {}
    first, second = ({r.category: r for r in styled if slug(r.model) == slug(model)} for model in (base, tuned))
    both = {
        category: difference_of_estimates(_estimate(first[category]), _estimate(second[category]))
        for category in first
        if category in second
    }
    if not both:
        caveats.append("The arena table with style control does not have both models.")
    return both


def _estimate(rating: Rating) -> Estimate:
    return Estimate(value=rating.rating, low=rating.low, high=rating.high)


def _effect(delta: Estimate, delta_style: Estimate | None) -> Estimate | None:
    """``delta_style − delta``; its interval is unknown from tables, where both come from the same battles."""
    if delta_style is None or delta.value is None or delta_style.value is None:
        return None
    return Estimate(value=number(delta_style.value - delta.value, exact=True), low=None, high=None)
