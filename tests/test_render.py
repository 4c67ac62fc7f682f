"""The card's files: whole or absent, the same again from card.json, and refused with a reason."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from sample_pages import CARDS

from modeldiff_eval.errors import OutputError, UsageError
from modeldiff_eval.records import Card
from modeldiff_eval.render import render, render_csv


def test_render_writes_whole_files_and_round_trips(tmp_path: Path) -> None:
    card = CARDS["full"]
    written = render(card, tmp_path / "new", formats=("html", "md"))
    assert set(written) == {"json", "csv", "html", "md"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"card.json", "card.csv", "card.html", "card.md"}
    assert Card.model_validate_json((tmp_path / "new" / "card.json").read_bytes()) == card
    again = render(
        Card.model_validate_json((tmp_path / "new" / "card.json").read_bytes()),
        tmp_path / "two",
        formats=("html", "md"),
    )
    for name in ("json", "csv", "html", "md"):
        first, second = written[name], again[name]
        assert first is not None
        assert second is not None
        assert first.read_bytes() == second.read_bytes()


def test_render_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'html'"):
        render(CARDS["minimal"], tmp_path, formats=("htlm",))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--out"):
        render(CARDS["minimal"], tmp_path / "file", formats=("md",))
    assert (tmp_path / "file").read_text() == "in the way"


def test_csv_has_one_row_each_and_no_formulas() -> None:
    card = CARDS["full"]
    rows = list(csv.DictReader(io.StringIO(render_csv(card))))
    assert [row["code"] for row in rows] == [row.code for row in (*card.classes, *card.categories)]
    assert float(rows[0]["diff_low"]) == card.classes[0].diff.low
    attack = card.classes[0].model_copy(update={"name": "=HYPERLINK(1)"})
    evil = list(csv.DictReader(io.StringIO(render_csv(card.model_copy(update={"classes": [attack]})))))
    assert evil[0]["name"] == "'=HYPERLINK(1)"
    empty = list(csv.DictReader(io.StringIO(render_csv(CARDS["sparse"]))))
    assert empty[0]["diff"] == "" == empty[0]["base_share"]
