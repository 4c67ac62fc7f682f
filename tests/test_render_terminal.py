"""The card on a terminal: fits, says its verdicts, and cannot be turned against the terminal."""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from sample_pages import CARDS, INVISIBLE

from modeldiff_eval.records import Card, Estimate
from modeldiff_eval.render import print_terminal
from modeldiff_eval.render_text import interval, number


@pytest.fixture(params=list(CARDS))
def card(request: pytest.FixtureRequest) -> Card:
    return CARDS[request.param]


def _terminal(card: Card, width: int, **options: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, legacy_windows=False, **options)  # type: ignore[arg-type]
    print_terminal(card, console, {"json": Path("out/card.json"), "html": Path("out/card.html"), "pdf": None})
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_terminal_fits_and_says_the_verdicts(card: Card, width: int) -> None:
    text = _terminal(card, width)
    assert all(cell_len(line) <= width for line in text.splitlines()), text
    assert "next: open out/card.html" in text
    assert "not written" in text
    assert not {c for c in text if unicodedata.category(c) in INVISIBLE} - {"\n", "\u200d"}
    for row in card.classes:
        if row.diff.value is not None:
            assert (
                number(row.diff.value, signed=True) in text and interval(row.diff) in text
            ) or row.verdict == "not covered"
    if card is CARDS["plain"]:
        assert "\u25b2 up" in text
        assert "\u25bc down" in text
        assert "n.s." in text
        assert "FAIL: benchmarks.gsm8k" in text
    if card is CARDS["full"]:
        assert "[bold red]not markup[/]" in re.sub(r"\s+", " ", text)


SIGN = "[+\u2212]?"
FIGURES = re.compile(
    rf"{SIGN}[0-9][0-9.\u202f]*(?: \u2026 {SIGN}[0-9.\u202f]*[0-9])?|\u25b2|\u25bc|n\\.s\\.|n\\.c\\.|undefined|not listed"
)
"""Intervals, other numbers and verdicts."""


def _only_tables(card: Card, name: str) -> Card:
    """Without the sentences, which any width breaks; every row has ``name``."""
    arena = card.arena and card.arena.model_copy(
        update={"rows": [row.model_copy(update={"category": name}) for row in card.arena.rows * 3]}
    )
    return card.model_copy(
        update={
            **dict.fromkeys(("gate", "causal", "probing", "lens", "annotation_quality")),
            "title": "title",
            "headline": "headline",
            "arena": arena,
            "classes": [row.model_copy(update={"name": name}) for row in card.classes],
            "benchmarks": [row.model_copy(update={"task": name, "metric": "acc"}) for row in card.benchmarks],
        }
    )


def _large(card: Card) -> Card:
    """Every number of the tables a thousand times as large."""

    def times(estimate: Estimate) -> Estimate:
        return estimate.model_copy(
            update={key: value and 1000 * value for key, value in estimate if isinstance(value, float)}
        )

    rows = [row.model_copy(update={"delta": times(row.delta)}) for row in card.arena.rows] if card.arena else []
    return card.model_copy(
        update={
            "arena": card.arena and card.arena.model_copy(update={"rows": rows}),
            "classes": [row.model_copy(update={"diff": times(row.diff)}) for row in card.classes],
            "benchmarks": [row.model_copy(update={"delta": times(row.delta), "n": 10**6}) for row in card.benchmarks],
        }
    )


@pytest.mark.parametrize("width", [40, 60, 72, 79, 100])
@pytest.mark.parametrize("name", ["short", "a longer name in words " * 3, "a_longer_name_in_one_" * 3])
@pytest.mark.parametrize("large", [False, True])
def test_a_narrow_terminal_says_every_number_and_verdict_of_a_wide_one(
    card: Card, name: str, large: bool, width: int
) -> None:
    card = _only_tables(_large(card) if large else card, name)

    def figures(text: str) -> Counter[str]:
        return Counter(FIGURES.findall(re.sub(r"not\s+covered", "n.c.", text)))

    narrow, wide = _terminal(card, width), _terminal(card, 120)
    assert all(cell_len(line) <= width for line in narrow.splitlines()), narrow
    assert figures(narrow) == figures(wide), narrow
    assert all(interval(row.diff) in narrow for row in card.classes), narrow


@pytest.mark.parametrize("width", [40, 60, 72])
def test_a_name_that_does_not_fit_goes_on_in_the_next_line(width: int) -> None:
    """Of classes a table shows the code, and as much of the name as fits."""
    card = _only_tables(CARDS["plain"].model_copy(update={"classes": []}), "XYZ" * 12)
    assert card.arena is not None
    assert _terminal(card, width).count("Y") == 12 * (min(12, len(card.arena.rows)) + len(card.benchmarks))


def test_terminal_without_unicode_or_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 100):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
        print_terminal(CARDS["full"], Console(file=stream, width=width), {"html": Path("card.html")})
        stream.flush()
        assert b"^ up" in raw.getvalue()
        assert b"(-78.3 .. -16.1)" in raw.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    print_terminal(CARDS["plain"], Console(file=out, width=80, force_terminal=True), {})
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", out.getvalue())
