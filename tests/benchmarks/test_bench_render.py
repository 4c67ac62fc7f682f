"""How long a finished card takes to become HTML and PDF: ``pytest tests/benchmarks/test_bench_render.py --benchmark-only``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval.card_file import read_card
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
