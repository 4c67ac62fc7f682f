"""How long a card takes to become HTML and PDF, and 200 of them a leaderboard: ``pytest tests/benchmarks/test_bench_render.py --benchmark-only``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval.card_file import read_card
from modeldiff_eval.leaderboard import write_leaderboard
from modeldiff_eval.render import pdf_available, render, render_html

DEMO = Path(__file__).resolve().parents[2] / "reports" / "demo"


def test_html_of_the_demo(benchmark: Any) -> None:
    card = read_card(DEMO)
    html = benchmark(render_html, card)
    assert len(html.encode()) < 1_000_000


@pytest.mark.skipif(pdf_available() is not None, reason="WeasyPrint's system libraries are missing")
def test_html_and_pdf_of_the_demo(benchmark: Any, tmp_path: Path) -> None:
    """Target: at most 3 s on an otherwise idle core."""
    card = read_card(DEMO)
    written = benchmark.pedantic(
        render, args=(card, tmp_path), kwargs={"formats": ("html", "pdf")}, rounds=3, iterations=1, warmup_rounds=1
    )
    assert written["pdf"] is not None


@pytest.mark.parametrize("workers", [1, os.cpu_count() or 1])
def test_leaderboard_of_200_cards(benchmark: Any, tmp_path: Path, workers: int) -> None:
    """Target: at most 10 s, and an index of at most 3 MB."""
    card = read_card(DEMO)
    for i in range(200):
        folder = tmp_path / "cards" / str(i)
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(card.model_copy(update={"title": f"{card.title} {i}"}).to_json(), "utf-8")
    sites = iter(range(100))

    def site() -> dict[str, Path]:
        return write_leaderboard([tmp_path / "cards"], tmp_path / f"site{next(sites)}", workers=workers)

    written = benchmark.pedantic(site, rounds=1, iterations=1)
    assert len(list(written["html"].parent.glob("cards/*/card.html"))) == 200
    assert written["html"].stat().st_size < 3_000_000
