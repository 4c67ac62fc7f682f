"""One comparison against what a card holds: pass, fail, or inconclusive with the reason.

A rule that names a bound (``.low``, ``.high``), a count or a quality is decided by that number. A rule that names a whole
estimate is decided by its interval: pass where all of it satisfies the comparison, fail where none of it does, else
inconclusive. ``.value`` alone is allowed, and said to ignore the uncertainty. On a small budget (``fast``) bounds and values
are decided by the interval as well, and counts of latents decide nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.gate_expression import Baseline, Term, bound_text
from modeldiff_eval.gate_target import Seen
from modeldiff_eval.gate_words import range_text
from modeldiff_eval.records import Estimate, GateVerdict
from modeldiff_eval.render_text import compact, visible

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
BY_VALUE = "decided by the value alone, without its interval"


@dataclass(frozen=True)
class Decision:
    """The verdict of one comparison at one place; ``margin`` is how far the number is on the right side of the bound."""

    verdict: GateVerdict
    seen: Seen
    bound: str
    margin: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Range:
    """A bound that may itself be uncertain: the baseline's interval."""

    low: float | None
    high: float | None


def decide(term: Term, seen: Seen, before: Seen | None = None, *, fast: bool = False) -> Decision:
    """Compare what the card holds with the term's bound.

    Args:
        before: the same place in the baseline card, for terms with ``baseline``.
        fast: the card is of a small budget.

    Raises:
        UsageError: the comparison makes no sense for what is named.
    """
    _check_kinds(term, seen)
    shown = f"{term.operator} {visible(bound_text(term.bound), limit=100)}"
    if isinstance(term.bound, Baseline) and before is not None:
        held = before.estimate if before.kind == "estimate" else before.number
        shown += f" (baseline {_shown(held)})"
    if seen.missing:
        return Decision("inconclusive", seen, shown, notes=(seen.missing,))
    if isinstance(term.bound, str):
        return Decision(_verdict((seen.word == term.bound) == (term.operator == "==")), seen, shown)
    if isinstance(term.bound, Baseline) and (before is None or before.missing):
        why = before.missing if before is not None else "there is nothing to compare"
        return Decision("inconclusive", seen, shown, notes=(f"baseline: {why}",))
    if seen.kind == "word":
        same = before is not None and seen.word == before.word
        return Decision(_verdict(same == (term.operator == "==")), seen, shown)
    bound = _bound(term.bound, before)
    if seen.kind == "estimate" or (fast and seen.part in ("value", "low", "high")):
        return _by_interval(term, seen, bound, shown)
    if seen.number is None or bound.low is None:
        raise AssertionError("a number that is not missing is there")
    if fast and seen.path.startswith("latents.") and not seen.path.endswith("null_rate"):
        return Decision("inconclusive", seen, shown, notes=("a small budget does not count latents",))
    side = -1.0 if term.operator in ("<", "<=") else 1.0
    verdict = _verdict(OPERATORS[term.operator](seen.number, bound.low))
    notes = (BY_VALUE,) if seen.part == "value" else ()
    return Decision(verdict, seen, shown, side * (seen.number - bound.low), notes)


def _check_kinds(term: Term, seen: Seen) -> None:
    bound = term.bound
    if seen.kind == "word":
        if isinstance(bound, Baseline) and bound.operator is None and term.operator in ("==", "!="):
            return
        if not isinstance(bound, str):
            raise UsageError(f"{seen.path} is a word: compare it by == or != with one, such as {_words(seen)}.")
        if seen.words and bound not in seen.words:
            raise UsageError(f"{seen.path} is never {bound!r}.{did_you_mean(bound, seen.words)} It is {_words(seen)}.")
    elif isinstance(bound, str):
        raise UsageError(f"{seen.path} is a number, but the rule compares it with the word {bound!r}.")
    elif seen.kind == "estimate" and term.operator in ("==", "!="):
        raise UsageError(f"{seen.path} is an estimate with an interval: {term.operator} cannot be decided. Use < or >.")


def _words(seen: Seen) -> str:
    return ", ".join(bound_text(word) for word in seen.words) or '"a text"'


def _bound(bound: float | Baseline, before: Seen | None) -> Range:
    if not isinstance(bound, Baseline):
        return Range(bound, bound)
    if before is None:
        return Range(None, None)
    if before.kind == "estimate" and before.estimate is not None:
        ends = [None if end is None else bound.of(end) for end in (before.estimate.low, before.estimate.high)]
        if bound.operator == "*" and bound.number < 0:
            ends.reverse()
        return Range(ends[0], ends[1])
    number = None if before.number is None else bound.of(before.number)
    return Range(number, number)


def _by_interval(term: Term, seen: Seen, bound: Range, shown: str) -> Decision:
    """Pass or fail only where the whole interval agrees. A bound with an interval of its own must lie apart from it."""
    found = seen.estimate
    if found is None:
        raise AssertionError("an estimate that is not missing is there")
    falls = term.operator in ("<", "<=")
    near, far = (found.high, found.low) if falls else (found.low, found.high)
    hard, easy = (bound.low, bound.high) if falls else (bound.high, bound.low)
    holds = OPERATORS[term.operator]
    margin = 0.0 if near is None or hard is None else (hard - near if falls else near - hard)
    if near is not None and hard is not None and holds(near, hard):
        return Decision("pass", seen, shown, margin)
    if far is not None and easy is not None and not holds(far, easy):
        return Decision("fail", seen, shown, margin)
    open_end = near is None or far is None or hard is None or easy is None
    why = "a bound of the interval is missing" if open_end else f"the interval {range_text(found)} lies on both sides"
    return Decision("inconclusive", seen, shown, margin, (why,))


def _shown(held: Estimate | float | None) -> str:
    if isinstance(held, Estimate):
        return f"{compact(held.value, signed=True)}, {range_text(held)}"
    return "not measured" if held is None else compact(held)


def _verdict(holds: bool) -> GateVerdict:
    return "pass" if holds else "fail"
