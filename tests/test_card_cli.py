"""``card`` and ``render`` replace nobody's card, leave nothing behind when they fail, and say where they write."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
from calling import Run, caller
from sample_gaps import minimal_card

from modeldiff_eval.records import Card

COUNTS = """\
models: {base: org/model, tuned: org/model-simpo}
latents:
  base: {specific: 113, annotated: 112}
  tuned: {specific: 92, annotated: 89}
classes:
  A: {base: 18, tuned: 19}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in an empty working folder, without PDF; gives (exit code, standard output, standard error)."""
    import modeldiff_eval.counts as counts
    import modeldiff_eval.render as rendering

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(rendering, "render", partial(rendering.render, formats=("html",)))
    monkeypatch.setattr(counts, "card_from_counts", partial(counts.card_from_counts, draws=100))

    return caller(capsys)


def write_card(path: Path, title: str) -> Card:
    path.parent.mkdir(parents=True, exist_ok=True)
    card = minimal_card().model_copy(update={"title": title})
    path.write_text(card.to_json(), encoding="utf-8")
    return card


@pytest.mark.parametrize("beside", ["another card", "{", ""])
def test_render_does_not_replace_the_card_beside_its_source(run: Run, tmp_path: Path, beside: str) -> None:
    write_card(tmp_path / "x" / "dpo.json", "dpo")
    other = tmp_path / "x" / "card.json"
    if beside == "another card":
        write_card(other, "simpo")
    else:
        other.write_text(beside)
    before = other.read_bytes()
    code, out, err = run("render", "x/dpo.json")
    assert (code, out) == (2, "")
    assert "x/card.json is another card" in err
    assert "--out" in err
    assert other.read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["card.json", "dpo.json"]
    # Elsewhere, and again there when the source has changed.
    assert run("render", "x/dpo.json", "--out", "y")[0] == 0
    write_card(tmp_path / "x" / "dpo.json", "dpo, later")
    assert run("render", "x/dpo.json", "--out", "y")[0] == 0
    assert Card.model_validate_json((tmp_path / "y" / "card.json").read_text()).title == "dpo, later"


def test_render_writes_beside_a_source_that_is_alone(run: Run, tmp_path: Path) -> None:
    card = write_card(tmp_path / "x" / "dpo.json", "dpo")
    for _ in range(2):
        assert run("render", "x/dpo.json", "-q") == (0, "x/card.html\n", "")
    assert (tmp_path / "x" / "card.json").read_text() == card.to_json()


def test_a_run_keeps_its_card(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(COUNTS)
    write_card(tmp_path / "x.json", "another")
    theirs = tmp_path / "runs" / "run" / "card.json"
    card = write_card(theirs, "theirs")
    (theirs.parent / "run.json").write_text("{}")
    for words in (
        ["card", "run.yaml"],
        ["card", "run.yaml", "--out", "runs/run"],
        ["render", "x.json", "--out", "runs/run"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, ""), words
        assert "would replace. Name another" in err
        assert "--out" in err
        assert theirs.read_text() == card.to_json()
        assert not (theirs.parent / "card.html").exists()
    # Its own card may be rendered again, and counts may be given the folder of an earlier card from counts.
    assert run("render", "runs/run", "-q")[0] == 0
    for _ in range(2):
        assert run("card", "run.yaml", "--out", "made", "-q")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["card", "typo.yaml"],
        ["card", "typo.yaml", "--out", "a/b"],
        ["card", "typo.csv"],
        ["card", "wrong.yaml"],
        ["render", "typo", "--out", "a"],
        ["render", "wrong.yaml", "--out", "a"],
        ["render", "x.json", "--out", "a", "--paper", "a5"],
    ],
)
def test_a_command_that_fails_leaves_no_folder(run: Run, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "wrong.yaml").write_text(COUNTS.replace("18", "200"))
    write_card(tmp_path / "x.json", "x")
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*words)
    assert (code, out) == (2, ""), err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["card", "ok.yaml", "--models", "a,b"], r"ok\.yaml: --models belongs to LATENTS\.csv"),
        (["card", "ok.csv", "--models", "a,a"], r"two different names"),
        (["card", "ok.csv", "--models", ",b"], r"two different names"),
    ],
)
def test_models_are_two_names_of_a_csv(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "ok.yaml").write_text(COUNTS)
    (tmp_path / "ok.csv").write_text("model,latent,category\na,1,A.1\nb,1,A.2\n")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert not (tmp_path / "runs").exists()


def test_names_of_models_may_follow_a_space(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ok.csv").write_text("model,latent,category\na,1,A.1\nb,1,A.2\n")
    code, out, err = run("card", "ok.csv", "--models", "a, b", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["models"]["tuned"]["id"] == "b"


@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_a_number_that_is_none_is_named_in_one_line(run: Run, tmp_path: Path, number: str) -> None:
    text = minimal_card().to_json().replace('"null_rate": null', f'"null_rate": {number}')
    assert number in text
    (tmp_path / "card.json").write_text(text, encoding="utf-8")
    (tmp_path / "policy.yaml").write_text("rules:\n  - latents.tuned.specific < 500\n")
    for words in (["render", "."], ["check", ".", "--policy", "policy.yaml", "--update-card"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: .*is not a card.*latents\.null_rate: Input should be a finite number.*\n", err), (
            err
        )
    assert (tmp_path / "card.json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("command", "default"),
    [("card", "runs/<name of the source>"), ("render", "CARD's folder"), ("demo", "runs/demo or runs/demo-anchored")],
)
def test_help_says_where_a_command_writes(run: Run, command: str, default: str) -> None:
    shown = "".join(run(command, "--help")[1].split())
    wanted = re.escape("".join(f"[default: ({default})]".split()))
    assert re.search(rf"--out<path>\w+\.{wanted}", shown)
