"""Cards with too much in them, or nothing: still one page for everyone, still small, still safe."""

from __future__ import annotations

import re
import unicodedata

import pytest
from sample_extremes import EXTREMES, LINE, NAME_200
from sample_pages import INVISIBLE, Page

from modeldiff_eval.records import Card
from modeldiff_eval.render import render_html, render_markdown
from modeldiff_eval.render_markdown import LIMIT


@pytest.fixture(params=list(EXTREMES), scope="module")
def card(request: pytest.FixtureRequest) -> Card:
    return EXTREMES[request.param]()


@pytest.mark.parametrize("paper", [None, "a4"])
def test_the_page_is_whole_small_and_safe(card: Card, paper: str | None) -> None:
    html = render_html(card, paper="a4" if paper else None)
    page = Page(html)
    assert len(html.encode()) < 1_000_000
    assert "x" * 5000 not in html
    assert html.count("<script") == (0 if paper else 1)
    assert not {c for c in html if unicodedata.category(c) in INVISIBLE} - {"\n", "\u200d", "\u200c"}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name or "") for name in ids)
    assert {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")} <= set(ids)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_the_markdown_fits(card: Card) -> None:
    text = render_markdown(card)
    assert len(text) <= LIMIT
    assert "x" * 5000 not in text


def test_five_hundred_latents_are_all_in_the_table_and_the_first_have_examples() -> None:
    page = Page(render_html(EXTREMES["500 latents"]()))
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {f"latent-{'tuned' if i % 6 % 2 else 'base'}-{i}" for i in range(500)} <= ids
    assert sum(tag == "article" for tag, _ in page.tags) == 60
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "data-side" in attrs]
    assert len(rows) == 500
    assert sum("id" in attrs for attrs in rows) == 440, "the others are addressed where their examples are"


def test_nothing_is_cut_without_saying_so() -> None:
    text = Page(render_html(EXTREMES["long names"]())).text
    assert NAME_200[:150] in text
    assert LINE not in text
    assert text.count("\u2026") > 5


def test_other_scripts_are_isolated() -> None:
    html = render_html(EXTREMES["other scripts"]())
    assert html.count("<bdi>") > 10
    assert "<bdi>\u0647\u0630\u0627" in html
