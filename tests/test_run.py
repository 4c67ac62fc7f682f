"""A finished run read again, its charts, and what a notebook is shown."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from sample_cards import full_card
from sample_run import write_run

import modeldiff_eval as md
from modeldiff_eval.errors import UsageError
from modeldiff_eval.plots import Plots
from modeldiff_eval.render_text import number

SVG = "{http://www.w3.org/2000/svg}"


def test_a_run_is_read_again(tmp_path: Path) -> None:
    run = md.load(write_run(tmp_path / "run"))
    assert run.card == full_card()
    assert len(run.latents) == 6
    assert run.paths["html"] == tmp_path / "run" / "card.html"
    assert run.paths["pdf"] is None
    with pytest.raises(UsageError, match="There is no card"):
        md.load(tmp_path)
    (tmp_path / "run" / "latents.parquet").unlink()
    with pytest.raises(UsageError, match=r"latents\.parquet cannot be read"):
        md.load(tmp_path / "run")


def test_a_notebook_shows_the_card_in_a_frame_without_scripts() -> None:
    shown = full_card()._repr_html_()
    assert shown is not None
    assert shown.startswith("<iframe ")
    assert shown.count("<") == 2, "everything of the card is escaped inside srcdoc"
    assert " sandbox " in shown
    assert "allow-" not in shown.split("srcdoc")[0]


def test_a_card_alone_is_shown_when_it_was_read_by_the_package(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(full_card().to_json())
    script = (
        "import sys, modeldiff_eval as md\n"
        f"assert md.read_card(__import__('pathlib').Path({str(tmp_path)!r}))._repr_html_().startswith('<iframe')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["classes", "categories", "benchmarks", "arena"])
def test_a_chart_is_whole_xml_with_every_number(name: str) -> None:
    card = full_card()
    figure = getattr(Plots(card), name)()
    root = ET.fromstring(figure.svg)
    assert root.tag == f"{SVG}svg"
    text = "".join(root.itertext())
    rows = {
        "classes": card.classes,
        "categories": card.categories,
        "benchmarks": card.benchmarks,
        "arena": card.arena.rows if card.arena else [],
    }
    values = [row.delta.value if hasattr(row, "delta") else row.diff.value for row in rows[name]]
    digits = 3 if name == "benchmarks" else 1
    assert any(value is not None for value in values)
    for value in values:
        assert value is None or number(value, digits, signed=True) in text
    assert not any(char in figure.svg for char in "\u202e\x00\x1b")
    assert len(root.findall(f".//{SVG}script")) == 0


def test_an_empty_chart_says_so_and_an_unknown_view_is_refused(tmp_path: Path) -> None:
    card = full_card().model_copy(update={"benchmarks": [], "arena": None})
    assert "Nothing was measured" in Plots(card).benchmarks().svg
    assert "Nothing was measured" in Plots(card).arena().svg
    with pytest.raises(ValueError, match="view"):
        Plots(card).classes(view="counts")
    saved = Plots(card).classes(view="activation").save(tmp_path / "a" / "b.svg")
    assert ET.parse(saved).getroot().get("role") == "img"
