"""LMArena beside the card: Elo of base and tuned by category, their difference and what style control takes away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from modeldiff_eval.arena_tables import Rating, read_table
from modeldiff_eval.errors import EvidenceError, did_you_mean
from modeldiff_eval.records import Arena, ArenaRow, Estimate
from modeldiff_eval.stats import benjamini_hochberg, difference_of_estimates, holm, interval_p, verdict

Correction = Literal["holm", "bh"]

_NAMES = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
_ADJUST = {"holm": holm, "bh": benjamini_hochberg}


def read_arena(
    path: Path,
    *,
    base: str,
    tuned: str,
    style_path: Path | None = None,
    snapshot: str | None = None,
    correction: Correction = "holm",
) -> tuple[Arena, list[str]]:
    """Elo of both models from published LMArena tables.

    ``delta`` is tuned minus base without style control, its interval by the square-root rule on each side; the two
    ratings are taken as independent, which a table does not prove. ``delta_style`` is the same with style control and
    ``style_effect`` their difference, without an interval because both use the same battles. The verdict is the sign
    of ``delta`` when its p, adjusted over the rows, is below 0.05.

    Args:
        path: a table without style control, or one with a ``style_control`` column that has both.
        base: the base model's name; ``org/Name@revision`` is understood as the slug ``name``.
        tuned: the same for the tuned model.
        style_path: the table with style control, when it is a file of its own.
        snapshot: which snapshot; the newest when not given. Scales drift, so models are compared inside one only.
        correction: over the rows.

    Returns:
        The arena part of the card, and caveats.

    Raises:
        EvidenceError: a file is malformed, holds battles, or does not have a model or snapshot.
    """
    caveats: list[str] = []
    plain, chosen = _one_snapshot(path, snapshot, caveats)
    styled = [rating for rating in plain if rating.style_control]
    plain = [rating for rating in plain if not rating.style_control]
    if style_path is not None:
        styled = _styled(style_path, chosen, caveats)
    if not plain:
        raise EvidenceError(f"{path.name} holds only ratings with style control; pass it as --arena-style.")
    first, second = (_of_model(plain, model, path) for model in (base, tuned))
    both = [category for category in first if category in second]
    if not both:
        raise EvidenceError(f"{path.name} has {base} and {tuned}, but no category with both of them.")
    if lone := sorted(first.keys() ^ second.keys()):
        caveats.append(f"Arena categories that only one model has are left out: {', '.join(lone)}.")
    deltas = [difference_of_estimates(_estimate(first[c]), _estimate(second[c])) for c in both]
    adjusted = _ADJUST[correction]([interval_p(delta) for delta in deltas])
    with_style = _style_deltas(styled, base, tuned, caveats)
    rows = [
        ArenaRow(
            category=category,
            base=first[category].rating,
            tuned=second[category].rating,
            delta=delta,
            delta_style=with_style.get(category),
            style_effect=_effect(delta, with_style.get(category)),
            verdict=verdict(delta.value, p),
        )
        for category, delta, p in zip(both, deltas, adjusted, strict=True)
    ]
    caveats.append(
        f"Arena verdicts are adjusted by {_NAMES[correction]} over {len(rows)} rows, which share battles; the "
        "two models' ratings are taken as independent."
    )
    source = path.name if style_path is None else f"{path.name}, {style_path.name}"
    return Arena(source=source, snapshot=chosen, independence_assumed=True, rows=rows), caveats


def slug(model: str) -> str:
    """LMArena's name of a model: ``google/Gemma-2-9B-it@main`` → ``gemma-2-9b-it``."""
    return re.sub(r"\s+", "-", model.partition("@")[0].rstrip("/").rpartition("/")[2].strip().lower())


def _one_snapshot(path: Path, snapshot: str | None, caveats: list[str]) -> tuple[list[Rating], str | None]:
    """The ratings of one snapshot, and its name."""
    ratings, dropped = read_table(path)
    if dropped:
        caveats.append(f"{dropped} repeated rows of {path.name} were dropped.")
    dated = sorted({rating.snapshot for rating in ratings if rating.snapshot is not None})
    if not dated:
        return ratings, snapshot
    chosen = snapshot if snapshot is not None else dated[-1]
    if chosen not in dated:
        raise EvidenceError(
            f"{path.name} has no snapshot {chosen!r}.{did_you_mean(chosen, dated)} It has {', '.join(dated)}."
        )
    if snapshot is None and len(dated) > 1:
        caveats.append(f"{path.name} holds {len(dated)} snapshots; the newest, {chosen}, was taken.")
    return [rating for rating in ratings if rating.snapshot == chosen], chosen


def _styled(path: Path, snapshot: str | None, caveats: list[str]) -> list[Rating]:
    """The style-controlled ratings of a file of their own, from the same snapshot where they are dated."""
    ratings, chosen = _one_snapshot(path, snapshot, caveats)
    if chosen is None and snapshot is not None:
        caveats.append(f"{path.name} names no snapshot; it is taken to belong to {snapshot}.")
    return [rating for rating in ratings if rating.style_control] or ratings


def _of_model(ratings: Sequence[Rating], model: str, path: Path) -> dict[str, Rating]:
    """One model's ratings by category, in the order of the file."""
    found = {rating.category: rating for rating in ratings if slug(rating.model) == slug(model)}
    if not found:
        names = sorted({rating.model for rating in ratings})
        raise EvidenceError(
            f"{path.name} has no model {slug(model)!r} (asked for as {model!r}).{did_you_mean(slug(model), names)} "
            f"It has {len(names)} models; LMArena's names are lower-case and without the organisation."
        )
    return found


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
    return Estimate(value=delta_style.value - delta.value, low=None, high=None)
