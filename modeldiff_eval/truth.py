"""The truth bench: train a method on planted pairs, ask its rules, compare with what was planted.

For every seed: a planted pair (a world of its own) and a null pair of the same size, on which nothing differs but each
model's own noise and the tuned side's rounding to bf16. The null fit of a seed sets the threshold of ``shifted`` for the
planted fit of that seed; a null fit is itself judged against the null fit of another seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.planted import PlantedPair, World, draw, make_world
from modeldiff_eval.planted_constants import Constants, Scale, ScaleName, constants
from modeldiff_eval.progress import Reporter
from modeldiff_eval.truth_laws import Outcome, check_laws
from modeldiff_eval.truth_methods import BatchTopK, Claims, Fit, Method
from modeldiff_eval.truth_report import RuleRow, RunRow, Selftest, SideName, nu_row, rule_row, total
from modeldiff_eval.truth_score import Counts, NuErrors, count_claims, nu_errors

_SIDES: tuple[SideName, SideName, SideName] = ("base", "tuned", "both")


@dataclass(frozen=True)
class _Trained:
    """A fit with the pair's truth, and how long it took."""

    world: World
    fit: Fit
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
        seeds: planted pairs, each with a seed of its own; default as the scale says. At least two null pairs are made, so
            that each has another to be judged against.
        sizes: other sizes than those of ``scale``, for tests.

    Raises:
        SettingsError: no seeds.
    """
    known = constants()
    size = sizes or known.scales[scale]
    n = size.seeds if seeds is None else seeds
    if n < 1:
        raise SettingsError(f"--seeds {n}: the bench needs at least one seed.")
    method, reporter = method or BatchTopK(), reporter or Reporter()
    bench = _Bench(known, size, method, reporter)
    planted = [bench.train(planted_pair, "planted", seed + i) for i in range(n)]
    nulls = [bench.train(null_pair, "null", seed + i) for i in range(max(n, 2))]
    found = [run.fit.claims(nulls[i].fit, known.scoring) for i, run in enumerate(planted)]
    on_null = [run.fit.claims(nulls[(i + 1) % len(nulls)].fit, known.scoring) for i, run in enumerate(nulls)]
    rules = _rules(known, planted, found, nulls, on_null)
    errors = _errors(known, planted)
    outcome = Outcome(errors=errors, rules=rules)
    laws = check_laws(outcome, known, size, method, planted_pair, seed=seed, reporter=reporter)
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

    def train(self, make: Callable[..., tuple[World, PlantedPair]], name: str, seed: int) -> _Trained:
        """Draw a pair, fit the method; the activations are dropped."""
        start = time.monotonic()
        world, pair = make(self.constants, self.size, seed=seed)
        with self.reporter.task(f"{self.method.name} on a {name} pair, seed {seed}", unit="steps") as advance:
            fit = self.method.fit(pair, self.size.training, self.constants.scoring, seed=seed, on_step=advance)
        quality = fit.quality
        row = RunRow(
            pair="null" if name == "null" else "planted", seed=seed, fve_first=quality.fve_first, fve_second=quality.fve_second,
            l0=quality.l0, dead_share=quality.dead_share, seconds=round(time.monotonic() - start, 1),
        )  # fmt: skip
        return _Trained(world, fit, row, (len(pair.document), int(pair.heldout.sum())))


def _rules(
    known: Constants,
    planted: list[_Trained],
    found: list[list[Claims]],
    nulls: list[_Trained],
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
