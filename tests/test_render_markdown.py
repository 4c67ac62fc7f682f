"""The card as Markdown: literal text, whole tables, never too long for a comment."""

from __future__ import annotations

import re

import pytest
from sample_pages import CARDS

from modeldiff_eval.records import ActivationSplit, Card
from modeldiff_eval.render import render_markdown
from modeldiff_eval.render_markdown import LIMIT
from modeldiff_eval.render_text import markdown


@pytest.fixture(params=list(CARDS))
def card(request: pytest.FixtureRequest) -> Card:
    return CARDS[request.param]


def test_markdown_is_literal_and_bounded(card: Card) -> None:
    text = render_markdown(card)
    assert len(text) <= LIMIT
    assert text.startswith("### modeldiff: ")
    assert "<script" not in text
    assert "<img" not in text
    assert "](http" not in text.replace("\\](", "")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_parts_of_the_text_are_a_table_of_their_own() -> None:
    rest = {"tokens": 1200, "documents": 31}
    change = {code: {"value": -3.4, "low": -5.1, "high": -1.6} for code in "ABCDEF"}
    split = {"split": "token kind", "part": "assistant <b>", **rest, "changes": change}
    card = CARDS["plain"].model_copy(update={"activation_by": [ActivationSplit.model_validate(split)]})
    (line,) = (line for line in render_markdown(card).splitlines() if line.startswith("| token kind"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["token kind: assistant &lt;b&gt;", "1200", "31"]
    assert "3 (−5 … −2)" in cells[3]
    assert cells[-1] == "not listed"
    assert "token kind" not in render_markdown(card.model_copy(update={"activation_by": None}))


def test_markdown_escapes_markup() -> None:
    assert markdown("a|b <i> `c` @you #1 [x](http://y)") == (
        "a\\|b &lt;i&gt; \\`c\\` @\u200byou \\#1 \\[x\\]\\(http:\u200b//y\\)"
    )
    assert markdown("- item\n") == "\u200b- item\u21b5"


def test_markdown_drops_the_least_important_when_too_long() -> None:
    card = CARDS["plain"]
    long = card.model_copy(update={"categories": card.categories * 30, "caveats": ["an important caveat"]})
    text = render_markdown(long)
    assert len(text) <= LIMIT
    assert "an important caveat" in text
    assert "A Safety" in text
    assert "did not fit" in text
    assert "Category number 7" not in text
    endless = long.model_copy(update={"classes": card.classes * 200})
    assert len(render_markdown(endless)) <= LIMIT
