"""Beside the card: tables, the model card of a hub, and the schema of the record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from sample_extremes import EXTREMES
from sample_pages import CARDS

from modeldiff_eval import cli
from modeldiff_eval.card_schema import card_schema
from modeldiff_eval.errors import MissingDependencyError
from modeldiff_eval.records import Card
from modeldiff_eval.render_model_card import model_card, write_model_card
from modeldiff_eval.render_tables import tables, write_tables

ROOT = Path(__file__).resolve().parents[1]


def test_the_published_schema_is_current() -> None:
    published = ROOT / "modeldiff_eval" / "data" / "card.schema.json"
    assert published.read_text("utf-8") == card_schema(), (
        f"make it again: modeldiff-eval schema --out {published.relative_to(ROOT)}"
    )


def test_the_schema_has_the_published_names_and_knows_a_card() -> None:
    schema = json.loads(card_schema())
    assert "class" in schema["$defs"]["AgreementRow"]["properties"]
    assert schema["additionalProperties"] is False
    jsonschema = pytest.importorskip("jsonschema")
    for name in ("full", "minimal"):
        jsonschema.validate(json.loads(CARDS[name].to_json()), schema)
    bad = json.loads(CARDS["full"].to_json()) | {"mode": "sideways"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)


@pytest.mark.parametrize("name", list(CARDS))
def test_tables_are_the_same_rows_twice(tmp_path: Path, name: str) -> None:
    card = CARDS[name]
    folder = write_tables(card, tmp_path)
    for table, rows in tables(card).items():
        frame = pd.read_parquet(folder / f"{table}.parquet")
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            cells = list(csv.DictReader(file))
        assert len(frame) == len(cells) == len(rows)
        assert list(frame.columns) == list(cells[0])
    if card.classes:
        frame = pd.read_parquet(folder / "classes.parquet")
        assert (
            frame["diff_low"].tolist() == pytest.approx([row.diff.low for row in card.classes], nan_ok=True)
            or name == "sparse"
        )
        assert list(frame["verdict"]) == [row.verdict for row in card.classes]


def test_the_command_writes_what_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        return int(ended.value.code or 0)

    monkeypatch.setattr("modeldiff_eval.render.pdf_available", lambda: "no pdf here")
    monkeypatch.setattr("modeldiff_eval.render.render_pdf", _no_pdf)
    (tmp_path / "card.json").write_text(CARDS["plain"].to_json(), encoding="utf-8")
    assert call("render", str(tmp_path), "--model-card", "--tables", "-q") == 0
    assert (tmp_path / "model_card.md").read_text("utf-8").startswith("---\ntags:")
    assert (tmp_path / "tables" / "latents.parquet").exists()
    assert call("render", str(tmp_path), "--paper", "a5") == 2
    assert "a4, letter" in capsys.readouterr().err
    assert call("schema", "--out", str(tmp_path / "s.json")) == 0
    assert (tmp_path / "s.json").read_text("utf-8") == card_schema()


def _no_pdf(*_: object, **__: object) -> None:
    raise MissingDependencyError("no pdf here")


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    card = CARDS["plain"]
    evil = card.top_latents[0].model_copy(update={"label": "=HYPERLINK(1)", "description": "\ud800 lone"})
    folder = write_tables(card.model_copy(update={"top_latents": [evil]}), tmp_path)
    assert "'=HYPERLINK(1)" in (folder / "latents.csv").read_text("utf-8")
    assert pd.read_parquet(folder / "latents.parquet")["label"].tolist() == ["=HYPERLINK(1)"]


@pytest.mark.parametrize("name", list(CARDS))
def test_the_hub_reads_the_model_card(tmp_path: Path, name: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = CARDS[name]
    text = write_model_card(card, tmp_path).read_text("utf-8")
    read = hub.ModelCard(text)
    results = read.data.eval_results or []
    assert len(results) == len(card.benchmarks)
    for row, result in zip(card.benchmarks, results, strict=True):
        assert (result.metric_value, result.metric_args["delta_low"]) == (row.tuned, row.delta.low)
        assert result.task_type == "text-generation"
    assert read.data.base_model == ("google/gemma-2-9b-it" if "gemma" in card.models.base.id else None)
    assert "### modeldiff: " in read.text


def test_hostile_names_cannot_leave_the_front_matter() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = CARDS["plain"]
    tuned = card.models.tuned.model_copy(update={"id": "x\n---\nlicense: other\n"})
    rows = [row.model_copy(update={"task": "a: b\n---\n- c", "metric": "!!python/object"}) for row in card.benchmarks]
    changed = card.model_copy(update={"models": card.models.model_copy(update={"tuned": tuned}), "benchmarks": rows})
    read = hub.ModelCard(model_card(changed))
    assert read.data.license is None
    assert read.data.to_dict().keys() == {"tags", "base_model", "model-index"}
    assert Card.model_validate(EXTREMES["long names"]().model_dump(by_alias=True))
