"""What the truth bench found, as records: ``selftest --json`` is exactly :class:`Selftest`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Literal

import numpy as np

from modeldiff_eval.planted_constants import Scoring
from modeldiff_eval.records import Estimate, Record
from modeldiff_eval.stats import estimate, number, wilson
from modeldiff_eval.stats_bootstrap import bootstrap_mean
from modeldiff_eval.truth_rules import Level
from modeldiff_eval.truth_score import Counts, NuErrors

SideName = Literal["base", "tuned", "both"]
Verdict = Literal["good", "bad", "unclear"]
DRAWS = 2000


class Proportion(Record):
    """``count`` of ``n`` with Wilson's 95 % interval; nothing is known when ``n`` is 0."""

    count: int
    n: int
    value: float | None
    low: float | None
    high: float | None


def proportion(count: int, n: int) -> Proportion:
    """Share and interval. Latents of all seeds are taken as independent."""
    if n == 0:
        return Proportion(count=count, n=n, value=None, low=None, high=None)
    low, high = wilson(count, n)
    return Proportion(count=count, n=n, value=number(count / n), low=number(low), high=number(high))


class RuleRow(Record):
    """One rule on one side, over all seeds; the counts are those of :class:`modeldiff_eval.truth_score.Counts`.

    ``false_on_null``: claims on pairs without differences, of all latents there. ``thresholds``: what each seed's null run
    set, None where none kept the rate; empty for rules with fixed thresholds.
    """

    rule: str
    level: Level
    side: SideName
    planted: int
    claims: int
    exclusive: int
    rescaled: int
    rotated: int
    shared: int
    unmatched: int
    duplicates: int
    precision: Proportion
    recall: Proportion
    false_on_null: Proportion
    thresholds: list[float | None]
    verdict: Verdict
    reason: str


class NuRow(Record):
    """ν^ε of the recovered latents of one kind. ``error`` is the mean of ν − truth; ``covered``: the truth is in the interval.

    ``absolute`` is the median of |ν − truth|; ``truth`` and ``value`` are means over the measured latents.
    """

    kind: str
    recovered: Proportion
    measured: int
    truth: float | None
    value: float | None
    error: Estimate
    absolute: float | None
    covered: Proportion


class RunRow(Record):
    """One pair: held-out quality of the first fit, and the share of its latents that the second fit has as well."""

    pair: Literal["planted", "null"]
    seed: int
    fve_first: float
    fve_second: float
    l0: float
    dead_share: float
    seed_agreement: float
    seconds: float


class Law(Record):
    """Something that must hold whatever the method's quality."""

    name: str
    holds: bool
    detail: str


class Selftest(Record):
    """The outcome of ``modeldiff-eval selftest``."""

    method: str
    scale: str
    seed: int
    seeds: int
    planted: dict[str, int]
    tokens: int
    heldout_tokens: int
    rate: float
    target: float
    rules: list[RuleRow]
    nu: list[NuRow]
    laws: list[Law]
    runs: list[RunRow]

    @property
    def broken(self) -> list[Law]:
        """The laws that do not hold."""
        return [law for law in self.laws if not law.holds]


def rule_row(
    rule: str, level: Level, side: SideName, counts: Counts, null: tuple[int, int], thresholds: list[float | None],
    scoring: Scoring,
) -> RuleRow:  # fmt: skip
    """Shares with their intervals, and whether precision and recall reach the target."""
    precision = proportion(counts.exclusive, counts.judged(level))
    recall = proportion(counts.exclusive, counts.planted)
    verdict, reason = judge(precision, recall, scoring.target)
    return RuleRow(
        rule=rule, level=level, side=side, **asdict(counts), precision=precision, recall=recall, false_on_null=proportion(*null),
        thresholds=thresholds, verdict=verdict, reason=reason,
    )  # fmt: skip


def judge(precision: Proportion, recall: Proportion, target: float) -> tuple[Verdict, str]:
    """Good where both reach the target; bad where the interval of one lies below it; otherwise unclear."""
    named = {"precision": precision, "recall": recall}
    if precision.value is None:
        return "bad", "claims nothing"
    below = [name for name, share in named.items() if share.value is not None and share.value < target]
    if not below:
        return "good", f"precision and recall ≥ {target:g}"
    sure = [name for name in below if (high := named[name].high) is not None and high < target]
    if sure:
        return "bad", f"{' and '.join(sure)} below {target:g}"
    return "unclear", f"{' and '.join(below)} below {target:g}, within the interval"


def nu_row(kind: str, errors: NuErrors, *, rng: np.random.Generator) -> NuRow:
    """Mean error with a bootstrap interval over latents, and how often the interval of ν holds the truth."""
    n = len(errors.truth)
    difference = errors.value - errors.truth
    inside = (errors.low <= errors.truth) & (errors.truth <= errors.high)
    mean = [float(bound[0]) for bound in bootstrap_mean(difference, draws=DRAWS, rng=rng)] if n else [np.nan] * 3
    return NuRow(
        kind=kind,
        recovered=proportion(errors.recovered, errors.planted),
        measured=n,
        truth=number(float(errors.truth.mean())) if n else None,
        value=number(float(errors.value.mean())) if n else None,
        error=estimate(*mean),
        absolute=number(float(np.median(np.abs(difference)))) if n else None,
        covered=proportion(int(inside.sum()), n),
    )


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    return sum(counts, Counts())
