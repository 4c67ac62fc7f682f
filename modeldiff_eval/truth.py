"""The truth bench: train a method on planted pairs, ask its rules, compare with what was planted.

For every seed: a planted pair (a world of its own) and a null pair of the same size, on which nothing differs but each
model's own noise and the tuned side's rounding to bf16. Both are fitted twice, by two seeds of the method. Rules see the
first fit, the second one, and a null fit: that of the null pair, or, where the null pair itself is asked, its second fit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.planted import PlantedPair, World, draw, make_world
from modeldiff_eval.planted_constants import Constants, Scale, ScaleName, constants
from modeldiff_eval.progress import Reporter
from modeldiff_eval.truth_laws import MakePair, Outcome, check_laws
from modeldiff_eval.truth_methods import Controls, Dictionary, Fit, Method, partners
from modeldiff_eval.truth_report import RuleRow, RunRow, Selftest, SideName, nu_row, rule_row, total
from modeldiff_eval.truth_rules import Claims
from modeldiff_eval.truth_score import Counts, NuErrors, count_claims, nu_errors

AGAIN = 1000
"""Added to the seed of the second fit."""
_SIDES: tuple[SideName, SideName, SideName] = ("base", "tuned", "both")


@dataclass(frozen=True)
class _Trained:
    """Two fits of one pair with its truth."""

    world: World
    fit: Fit
    again: Fit
    row: RunRow
    tokens: tuple[int, int]


def planted_pair(constants: Constants, scale: Scale, *, seed: int) -> tuple[World, PlantedPair]:
    """A world and its documents."""
    rng = np.random.default_rng([seed, 71])
    world = make_world(constants, scale, rng=rng)
    return world, draw(constants, scale, world, rng=rng)


def null_pair(constants: Constants, scale: Scale, *, seed: int) -> tuple[World, PlantedPair]:
    """Every latent shared; each model has its own noise, and tuned went through bf16."""
    rng = np.random.default_rng([seed, 72])
    world = make_world(constants, scale.null(), rng=rng)
    return world, draw(constants, scale.null(), world, rng=rng).tuned_in_bf16()


def selftest(
    scale: ScaleName = "quick",
    *,
    seed: int = 0,
    seeds: int | None = None,
    method: Method | None = None,
    reporter: Reporter | None = None,
    sizes: Scale | None = None,
) -> Selftest:
    """Run the bench.

    Args:
        seeds: planted pairs and null pairs, each with a seed of its own; default as the scale says.
        sizes: other sizes than those of ``scale``, for tests.

    Raises:
        SettingsError: no seeds.
    """
    known = constants()
    size = sizes or known.scales[scale]
    n = size.seeds if seeds is None else seeds
    if n < 1:
        raise SettingsError(f"--seeds {n}: the bench needs at least one seed.")
    method, reporter = method or Dictionary(), reporter or Reporter()
    bench = _Bench(known, size, method, reporter)
    planted = [bench.train(planted_pair, "planted", seed + i) for i in range(n)]
    nulls = [bench.train(null_pair, "null", seed + i) for i in range(n)]
    found = [
        run.fit.claims(Controls(null=null.fit, again=run.again), known.scoring)
        for run, null in zip(planted, nulls, strict=True)
    ]
    on_null = [run.fit.claims(Controls(null=run.again, again=run.again), known.scoring) for run in nulls]
    rules = _rules(known, planted, found, on_null)
    errors = _errors(known, planted)
    outcome = Outcome(errors=errors, rules=rules)
    # The laws are about the code, not about the size: at the full one they would cost minutes more.
    laws = check_laws(
        outcome, known, sizes or known.scales["quick"], method, planted_pair, seed=seed, reporter=reporter
    )
    rng = np.random.default_rng([seed, 73])
    return Selftest(
        method=method.name,
        scale=scale,
        seed=seed,
        seeds=n,
        planted={str(kind): number for kind, number in size.kinds.items()},
        tokens=sum(run.tokens[0] for run in planted) // n,
        heldout_tokens=sum(run.tokens[1] for run in planted) // n,
        rate=known.scoring.false_discovery_rate,
        target=known.scoring.target,
        rules=rules,
        nu=[nu_row(kind, error, rng=rng) for kind, error in errors.items()],
        laws=laws,
        runs=[run.row for run in (*planted, *nulls)],
    )


@dataclass(frozen=True)
class _Bench:
    constants: Constants
    size: Scale
    method: Method
    reporter: Reporter

    def train(self, make: MakePair, name: Literal["planted", "null"], seed: int) -> _Trained:
        """Draw a pair and fit the method twice; the activations are dropped."""
        start = time.monotonic()
        world, pair = make(self.constants, self.size, seed=seed)
        scoring = self.constants.scoring

        def fit(own_seed: int, title: str) -> Fit:
            with self.reporter.task(f"{self.method.name}, {name} pair {seed}{title}", unit="steps") as advance:
                return self.method.fit(pair, self.size.training, scoring, seed=own_seed, on_step=advance)

        first, again = fit(seed, ""), fit(seed + AGAIN, ", re-seeded")
        row = RunRow(
            pair=name,
            seed=seed,
            fve_first=first.quality.fve_first,
            fve_second=first.quality.fve_second,
            l0=first.quality.l0,
            dead_share=first.quality.dead_share,
            seed_agreement=float((partners(first, again, scoring) >= 0).mean()),
            seconds=round(time.monotonic() - start, 1),
        )
        return _Trained(world, first, again, row, (len(pair.document), int(pair.heldout.sum())))


def _rules(
    known: Constants,
    planted: list[_Trained],
    found: list[list[Claims]],
    on_null: list[list[Claims]],
) -> list[RuleRow]:
    least, rows = known.scoring.match_cosine, []
    for rule, claims in enumerate(found[0]):
        per_run: list[tuple[Counts, Counts]] = [
            count_claims(run.fit, made[rule], run.world, least=least) for run, made in zip(planted, found, strict=True)
        ]
        false = [[int(made[rule].chosen[side].sum()) for made in on_null] for side in (0, 1)]
        latents = sum(len(made[rule].chosen[0]) for made in on_null)
        thresholds = [made[rule].threshold for made in found] if claims.level == "shifted" else []
        for i, name in enumerate(_SIDES):
            sides = (0, 1) if name == "both" else (i,)
            counts = total(run[side] for run in per_run for side in sides)
            null = (sum(sum(false[side]) for side in sides), len(sides) * latents)
            rows.append(rule_row(claims.rule, claims.level, name, counts, null, thresholds, known.scoring))
    return rows


def _errors(known: Constants, planted: list[_Trained]) -> dict[str, NuErrors]:
    out: dict[str, NuErrors] = {}
    for run in planted:
        for kind, errors in nu_errors(run.fit, run.world, least=known.scoring.match_cosine).items():
            out[kind] = out[kind].joined(errors) if kind in out else errors
    return out
