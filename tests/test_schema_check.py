"""The rules of a reply's shape, and that no rule is skipped in silence."""

from __future__ import annotations

import random
from typing import Any

import pytest
from asking import SCHEMA
from hypothesis import given
from hypothesis import strategies as st
from mock_messages import fill, spoiled

from modeldiff_eval.redact import HIDDEN, redact
from modeldiff_eval.schema_check import check, check_schemas

WIDE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "patterns": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        "category": {"anyOf": [{"enum": ["A", "B"]}, {"type": "null"}]},
        "fires": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 5}, "uniqueItems": True},
        "sure": {"type": ["boolean", "null"]},
    },
    "required": ["name", "patterns"],
}


@given(st.integers(0, 10_000))
def test_what_fits_fits_and_what_is_spoiled_does_not(seed: int) -> None:
    made = fill(SCHEMA, random.Random(seed))
    assert check(made, SCHEMA) == []
    assert check(spoiled(made, SCHEMA), SCHEMA)


@pytest.mark.parametrize(
    ("value", "where", "wanted"),
    [
        ({"patterns": ["x"]}, "the reply", "must have name"),
        ({"name": "", "patterns": ["x"]}, "name", "must have at least 1 characters"),
        ({"name": "n", "patterns": []}, "patterns", "must have at least 1 items"),
        ({"name": "n", "patterns": ["x", 3]}, "patterns[1]", "must be of type string"),
        ({"name": "n", "patterns": ["x"] * 4}, "patterns", "must have at most 3 items"),
        ({"name": "n", "patterns": ["x"], "category": "Z"}, "category", "must have one of 2 shapes"),
        ({"name": "n", "patterns": ["x"], "fires": [1, 1]}, "fires", "must have no item twice"),
        ({"name": "n", "patterns": ["x"], "fires": [6]}, "fires[0]", "must be at most 5"),
        ({"name": "n", "patterns": ["x"], "fires": [True]}, "fires[0]", "must be of type integer"),
        ({"name": "n", "patterns": ["x"], "sure": 1}, "sure", "must be of type boolean or null"),
        ([], "the reply", "must be of type object"),
    ],
)
def test_each_rule(value: Any, where: str, wanted: str) -> None:
    problems = check(value, WIDE)
    assert [(p.where, p.wanted) for p in problems] == [(where, wanted)]


def test_numbers_must_be_finite_and_true_is_no_number() -> None:
    number = {"type": "number", "minimum": 0}
    assert not check(0.5, number)
    assert not check(1, number)
    assert check(float("nan"), number)
    assert check(True, number)
    assert check(1, {"enum": [True]})


def test_strangers_are_refused() -> None:
    reply = {"category": "A.01", "reason": "r", "confidence": 0.5}
    assert check(reply, SCHEMA) == []
    assert "nothing but" in str(check(reply | {"label": "x"}, SCHEMA)[0])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {}},
        {"type": "object", "properties": {"a": {"$ref": "#/x"}}},
        {"type": "array", "items": {"type": "text"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"anyOf": [{"not": {}}]},
    ],
)
def test_a_rule_that_is_not_known_is_an_error(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        check_schemas([SCHEMA, schema])


def test_keys_are_hidden() -> None:
    key = "sk-ant-api03-abcdefghijkl-mnopqrst"
    for text in (f"invalid x-api-key: {key}", f"Authorization: Bearer {key}", f"{{'api_key': '{key}'}}"):
        assert key not in redact(text)
        assert HIDDEN in redact(text)
    assert "pa55word" not in redact("http://me:pa55word@host:80/v1")
    assert redact("plain secretkey here", "secretkey") == f"plain {HIDDEN} here"
    assert redact("a sk-ill and a task-force") == "a sk-ill and a task-force"
