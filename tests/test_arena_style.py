"""Style of answers: counts from text and metadata, and covariates that do not care which side is which."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from modeldiff_eval.arena_style import answers, counts_of_text, style_of

TEXT = """# Title
Some **bold** and __more__ text.
- one
* two
3. three
```python
# no header
- no item **no bold**
```
"""


def test_counts_of_a_text_leave_markup_in_code_out() -> None:
    length, headers, lists, bold = counts_of_text(TEXT)
    assert (headers, lists, bold) == (1, 3, 2)
    assert length > 30
    assert counts_of_text("") == (0, 0, 0, 0)
    assert counts_of_text("```\n# open to the end")[1] == 0


def test_texts_columns_and_metadata_agree() -> None:
    a, b = TEXT, "short\n# one\n## two\n"
    counts = [counts_of_text(text) for text in (a, b)]
    texts = pd.DataFrame({"output_1": [a, b], "output_2": [b, a]})
    chat = [
        [{"role": "user", "content": "ask"}, {"role": "assistant", "content": [{"type": "text", "text": t}]}]
        for t in (a, b)
    ]
    chats = pd.DataFrame({"conversation_a": chat, "conversation_b": chat[::-1]})
    keys = ("sum_assistant_{}_tokens", "header_count_{}", "list_count_{}", "bold_count_{}")
    sides = {"a": (0, 1), "b": (1, 0)}
    meta = [{key.format(s): counts[sides[s][row]][f] for f, key in enumerate(keys) for s in "ab"} for row in range(2)]
    expected = style_of(texts)
    assert expected[0] == ("length", "headers", "lists", "bold")
    for table in (chats, pd.DataFrame({"conv_metadata": meta}), pd.DataFrame(meta), pd.DataFrame(meta).astype(str)):
        names, values, why = style_of(table)
        assert names == expected[0]
        assert np.allclose(values, expected[1])
        assert why is None


def test_covariates_are_antisymmetric_and_have_size_one() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"len_a": rng.integers(0, 500, 200), "len_b": rng.integers(0, 500, 200)})
    names, values, why = style_of(table)
    _, other, _ = style_of(table.rename(columns={"len_a": "len_b", "len_b": "len_a"}))
    assert names == ("length",)
    assert np.allclose(values, -other)
    assert np.mean(values**2) == pytest.approx(1)
    assert why == "Style is length only; headers, lists, bold are not in the file"


@pytest.mark.parametrize("wrong", [-1, None, "many", float("inf")])
def test_a_count_that_is_none_is_said(wrong: object) -> None:
    names, values, why = style_of(pd.DataFrame({"len_a": [1, wrong], "len_b": [2, 3]}, dtype=object))
    assert names == ()
    assert values.shape == (2, 0)
    assert why is not None
    assert "1 of 2 battles have no valid length (the first is battle 2)" in why


def test_equal_style_everywhere_is_no_covariate() -> None:
    assert (
        style_of(pd.DataFrame({"len_a": [3, 0], "len_b": [3, 0]}))[2]
        == "The answers of every battle look alike in length and markup"
    )
    assert style_of(pd.DataFrame({"x": [1]}))[2] == "The battles carry neither style counts nor answers"


def test_answers_of_a_conversation() -> None:
    assert answers("text") == "text"
    assert answers([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": ["b"]}]) == "a\n\nb"
    for nothing in (None, 3, [], [{"role": "user", "content": "q"}], [{"role": "assistant", "content": None}]):
        assert answers(nothing) is None
