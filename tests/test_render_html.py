"""The card as HTML: structured, safe against its own contents, and honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from itertools import pairwise

import pytest
from sample_cards import BIDI, HOSTILE, MARKUP
from sample_pages import CARDS, INVISIBLE, Page

from modeldiff_eval.records import Card, Gate
from modeldiff_eval.render import render_html


@pytest.fixture(params=list(CARDS))
def card(request: pytest.FixtureRequest) -> Card:
    return CARDS[request.param]


def test_html_asks_nothing_of_the_network_and_runs_one_known_script(card: Card) -> None:
    page = Page(render_html(card, links=[("JSON", "card.json")]))
    used = [tag for tag, _ in page.tags]
    assert used.count("script") == 1
    assert not set(used) & {"img", "iframe", "object", "embed", "base", "form", "video", "audio", "use", "image"}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], f"<{tag}> has a handler"
        assert "style" not in attrs
        assert "src" not in attrs
        address = attrs.get("href")
        assert address is None or address.startswith("#") or address in ("card.json", "data:,")
    assert "url(" not in "".join(page.styles)
    assert "@import" not in "".join(page.styles)
    policy = [a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*)", policy[0]) == [f"'sha256-{digest}'"]
    for word in ("innerHTML", "eval(", "fetch(", "XMLHttp", "document.write", "import"):
        assert word not in script


def test_the_page_for_a_pdf_has_no_script_and_no_links(card: Card) -> None:
    page = Page(render_html(card, links=[("JSON", "card.json")], paper="letter"))
    assert not {"script", "a", "nav", "details"} & {tag for tag, _ in page.tags}
    assert "size: letter;" in "".join(page.styles)


def test_html_is_structured_for_everyone(card: Card) -> None:
    page = Page(render_html(card))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption")
    assert all(attrs.get("scope") in ("row", "col", "rowgroup", "colgroup") for attrs in page.all("th"))
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    assert {(attrs["href"] or "")[1:] for attrs in page.all("a") if (attrs["href"] or "").startswith("#")} <= set(
        identifiers
    )


def test_html_tables_are_rectangular() -> None:
    html = render_html(CARDS["full"])
    for table in re.findall(r"<table.*?</table>", html, re.S):
        rows = re.findall(r"<tr.*?</tr>", table, re.S)
        widths = {
            sum(int(span or 1) for span in re.findall(r"<t[hd](?=[ >])(?:[^>]*?colspan=\"(\d+)\")?", row))
            for row in rows
        }
        assert len(widths) == 1, (widths, table[:200])


def test_html_is_small_and_names_every_section(card: Card) -> None:
    html = render_html(card)
    assert len(html.encode()) < 1_000_000
    headings = [
        "Verdict",
        "What changed",
        "What is not significant",
        "The categories, by class",
        "The latents behind it",
    ]
    headings += ["What simpler methods say", "Can this crosscoder be trusted?", "Caveats", "Reproduce", "Glossary"]
    places = [html.index(f">{heading}</h2>") for heading in headings]
    assert places == sorted(places)


def test_hostile_text_stays_text() -> None:
    html = render_html(CARDS["full"])
    assert html.count("<script") == 1
    assert "<img" not in html
    page = Page(html)
    assert page.text.count("<script>alert(1)</script>") >= 8
    hidden = {c for c in html if unicodedata.category(c) in INVISIBLE} - {"\n", "\u200d", "\u200c"}
    assert hidden == set()
    for symbol in ("RLO", "LRI", "ZWSP", "BEL", "NUL", "U+E0041"):
        assert f'<span class="ctl">{symbol}</span>' in html


def test_absent_things_are_said_to_be_absent() -> None:
    text = Page(render_html(CARDS["minimal"])).text
    assert "NOT GATED" in text
    for name in ("Classes", "Arena", "Categories", "Latents", "Crosscoder"):
        assert f"{name}: not listed" in text
    for name in ("Benchmarks", "Agreement", "Languages"):
        assert f"{name}: not measured" in text
    tiles = Page(re.findall(r'<div class="tiles">.*?<nav', render_html(CARDS["minimal"]), re.S)[0][:-4])
    assert not re.search(r"\d", tiles.text)


def test_undefined_numbers_are_dashes_and_not_zeros() -> None:
    html = render_html(CARDS["sparse"])
    text = Page(html).text.replace("None were recorded", "")
    assert "nan" not in text.lower().split()
    assert "None" not in text
    row = re.search(r'<td class="val">(.*?)</td>', html, re.S)
    assert row is not None
    assert Page(row[1]).text.strip() == "\u2014 undefined"
    assert "<circle" not in html.split("Outside: arena")[0]


def test_gate_lists_failing_rules_first() -> None:
    text = Page(render_html(CARDS["plain"])).text
    assert (
        text.index("benchmarks.gsm8k.delta.low")
        < text.index("latents.tuned.specific")
        < text.index("classes.A.diff_simul")
    )
    assert "\u22120.061" in text
    assert "FAIL" in text
    for verdict, word in (("pass", "PASS"), ("inconclusive", "INCONCLUSIVE")):
        gated = CARDS["plain"].model_copy(update={"gate": Gate.model_validate({"verdict": verdict, "rules": []})})
        assert f'<span class="badge {verdict}">{word}</span>' in render_html(gated)


def test_tiles_show_the_extremes_with_their_intervals() -> None:
    tiles = Page(re.findall(r'<div class="tiles">.*?<nav', render_html(CARDS["plain"]), re.S)[0][:-4])
    expected = (
        "+16.7 points \u25b2 up A Safety",
        "\u221211.1 points \u25bc down D User",
        "+21.3 raw \u25b2 up overall",
    )
    for words in (
        *expected,
        "\u22120.041 \u25bc down gsm8k",
        "style +12.3 (+4.2 \u2026 +20.4)",
        "95\xa0%: +13.7 \u2026 +19.7",
    ):
        assert re.sub(r"\s+", " ", words) in tiles.text


def test_every_unclear_row_is_named_with_n_and_detectable_effect() -> None:
    card = CARDS["plain"]
    html = render_html(card)
    section = Page(
        html[html.index('id="weak"') - 4 : html.index('<h2 id="categories"')].rpartition("</section>")[0]
    ).text
    for row in (*card.classes, *card.categories):
        assert (f"{row.code} {row.name}" in section) == (row.verdict == "unclear"), row.code
    assert "112 \u2192 89 latents" in section
    assert "\u00b19.5 points" in section
    assert "2376 items" in section


def test_significance_is_in_shape_and_text_not_only_in_colour() -> None:
    html = render_html(CARDS["plain"])
    up = re.search(r"Safety &amp; Content Moderation<span.*?</tr>", html[html.index('id="changes"') :], re.S)
    unclear = re.search(r"Information Processing<span.*?</tr>", html[html.index('id="changes"') :], re.S)
    assert up is not None
    assert unclear is not None
    assert "\u25b2 up" in up[0]
    assert "stroke-dasharray" not in up[0]
    assert 'fill="#2166ac"' in up[0]
    assert "n.s." in unclear[0]
    assert "stroke-dasharray" in unclear[0]
    assert 'fill="#ffffff"' in unclear[0]
    assert "red" not in re.findall(r"fill=\"(\w+)\"", html)


def test_samples_really_are_hostile() -> None:
    card = CARDS["full"]
    assert HOSTILE in card.title
    assert BIDI in card.headline
    assert MARKUP in card.headline
    assert any("\u202e" in token for latent in card.top_latents for ex in latent.examples for token in ex.tokens)
