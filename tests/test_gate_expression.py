"""The language of rules: what it accepts, that writing and reading are inverse, and that nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldiff_eval.errors import UsageError
from modeldiff_eval.gate_expression import OPERATORS, Baseline, Expression, Key, Term, parse

names = st.one_of(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,8}", fullmatch=True), st.text(max_size=12))
first = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in ("and", "baseline"))
keys = st.one_of(st.just(Key("*")), names.map(lambda name: Key(name, quoted=name == "*")))
paths = st.builds(lambda head, tail: (Key(head), *tail), first, st.lists(keys, max_size=4))
numbers = st.floats(allow_nan=False, allow_infinity=False)
baselines = st.one_of(
    st.just(Baseline()),
    st.builds(Baseline, st.sampled_from("+-*"), numbers.map(abs)),
)
terms = st.one_of(
    st.builds(Term, paths, st.sampled_from(OPERATORS), st.one_of(numbers, baselines)),
    st.builds(Term, paths, st.sampled_from(("==", "!=")), st.text(max_size=12)),
)


def plain(expression: Expression) -> Expression:
    """Whether a name was quoted does not matter, except for a quoted ``*``."""
    return Expression(
        tuple(
            Term(tuple(Key(k.name, k.quoted and k.name == "*") for k in t.path), t.operator, t.bound)
            for t in expression.terms
        )
    )


@given(st.lists(terms, min_size=1, max_size=3).map(lambda t: Expression(tuple(t))))
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_read_again(expression: Expression) -> None:
    text = str(expression)
    assert text.isascii()
    assert "\n" not in text
    if len(text) > 1000:
        return
    again = parse(text)
    assert plain(again) == expression
    assert str(again) == text


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet='classes.A*baseline><=!+-*0123456789e_"\\[] and\n', max_size=60),
        st.lists(
            st.sampled_from(["a", ".", "*", '["', '"]', ">", ">=", "-", "5", "1e9", "and", "baseline", "\\", " "]),
            max_size=14,
        ).map("".join),
    )
)
@settings(deadline=None, max_examples=1500)
def test_any_text_is_a_rule_or_a_usage_error(text: str) -> None:
    try:
        found = parse(text)
    except UsageError as error:
        said = str(error)
    else:
        said = "column"
        assert parse(str(found)) == parse(str(parse(str(found))))
    assert "column" in said or "too long" in said


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("classes.A.diff_simultaneous.low > -5", "classes.A.diff_simultaneous.low > -5"),
        ("latents.tuned.specific<500", "latents.tuned.specific < 500"),
        ("categories.A.1.diff>=1_000.50", "categories.A.1.diff >= 1000.5"),
        ("a.b > baseline-2", "a.b > baseline - 2"),
        ("a.b >= baseline *.5", "a.b >= baseline * 0.5"),
        ('benchmarks["arena hard"].delta.low > 1e-3', 'benchmarks["arena hard"].delta.low > 0.001'),
        ('benchmarks["gsm8k"].n > 5', "benchmarks.gsm8k.n > 5"),
        ("benchmarks.5shot.n > 1", "benchmarks.5shot.n > 1"),
        ("classes.*.verdict != down and a == 1", "classes.*.verdict != down and a == 1"),
        ('a.verdict == "not covered"', 'a.verdict == "not covered"'),
    ],
)
def test_ways_of_writing(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "expected a path"),
        ("5 > 3", 1, "begins with a path"),
        ("a >", 4, "expected a number"),
        ("a > 1 or b > 2", 7, 'expected "and"'),
        ("a > 1 and", 10, "expected a path"),
        ("a ~ 1", 3, "not expected"),
        ("a > __import__('os')", 5, "expected a number"),
        ("a > 1e999", 5, "finite"),
        ("a > nan", 5, "needs a number"),
        ("a < down", 5, "needs a number"),
        ("*.diff > 1", 1, "expected a path"),
        ("a > baseline--2", 14, "without a sign"),
        ('a["x > 1', 2, "not expected"),
        ('a["\\x"] > 1', 1, "not a quoted text"),
        ("a > 1.2.3", 5, "expected a number"),
    ],
)
def test_what_is_no_rule_is_shown(text: str, column: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"column {column}: .*{said}") as found:
        parse(text)
    assert "classes.A.diff_simultaneous.low > -5" in str(found.value)


def test_a_rule_has_a_length() -> None:
    with pytest.raises(UsageError, match="too long"):
        parse("a" * 1001)
    assert Baseline("*", 2.0).of(3.0) == 6.0
    assert Baseline("-", 2.0).of(3.0) == 1.0
    assert Baseline().of(3.0) == 3.0
