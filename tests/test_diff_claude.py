"""Whole runs whose claims are named by a language model over HTTP: who is asked what, and that nothing is asked twice."""

from __future__ import annotations

import csv
import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mock_messages import MockServer
from tiny_run import STEPS, ByHash, but_for_created, notes

from modeldiff_eval import analysis, annotate, cli, diff
from modeldiff_eval.errors import AnnotationError, UsageError

MODEL = "claude-haiku-4-5"


def answer(params: dict[str, Any]) -> dict[str, Any]:
    """A description for step 1, the first category for step 2, half of the passages for detection."""
    schema = params["tools"][0]["input_schema"]["properties"]
    made: dict[str, Any] = {}
    for name, field in schema.items():
        if "enum" in field:
            made[name] = field["enum"][0]
        elif field.get("type") == "array":
            numbers = field["items"].get("type") == "integer"
            made[name] = [1] if numbers else ["They hold short words."]
        elif field.get("type") == "number":
            made[name] = 0.8
        else:
            made[name] = "short words" if name == "label" else "The passages hold short words. They are plain."
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockServer]:
    module = importlib.import_module("modeldiff_eval.diff")
    monkeypatch.setattr(module, "render", functools.partial(module.render, formats=("md",)))
    monkeypatch.setattr(
        analysis,
        "get_annotator",
        lambda name, *args, **options: (
            ByHash() if name == "offline" else annotate.get_annotator(name, *args, **options)
        ),
    )
    with MockServer(answer=answer) as mock:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", mock.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        yield mock


@pytest.fixture
def options(text: Path, shared: Path) -> dict[str, Any]:
    return {
        "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": 48, "k": 4, "steps": STEPS, "batch": 256, "null_tokens": 0,
        "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "thresholds": {"nu_error": 0.6}, "cache": shared,
        "annotator": "claude", "annotator_model": MODEL,
    }  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_claims_are_named_by_the_model_and_the_rest_offline(
    base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path
) -> None:
    run = diff(str(base_model), str(tuned_model), out=tmp_path / "run", **options)
    table = run.latents
    own = table[table["dictionary"] == "difference"]
    claimed = own[own["specific"] | (own["graded_weight"] > 0)]
    assert len(claimed)
    assert set(claimed["label"]) == {"short words"}
    assert set(claimed["category"]) == {"A.1"}
    others = table[(table["dictionary"] == "crosscoder") & table["label"].notna()]
    assert len(others)
    assert "short words" not in set(others["label"])
    said = {row["latent"]: row["annotator"] for row in lines(run.out / "annotations.jsonl")}
    assert set(said.values()) == {"claude", "by hash"}
    assert list(said.values()).count("claude") >= len(claimed)
    assert max(server.asked.values()) == 1

    quality = run.card.annotation_quality
    assert quality is not None
    assert (quality.reader, quality.detector) == ("model", "claude")
    assert "sk-ant-test" not in "".join(p.read_text(errors="replace") for p in run.out.rglob("*.json*"))

    before = sum(server.asked.values())
    again = diff(str(base_model), str(tuned_model), out=run.out, title="Another title", **options)
    assert again.card.title == "Another title"
    assert sum(server.asked.values()) == before  # Every reply was there.


def test_a_run_that_runs_out_of_money_says_so_and_keeps_what_it_has(
    base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path
) -> None:
    options |= {"method": "batchtopk"}  # Every side has its twelve nearest.
    run = diff(str(base_model), str(tuned_model), out=tmp_path / "run", max_cost=0.02, **options)
    table = run.latents
    failed = table["annotation_failure"].fillna("").str.contains("--max-cost", regex=False)
    assert failed.any()
    assert any(caveat.startswith("Naming stopped early") for caveat in run.card.caveats)
    assert notes(run)["findings"] is None  # Started again, it goes on.
    replies = lines(run.out / "replies.jsonl")
    whole = diff(str(base_model), str(tuned_model), out=run.out, **options)
    assert not whole.latents["annotation_failure"].fillna("").str.contains("--max-cost", regex=False).any()
    assert set(failed[failed].index) <= set(whole.latents.index[whole.latents["label"] == "short words"])
    assert max(server.asked.values()) == 1  # Not one of those that were paid before.
    assert len(lines(whole.out / "replies.jsonl")) > len(replies)


@pytest.mark.parametrize("method", ["difference", "batchtopk"])
def test_repeats_of_a_run_cut_off_before_its_end_are_the_same_and_about_its_own_latents(
    method: str, base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path
) -> None:
    options |= {"method": method, "repeats": 2, "anchor": str(base_model) if method == "batchtopk" else None}
    run = diff(str(base_model), str(tuned_model), out=tmp_path / "run", **options)
    quality = run.card.annotation_quality
    assert quality is not None
    assert quality.repeats == 2
    assert {kappa.latents for kappa in quality.kappas} == {quality.asked}
    before = sum(server.asked.values())
    (run.out / "run.json").unlink()
    again = diff(str(base_model), str(tuned_model), out=run.out, **options)
    assert but_for_created(again.card) == but_for_created(run.card)
    assert sum(server.asked.values()) == before


def test_a_persons_review_names_its_latents_and_an_edited_one_is_read_again(
    base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path
) -> None:
    run = diff(str(base_model), str(tuned_model), out=tmp_path / "one", **options)
    table = run.latents[(run.latents["dictionary"] == "crosscoder") & run.latents["label"].notna()]
    chosen = int(table["latent"].iloc[0])
    path = tmp_path / "review.csv"
    options = {key: value for key, value in options.items() if key != "annotator_model"} | {
        "annotator": f"human:{path}"
    }
    path.write_text(f"latent,label,category\n{chosen},by hand,A.2\n")
    own = diff(str(base_model), str(tuned_model), out=tmp_path / "two", **options)

    def label(of: Any) -> set[str]:
        return set(of.latents.loc[of.latents["latent"] == chosen, "label"])

    assert label(own) == {"by hand"}
    assert str(tmp_path) not in (own.out / "card.json").read_text()
    path.write_text(f"latent,label,category\n{chosen},by another hand,A.2\n")
    assert label(diff(str(base_model), str(tuned_model), out=tmp_path / "two", **options)) == {"by another hand"}
    path.write_text("latent,label,category\n999999,nobody,A.2\n")
    with pytest.raises(UsageError, match="no latent 999999"):
        diff(str(base_model), str(tuned_model), out=tmp_path / "two", **options)


def test_a_run_written_out_for_review_comes_back_whole(
    base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    run = diff(str(base_model), str(tuned_model), out=tmp_path / "one", **options)
    path = tmp_path / "review.csv"

    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["annotations", *words])
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    command("review", str(run.out), "--out", str(path))
    filled = path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        cli.main(["annotations", "review", str(run.out), "--out", str(path)])
    assert ended.value.code == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == filled
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["machine_label"] for row in rows} == {"short words"}
    for row in rows:
        row["label"], row["category"] = "read by hand", "B.7"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    options = {key: value for key, value in options.items() if key != "annotator_model"} | {
        "annotator": f"human:{path}"
    }
    own = diff(str(base_model), str(tuned_model), out=tmp_path / "two", **options)
    reviewed = {int(row["latent"]) for row in rows}
    table = own.latents[own.latents["dictionary"] == "difference"]
    assert set(table.loc[table["latent"].isin(reviewed), "label"]) == {"read by hand"}
    said = command("agreement", str(run.out / "annotations.jsonl"), str(own.out / "annotations.jsonl"), "--json")
    by_class, by_category = json.loads(said)
    assert by_class["level"] == "classes"
    assert by_class["latents"] == by_category["latents"] > len(reviewed)
    assert by_category["value"]["value"] < 1


def test_a_limit_for_a_model_without_a_price_is_refused_before_anything_is_done(
    base_model: Path, tuned_model: Path, options: dict[str, Any], server: MockServer, tmp_path: Path
) -> None:
    options |= {"annotator_model": "my-own-model", "max_cost": 5.0, "cache": tmp_path / "cache"}
    with pytest.raises(UsageError, match="needs a known price"):
        diff(str(base_model), str(tuned_model), out=tmp_path / "run", **options)
    assert not list((tmp_path / "cache").glob("[!.]*"))


def test_no_key_is_said_before_anything_is_done(
    base_model: Path, tuned_model: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AnnotationError, match="ANTHROPIC_API_KEY"):
        diff(str(base_model), str(tuned_model), out=tmp_path / "run", **options | {"cache": tmp_path / "cache"})
    assert not list((tmp_path / "cache").glob("[!.]*"))
