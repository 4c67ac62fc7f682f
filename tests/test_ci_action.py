"""The GitHub Action's and the GitLab job's own lines, run as a shell would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_cards import full_card

from modeldiff_eval.card_digest import seal
from modeldiff_eval.card_file import read_card

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((ROOT / "docs/ci/gitlab.yml").read_text(encoding="utf-8"))["modeldiff-gate"]
STEP = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "check")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with a card, a hostile one, and the command on the PATH."""
    for name, card in (
        ("mine", read_card(ROOT / "reports/paper_simpo")),
        ('it\'s "mine"; $(touch owned)', full_card()),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(seal(card).to_json(), encoding="utf-8")
    command = tmp_path / "bin/modeldiff-eval"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modeldiff_eval.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def shell(
    script: str, place: Path, env: dict[str, str], *, flags: str = "-eo pipefail"
) -> subprocess.CompletedProcess[str]:
    full = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | env
    return subprocess.run(
        ["bash", "--noprofile", "--norc", *flags.split(), "-c", script], cwd=place, env=full, capture_output=True, text=True
    )  # fmt: skip


def act(place: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], str, str]:
    """Run the action's check step with these inputs; gives the process, its outputs and the step summary."""
    given = {name: str(item.get("default", "")) for name, item in ACTION["inputs"].items()} | inputs
    assert set(given) == set(ACTION["inputs"])

    def value(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([a-z]+) \}\}", lambda found: given[found[1]], text)

    output, summary = place / "output.txt", place / "summary.md"
    output.write_text("")
    summary.write_text("")
    env = {name: value(text) for name, text in STEP["env"].items()}
    env |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    done = shell(STEP["run"], place, env)
    return done, output.read_text(), summary.read_text(encoding="utf-8")


def policy(place: Path, *rules: str) -> str:
    (place / "policy.yaml").write_text("rules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    return "policy.yaml"


def test_no_input_is_written_into_a_script() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    named = re.findall(r"inputs\.([a-z]+)", (ROOT / "action.yml").read_text(encoding="utf-8"))
    assert set(named) == set(ACTION["inputs"])


@pytest.mark.parametrize(
    ("rule", "strict", "code", "verdict"),
    [
        ("latents.tuned.specific < 500", "false", 0, "pass"),
        ("latents.tuned.specific < 50", "false", 1, "fail"),
        ("latents.null_rate < 0.01", "false", 0, "inconclusive"),
        ("latents.null_rate < 0.01", "true", 4, "inconclusive"),
        ("classes.H.diff > 5", "false", 2, ""),
    ],
)
def test_the_actions_step(place: Path, rule: str, strict: str, code: int, verdict: str) -> None:
    done, outputs, summary = act(place, card="mine", policy=policy(place, rule), strict=strict)
    assert (done.returncode, outputs) == (code, f"verdict={verdict}\n"), done.stderr
    if verdict:
        assert f"modeldiff: {verdict.upper()} (1 of 1 rule)" in summary
        assert (place / "modeldiff-gate.xml").exists()
        assert any(line.startswith("::notice title=modeldiff::") for line in done.stdout.splitlines())


def test_names_stay_names(place: Path) -> None:
    odd = 'it\'s "mine"; $(touch owned)'
    done, outputs, _ = act(
        place, card=odd, policy=policy(place, "benchmarks.*.delta.low > 9", "title == x"), baseline=odd
    )
    assert (done.returncode, outputs) == (1, "verdict=fail\n"), done.stderr
    assert not (place / "owned").exists()


def test_a_baseline_is_passed_on(place: Path) -> None:
    done, outputs, _ = act(
        place, card="mine", policy=policy(place, "latents.tuned.specific <= baseline"), baseline="mine"
    )
    assert (done.returncode, outputs) == (0, "verdict=pass\n"), done.stderr


def test_a_pair_is_passed_on(place: Path) -> None:
    """What the step asks for; a stand-in prints the words."""
    (place / "bin/modeldiff-eval").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    done, outputs, _ = act(place, base="X y", tuned="Y", anchor="P", policy="p.yaml", fast="true", strict="true")
    words = done.stdout.splitlines()
    assert words[words.index("--base") :] == ["--base", "X y", "--tuned", "Y", "--anchor", "P", "--fast", "--strict"]
    assert (done.returncode, outputs, words[0]) == (0, "verdict=\n", "check")


def test_the_gitlab_job(place: Path) -> None:
    env: dict[str, Any] = {name: str(value) for name, value in GITLAB["variables"].items()}
    env |= {"CARD": "mine", "POLICY": policy(place, "latents.null_rate < 0.01")}
    done = shell("\n".join(GITLAB["script"]), place, env)
    assert done.returncode == GITLAB["allow_failure"]["exit_codes"][0] == 4
    assert (place / GITLAB["artifacts"]["reports"]["junit"]).exists()
    assert (place / GITLAB["artifacts"]["paths"][0]).exists()
