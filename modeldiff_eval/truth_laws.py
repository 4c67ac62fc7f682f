"""What must hold in the truth bench whatever a method's quality; where one does not, no other number is worth reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modeldiff_eval.planted import PlantedPair, World
from modeldiff_eval.planted_constants import Constants, Scale
from modeldiff_eval.progress import Reporter
from modeldiff_eval.truth_methods import Controls, Fit, Method
from modeldiff_eval.truth_report import Law, RuleRow
from modeldiff_eval.truth_score import NuErrors

MakePair = Callable[..., tuple[World, PlantedPair]]
LAW_STEPS = 100
"""Steps of the trainings that compare a pair with itself and with its mirror image: enough for latents of both kinds."""
EXACT = 1e-6
MIRRORED = 1e-3
"""How far ν may be off in the mirror image: sums are taken in another order, and training carries that on."""


@dataclass(frozen=True)
class Outcome:
    """What the laws look at."""

    errors: dict[str, NuErrors]
    rules: list[RuleRow]


def check_laws(
    outcome: Outcome,
    constants: Constants,
    scale: Scale,
    method: Method,
    make: MakePair,
    *,
    seed: int,
    reporter: Reporter,
) -> list[Law]:
    """Every law with whether it holds, and the figures behind that."""
    training = scale.training.model_copy(update={"steps": min(LAW_STEPS, scale.training.steps)})
    _, pair = make(constants, scale, seed=seed)

    def fit(some: PlantedPair, title: str) -> Fit:
        with reporter.task(title, unit="steps") as advance:
            return method.fit(some, training, constants.scoring, seed=seed, on_step=advance)

    direct = fit(pair, "Law: a short training")
    mirror = fit(pair.swapped(), "Law: base and tuned exchanged")
    same = fit(pair.identical(), "Law: base against itself")
    return [
        identical(same, direct, constants),
        mirrored(direct, mirror, same, constants),
        ordered(outcome.errors),
        quiet(outcome.rules, constants.scoring.false_discovery_rate),
    ]


def identical(same: Fit, other: Fit, constants: Constants) -> Law:
    """Base against itself: ν is 1, and no rule claims anything (``other`` stands in for the controls)."""
    nu = np.concatenate([values for side in same.nu for values in (side.error, side.error_high, side.reconstruction)])
    known = nu[~np.isnan(nu)]
    off = float(np.abs(known - 1).max()) if len(known) else np.inf
    claims = sum(
        int(side.sum())
        for made in same.claims(Controls(null=other, again=other), constants.scoring)
        for side in made.chosen
    )
    return Law(
        name="base against itself: ν = 1 and nothing specific",
        holds=off < EXACT and claims == 0,
        detail=f"largest |ν − 1| {off:.1e} over {len(known)} values, {claims} claims",
    )


def mirrored(direct: Fit, mirror: Fit, null: Fit, constants: Constants) -> Law:
    """Exchanging the models exchanges every answer."""
    off, unlike, defined = 0.0, 0, 0
    for side in (0, 1):
        here, there = direct.nu[side].error, mirror.nu[1 - side].error
        unlike += int((np.isnan(here) != np.isnan(there)).sum())
        both = ~np.isnan(here) & ~np.isnan(there)
        defined += int(both.sum())
        off = max(off, float(np.abs(here[both] - there[both]).max(initial=0)))
    here_all, there_all = (fit.claims(Controls(null=null, again=fit), constants.scoring) for fit in (direct, mirror))
    for one, other in zip(here_all, there_all, strict=True):
        unlike += sum(int((one.chosen[side] != other.chosen[1 - side]).sum()) for side in (0, 1))
    return Law(
        name="exchanging base and tuned exchanges every answer",
        holds=off < MIRRORED and unlike == 0 and defined > 0,
        detail=f"ν differs by at most {off:.1e} over {defined} values, {unlike} claims or definitions differ",
    )


def ordered(errors: dict[str, NuErrors]) -> Law:
    """Recovered exclusive latents have a lower ν than recovered shared ones: nearly every pair of them is in this order."""
    low, high = errors["exclusive"].value, errors["shared"].value
    pairs = len(low) * len(high)
    right = float((low[:, None] < high[None]).mean()) if pairs else 0.0
    return Law(
        name="recovered exclusive latents have a lower ν than shared ones",
        holds=right >= 0.9,
        detail=f"{100 * right:.1f} % of {pairs} pairs ({len(low)} exclusive, {len(high)} shared)",
    )


def quiet(rules: list[RuleRow], rate: float) -> Law:
    """On pairs without differences ``shifted`` claims at most the stated share of the latents."""
    shifted = [row for row in rules if row.level == "shifted" and row.side == "both"]
    worst = max((row.false_on_null.value or 0.0 for row in shifted), default=0.0)
    return Law(
        name=f"nothing differs: shifted claims at most {100 * rate:g} % of the latents",
        holds=worst <= rate and all(row.false_on_null.n > 0 for row in shifted),
        detail=f"{', '.join(f'{row.false_on_null.count} of {row.false_on_null.n}' for row in shifted) or 'no such rule'}",
    )
