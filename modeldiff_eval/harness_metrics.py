"""A card as metrics of lm-eval's table.

=============================  ==========================================================  =======================
metric                         what it is                                                  unit
=============================  ==========================================================  =======================
``A_base``, ``A_tuned``        share of the side's annotated specific latents in class A    percent
``A_diff``                     tuned minus base of it                                       percentage points
``A_activation``               change of the class's activation mass on the same tokens     percent of base's
``specific_base``, ``…_tuned`` latents that only this side has                              count
``annotated_base``, …          those that the shares are of (their n)                       count
``fve_base``, ``fve_tuned``    variance that the crosscoder explains, held out              fraction
``fve_anchor_base``, …         the same of the anchor, in the crosscoder with that side     fraction
``fve_difference``             of tuned − base, by the dictionary of differences            fraction
``fve_difference_base``, …     the same where each side was compared with the anchor        fraction
=============================  ==========================================================  =======================

``A`` is every class of the taxonomy. A ``*_stderr`` stands beside what has an interval: its half width over 1.96, so for
``A_diff`` from the marginal interval, not the simultaneous one. Verdicts need more than that (an adjusted p, null controls): they
are in the card. What is undefined is not in the table, never 0, and :attr:`Metrics.absent` says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from modeldiff_eval.records import Card, ClassRow, Estimate
from modeldiff_eval.stats import Z

SIDES = ("base", "tuned")


@dataclass(frozen=True)
class Metrics:
    """``values`` by name, each ``*_stderr`` after its metric; ``absent``: what is undefined, and why."""

    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float | None, reason: str, *, stderr: float | None = None) -> None:
        """Note a value, or why there is none."""
        if value is None:
            self.absent[name] = reason
            return
        self.values[name] = value
        if stderr is not None:
            self.values[f"{name}_stderr"] = stderr

    def missing(self) -> Iterator[str]:
        """One sentence for every reason, with the metrics it holds for."""
        for reason in dict.fromkeys(self.absent.values()):
            names = [name for name, own in self.absent.items() if own == reason]
            yield f"{', '.join(names)}: {reason}"


def card_metrics(card: Card) -> Metrics:
    """All metrics of a card. Where no class has a share or an activation change, the counts and fve stand alone: whoever ran
    benchmarks beside must not lose them for that.
    """
    metrics = Metrics()
    for row in card.classes:
        _class_metrics(metrics, card, row)
    for side in SIDES:
        counts = getattr(card.latents, side)
        metrics.put(f"specific_{side}", counts.specific, "")
        metrics.put(f"annotated_{side}", counts.annotated, "")
    _explained(metrics, card)
    return metrics


def _class_metrics(metrics: Metrics, card: Card, row: ClassRow) -> None:
    """The four metrics of one class."""
    names = [f"{row.code}_{kind}" for kind in (*SIDES, "diff", "activation")]
    if row.verdict == "not covered":
        metrics.absent.update(dict.fromkeys(names, "the text does not reach the class"))
        return
    empty = [side for side in SIDES if not getattr(card.latents, side).annotated]
    for side in SIDES:
        share = None if side in empty else getattr(row, side).share
        metrics.put(f"{row.code}_{side}", share, f"{side} has no annotated latent, so there is no share")
    why = f"no annotated latent of {' and '.join(empty)}, so there are no shares to compare" if empty else "no interval"
    metrics.put(names[2], None if empty else row.diff.value, why, stderr=_standard_error(row.diff))
    if row.activation is None:
        metrics.put(names[3], None, "the card has no activation view of the class")
    else:
        change = row.activation.change
        metrics.put(names[3], change.value, "too few documents hold the class", stderr=_standard_error(change))


def _explained(metrics: Metrics, card: Card) -> None:
    """fve of every crosscoder and dictionary of differences."""
    if not card.crosscoders:
        metrics.absent["fve"] = "the card was not made from a crosscoder"
    for info in card.crosscoders:
        if info.first == "anchor":
            metrics.put(f"fve_anchor_{info.second}", info.fve_first, "")
        else:
            metrics.put(f"fve_{info.first}", info.fve_first, "")
        metrics.put(f"fve_{info.second}", info.fve_second, "")
    for difference in card.differences or []:
        name = f"fve_difference_{difference.second}" if difference.first == "anchor" else "fve_difference"
        metrics.put(name, difference.fve, "nothing differs between the two")


def _standard_error(estimate: Estimate) -> float | None:
    """From the width of a 95 % interval; None where a bound is not defined."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / (2 * Z)
