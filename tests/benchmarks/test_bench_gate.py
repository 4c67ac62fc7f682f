"""What a gate costs: 200 rules read and decided in at most 50 ms; a whole ``check`` in at most half a second.

``pytest tests/benchmarks/test_bench_gate.py --benchmark-only -s``. The whole command is timed as a process of its own, the
interpreter's start in it, on a real card; its time is that of a quiet machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval.card_file import read_card
from modeldiff_eval.gate import check_card
from modeldiff_eval.gate_policy import read_policy

ROOT = Path(__file__).resolve().parents[2]
RULES, MOST_RULES, MOST_COMMAND = 200, 0.05, 0.5


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """200 different rules: bounds, whole estimates, stars, words, two terms."""
    classes = "ABCDEFG"
    forms = (
        "classes.{c}.diff_simultaneous.low > -{n}",
        "{{rule: classes.{c}.diff > -{n}, severity: warn}}",
        "classes.{c}.activation.change.low > -{n} and latents.tuned.specific < 9{n}",
        "categories.{c}.verdict != down",
        "benchmarks.mdx_arithmetic.delta.low > -{n}",
    )
    lines = []
    for number in range(RULES):
        form = forms[number % len(forms)].replace("categories.{c}", "classes.*")
        lines.append("  - " + form.format(c=classes[number % 7], n=100 + number))
    file = tmp_path / "policy.yaml"
    file.write_text("rules:\n" + "\n".join(lines) + "\n")
    return file


def test_two_hundred_rules(benchmark: Any, policy: Path) -> None:
    card = read_card(ROOT / "reports/demo")
    gate = benchmark(lambda: check_card(card, read_policy(policy)))
    assert (len(gate.rules), gate.verdict) == (RULES, "pass")
    assert benchmark.stats.stats.median <= MOST_RULES


def test_the_whole_command(benchmark: Any, policy: Path) -> None:
    words = [sys.executable, "-m", "modeldiff_eval.cli", "check", str(ROOT / "reports/demo"), "--policy", str(policy)]
    done = benchmark.pedantic(
        lambda: subprocess.run(words, capture_output=True, cwd=ROOT, check=True), rounds=5, warmup_rounds=1
    )
    assert done.stdout.startswith(b"PASS (200 of 200 rules)")
    assert benchmark.stats.stats.min <= MOST_COMMAND
