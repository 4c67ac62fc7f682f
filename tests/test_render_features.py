"""What a reader does with the page: follows links, hovers over words, reads a sentence under each figure."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from sample_cards import full_card
from sample_extremes import with_maps
from sample_pages import CARDS, Page

from modeldiff_eval.records import ActivationSplit, Card, Estimate, LevelEstimate
from modeldiff_eval.render import render_html, render_markdown
from modeldiff_eval.render_glossary import TERMS, in_plain_words
from modeldiff_eval.render_latents import PAGED_LATENTS, latent_groups, strongest
from modeldiff_eval.render_maps import SHADES, histograms, nu_charts
from modeldiff_eval.render_said import said
from modeldiff_eval.render_terminal import print_terminal
from modeldiff_eval.render_view import (
    arena_more,
    benchmark_flips,
    benchmark_more,
    heat,
    largest_clear,
    verdict_line,
    weak_rows,
)


def test_every_class_category_and_latent_has_an_address() -> None:
    card = CARDS["plain"]
    ids = {attrs.get("id") for _, attrs in Page(render_html(card)).tags}
    wanted = {f"class-{row.code}" for row in card.classes} | {f"category-{row.code}" for row in card.categories}
    wanted |= {f"latent-{latent.model}-{latent.latent}" for latent in card.top_latents}
    assert {"class-A", "category-A.1", "latent-tuned-1037"} <= wanted <= ids


def test_every_word_with_a_hint_is_in_the_glossary() -> None:
    page = Page(render_html(CARDS["full"]))
    used = [attrs for attrs in page.all("a") if attrs.get("class") == "term"]
    assert {(attrs["href"] or "")[3:] for attrs in used} <= set(TERMS)
    assert len({attrs["href"] for attrs in used}) >= 15
    assert all(attrs["title"] == TERMS[(attrs["href"] or "")[3:]][1] for attrs in used)
    assert all(meaning in page.text for _, meaning in TERMS.values())


def test_sentences_count_what_the_record_says() -> None:
    """By hand from the sample: A rose, D fell, C E F G are unclear, B is not reached."""
    found = said(CARDS["plain"])
    assert found["classes"].startswith(
        "By the share of specific latents, Safety & Content Moderation rose and User Interaction Management fell; "
        "4 of 7 classes cannot be told from no change."
    )
    assert found["arena"].startswith("Of 5 arena categories, 2 rose, 1 fell and 2 cannot be told from no change.")
    assert found["benchmarks"] == "Of 4 benchmark figures, 1 rose, 1 fell and 2 cannot be told from no change."
    assert found["agreement"] == "Of 3 pairs, 1 agree, 1 disagree, and 1 cannot be judged because a side is unclear."
    assert "It does not reach Linguistic Capabilities" in found["coverage"]
    assert set(said(CARDS["minimal"]).values()) == {""}
    page = Page(render_html(CARDS["plain"])).text
    assert all(re.sub(r"\s+", " ", sentence) in page for sentence in found.values())


def test_a_class_without_a_number_is_undefined_and_not_called_unclear() -> None:
    """Where a class has no latent there was nothing to judge; it is not one more class without a change."""
    card, nothing = full_card(hostile=False), Estimate(value=None, low=None, high=None)
    rows = []
    for row in card.classes:
        if row.activation is None or row.code not in "CEF":
            rows.append(row)
            continue
        empty = row.activation.model_copy(update={"change": nothing, "verdict": "unclear"})
        rows.append(row.model_copy(update={"activation": empty, "diff": nothing, "verdict": "unclear"}))
    holed = card.model_copy(update={"classes": rows})
    assert said(holed)["classes"] == (
        "By the share of specific latents, Safety & Content Moderation rose and User Interaction Management fell; "
        "1 of 4 classes with a figure cannot be told from no change. On the same tokens, by activation, none of the 3 classes with a "
        "figure can be told from no change."
    )
    table, before = (
        Page(render_html(c).split('<table class="forest')[1].split("</table>")[0]).text for c in (holed, card)
    )
    assert (before.count("undefined"), table.count("undefined")) == (0, 6)
    assert before.count("n.s.") - table.count("n.s.") == sum(
        verdict == "unclear"
        for row in card.classes
        if row.code in "CEF"
        for verdict in (row.verdict, row.activation.verdict if row.activation else None)
    )
    assert "3 undefined" in verdict_line(holed)
    assert "| undefined |" in render_markdown(holed)


def test_what_has_no_number_is_nowhere_called_unclear() -> None:
    card, nothing = full_card(hostile=False), Estimate(value=None, low=None, high=None)
    assert card.arena is not None
    empty = {"diff": nothing, "verdict": "unclear", "activation": None, "change": None}
    arena = [row.model_copy(update={"delta": nothing, "verdict": "unclear"}) for row in card.arena.rows]
    holed = card.model_copy(
        update={
            "classes": [row.model_copy(update=empty) for row in card.classes],
            "categories": [row.model_copy(update=empty) for row in card.categories],
            "benchmarks": [
                b.model_copy(update={"delta": LevelEstimate(value=None, low=None, high=None), "verdict": "unclear"})
                for b in card.benchmarks
            ],
            "arena": card.arena.model_copy(update={"rows": arena}),
            "agreement": [],
            "not_significant": [],
            "causal": None,
            "probing": None,
        }
    )
    assert weak_rows(holed) == []
    assert said(holed)["arena"].startswith("Of 5 arena categories, 5 undefined.")
    page = Page(render_html(holed)).text.split("Glossary")[0]
    for said_of_one in ("are unclear by the share", "n.s. \u2014", "\u2014 n.s."):
        assert said_of_one not in page
    for width in (70, 140):
        out = io.StringIO()
        print_terminal(holed, Console(file=out, width=width), {})
        assert "n.s." not in out.getvalue()
        assert "undefined" in out.getvalue()
    assert "| n.s. |" not in render_markdown(holed)


def test_the_largest_change_by_kind_of_text_is_named() -> None:
    def split(part: str, value: float, half: float) -> ActivationSplit:
        change = Estimate(value=value, low=value - half, high=value + half)
        return ActivationSplit(split="token kind", part=part, tokens=9, documents=3, changes={"A": change})

    card = CARDS["plain"].model_copy(
        update={"activation_by": [split("user", 9.0, 10.0), split("assistant", -4.0, 1.0)]}
    )
    assert said(card)["parts"] == (
        "1 intervals exclude 0; the largest of them is Safety & Content Moderation on assistant (token kind), −4.0\u00a0% (−5.0 … −3.0)."
    )
    html = render_html(card)
    assert html.count('class="num tint hd4"') == 1
    assert 'class="num tint hu' not in html


def test_tints_only_where_zero_is_excluded() -> None:
    clear, open_ = Estimate(value=2.0, low=1.0, high=3.0), Estimate(value=9.0, low=-1.0, high=19.0)
    assert largest_clear([clear, open_, None]) == 2.0
    assert (heat(clear, 2.0), heat(clear, 8.0), heat(open_, 9.0), heat(None, 1.0)) == ("tint hu4", "tint hu2", "", "")
    assert heat(Estimate(value=-1.0, low=-2.0, high=-0.5), 8.0) == "tint hd1"


def test_histogram_bars_and_words_by_hand() -> None:
    first, empty = histograms(with_maps())
    assert [(bar.x, bar.width) for bar in first.bars] == [(0.0, 2.5), (47.5, 2.5), (50.0, 2.5), (97.5, 2.5)]
    heights = [bar.height for bar in first.bars]
    assert heights[2] == max(heights) < 100
    assert heights[1] == pytest.approx(heights[2] * 2.6031 / 3.4773, abs=0.1), "log10(401) against log10(3001)"
    assert "Of 3409 live latents 3400 lie near the middle" in first.said
    assert "2 below 0.1 (only base writes them) and 7 above 0.9" in first.said
    assert "12 more never fire" in first.said
    assert empty.said.startswith("No latent fires")


def test_nu_maps_from_the_record_and_without() -> None:
    base, tuned = nu_charts(with_maps())
    assert len(base.cells) == 3
    assert [cell.shade for cell in base.cells] == [2, 1, SHADES], "rows of low nu come first; log counts 3, 1 and 900"
    assert (base.cells[-1].x, base.cells[-1].y) == (70.0, 20.0)
    assert "909 latents have both figures; 4 lie below one half on both axes" in base.said
    assert tuned.cells == []
    assert {dot.model for dot in base.dots} == {"base"}
    (alone,) = nu_charts(CARDS["plain"])
    assert "Only the 5 latents listed" in alone.said
    assert nu_charts(CARDS["minimal"]) == []


def test_paper_shows_one_latent_of_every_class_first() -> None:
    groups = latent_groups(CARDS["plain"])
    shown = strongest(groups)
    assert [group.code for group in shown] == [group.code for group in groups]
    assert sum(len(group.rows) for group in shown) <= PAGED_LATENTS
    assert all(group.rows[0] == whole.rows[0] for group, whole in zip(shown, groups, strict=True))
    assert strongest([]) == []


def test_what_paired_rows_and_battles_add_is_shown_when_it_is_there() -> None:
    bench, arena = CARDS["plain"].benchmarks[0], CARDS["plain"].arena
    assert arena is not None
    assert benchmark_more(bench) == arena_more(arena.rows[0]) == []
    flip = SimpleNamespace(document="7", base=1.0, tuned=0.0)
    more: Any = SimpleNamespace(
        task="t", metric="acc", wins=12, ties=3, losses=20, p_mcnemar=0.03, higher_is_better=False, flips=[flip]
    )
    assert benchmark_more(more) == [
        "less is better",
        "tuned higher on 12, lower on 20, equal on 3",
        "exact McNemar p 0.030",
    ]
    assert benchmark_flips([bench, more]) == [("t \u00b7 acc", [flip])]
    rate = Estimate(value=61.0, low=55.0, high=67.0)
    battles: Any = SimpleNamespace(win_rate=rate, base_battles=805, tuned_battles=12)
    assert arena_more(battles) == ["tuned wins 61.0 % (55.0 \u2026 67.0)", "805 and 12 battles"]


def test_plain_caveats_apply_to_this_card() -> None:
    few = " ".join(in_plain_words(CARDS["plain"]))
    assert "block 20" in few
    assert "misses 14 %" in few
    assert "arena interval" in few
    none = " ".join(in_plain_words(CARDS["minimal"]))
    assert "block" not in none
    assert "arena" not in none


def test_sortable_tables_have_plain_headers() -> None:
    """The script takes the last column under a header; each header must stand in the one header row."""
    html = render_html(CARDS["full"])
    found = re.findall(r"<table[^>]* data-sort>.*?</table>", html, re.S)
    assert len(found) == 3
    for table in found:
        assert len(re.findall(r"<tr", re.findall(r"<thead>.*?</thead>", table, re.S)[0])) == 1


def test_old_records_still_load(tmp_path: object) -> None:
    record = CARDS["plain"].model_dump(by_alias=True)
    del record["delta_norm_histogram"], record["nu_maps"]
    old = Card.model_validate(record)
    assert "Histogram of Δ norm: not listed in this record" in Page(render_html(old)).text
