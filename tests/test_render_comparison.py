"""A comparison as files: what the page and the Markdown say, and that foreign text stays text."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from sample_cards import BIDI, HOSTILE, full_card
from sample_runs import save_run
from test_comparison import activation_runs
from test_leaderboard import Page

from modeldiff_eval.comparison import compare_runs
from modeldiff_eval.render_comparison import comparison_markdown, headline, render_comparison

ROOT = Path(__file__).resolve().parents[1]


def test_the_files_of_a_comparison(tmp_path: Path) -> None:
    made = compare_runs({"SimPO": ROOT / "reports/paper_simpo", "DPO": ROOT / "reports/paper_dpo"}, draws=500)
    paths = render_comparison(made, tmp_path)
    assert {name: path.name for name, path in paths.items()} == {
        "json": "comparison.json", "md": "comparison.md", "html": "comparison.html",
    }  # fmt: skip
    page = paths["html"].read_text()
    assert headline(made) == "SimPO against DPO: by share of latents, no class can be told apart (7 compared)."
    for said in ("+6.7", "no class can be told apart", "Not compared", "Safety &amp; Content Moderation"):
        assert said in page
    assert "| A Safety" in paths["md"].read_text()
    assert json.loads(paths["json"].read_text())["schema_version"] == 1


def test_a_class_that_moved_is_in_the_headline_and_the_table(tmp_path: Path) -> None:
    made = compare_runs(activation_runs(tmp_path, (1.3, 1.0)), draws=300)
    assert "one against two: " in headline(made)
    assert "by activation: Safety & Content Moderation +" in headline(made)
    assert "▲ up" in comparison_markdown(made)


@pytest.mark.parametrize("name", [HOSTILE, BIDI, "a" * 200])
def test_hostile_runs_stay_text(tmp_path: Path, name: str) -> None:
    runs = {label: save_run(tmp_path / str(i), full_card(hostile=True)) for i, label in enumerate((name, "two"))}
    made = compare_runs(runs, draws=200)
    text = render_comparison(made, tmp_path / "out")["html"].read_text()
    page = Page(text)
    assert page.inside["script"] == []
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert b64encode(sha256(page.inside["style"][0].encode()).digest()).decode() in policy
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object")
        assert not any(key.startswith("on") or key == "style" for key in attributes)
        assert (attributes.get("href") or "#").split(".")[0] in ("comparison", "data:,", "#")
    assert "\u202e" not in text
    assert "<script" not in comparison_markdown(made)
