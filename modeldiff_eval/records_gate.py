"""The records of a gate's verdict, rule by rule."""

from typing import Literal

from modeldiff_eval.records_base import CardRecord, Estimate

GateVerdict = Literal["pass", "fail", "inconclusive"]


class Rule(CardRecord):
    """One gate rule and what it saw.

    ``value`` is the number that decided (None where it is missing, or a word: ``word``), at the path ``at``, of the estimate
    ``interval`` and over ``n`` items where there are such. ``bound`` is what it had to pass. A rule of severity "warn", or
    one that is ``waived``, leaves the gate's verdict alone.
    """

    rule: str
    value: float | None
    verdict: GateVerdict
    name: str | None = None
    severity: Literal["fail", "warn"] = "fail"
    waived: bool = False
    at: str | None = None
    bound: str | None = None
    word: str | None = None
    interval: Estimate | None = None
    n: int | None = None
    notes: list[str] = []
    line: int | None = None
    """Line of the policy file."""

    @property
    def counts(self) -> bool:
        """Whether the gate's verdict rests on this rule."""
        return self.severity == "fail" and not self.waived


class Gate(CardRecord):
    """The gate's verdict over all rules."""

    verdict: GateVerdict
    rules: list[Rule]
    policy: str | None = None
    baseline: str | None = None
    checked: str | None = None
    """The day on which waivers were looked at."""
    fast: bool = False
    """Decided on a small budget: a bound that the interval straddles is inconclusive."""
    notes: list[str] = []
