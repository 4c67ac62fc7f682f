"""A card is read, or it is said what is wrong with the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_cards import full_card

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError


def test_a_file_and_its_folder_are_the_same_card(tmp_path: Path) -> None:
    card = full_card()
    (tmp_path / "card.json").write_text(card.to_json(), encoding="utf-8")
    assert read_card(tmp_path) == read_card(tmp_path / "card.json") == card


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "schema version"),
        ("{", "not JSON"),
        ("null", "schema version"),
        ('{"schema_version": 2}', "it says 2"),
        ('{"schema_version": 1, "title": 3}', "title"),
    ],
)
def test_what_is_no_card_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "card.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_card(tmp_path)


def test_the_wrong_field_is_named(tmp_path: Path) -> None:
    record = json.loads(full_card().to_json())
    record["classes"][0]["verdict"] = "better"
    (tmp_path / "card.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UsageError, match=r"classes\.0\.verdict"):
        read_card(tmp_path)


def test_a_missing_card_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no card"):
        read_card(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("classes", 0, "diff", "value"), r"classes\.0\.diff\.value: Input should be a finite number"),
        (("crosscoders", 0, "fve_first"), r"crosscoders\.0\.fve_first: Input should be a finite number"),
        (("coverage", "languages", 0, "tokens"), r"coverage\.languages\.0\.tokens\S*: Input should be a finite number"),
    ],
)
def test_what_json_has_no_number_for_is_no_card(
    tmp_path: Path, place: tuple[str | int, ...], said: str, number: str
) -> None:
    record = json.loads(full_card().to_json())
    inside = record
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = "@"
    (tmp_path / "card.json").write_text(json.dumps(record).replace('"@"', number), encoding="utf-8")
    with pytest.raises(UsageError, match=f"is not a card of schema version 1: {said}") as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)
