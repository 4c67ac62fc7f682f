"""``check`` and ``policy`` as a build meets them: exit codes, files, checksums, a fresh pair."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from calling import Run, caller

from modeldiff_eval.card_digest import digest, seal, seal_of
from modeldiff_eval.card_file import read_card, read_card_file
from modeldiff_eval.gate_pair import is_fast

ROOT = Path(__file__).resolve().parents[1]
PASSES, FAILS, OPEN = "latents.tuned.specific < 500", "latents.tuned.specific < 50", "latents.null_rate < 0.01"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in an empty working folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    return caller(capsys)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """The folder of the paper's SimPO card, with its checksum."""
    (tmp_path / "card").mkdir()
    made = seal(read_card(ROOT / "reports/paper_simpo"))
    (tmp_path / "card/card.json").write_text(made.to_json(), encoding="utf-8")
    return tmp_path / "card"


def policy(folder: Path, *rules: str, name: str = "policy.yaml") -> Path:
    file = folder / name
    file.write_text("rules:\n" + "".join(f"  - {rule}\n" for rule in rules), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("rules", "words", "code", "said"),
    [
        ([PASSES], [], 0, "PASS (1 of 1 rule)"),
        ([PASSES, FAILS], [], 1, "FAIL (1 of 2 rules)"),
        ([OPEN], [], 0, "INCONCLUSIVE (1 of 1 rule)"),
        ([OPEN], ["--strict"], 4, "INCONCLUSIVE (1 of 1 rule)"),
        ([OPEN, FAILS], ["--strict"], 1, "FAIL (1 of 2 rules)"),
    ],
)
def test_exit_codes(
    run: Run, card: Path, tmp_path: Path, rules: list[str], words: list[str], code: int, said: str
) -> None:
    found, out, err = run("check", card, "--policy", policy(tmp_path, *rules), *words)
    assert (found, err) == (code, "")
    assert out.startswith(said)


def test_usage_errors(run: Run, card: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path, PASSES)
    for words, said in (
        ([card], "--policy is missing"),
        ([card, "--policy", tmp_path / "none.yaml"], "Cannot read the policy"),
        ([tmp_path / "none", "--policy", rules], "There is no card"),
        (["--policy", rules], "Give a finished card"),
        (["--policy", rules, "--base", "x"], "Give a finished card"),
        ([card, "--policy", rules, "--fast", "--tokens", "5000"], "--tokens, --fast belong to a fresh pair"),
        ([card, "--policy", rules, "--format", "junitt"], "Did you mean 'junit'"),
        ([card, "--policy", rules, "--format", "json="], "unknown"),
        ([card, "--policy", rules, "--format", "json=x", "--format", "junit=./x"], "2 formats would be written to"),
        ([card, "--policy", rules, "--format", "json", "--format", "text", "--output", "x"], "--output goes with one"),
        ([card, "--policy", rules, "--format", "json", "--format", "text"], "Write --format json=FILE"),
        ([card, "--policy", rules, "--format", "markdown", "--format", "github"], "markdown and github would be mixed"),
        ([card, "--policy", rules, "--format", "junit", "--format", "junit"], "junit and junit would be mixed"),
        ([card, "--policy", policy(tmp_path, "classes.H.diff > 1", name="h.yaml")], "no class 'H'"),
        ([card, "--policy", policy(tmp_path, "classes.A.diff > baseline", name="b.yaml")], "there is none"),
        ([card, "--policy", rules, "--baseline", ROOT / "reports/demo"], "cannot be compared"),
    ):
        code, out, err = run("check", *words)
        assert (code, out) == (2, ""), words
        assert said in " ".join(err.split()), words


def test_many_formats_at_once(run: Run, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = run(
        "check", card, "--policy", policy(tmp_path, PASSES, FAILS), "--summary", "--format", "text", "--format", "github",
        "--format", "junit=out/gate.xml", "--format", "json=out/gate.json", "--format", "markdown=out/gate.md",
    )  # fmt: skip
    assert code == 1
    assert "\n::error file=policy.yaml,line=3,title=" in out
    assert ElementTree.parse(tmp_path / "out/gate.xml").getroot().attrib["failures"] == "1"
    found = json.loads((tmp_path / "out/gate.json").read_text())
    assert (found["verdict"], found["exit_code"], found["rules"][1]["value"]) == ("fail", 1, 92.0)
    made = (tmp_path / "out/gate.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == "before\n" + made
    assert run("check", card, "--policy", "policy.yaml", "--format", "json", "--output", "one.json")[:2] == (1, "")
    assert json.loads((tmp_path / "one.json").read_text()) == found


def test_a_closed_standard_output_leaves_the_verdict(run: Run, card: Path, tmp_path: Path, monkeypatch: Any) -> None:
    rules = policy(tmp_path, PASSES, name="passes.yaml"), policy(tmp_path, FAILS, name="fails.yaml")
    for file, code in zip(rules, (0, 1), strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            assert run("check", card, "--policy", file)[::2] == (code, "")


def test_an_unwritable_report_is_a_run_time_failure(run: Run, card: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("check", card, "--policy", policy(tmp_path, PASSES), "--format", "json=file/gate.json")
    assert (code, "Cannot write" in err) == (3, True)


def test_a_card_edited_by_hand_is_refused(run: Run, card: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path, FAILS)
    record = json.loads((card / "card.json").read_text(encoding="utf-8"))
    record["latents"]["tuned"]["specific"] = 9
    (card / "card.json").write_text(json.dumps(record), encoding="utf-8")
    code, out, err = run("check", card, "--policy", rules)
    assert (code, out) == (2, "")
    assert "was edited since it was made" in err
    code, out, _ = run("check", card, "--policy", rules, "--allow-edited")
    assert code == 0
    assert "note: The card was edited since it was made" in out
    shutil.copytree(card, tmp_path / "last")
    whole = tmp_path / "whole.json"
    whole.write_text(seal(read_card(ROOT / "reports/paper_simpo")).to_json(), encoding="utf-8")
    code, _, err = run("check", whole, "--policy", rules, "--baseline", tmp_path / "last")
    assert (code, "The baseline" in err) == (2, True)


def test_a_card_without_a_checksum_is_taken_and_it_is_said(run: Run, tmp_path: Path) -> None:
    made = read_card(ROOT / "reports/paper_simpo")
    made = made.model_copy(update={"provenance": made.provenance.model_copy(update={"digest": None})})
    (tmp_path / "card.json").write_text(made.to_json(), encoding="utf-8")
    code, out, _ = run("check", tmp_path, "--policy", policy(tmp_path, PASSES))
    assert (code, "note: The card carries no checksum" in out) == (0, True)


def test_the_verdict_goes_into_the_card(run: Run, card: Path, tmp_path: Path) -> None:
    (card / "card.html").write_text("")
    (card / "card.md").write_text("")
    code, *_ = run("check", card, "--policy", policy(tmp_path, PASSES, FAILS), "--update-card")
    assert code == 1
    found = read_card_file(card)
    assert (found.seal, found.card.gate and found.card.gate.verdict) == ("whole", "fail")
    assert "### modeldiff: FAIL" in (card / "card.md").read_text(encoding="utf-8")
    assert FAILS.replace("<", "&lt;") in (card / "card.html").read_text(encoding="utf-8")
    assert not (card / "card.pdf").exists()
    assert run("check", card, "--policy", "policy.yaml")[0] == 1


def test_a_card_of_an_earlier_version_stays_whole(run: Run, card: Path, tmp_path: Path) -> None:
    """Fields with a default that is not empty are not in its file, and are there when the verdict was written."""
    record = json.loads((card / "card.json").read_text(encoding="utf-8"))
    for row in record["benchmarks"]:
        del row["headline"]
    record["provenance"]["digest"] = digest(record)
    (card / "card.json").write_text(json.dumps(record), encoding="utf-8")
    assert run("check", card, "--policy", policy(tmp_path, PASSES), "--update-card")[0] == 0
    assert read_card_file(card).seal == "whole"
    assert run("check", card, "--policy", policy(tmp_path, PASSES))[0] == 0


def test_a_verdict_does_not_heal_an_edited_card(run: Run, card: Path, tmp_path: Path) -> None:
    record = json.loads((card / "card.json").read_text(encoding="utf-8"))
    record["latents"]["tuned"]["specific"] = 1
    (card / "card.json").write_text(json.dumps(record), encoding="utf-8")
    assert run("check", card, "--policy", policy(tmp_path, PASSES), "--update-card", "--allow-edited")[0] == 0
    assert read_card_file(card).seal == "edited"


def test_policy_init_and_check(run: Run, card: Path, tmp_path: Path) -> None:
    code, out, _ = run("policy", "init", card, "--out", "new.yaml")
    assert (code, out.splitlines()[-1]) == (0, f"next: modeldiff-eval check {card} --policy new.yaml")
    assert run("check", card, "--policy", "new.yaml", "--strict")[0] == 0
    code, _, err = run("policy", "init", card, "--out", "new.yaml")
    assert (code, "--force" in err) == (2, True)
    assert run("policy", "init", card, "--out", "new.yaml", "--force")[0] == 0
    assert run("policy", "init", card)[1] == (tmp_path / "new.yaml").read_text(encoding="utf-8")
    code, out, _ = run("policy", "check", "new.yaml", card)
    assert (code, out.splitlines()[-1]) == (0, f"{card}: every rule finds its numbers")
    code, out, _ = run("policy", "check", policy(tmp_path, PASSES, OPEN), card)
    assert "line 3: latents.null_rate: it is not measured in this card" in out
    assert run("policy", "check", policy(tmp_path, "classes.H.diff > 1"), card)[0] == 2


def test_check_loads_nothing_heavy(card: Path, tmp_path: Path) -> None:
    words = ["check", str(card), "--policy", str(policy(tmp_path, PASSES))]
    script = (
        f"import sys\nfrom modeldiff_eval.cli import main\ntry:\n    main({words!r})\nexcept SystemExit as e:\n    print(e.code)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'jinja2', 'rich', 'weasyprint', 'jaxtyping'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "HEAVY []"]


# A fresh pair ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_corpus: Path, base_model: Path, adapter: Path
) -> Any:
    """Check a pair of tiny models against an anchor in a cache of its own; gives the code, the output and run.json."""
    from tiny_run import ByHash

    module = importlib.import_module("modeldiff_eval.diff")
    monkeypatch.setattr(module, "render", partial(module.render, formats=("md",)))
    monkeypatch.setattr("modeldiff_eval.analysis.get_annotator", lambda *_, **__: ByHash())
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "small.yaml"
    config.write_text(
        "latents: 32\nk: 4\nsteps: 10\nbatch: 256\nmax_length: 128\nnull_tokens: 500\ndraws: 200\ndtype: float32\n"
        "annotate_top: 2\nthresholds: {min_firings: 8}\n"
    )

    def call(tuned: Path, name: str, *words: object) -> tuple[int, str, dict[str, Any]]:
        code, out, err = run(
            "check", "--base", base_model, "--tuned", tuned, "--anchor", adapter, "--corpus", small_corpus,
            "--config", config, "--out", name, "-q", *words,
        )  # fmt: skip
        assert (tmp_path / name / "run.json").exists(), err
        return code, out, json.loads((tmp_path / name / "run.json").read_text())

    return call


def test_a_fast_pair_reuses_the_shared_crosscoder(
    pair: Any, tmp_path: Path, tuned_model: Path, merged_model: Path
) -> None:
    rules = policy(
        tmp_path, "crosscoders.*.fve_second > -9", "latents.tuned.specific < 9999", "benchmarks.gsm8k.delta.low > -1"
    )
    code, out, first = pair(tuned_model, "one", "--policy", rules, "--fast", "--strict")
    assert code == 4
    assert out.startswith("INCONCLUSIVE (2 of 3 rules)")
    assert "a small budget does not count latents" in out
    assert (first["settings"]["preset"], first["settings"]["rollouts"]) == ("fast", 0)
    assert any("anchor--base" in name or "base" in str(name) for name in first["trained"])
    found = read_card_file(tmp_path / "one")
    assert (found.seal, is_fast(found.card), found.card.gate and found.card.gate.fast) == ("whole", True, True)
    code, _, second = pair(merged_model, "two", "--policy", rules, "--fast")
    assert code == 0
    assert len(second["trained"]) < len(first["trained"])
    assert not any("base" in str(name) for name in second["trained"])


def test_a_run_of_full_budget_is_decided_in_full(
    pair: Any, tmp_path: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELDIFF_ROLLOUTS", "0")
    words = ("--policy", policy(tmp_path, "latents.tuned.specific < 9999"), "--tasks", "none")
    code, out, notes = pair(tuned_model, "full", *words)
    assert (code, out.splitlines()[0].split("  ")[0]) == (0, "PASS (1 of 1 rule)")
    record = json.loads((tmp_path / "full/card.json").read_text(encoding="utf-8"))
    assert (seal_of(record), record["gate"]["fast"], notes["settings"]["preset"]) == ("whole", False, "quick")
