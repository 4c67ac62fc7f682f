"""Reading, filtering and splitting preference pairs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval.demo.pairs import Pair, parse_pair, prepare, read_rows
from modeldiff_eval.errors import CorpusError


def row(prompt: Any = "Why is the sea salty?", chosen: Any = "Rivers carry salt.", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": "I cannot say.", **more}


def words(pair: Pair) -> int:
    return sum(len(turn.content.split()) for turn in pair.turns)


def prepared(rows: list[Any], **more: Any) -> Any:
    options: dict[str, Any] = {"prompt_tokens": words, "max_prompt_tokens": 50, "held_out_prompts": 0, "seed": 0}
    return prepare(rows, "0" * 64, **{**options, **more})


def test_a_prompt_that_fills_the_length_is_dropped_and_counted() -> None:
    long = "word " * 51
    training, _, report = prepared([row(), row(long), row("word " * 50)])
    assert report.too_long == 1
    assert report.training == len(training) == 2
    assert all(words(pair) <= 50 for pair in training)


def test_malformed_rows_are_counted_by_reason() -> None:
    broken = [None, {"prompt": "Only a prompt"}, row(chosen="I cannot say."), row(prompt="")]
    _, _, report = prepared([row(f"Question {i}?") for i in range(40)] + broken)
    assert report.read == 44
    assert report.malformed == 4
    assert report.malformed_reasons == {
        "not a JSON object": 1,
        "no 'chosen'": 1,
        "chosen and rejected are equal": 1,
        "no 'prompt'": 1,
    }
    assert report.training == 40


def test_too_many_malformed_rows_are_refused() -> None:
    with pytest.raises(CorpusError, match="2 of 4 rows are malformed"):
        prepared([row("a"), row("b"), {}, 7])


def test_every_row_is_accounted_for() -> None:
    rows = [
        row("a", source="x", language="en"),
        row("a", source="x", language="en"),
        row("b", source="y", language="en"),
        row("c", source="x", language="fr"),
        row("d", source="x"),
        row("w " * 60, source="x"),
    ]
    training, held_out, report = prepared(rows, sources=["x"], language="en")
    assert [pair.turns[0].content for pair in training] == ["a", "d"]
    left_out = report.malformed + report.other_source + report.other_language + report.duplicate + report.too_long
    assert left_out == 4
    assert report.read == left_out + len(training) + len(held_out)


def test_no_prompt_is_in_both_parts_and_order_does_not_matter() -> None:
    rows = [row(f"Question {i // 2}?", chosen=f"Answer {i}") for i in range(40)]
    rows[1]["prompt"] = "  QUESTION 0? "  # the same prompt in other spelling
    training, held_out, report = prepared(rows, held_out_prompts=6)
    assert report.held_out_prompts == 6
    assert len(held_out) == 12
    assert not {pair.key for pair in training} & {pair.key for pair in held_out}
    again = prepared(rows[::-1], held_out_prompts=6)[1]
    assert {pair.key for pair in again} == {pair.key for pair in held_out}
    other = prepared(rows, held_out_prompts=6, seed=1)[1]
    assert {pair.key for pair in other} != {pair.key for pair in held_out}


def test_nothing_left_to_train_on_says_why() -> None:
    with pytest.raises(CorpusError, match="'other_source': 1"):
        prepared([row(source="x")], sources=["y"])


def test_conversations_in_both_common_forms() -> None:
    turns = [{"role": "user", "content": "Hi"}]
    answer = [*turns, {"role": "assistant", "content": "Hello."}]
    other = [*turns, {"role": "assistant", "content": "Go away."}]
    implicit = parse_pair({"chosen": answer, "rejected": other})
    explicit = parse_pair({"prompt": turns, "chosen": "Hello.", "rejected": "Go away."})
    assert implicit == explicit
    assert implicit.key == parse_pair(row("hi")).key


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
def test_files_of_every_kind_read_alike(tmp_path: Path, suffix: str) -> None:
    rows = [row("a"), row("b")]
    text = json.dumps(rows) if suffix == ".json" else "\n".join(json.dumps(one) for one in rows)
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    read, digest = read_rows(str(path))
    assert read == rows
    assert len(digest) == 64


def test_a_broken_line_becomes_a_malformed_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([json.dumps(row(f"q{i}")) for i in range(20)] + ['{"prompt": "cut']))
    rows, digest = read_rows(str(path))
    _, _, report = prepared(rows)
    assert (report.read, report.malformed, report.training) == (21, 1, 20)
    path.write_text(path.read_text() + "\n")
    assert read_rows(str(path))[1] != digest


@pytest.mark.parametrize("name", ["absent.jsonl", "no/such/file.json", "just_a_word"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        read_rows(name)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(CorpusError, match="cannot be read"):
        read_rows(str(path))
