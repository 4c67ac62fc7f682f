"""Every field of a reply: what is taken, what is refused, and that nothing of a reply is repeated to the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import choice, description

from modeldiff_eval.reply_fields import (
    Choice,
    Description,
    Unusable,
    plain,
    read_category,
    read_confidence,
    read_description,
    read_label,
)
from modeldiff_eval.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def test_a_right_answer() -> None:
    found = read_description(description("Polite apologies"))
    assert isinstance(found, Description)
    assert found.label == "Polite apologies"
    assert found.patterns == ("the speaker is sorry",)
    assert read_category(choice("A.2"), TAXONOMY) == Choice(
        category="A.2", confidence=0.8, reason="the definition fits"
    )
    assert read_category(choice("None"), TAXONOMY) == Choice(
        category=None, confidence=0.8, reason="the definition fits"
    )


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "missing"), ("", "missing"), (3, "missing"), ("...", "no word"),
        ("one two three four five six", "6 words"), ("x" * 61, "61 characters"),
        ("<b>bold</b>", "markup"), ("**bold**", "markup"), ("[a](b)", "markup"), ("see http://x.y", "markup"),
        ("mark ⟦x⟧", "markup"), ("a\x00b", "control"), ("a\u202eb", "control"), ("two\nlines", "control"),
        ("zero\u200bwidth", "control"),
    ],
)  # fmt: skip
def test_labels_that_are_refused(label: object, said: str) -> None:
    found = read_description(description() | {"label": label})
    assert isinstance(found, Unusable)
    assert found.field == "label"
    assert said in found.fault
    assert "1 to 5 words" in found.complaint


@pytest.mark.parametrize(
    ("label", "read"),
    [
        ('"Polite apologies."', "Polite apologies"),
        ("  a   b ", "a b"),
        ("C# code", "C# code"),
        ("Größe & Maß", "Größe & Maß"),
    ],
)
def test_labels_that_are_tidied(label: str, read: str) -> None:
    assert read_label(label) == read


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", None), ("description", "  "), ("description", "x" * 801), ("description", ["x"]),
        ("confidence", "sure"), ("confidence", None), ("confidence", 0.7), ("confidence", ["high"]),
        ("patterns", "one"), ("patterns", [1]), ("patterns", None),
    ],
)  # fmt: skip
def test_other_fields_of_step_1(field: str, value: object) -> None:
    found = read_description(description() | {field: value})
    assert isinstance(found, Unusable)
    assert found.field == field


def test_asides_are_cut_and_cleaned_not_refused() -> None:
    found = read_description(
        description() | {"reason": "r" * 5000 + "\x07", "patterns": ["<script>p</script>" * 100, "", *"abcdefghij"]}
    )
    assert isinstance(found, Description)
    assert len(found.reason) == 400
    assert len(found.patterns[0]) == 240
    assert "<" not in found.patterns[0]
    assert len(found.patterns) == 7


def test_prose_loses_markup_links_and_hidden_characters() -> None:
    assert plain("a <b>`c`</b> **d**\n\u202ee") == "a ‹b›'c'‹/b› d e"
    assert plain("see https://evil.example/x?y and www.evil.example or javascript:alert(1)") == (
        "see (link) and (link) or (link)"
    )
    assert plain("training data: numbers, ratio 3:1") == "training data: numbers, ratio 3:1"
    assert "](" not in plain("[text](target)")


@pytest.mark.parametrize("code", ["A.99", "a.2", "", None, 4, "Safety", ["A.2"]])
def test_a_category_outside_of_the_taxonomy_is_refused(code: object) -> None:
    found = read_category(choice() | {"category": code}, TAXONOMY)
    assert isinstance(found, Unusable)
    assert found.field == "category"


def test_a_near_code_is_suggested_to_the_reader_only() -> None:
    found = read_category(choice("A.22"), TAXONOMY)
    assert isinstance(found, Unusable)
    assert "Did you mean 'A.2'" in found.failure
    assert "A.22" not in found.complaint


@pytest.mark.parametrize(
    ("value", "read"), [(0, 0.0), (1, 1.0), (0.25, 0.25), ("0.5", 0.5), ("high", 0.9), (" Low ", 0.25)]
)
def test_confidence(value: object, read: float) -> None:
    assert read_confidence(value) == read


@pytest.mark.parametrize("value", [True, None, -0.1, 1.01, 80, "80%", "nan", float("nan"), float("inf"), "sure", [0.5]])
def test_confidence_that_is_no_probability(value: object) -> None:
    assert isinstance(read_confidence(value), Unusable)


@settings(deadline=None, max_examples=300)
@given(JSON, st.sampled_from(["label", "description", "patterns", "confidence", "reason"]))
def test_no_value_of_any_field_breaks_the_reader(value: Any, field: str) -> None:
    found = read_description(description() | {field: value})
    assert isinstance(found, Description | Unusable)
    if isinstance(found, Description):
        json.dumps(found.model_dump()).encode()
        assert not any(sign in found.label + found.description + found.reason for sign in "<>`\n\x00")
    assert isinstance(read_category(choice() | {field: value}, TAXONOMY), Choice | Unusable)


@pytest.mark.parametrize("reply", [None, [], "text", 3])
def test_what_is_no_object(reply: Any) -> None:
    assert isinstance(read_description(reply), Unusable)
    assert isinstance(read_category(reply, TAXONOMY), Unusable)
