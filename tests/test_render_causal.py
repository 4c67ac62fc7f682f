"""The causal panel in words: every figure with its interval, hostile names and answers as plain text."""

from __future__ import annotations

import re
from typing import Any

from sample_cards import HOSTILE
from sample_pages import CARDS, Page

from modeldiff_eval.records import CausalPanel
from modeldiff_eval.render import render_html, render_markdown
from modeldiff_eval.render_causal import causal_lines, causal_table, causal_view


def panel(**update: Any) -> CausalPanel:
    made = CARDS["plain"].causal
    assert made is not None
    return made.model_copy(update=update)


def section(name: str) -> str:
    html = render_html(CARDS[name])
    return html[html.index('<section aria-labelledby="causal">') : html.index('<section aria-labelledby="trust">')]


def test_the_sentences_say_what_was_done_and_with_which_interval() -> None:
    lines = causal_lines(panel())
    assert "4160 tokens of the assistant of 61 held-out prompts, beside 2 matched random sets" in lines[0]
    assert "0.210 (95 % 0.180 … 0.240) nats a token away from anchor" in lines[0]
    assert lines[1].startswith("All tuned-specific latents (2 latents): taken out of tuned")
    assert "changes by −0.0500 (95 % −0.0600 … −0.0400) nats a token, −23.8 % of it" in lines[1]
    assert "towards anchor, more than matched random latents do: difference −0.0520" in lines[1]
    assert "replaced by what anchor has in their place" in lines[2]
    assert lines[-1].startswith("mdx_refusal acc, 40 documents: 0.600 with the set, 0.400 with it taken out")


def test_where_nothing_is_told_apart_the_card_says_so() -> None:
    weak = []
    for row in panel().rows:
        effect = row.out and row.out.model_copy(update={"kl": row.out.kl.model_copy(update={"verdict": "unclear"})})
        weak.append(row.model_copy(update={"out": effect, "into": effect}))
    lines = causal_lines(panel(rows=weak, tasks=[]))
    assert lines[-1].startswith("No set moved tuned")
    assert not any("more than matched random latents do" in line for line in lines)
    assert "first candidates (no latent is specific" in causal_lines(panel(chosen="nearest"))[0]


def test_a_set_that_never_fires_has_dashes_and_not_zeros() -> None:
    view = causal_view(panel())
    assert view is not None
    assert view.rows[-1].effect is None
    assert "never active" in view.rows[-1].sentence
    header, rows = causal_table(panel())
    assert {len(row) for row in rows} == {len(header)}
    assert rows[-1][3] == "—"
    assert causal_view(None) is None


def test_every_row_has_its_sentence_on_the_page_and_the_gap_is_named_without_a_panel() -> None:
    text = Page(section("plain")).text
    view = causal_view(panel())
    assert view is not None
    for line in view.rows:
        assert re.sub(r"\s+", " ", line.sentence) in text
    assert "Causal check" in render_html(CARDS["minimal"])
    assert 'id="causal"' not in render_html(CARDS["minimal"])
    assert "Causal check" not in render_html(CARDS["plain"])


def test_hostile_answers_and_names_stay_text() -> None:
    html = section("full")
    assert "<script" not in html
    assert "<img" not in html
    text = Page(html).text
    assert text.count("<script>alert(1)</script>") >= 6
    assert HOSTILE.split("&")[0].strip() in text
    assert '<span class="ctl">RLO</span>' in html
    assert "<script" not in render_markdown(CARDS["full"])
