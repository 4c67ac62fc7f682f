"""The card on a terminal: fits, says its verdicts, and cannot be turned against the terminal."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from sample_pages import CARDS, INVISIBLE

from modeldiff_eval.records import Card
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


@pytest.mark.parametrize("width", [80, 120])
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


def test_terminal_without_unicode_or_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    print_terminal(CARDS["full"], Console(file=stream, width=100), {"html": Path("card.html")})
    stream.flush()
    assert b"^ up" in raw.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    print_terminal(CARDS["plain"], Console(file=out, width=80, force_terminal=True), {})
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", out.getvalue())
