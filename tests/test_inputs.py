"""Misspelt and missing inputs are found before any model is opened, and by ``--dry-run``; nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from calling import Run, caller
from sample_crosscoders import make

from modeldiff_eval import diff, dry_run
from modeldiff_eval import workspace as ws
from modeldiff_eval.crosscoder import save_native
from modeldiff_eval.errors import CrosscoderError, ModelDiffError, OutputError, UsageError
from modeldiff_eval.held import require_own
from modeldiff_eval.inputs import require_inputs
from modeldiff_eval.settings import make_settings
from modeldiff_eval.store import tidied

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"tasks": ("modeldiff_smokee",)}, "knows no task 'modeldiff_smokee'. Did you mean 'modeldiff_smoke'"),
    "task file": ({"tasks": ("absent.yaml",)}, "There is no task file absent.yaml"),
    "task of the causes": ({"causal_tasks": ("causes.yml",)}, "There is no task file causes.yml"),
    "benchmarks": ({"benchmarks": "absent", "tasks": ()}, "absent is not a folder"),
    "crosscoder": ({"crosscoder": ("./absent",)}, "There is no folder ./absent"),
    "corpus": ({"corpus": ("absent.jsonl",)}, "There is no corpus at absent.jsonl"),
    "corpus in a mixture": ({"corpus": ("a=packaged:1", "b=absent.jsonl:1")}, "There is no corpus at absent.jsonl"),
    "corpus in folders": ({"corpus": ("data/absent/x",)}, "There is no corpus at data/absent/x"),
    "answers": ({"answers": "./absent.jsonl"}, "There is no corpus at ./absent.jsonl"),
    "base": ({"base": "./absent"}, "There is no model at ./absent"),
    "tuned": ({"tuned": "a/b/c"}, "There is no model at a/b/c"),
    "anchor": ({"anchor": "no model"}, "neither a path that exists nor a hub id"),
    "text_from": ({"text_from": "/absent"}, "There is no model at /absent"),
    "taxonomy": ({"taxonomy": "absent.yaml"}, "absent.yaml"),
    "agreement": ({"agreement": "absent.yaml"}, "absent.yaml"),
    "arena": ({"arena": "absent.csv"}, "absent.csv"),
    "review": ({"annotator": "human:absent.csv"}, "absent.csv"),
    "device": ({"device": "cudda"}, "cudda"),
}


@pytest.fixture
def pair(base_model: Path, tuned_model: Path) -> dict[str, Any]:
    return {"base": str(base_model), "tuned": str(tuned_model), "tasks": ()}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_name_is_found_before_any_model_is_opened(
    pair: dict[str, Any], wrong: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("the models were opened")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ws, "open_workspace", opened)
    settings, _ = make_settings(pair | wrong, environ={})
    with pytest.raises(ModelDiffError) as error:
        diff(settings=settings, out=tmp_path / "out", cache=tmp_path / "cache")
    assert message in str(error.value)
    with pytest.raises(type(error.value)):
        require_inputs(settings, fetch=False)


def test_what_is_there_is_not_refused(pair: dict[str, Any], small_corpus: Path) -> None:
    more = {"corpus": (f"mine={small_corpus}", "more=packaged"), "tasks": ("modeldiff_smoke", "mdx_format")}
    require_inputs(make_settings(pair | more, environ={})[0], fetch=False)


def test_models_in_memory_need_no_folder(pair: dict[str, Any]) -> None:
    named = {"base": "the base in memory", "tuned": "./the tuned one", "text_from": "./the tuned one"}
    require_inputs(make_settings(pair | named, environ={})[0], given={"base", "tuned"})


def test_a_crosscoder_of_other_models_is_refused_before_the_text(
    pair: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_native(make(d=8), tmp_path / "narrow", {})
    monkeypatch.setattr(ws, "gather_text", lambda *_: pytest.fail("the text was read"))
    with pytest.raises(CrosscoderError, match="trained on models of width 8; these have 32"):
        diff(**pair, crosscoder=(str(tmp_path / "narrow"),), out=tmp_path / "out", cache=tmp_path / "cache")


# --dry-run --------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    return caller(capsys)


def test_a_dry_run_prints_the_plan_and_then_what_is_wrong(
    run: Run, base_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    pair = ("--base", base_model, "--tuned", tuned_model, "--dry-run")
    code, out, err = run(*pair, "--tasks", "absent.yaml")
    assert code == 3
    assert "Design        direct" in out
    assert "Time (estimates)" not in out, "an input is said before seconds of measuring"
    assert "There is no task file absent.yaml" in err
    assert run(*pair, "--json", "--tasks", "absent.yaml")[:2] == (3, "")
    assert run(*pair)[0] == 0
    (tmp_path / "file").write_text("x")
    code, _, err = run(*pair, "--out", tmp_path / "file" / "run")
    assert (code, "Cannot write to" in err) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dry_run_as_json(run: Run, base_model: Path, tuned_model: Path) -> None:
    code, out, _ = run("--base", base_model, "--tuned", tuned_model, "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0
    assert planned["settings"]["tuned"] == str(tuned_model)
    assert planned["plan"]["job"]["n_latents"] == planned["settings"]["latents"]
    assert planned["unknown"] is None
    unknown = json.loads(run("--base", "o/x", "--tuned", "o/y", "--dry-run", "--json")[1])
    assert unknown["plan"] is None
    assert "o/x" in unknown["unknown"]


def test_a_dry_run_of_a_batch_names_the_pair_that_cannot_start(
    run: Run, base_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    matrix = tmp_path / "pairs.yaml"
    pairs = {"good": {"tuned": str(tuned_model)}, "bad": {"tuned": str(tuned_model), "corpus": ["absent.jsonl"]}}
    matrix.write_text(
        yaml.safe_dump({"settings": {"base": str(base_model), "tasks": []}, "pairs": pairs}, sort_keys=False)
    )
    code, out, err = run("compare", "--matrix", matrix, "--dry-run", "--json")
    assert code == 3
    assert [pair["name"] for pair in json.loads(out)["pairs"]] == ["good", "bad"]
    assert "bad: There is no corpus at absent.jsonl" in err


# The run's folder -------------------------------------------------------------------------------------


def test_a_failed_command_leaves_no_empty_folder(run: Run, base_model: Path, tmp_path: Path) -> None:
    code, _, err = run("--base", base_model, "--tuned", "./typo")
    assert (code, "There is no model at ./typo" in err) == (3, True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_the_card_of_other_models_is_not_replaced(
    run: Run, base_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / tuned_model.name
    folder.mkdir(parents=True)
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrules:\n  - {rule: 'latents.tuned.specific < 1', severity: fail}\n")
    held = {"settings": {"anchor": None, "base": str(base_model), "tuned": f"elsewhere/{tuned_model.name}"}}
    (folder / "run.json").write_text(json.dumps(held))
    pair = ("--base", base_model, "--tuned", tuned_model, "--corpus", "absent.jsonl")
    for words in (pair, (*pair, "--dry-run")):
        code, _, err = run(*words)
        assert code in (2, 3)
    code, _, err = run(*pair)
    assert code == 2
    assert "holds the comparison" in err
    assert f"elsewhere/{tuned_model.name}" in err
    assert "--force replaces" in err
    for more in (["--force"], ["--force", "--dry-run"]):
        assert "absent.jsonl" in run(*pair, *more)[2]
    checked = run("check", *pair, "--policy", policy)
    assert (checked[0], "holds the comparison" in checked[2], "--force" in checked[2]) == (2, True, False)
    assert "absent.jsonl" in run(*pair, "--out", tmp_path / "other")[2]
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_the_same_models_in_other_words_are_no_others(
    base_model: Path, tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned_model.parent)
    settings, _ = make_settings({"base": str(base_model), "tuned": tuned_model.name}, environ={})
    held = {"anchor": None, "base": str(base_model), "tuned": f"./{tuned_model.name}/"}
    (tmp_path / "run.json").write_text(json.dumps({"settings": held}))
    require_own(tmp_path, settings)
    elsewhere = make_settings({"base": str(base_model), "tuned": str(tuned_model)}, environ={})[0]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="holds the comparison"):
        require_own(tmp_path, elsewhere)
    (tmp_path / "run.json").write_text(json.dumps({"settings": held, "cwd": str(tuned_model.parent)}))
    require_own(tmp_path, elsewhere)
    (tmp_path / "run.json").write_text(json.dumps({"settings": held | {"anchor": "o/p"}}))
    with pytest.raises(UsageError, match="anchored in o/p"):
        require_own(tmp_path, settings)
    for torn in ("", "[]", "{}", '{"settings": 3}', '{"settings": {"base": 5}, "cwd": 3}'):
        (tmp_path / "run.json").write_text(torn)
        require_own(tmp_path, settings)


def test_another_revision_is_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"anchor": None, "base": "o/x", "tuned": "o/y"}}))
    require_own(tmp_path, make_settings({"base": "o/x@main", "tuned": "o/y"}, environ={})[0])
    with pytest.raises(UsageError, match="o/z"):
        require_own(tmp_path, make_settings({"base": "o/x", "tuned": "o/z"}, environ={})[0])


def test_a_batch_replaces_no_card_of_other_models(
    run: Run, base_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "one").mkdir(parents=True)
    held = {"settings": {"anchor": None, "base": str(base_model), "tuned": "elsewhere"}}
    (tmp_path / "out" / "one" / "run.json").write_text(json.dumps(held))
    words = ("compare", "--base", base_model, "--tuned", f"one={tuned_model}", "--tasks", "none", "--out", "out")
    for more in ([], ["--dry-run"]):
        code, _, err = run(*words, *more)
        assert (code, "holds the comparison" in err) == (2, True)
    assert run(*words, "--dry-run", "--force")[0] == 0


def test_home_is_home_in_a_dry_run(
    run: Run, base_model: Path, tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    pair = ("--base", base_model, "--tuned", tuned_model, "--dry-run", "--out")
    code, _, err = run(*pair, "~/file/run")
    assert (code, "Cannot write to" in err) == (3, True)


def test_what_is_empty_goes_though_the_innermost_was_never_made(tmp_path: Path) -> None:
    def half() -> None:
        (tmp_path / "a").mkdir()
        raise OSError("no room for b")

    with pytest.raises(OSError, match="no room"), tidied(tmp_path / "a" / "b"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_the_models_own_folder_is_named_after_it(
    run: Run, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tuned_model)
    out = run("--base", base_model, "--tuned", ".", "--dry-run")[1]
    assert f"runs/{tuned_model.name}/card.html" in out


def test_an_impossible_folder_is_found_without_making_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Choose another folder with --out"):
        dry_run.require_possible(tmp_path / "file" / "a" / "b")
    dry_run.require_possible(tmp_path / "new" / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
