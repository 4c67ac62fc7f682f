"""A card against a policy: one :class:`~modeldiff_eval.records.Gate`, from which text, JSON, JUnit XML and exit code are made.

The verdict is "fail" where a rule of severity fail fails and is not waived, else "inconclusive" where one could not be
decided, else "pass". A term with ``*`` is as good as its worst row, a rule as its worst term.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Literal

from modeldiff_eval.errors import UsageError
from modeldiff_eval.gate_baseline import require_comparable
from modeldiff_eval.gate_decide import Decision, decide
from modeldiff_eval.gate_expression import Baseline, Term
from modeldiff_eval.gate_policy import Policy, ReadRule
from modeldiff_eval.gate_target import Seen, look_up
from modeldiff_eval.records import Card, Gate, GateVerdict, Rule
from modeldiff_eval.render_text import visible

_WORST: tuple[GateVerdict, ...] = ("fail", "inconclusive", "pass")


def check_card(
    card: Card,
    policy: Policy,
    *,
    baseline: Card | None = None,
    baseline_name: str | None = None,
    today: date | None = None,
    fast: bool = False,
    notes: tuple[str, ...] = (),
) -> Gate:
    """The verdict of ``policy`` over ``card``.

    Args:
        baseline: the card that rules with ``baseline`` look at.
        today: for waivers; by UTC if left out.
        fast: the card is of a small budget (:mod:`modeldiff_eval.gate_decide`).
        notes: what else whoever reads the verdict should know.

    Raises:
        UsageError: a rule names what no card can have, compares what cannot be compared, or needs a baseline that is not
            there or is of another kind.
    """
    today = today or datetime.now(UTC).date()
    notes = (*notes, *(require_comparable(card, baseline) if baseline else ()))
    if baseline is None and (needing := [rule for rule in policy.rules if rule.compares]):
        raise UsageError(
            f"{policy.name}, line {needing[0].line}: the rule compares with a baseline, and there is none. Give --baseline CARD, or "
            "'baseline: CARD' in the policy."
        )
    rules = [_rule(card, rule, policy, baseline, today, fast=fast) for rule in policy.rules]
    return Gate(
        verdict=_overall(rules),
        rules=rules,
        policy=policy.name,
        baseline=baseline_name if baseline else None,
        checked=today.isoformat(),
        fast=fast,
        notes=list(notes),
    )


def exit_code(gate: Gate, *, strict: bool) -> Literal[0, 1, 4]:
    """0 pass, 1 fail, 4 inconclusive where that is asked for."""
    if gate.verdict == "fail":
        return 1
    return 4 if gate.verdict == "inconclusive" and strict else 0


def places_of(card: Card, rule: ReadRule, policy: Policy) -> list[Seen]:
    """Every place that a rule looks at, after the comparison was tried on it.

    Raises:
        UsageError: as :func:`check_card`.
    """
    try:
        found = [(term, seen) for term in rule.expression.terms for seen in look_up(card, term.path)]
        for term, seen in found:
            decide(term, seen)
    except UsageError as error:
        raise UsageError(f"{policy.name}, line {rule.line}: {error}") from error
    return [seen for _, seen in found]


def _overall(rules: list[Rule]) -> GateVerdict:
    found = {rule.verdict for rule in rules if rule.counts}
    return next((verdict for verdict in _WORST if verdict in found), "pass")


def _rule(card: Card, rule: ReadRule, policy: Policy, baseline: Card | None, today: date, *, fast: bool) -> Rule:
    try:
        worst = min(
            (d for term in rule.expression.terms for d in _term(card, term, baseline, fast=fast)),
            key=lambda d: (_WORST.index(d.verdict), d.margin),
        )
    except UsageError as error:
        raise UsageError(f"{policy.name}, line {rule.line}: {error}") from error
    waived, notes = _waiver(rule, worst.verdict, today)
    seen = worst.seen
    whole = seen.kind == "estimate" and seen.estimate is not None
    return Rule(
        rule=str(rule.expression),
        value=seen.estimate.value if whole and seen.estimate else seen.number,
        verdict=worst.verdict,
        name=rule.given.name,
        severity=rule.given.severity,
        waived=waived,
        at=seen.path,
        bound=worst.bound,
        word=seen.word,
        interval=seen.estimate,
        n=seen.n,
        notes=[*worst.notes, *notes],
        line=rule.line,
    )


def _term(card: Card, term: Term, baseline: Card | None, *, fast: bool) -> list[Decision]:
    places = look_up(card, term.path)
    if not isinstance(term.bound, Baseline):
        return [decide(term, seen, fast=fast) for seen in places]
    if baseline is None:
        raise UsageError("the rule compares with a baseline, and there is none.")
    # A row that only one of the two cards has cannot be shown to be no worse: it is looked up, and missing, in the other.
    before = {seen.keys: seen for seen in look_up(baseline, term.path)}
    pairs = [(seen, before[seen.keys] if seen.keys in before else _same(baseline, seen)) for seen in places]
    own = {seen.keys for seen in places}
    pairs += [(_same(card, held), held) for keys, held in before.items() if keys not in own and not held.missing]
    return [decide(term, seen, held, fast=fast) for seen, held in pairs]


def _same(card: Card, place: Seen) -> Seen:
    """The same place in the other card."""
    try:
        return look_up(card, place.keys)[0]
    except UsageError as error:
        return replace(place, number=None, word=None, estimate=None, missing=str(error))


def _waiver(rule: ReadRule, verdict: GateVerdict, today: date) -> tuple[bool, list[str]]:
    """Whether the rule's failure is waived today, and what is to be said about the waiver."""
    waiver = rule.given.waiver
    if waiver is None:
        return False, []
    expired = waiver.until < today
    if verdict == "pass":
        return False, [f"the waiver{' (expired)' if expired else ''} is not needed: the rule passes"]
    reason = visible(waiver.reason, limit=300)
    if expired:
        return False, [f"the waiver expired on {waiver.until.isoformat()}, so the rule counts ({reason})"]
    return True, [f"waived until {waiver.until.isoformat()}: {reason}"]
