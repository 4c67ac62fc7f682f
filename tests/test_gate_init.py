"""A first policy: its own card passes it, whatever stands in the card, and its comments say what the card shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sample_cards import full_card

from modeldiff_eval.card_file import read_card
from modeldiff_eval.gate import check_card
from modeldiff_eval.gate_init import policy_from_card
from modeldiff_eval.gate_policy import read_policy
from modeldiff_eval.records import Card

ROOT = Path(__file__).resolve().parents[1]
CARDS = ("demo", "demo-anchored", "organism-pirate", "paper_dpo", "paper_simpo")


def load(name: str) -> Card:
    return full_card() if name == "hostile" else read_card(ROOT / "reports" / name)


@pytest.mark.parametrize("name", [*CARDS, "hostile"])
def test_the_card_passes_its_own_policy(name: str, tmp_path: Path) -> None:
    card, file = load(name), tmp_path / "policy.yaml"
    file.write_text(policy_from_card(card), encoding="utf-8")
    gate = check_card(card, read_policy(file))
    assert gate.verdict == "pass"
    assert {rule.verdict for rule in gate.rules} == {"pass"}
    assert len(gate.rules) > 12
    assert {rule.severity for rule in gate.rules} == {"fail", "warn"}


def test_comments_say_what_the_card_shows() -> None:
    made = policy_from_card(load("paper_simpo"))
    assert "classes.A.diff_simultaneous.low > -13" in made
    assert "Safety & Content Moderation: now +5.277 (95 % −9.529 … +20.412), 18 and 19 latents" in made
    assert "gsm8k.delta.low > -2.5', severity: fail} # accuracy: now +0.600 (95 % −1.912 … +3.113), n 1319" in made
    assert (
        "# - {rule: 'benchmarks.alpaca_eval_2[\"length-controlled win rate\"].delta.low > -5', severity: fail} # inconclusive on this card"
        in made
    )


def test_no_rule_asks_for_a_gain() -> None:
    for name in CARDS:
        for rule in yaml.safe_load(policy_from_card(load(name)))["rules"]:
            path, _, bound = rule["rule"].rpartition(" ")
            if ".low" in path and ">" in path:
                assert float(bound) < 0


def test_less_is_better_where_the_metric_says_so() -> None:
    assert "benchmarks.wikitext.delta.high < 1.28" in policy_from_card(full_card())


def test_less_is_better_where_the_task_states_it() -> None:
    card = full_card()
    rows = [row.model_copy(update={"higher_is_better": False}) for row in card.benchmarks if row.task == "gsm8k"]
    assert rows
    made = policy_from_card(card.model_copy(update={"benchmarks": rows}))
    assert "benchmarks.gsm8k.delta.high < " in made
    assert "benchmarks.gsm8k.delta.low" not in made.partition("rules:\n")[2]


def test_a_worse_card_fails_it(tmp_path: Path) -> None:
    card, file = load("demo"), tmp_path / "policy.yaml"
    file.write_text(policy_from_card(card), encoding="utf-8")
    coder = card.crosscoders[0].model_copy(update={"dead_share": 0.5})
    gate = check_card(card.model_copy(update={"crosscoders": [coder]}), read_policy(file))
    assert [rule.rule for rule in gate.rules if rule.verdict == "fail"] == ["crosscoders.base--tuned.dead_share < 0.06"]
