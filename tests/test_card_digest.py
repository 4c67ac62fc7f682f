"""The checksum sees every change of a number, and none of how the file is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_cards import full_card

from modeldiff_eval.card_digest import digest, seal, seal_of
from modeldiff_eval.card_file import read_card_file


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(seal(full_card()).to_json())
    return found


def test_a_card_is_whole_in_memory_and_in_its_file(tmp_path: Path) -> None:
    card = seal(full_card())
    (tmp_path / "card.json").write_text(card.to_json(), encoding="utf-8")
    found = read_card_file(tmp_path)
    assert found.seal == "whole"
    assert found.card == card
    assert seal(found.card) == card


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    card = seal(full_card())
    (tmp_path / "card.json").write_text(card.to_json(), encoding="utf-8-sig")
    assert read_card_file(tmp_path)[::2] == (card, "whole")


def test_a_card_without_a_checksum_says_so() -> None:
    assert seal_of(json.loads(full_card().to_json())) == "none"
    assert seal_of({}) == "none"
    assert seal_of({"provenance": "no record"}) == "none"


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["classes"][0]["diff"].update(low=-0.1),
        lambda r: r["classes"][0].update(verdict="down"),
        lambda r: r["benchmarks"].pop(),
        lambda r: r["benchmarks"].reverse(),
        lambda r: r["latents"]["tuned"].update(specific=91),
        lambda r: r["provenance"].update(command="another"),
        lambda r: r["models"]["tuned"].update(revision="main"),
        lambda r: r.update(arena=None),
    ],
)
def test_an_edit_is_noticed(record: dict[str, Any], edit: Any) -> None:
    changed = json.loads(json.dumps(record))
    edit(changed)
    assert seal_of(changed) == "edited"


def test_how_it_is_written_does_not_matter(record: dict[str, Any]) -> None:
    again = json.loads(json.dumps(record, sort_keys=True, indent=None, ensure_ascii=True))
    again["created"], again["gate"] = "2030-01-01T00:00:00Z", None
    again["a_later_version"], again["classes"][0]["new"] = None, []
    for row in again["classes"]:  # as a tool that writes 5.0 as 5
        row["diff"] = {k: int(v) if isinstance(v, float) and v == int(v) else v for k, v in row["diff"].items()}
    assert seal_of(again) == "whole"
    assert digest(again) == record["provenance"]["digest"]
