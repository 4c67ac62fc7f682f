"""The policy file: what a fine-tune must show to pass.

::

    baseline: releases/last/card.json     # optional; beside the policy
    rules:
      - classes.A.diff_simultaneous.low > -5
      - rule: benchmarks.gsm8k.delta.low > -0.02
        name: arithmetic holds
        severity: warn
        waiver: {reason: known since June, until: 2027-01-31}
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.gate_contradiction import Bounded, contradictions
from modeldiff_eval.gate_expression import Baseline, Expression, parse
from modeldiff_eval.records import Record
from modeldiff_eval.yaml_file import read_yaml_with_lines

MAX_RULES = 2000


class Waiver(Record):
    """A failing rule that is accepted for a stated reason, to the end of the day ``until``."""

    reason: str = Field(min_length=1)
    until: date


class PolicyRule(Record):
    """One rule of a policy; a rule given as text alone has severity "fail"."""

    rule: str
    name: str | None = None
    severity: Literal["fail", "warn"] = "fail"
    waiver: Waiver | None = None


class PolicyFile(Record):
    """The file as it is written."""

    version: Literal[1] = 1
    baseline: str | None = None
    rules: list[PolicyRule] = Field(min_length=1, max_length=MAX_RULES)


@dataclass(frozen=True)
class ReadRule:
    """A rule that was understood, and where it stands."""

    given: PolicyRule
    expression: Expression
    line: int

    @property
    def compares(self) -> bool:
        """Whether it needs a baseline."""
        return any(isinstance(term.bound, Baseline) for term in self.expression.terms)


@dataclass(frozen=True)
class Policy:
    """A policy that was understood. ``name`` is its file's name; ``baseline`` is a path beside the file."""

    name: str
    baseline: Path | None
    rules: list[ReadRule]


def read_policy(path: Path) -> Policy:
    """Read and understand a policy.

    Raises:
        UsageError: it cannot be read, has an unknown or wrong key, a rule that is none, or rules that can never pass together.
    """
    found, lines = read_yaml_with_lines(path, "policy", "rules", hint="See `modeldiff-eval policy init CARD` for one.")
    if not isinstance(found, dict):
        raise UsageError(f"{path}: a policy is a mapping with the key 'rules'. `modeldiff-eval policy init CARD` writes one.")  # fmt: skip
    rules = found.get("rules")
    if isinstance(rules, list):
        found = {**found, "rules": [{"rule": rule} if isinstance(rule, str) else rule for rule in rules]}
    try:
        file = PolicyFile.model_validate(found)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(path, problem, lines) for problem in error.errors()[:5])) from error
    read = [_read(path, rule, line) for rule, line in zip(file.rules, lines, strict=True)]
    bounded = [
        Bounded(f"line {rule.line}: {term}", term) for rule in read for term in rule.expression.terms
    ]  # fmt: skip
    for first, second in contradictions(bounded):
        raise UsageError(f"{path}: these cannot both pass:\n  {first}\n  {second}\nCorrect or remove one of them.")
    return Policy(
        name=path.name, baseline=path.parent / Path(file.baseline).expanduser() if file.baseline else None, rules=read
    )


def _read(path: Path, rule: PolicyRule, line: int) -> ReadRule:
    try:
        return ReadRule(given=rule, expression=parse(rule.rule), line=line)
    except UsageError as error:
        raise UsageError(f"{path}, line {line}: {error}") from error


def _explain(path: Path, problem: Any, lines: list[int]) -> str:
    """One pydantic error as "where: what, did you mean"."""
    place = list(problem["loc"])
    line = ""
    if len(place) > 1 and place[0] == "rules" and isinstance(place[1], int):
        line = f", line {lines[place[1]]}" if place[1] < len(lines) else ""
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in place)
    name = str(place[-1]) if place else ""
    if problem["type"] == "extra_forbidden":
        known = PolicyFile if len(place) == 1 else Waiver if "waiver" in place[:-1] else PolicyRule
        return f"{path}{line}: unknown key {where!r}.{did_you_mean(name, known.model_fields)} Known: {', '.join(known.model_fields)}."
    if problem["type"] == "missing":
        return f"{path}{line}: {where} is missing."
    if place == ["rules"] and problem["type"] == "too_short":
        return f"{path}: the list of rules is empty, so nothing would be checked."
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}{line}: {where}: {message[0].lower()}{message[1:]} (got {problem['input']!r:.80})."
