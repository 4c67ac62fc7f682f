"""The language of a policy's rules: paths, comparisons and "and". Nothing is evaluated but what is written here.

::

    rule      = term { "and" term }
    term      = path ( ">" | ">=" | "<" | "<=" | "==" | "!=" ) bound
    path      = key { "." key | '["' any text '"]' }          classes.A.diff.low, benchmarks["arena hard"].delta, classes.*.diff
    bound     = number | word | '"' any text '"' | "baseline" [ ( "+" | "-" | "*" ) number ]

``str(parse(text))`` is the rule in one way of writing it, and parses to the same rule.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from modeldiff_eval.errors import UsageError

MAX_LENGTH = 1000
"""Characters of a rule."""
ANY = "*"
OPERATORS = (">=", "<=", "==", "!=", ">", "<")

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.\["]))
    | (?P<baseline>baseline(?![\w.\["]))
    | (?P<path>[A-Za-z0-9_][\w-]*(?:\.(?:[A-Za-z0-9_][\w-]*|\*)|\["(?:[^"\\\n]|\\.)*"\])*)
    | (?P<text>"(?:[^"\\\n]|\\.)*")
    | (?P<operator>>=|<=|==|!=|>|<|\+|-|\*)
    )""",
    re.VERBOSE | re.ASCII,
)
_KEY = re.compile(r'\.?([A-Za-z0-9_][\w-]*|\*)|\[("(?:[^"\\\n]|\\.)*")\]', re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Key:
    """One step of a path; ``quoted`` keys are taken as they are, so ``["*"]`` is no wildcard."""

    name: str
    quoted: bool = False

    @property
    def wild(self) -> bool:
        """Whether it stands for every key."""
        return self.name == ANY and not self.quoted


Path = tuple[Key, ...]


@dataclass(frozen=True)
class Baseline:
    """The same path of the baseline card, moved or scaled by a number."""

    operator: str | None = None
    number: float = 0.0

    def of(self, value: float) -> float:
        """The bound for the baseline's ``value``."""
        if self.operator == "*":
            return value * self.number
        return value + (-self.number if self.operator == "-" else self.number)

    def __str__(self) -> str:
        return "baseline" if self.operator is None else f"baseline {self.operator} {shown(self.number)}"


Bound = float | str | Baseline


@dataclass(frozen=True)
class Term:
    """One comparison."""

    path: Path
    operator: str
    bound: Bound

    def __str__(self) -> str:
        return f"{path_text(self.path)} {self.operator} {bound_text(self.bound)}"


@dataclass(frozen=True)
class Expression:
    """A whole rule: every term must hold."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " and ".join(str(term) for term in self.terms)


def shown(value: float) -> str:
    """A number as a rule writes it: exact, without a superfluous ".0"."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def bound_text(bound: Bound) -> str:
    """A bound as a rule writes it."""
    if isinstance(bound, str):
        return bound if _WORD.fullmatch(bound) and bound not in ("and", "baseline") else json.dumps(bound)
    return str(bound) if isinstance(bound, Baseline) else shown(bound)


def path_text(path: Path) -> str:
    """A path as a rule writes it; names that are no plain words stand in brackets."""
    out = ""
    for key in path:
        if key.wild or _PLAIN.fullmatch(key.name):
            out += f".{key.name}" if out else key.name
        else:
            out += f"[{json.dumps(key.name)}]"
    return out


def parse(text: str) -> Expression:
    """The rule that ``text`` says.

    Raises:
        UsageError: it is no rule; the message has the column.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"A rule of {len(text)} characters is too long (at most {MAX_LENGTH}).")
    tokens = _Tokens(text)
    terms = [_term(tokens)]
    while (found := tokens.next()) is not None:
        if found != ("path", "and"):
            tokens.fail('expected "and" or the end of the rule')
        terms.append(_term(tokens))
    return Expression(tuple(terms))


class _Tokens:
    """The pieces of a rule, from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.start, self.end = text, 0, 0

    def peek(self) -> tuple[str, str] | None:
        """The next piece as (kind, text), or None at the end."""
        rest = self.text[self.end :]
        if not rest.strip():
            return None
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            self.start = self.end + len(rest) - len(rest.lstrip())
            self.fail(f"{self.text[self.start]!r} is not expected")
        self._match = match
        kind = str(match.lastgroup)
        return kind, match[kind]

    def next(self) -> tuple[str, str] | None:
        """The next piece, taken."""
        found = self.peek()
        if found is not None:
            self.start, self.end = self._match.start(found[0]), self._match.end()
        else:
            self.start = len(self.text)
        return found

    def fail(self, why: str) -> NoReturn:
        """Raise the usage error, with the column."""
        raise UsageError(
            f"{self.text!r}, column {self.start + 1}: {why}. A rule is PATH OPERATOR NUMBER, such as classes.A.diff_simultaneous.low > -5."
        )


def _term(tokens: _Tokens) -> Term:
    found = tokens.next()
    if found is None or found[0] not in ("path", "number") or found[1] == "and":
        tokens.fail("expected a path")
    if found[0] == "number":
        tokens.fail("a rule begins with a path, the number comes last")
    path = tuple(_keys(found[1], tokens))
    found = tokens.next()
    if found is None or found[0] != "operator" or found[1] not in OPERATORS:
        tokens.fail(f"expected one of {' '.join(OPERATORS)}")
    operator, bound = found[1], _bound(tokens)
    if isinstance(bound, str) and operator not in ("==", "!="):
        tokens.fail(f"{operator} needs a number, or baseline; words go with == and !=")
    return Term(path, operator, bound)


def _keys(text: str, tokens: _Tokens) -> Iterator[Key]:
    for match in _KEY.finditer(text):
        yield Key(match[1]) if match[1] is not None else Key(_unquoted(match[2], tokens), quoted=True)


def _unquoted(text: str, tokens: _Tokens) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        tokens.fail(f"{text} is not a quoted text (escapes are those of JSON)")
    return str(value)


def _bound(tokens: _Tokens) -> Bound:
    found = tokens.next()
    if found is None:
        tokens.fail("expected a number")
    kind, text = found
    if kind == "text":
        return _unquoted(text, tokens)
    if kind == "baseline":
        return _baseline(tokens)
    if kind == "number":
        return _number(text, tokens)
    if kind != "path" or not _WORD.fullmatch(text) or text == "and":
        tokens.fail("expected a number, a word, or baseline")
    return text


def _baseline(tokens: _Tokens) -> Baseline:
    following = tokens.peek()
    if following is not None and following[0] == "number" and following[1][0] in "+-":  # "baseline -2"
        tokens.next()
        return Baseline(following[1][0], _number(following[1][1:], tokens))
    if following is None or following[0] != "operator" or following[1] not in "+-*":
        return Baseline()
    tokens.next()
    number = tokens.next()
    if number is None or number[0] != "number" or number[1][0] in "+-":
        tokens.fail("expected a number without a sign")
    return Baseline(following[1], _number(number[1], tokens))


def _number(text: str, tokens: _Tokens) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        tokens.fail(f"{text} is not a finite number")
    return value
