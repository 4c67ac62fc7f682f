"""How a gate's verdict is said: the same words in text, Markdown, JUnit XML and annotations."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from modeldiff_eval.records import Estimate, Gate, Rule
from modeldiff_eval.render_text import interval, number, visible

Result = Literal["FAIL", "INCONCLUSIVE", "WARNING", "WAIVED", "UNDECIDED", "PASS"]
ORDER: tuple[Result, ...] = ("FAIL", "INCONCLUSIVE", "WARNING", "WAIVED", "UNDECIDED", "PASS")
"""Failing first. An undecided rule is an inconclusive one of severity warn."""


def result(rule: Rule) -> Result:
    """What became of a rule, in a word."""
    if rule.verdict == "pass":
        return "PASS"
    if rule.waived:
        return "WAIVED"
    if rule.verdict == "fail":
        return "FAIL" if rule.severity == "fail" else "WARNING"
    return "INCONCLUSIVE" if rule.severity == "fail" else "UNDECIDED"


def ordered(gate: Gate) -> list[Rule]:
    """The rules, failing first, otherwise as in the policy."""
    return sorted(gate.rules, key=lambda rule: ORDER.index(result(rule)))


def headline(gate: Gate) -> str:
    """``FAIL (1 of 6 rules)``."""
    deciding = {"fail": "FAIL", "inconclusive": "INCONCLUSIVE", "pass": "PASS"}[gate.verdict]
    own = sum(result(rule) == deciding for rule in gate.rules)
    return f"{deciding} ({own} of {len(gate.rules)} rule{'s' if len(gate.rules) != 1 else ''})"


def counts(gate: Gate) -> str:
    """``1 fail, 2 inconclusive, 1 waived, 5 pass``."""
    found = Counter(result(rule) for rule in gate.rules)
    return ", ".join(f"{found[word]} {word.lower()}" for word in ORDER if found[word])


def rule_text(rule: Rule) -> str:
    """The rule with its name."""
    said = visible(rule.rule, limit=400)
    return f"{visible(rule.name, limit=100)}: {said}" if rule.name else said


def seen_text(rule: Rule) -> str:
    """What the rule saw, with interval and n, and where it looked if the rule names many places."""
    if rule.word is not None:
        said = visible(rule.word, limit=100)
    elif rule.value is None:
        said = "not measured"
    else:
        said = _number(rule.value, signed=rule.interval is not None)
    if rule.interval is not None and (rule.interval.low, rule.interval.high) != (None, None):
        level = getattr(rule.interval, "level", 0.95)
        said += f" ({number(100 * level, 0)}\u00a0% {range_text(rule.interval)})"
    if rule.n is not None:
        said += f", n {number(rule.n, 0)}"
    if rule.at is not None and not rule.rule.startswith(f"{rule.at} "):
        said += f" at {visible(rule.at, limit=200)}"
    return said


def range_text(found: Estimate) -> str:
    """Both bounds, with more decimals where they are small."""
    large = max((abs(bound) for bound in (found.low, found.high) if bound is not None), default=0.0)
    return interval(found, 1 if large >= 100 else 2 if large >= 1 else 3)


def notes_text(rule: Rule) -> str:
    """The notes as one sentence, or nothing."""
    return "; ".join(visible(note, limit=400) for note in rule.notes)


def said(rule: Rule) -> str:
    """What it saw and why that decides, in one line."""
    bound = f", wanted {visible(rule.bound, limit=200)}" if rule.bound else ""
    notes = notes_text(rule)
    return f"saw {seen_text(rule)}{bound}{f'; {notes}' if notes else ''}"


def ci_safe(text: str) -> str:
    """Text for a build log, in which no line can be taken for a command of the runner (``::name::``, ``##[name]``)."""
    lines = (line if not line.lstrip().startswith("::") else f"\u200b{line}" for line in text.split("\n"))
    return "\n".join(lines).replace("##[", "##\u200b[").replace("##vso[", "##\u200bvso[")


def _number(value: float, *, signed: bool) -> str:
    if value.is_integer() and not signed:
        return number(value, 0)
    digits = 1 if abs(value) >= 10 else 3 if abs(value) >= 0.01 or value == 0 else 6
    return number(value, digits, signed=signed)
