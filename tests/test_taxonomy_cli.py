"""``taxonomy check|induce`` as a user runs them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mock_messages import MockServer
from taxonomy_planted import TOPICS, Scripted, by_topic, planted, write_annotations
from typer.testing import CliRunner

from modeldiff_eval import embedding, taxonomy_induce
from modeldiff_eval.errors import MissingDependencyError, OutputError, UsageError
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.taxonomy_check import check, near_pairs
from modeldiff_eval.taxonomy_cli import taxonomy_app

TONE = {
    "version": 1,
    "classes": [
        {
            "code": "A",
            "name": "Tone",
            "categories": [
                {"code": "A.1", "name": "Polite", "description": "Kind words said to a stranger, with thanks.",
                 "cues": ["please", "thank you", "you are welcome", "excuse me"]},
                {"code": "A.2", "name": "Rude", "description": "Unkind words that are meant to hurt somebody.",
                 "cues": ["shut up", "get lost", "you fool", "go away"]},
            ],
        },
        {"code": "B", "name": "Topic", "categories": [{"code": "B.3", "name": "Boats", "description": "Things.", "cues": ["please"]}]},
    ],
}  # fmt: skip


def run(*arguments: object) -> str:
    done = CliRunner().invoke(taxonomy_app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def fails(*arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(taxonomy_app, [str(a) for a in arguments], catch_exceptions=False)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    path = tmp_path / "tone.yaml"
    path.write_text(yaml.safe_dump(TONE))
    return path


# check -----------------------------------------------------------------------------------------------


def test_the_packaged_taxonomy_has_no_warning() -> None:
    text = run("check")
    assert "7 classes, 30 categories" in text
    assert "B.7   Multilingual Processing (16 cues, signal non_english)" in text
    assert "warning" not in text
    assert "not compared" not in text


def test_the_tree_and_the_warnings(tone: Path) -> None:
    text = run("check", tone)
    assert "tone.yaml: 2 classes, 3 categories, 9 cues" in text
    assert "A.1  Polite (4 cues)" in text
    assert "warning: B.3: only 1 cue;" in text
    assert "warning: B.3: the description has 1 word;" in text
    assert "warning: A.1, B.3: 1 cue is given to each" in text
    facts = json.loads(run("check", tone, "--json"))
    assert [c["code"] for c in facts["classes"]] == ["A", "B"]
    assert facts["classes"][1]["categories"] == [
        {"code": "B.3", "name": "Boats", "cues": 1, "words": 1, "signal": None}
    ]
    assert facts["fingerprint"] == Taxonomy.load(tone).fingerprint
    assert {tuple(w["about"]) for w in facts["warnings"]} == {("B.3",), ("A.1", "B.3")}


def test_categories_that_mean_the_same_are_warned_of(tone: Path) -> None:
    raw = yaml.safe_load(tone.read_text())
    raw["classes"][0]["categories"].append(
        {"code": "A.4", "name": "Courteous", "description": "Kind words said to strangers, and thanks.",
         "cues": ["thanks", "thank you very much", "you're welcome", "pardon me, please"]}
    )  # fmt: skip
    tone.write_text(yaml.safe_dump(raw))
    text = run("check", tone)
    assert "warning: A.1, A.4: nearly the same texts (cosine 0." in text
    assert "A.2, A.4" not in text


def test_cosines_by_hand() -> None:
    class Axes:
        def embed(self, texts: Any) -> np.ndarray:
            return np.array([[1.0, 0.0] if text in ("Rude", "go away") else [0.0, 1.0] for text in texts])

    taxonomy = Taxonomy.from_mapping(TONE)
    pairs = near_pairs(taxonomy.categories, Axes(), bar=0.9)
    # A.2 has the mean (2, 4) / 6, the two others (0, 1): cosine 4 / √20 = 0.894.
    assert [(a.code, b.code, round(c, 3)) for a, b, c in pairs] == [("A.1", "B.3", 1.0)]
    assert len(near_pairs(taxonomy.categories, Axes(), bar=0.894)) == 3


def test_no_cues_is_a_warning() -> None:
    raw = json.loads(json.dumps(TONE))
    del raw["classes"][0]["categories"][0]["cues"]
    assert [w.text for w in check(Taxonomy.from_mapping(raw)) if w.about == ("A.1",)] == [
        "no cues: the offline annotator has its name and description only"
    ]


def test_without_the_encoder_meanings_are_not_compared(tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise MissingDependencyError("The weights are not installed.")

    monkeypatch.setattr(embedding, "SentenceEmbedder", missing)
    assert "note: meanings were not compared: The weights are not installed." in run("check", tone)
    assert json.loads(run("check", tone, "--json"))["not_compared"] == "The weights are not installed."


def test_a_file_that_breaks_a_rule_ends_with_code_2(tone: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(tone.read_text())
    raw["classes"][1]["categories"][0]["code"] = "C.3"
    tone.write_text(yaml.safe_dump(raw))
    assert "belongs to class 'C', which is missing" in fails("check", tone)
    assert "Cannot read the taxonomy file" in fails("check", tmp_path / "none.yaml")


def test_a_files_own_escapes_do_not_reach_the_terminal(tone: Path) -> None:
    raw = yaml.safe_load(tone.read_text())
    raw["classes"][0]["name"] = "\x1b[31mred\u202e"
    tone.write_text(yaml.safe_dump(raw))
    text = run("check", tone)
    assert "[31mred" in text
    assert not set(text) & set("\x1b\u202e")


# induce ----------------------------------------------------------------------------------------------


def test_a_taxonomy_from_annotations(tmp_path: Path) -> None:
    latents, _ = planted()
    source = write_annotations(tmp_path / "annotations.jsonl", latents, failures=2)
    out = tmp_path / "mine.yaml"
    text = run("induce", source, "--out", out, "--categories", 6, "--classes", 2)
    assert text.splitlines()[-1] == str(out)
    assert "Stability: adjusted Rand index" in text
    assert "Not used: 2 annotation failed." in text
    assert len(Taxonomy.load(out).categories) == 6
    assert out.read_text().startswith("# 2 classes and 6 categories made from 90 latents of annotations.jsonl;")
    assert "exists already" in fails("induce", source, "--out", out)
    again = tmp_path / "again.yaml"
    assert run("induce", tmp_path, "--out", again, "--categories", 6, "--classes", 2, "-q") == f"{again}\n"
    assert Taxonomy.load(again) == Taxonomy.load(out)
    assert "warning" not in run("check", out)


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"Cannot write to .*: Read-only file system"):
        run("induce", tmp_path / "nowhere", "--out", tmp_path / "mine.yaml")


def test_replies_are_kept_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, _ = planted()
    source = write_annotations(tmp_path / "annotations.jsonl", latents)
    replier = Scripted(by_topic)
    given: dict[str, Any] = {}
    monkeypatch.setattr(taxonomy_induce, "replier_of", lambda name, **options: given.update(options) or replier)
    options = ("--annotator", "claude", "--annotator-model", "m", "--max-cost", 3, "--categories", 6, "--json")
    facts = json.loads(run("induce", source, "--out", tmp_path / "a.yaml", *options))
    assert given == {"model": "m", "max_cost": 3.0}
    assert facts["report"]["named_by"] == "scripted (1)"
    assert facts["report"]["cost"] == 0.25 * len(replier.asked)
    lines = (tmp_path / "a.yaml.replies.jsonl").read_text().splitlines()
    assert len(lines) == len(replier.asked)
    asked = len(replier.asked)
    (tmp_path / "a.yaml").unlink()
    run("induce", source, "--out", tmp_path / "a.yaml", *options)
    assert len(replier.asked) == asked


def name_by_topic(params: dict[str, Any]) -> dict[str, Any]:
    """What a model would say: a group's name and description by its words, and nothing to merge."""
    properties = params["tools"][0]["input_schema"]["properties"]
    text = json.dumps(params["messages"])
    topic = max(TOPICS, key=lambda topic: sum(text.count(word) for word in TOPICS[topic].split()))
    made: dict[str, Any] = {}
    for field, schema in properties.items():
        if schema.get("type") == "array":
            made[field] = []
        else:
            made[field] = topic if field == "name" else f"Texts about {topic}, with the words of that trade."
    return made


def test_claude_names_the_groups_and_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, _ = planted()
    source = write_annotations(tmp_path / "annotations.jsonl", latents)
    out = tmp_path / "mine.yaml"
    options = (
        "--annotator",
        "claude",
        "--annotator-model",
        "claude-haiku-4-5",
        "--categories",
        6,
        "--classes",
        2,
        "--json",
    )
    with MockServer(answer=name_by_topic, faults=0.2, kinds=("rate", "error", "drop"), seed=3) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
        facts = json.loads(run("induce", source, "--out", out, *options))
        answered = sum(server.answered.values())
        out.unlink()
        assert json.loads(run("induce", source, "--out", out, *options))["report"]["named_by"].startswith("claude (")
        assert sum(server.answered.values()) == answered
    assert {category.name for category in Taxonomy.load(out).categories} == set(TOPICS)
    assert facts["report"]["unnamed"] == 0
    assert facts["report"]["cost"] > 0
    assert "sk-ant-test" not in (tmp_path / "mine.yaml.replies.jsonl").read_text() + out.read_text()


def test_bad_input_of_induce(tmp_path: Path) -> None:
    latents, _ = planted(2)
    source = write_annotations(tmp_path / "annotations.jsonl", latents)
    out = tmp_path / "x.yaml"
    assert "12 annotated latents are too few: a taxonomy needs at least 30." in fails("induce", source, "--out", out)
    assert "there is no folder" in fails("induce", source, "--out", tmp_path / "no" / "x.yaml")
    assert "Unknown annotator" in fails("induce", source, "--out", out, "--annotator", "ofline")
    assert "Cannot read the annotations" in fails("induce", tmp_path / "none", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("words", [["--help"], ["check", "--help"], ["induce", "--help"]])
def test_nothing_heavy_is_imported_for_help(words: list[str]) -> None:
    script = (
        "import sys\nfrom modeldiff_eval.cli import main\n"
        f"try:\n    main(['taxonomy', *{words!r}])\nexcept SystemExit as e:\n    code = e.code\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'numpy', 'sklearn', 'pandas'} & set(sys.modules)), code)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"
    assert "Examples:" in done.stdout
