"""Arena rows from battles: a Bradley-Terry fit of all models in each category, then base against tuned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeldiff_eval.arena_battles import BattleFile, read_battles
from modeldiff_eval.arena_graph import keep_models, rated_together, select
from modeldiff_eval.arena_names import find_model
from modeldiff_eval.arena_verdicts import CORRECTION_NAMES, Correction, verdicts
from modeldiff_eval.bradley_terry import Battles
from modeldiff_eval.bradley_terry_errors import DRAWS, units
from modeldiff_eval.bradley_terry_pair import LMARENA_SHRINK, PairFit, rate_pair
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.records import Arena, ArenaRow, StyleCoefficient, Verdict

WHOLE = "full"
"""LMArena's name of the category that all battles belong to."""
FEWEST_PROMPTS = 10
"""Prompts (or single battles) below which a category has no interval worth the name, and no row."""


class _Rated(NamedTuple):
    """One category's fit."""

    category: str
    battles: Battles
    base: int
    tuned: int
    fit: PairFit


def arena_from_battles(
    path: Path,
    *,
    base: str,
    tuned: str,
    snapshot: str | None = None,
    correction: Correction = "holm",
    draws: int = DRAWS,
    rng: np.random.Generator,
    on_draws: Callable[[int, int], None] | None = None,
) -> tuple[Arena, list[str]]:
    """Elo of both models from battles, with the exact interval of their difference.

    Raises:
        NotListedError: a model has no battle in the file.
        EvidenceError: the file is malformed, or nothing in it links the two models.
    """
    held = read_battles(path)
    caveats = list(held.caveats)
    names = [find_model(model, held.models, source=path.name) for model in (base, tuned)]
    if names[0] == names[1]:
        raise EvidenceError(f"{base} and {tuned} are one model in {path.name}, {names[0]!r}.")
    pair = held.models.index(names[0]), held.models.index(names[1])
    everything = np.ones(len(held.battles.first), dtype=bool)
    wanted = {WHOLE: everything, **held.categories}
    rated = []
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if on_draws is not None:
            on_draws(done, draws * len(wanted))

    for (category, inside), own in zip(wanted.items(), rng.spawn(len(wanted)), strict=True):
        found = _rate(category, select(held.battles, inside), pair, held, draws, own, count, caveats)
        if isinstance(found, str) and category == WHOLE:
            raise EvidenceError(
                f"{path.name} cannot rate {names[0]} (base) against {names[1]} (tuned): {found}. Pass battles in which "
                "both met a common opponent, and each won and lost."
            )
        if isinstance(found, str):
            caveats.append(f"Arena {category} is left out: {found}.")
        else:
            rated.append(found)
    judged = verdicts([one.fit.delta for one in rated], correction)
    rows = [_row(one, judgement) for one, judgement in zip(rated, judged, strict=True)]
    whole = rated[0]
    return (
        Arena(
            source=path.name,
            snapshot=snapshot,
            independence_assumed=False,
            rows=rows,
            kind="battles",
            scale=f"The mean of the {whole.battles.n_models} models that are rated together is 1000; only differences count.",
            style=_coefficients(held.style, whole.fit),
        ),
        [*caveats, *_method(held, rated, draws, correction)],
    )


def _rate(
    category: str,
    battles: Battles,
    pair: tuple[int, int],
    held: BattleFile,
    draws: int,
    rng: np.random.Generator,
    on_draws: Callable[[int], None],
    caveats: list[str],
) -> _Rated | str:
    """One category's fit, or why there is none."""
    group = rated_together(battles, *pair)
    if isinstance(group, str):
        return group
    battles, _ = keep_models(battles, group)
    if units(battles) < FEWEST_PROMPTS:
        return f"only {units(battles)} prompts"
    if category == WHOLE and (out := len(held.models) - int(group.sum())):
        caveats.append(
            f"{out} of {len(held.models)} models are left out of the fit: they won or lost every battle against the rest, "
            "or met none of them, so their ratings are not finite."
        )
    base, tuned = (int(group[: model + 1].sum()) - 1 for model in pair)
    try:
        fit = rate_pair(battles, base, tuned, draws=draws, rng=rng, on_draws=on_draws)
    except EvidenceError as error:
        return str(error)
    if fit.style_failure:
        which = "no fit with style control" if fit.shrunken is None else "no unpenalised fit with style control"
        caveats.append(f"Arena {category} has {which}. {fit.style_failure}")
    return _Rated(category, battles, base, tuned, fit)


def _row(rated: _Rated, judgement: Verdict) -> ArenaRow:
    fit, battles = rated.fit, rated.battles
    met = {m: int(((battles.first == m) | (battles.second == m)).sum()) for m in (rated.base, rated.tuned)}
    return ArenaRow(
        category=rated.category,
        base=fit.base,
        tuned=fit.tuned,
        delta=fit.delta,
        delta_style=fit.shrunken.delta if fit.shrunken else None,
        style_effect=fit.shrunken.effect if fit.shrunken else None,
        verdict=judgement,
        delta_style_unpenalised=fit.unpenalised.delta if fit.unpenalised else None,
        style_effect_unpenalised=fit.unpenalised.effect if fit.unpenalised else None,
        win_rate=fit.win_rate,
        base_win_rate=fit.base_win_rate,
        tuned_win_rate=fit.tuned_win_rate,
        battles=len(battles.first),
        base_battles=met[rated.base],
        tuned_battles=met[rated.tuned],
    )


def _coefficients(names: tuple[str, ...], fit: PairFit) -> list[StyleCoefficient]:
    if fit.shrunken is None:
        return []
    free = fit.unpenalised.coefficients if fit.unpenalised else [None] * len(names)
    both = zip(names, fit.shrunken.coefficients, free, strict=True)
    return [StyleCoefficient(feature=name, shrunken=a, unpenalised=b) for name, a, b in both]


def _method(held: BattleFile, rated: list[_Rated], draws: int, correction: Correction) -> list[str]:
    """How the numbers came about, in sentences."""
    whole = rated[0]
    drawn = f"{units(whole.battles):,} {'single battles' if held.prompts is None else f'prompts (by {held.prompts})'}"
    out = [
        f"Arena: Bradley-Terry over {len(whole.battles.first):,} battles of {whole.battles.n_models} models, ties as half a "
        f"win; 95 % intervals from {draws:,} reweightings of {drawn}. The difference of the two models is exact: no "
        "independence is assumed.",
        f"Arena verdicts are adjusted by {CORRECTION_NAMES[correction]} over {len(rated)} rows, which share battles.",
    ]
    ratios = [(r.fit.sandwich_half_width, r.fit.delta) for r in rated]
    gaps = [
        abs(2 * half / (d.high - d.low) - 1)
        for half, d in ratios
        if d.low is not None and d.high is not None and d.high > d.low
    ]
    if gaps:
        out.append(f"The sandwich variance gives intervals whose width differs by at most {100 * max(gaps):.0f} %.")
    if whole.fit.shrunken is not None:
        out.append(
            f"Style control by {', '.join(held.style)}: shrunken as LMArena's (penalty {LMARENA_SHRINK:g} beside the mean "
            "loss), and unpenalised. The shrunken fit takes away only a part of what style explains."
        )
    return out
