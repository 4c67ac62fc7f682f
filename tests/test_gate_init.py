"""A first policy: its own card passes it, whatever stands in the card, and its comments say what the card shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from sample_cards import full_card

from modeldiff_eval.card_file import read_card
from modeldiff_eval.gate import check_card
from modeldiff_eval.gate_init import policy_from_card
from modeldiff_eval.gate_policy import read_policy
from modeldiff_eval.records import Card
from modeldiff_eval.render_tiles import lower_is_better

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


def worst(card: Card) -> Card:
    """The card of the greatest loss that can be: everything that can fall is at its least, all else at its most."""
    least = {"value": -100.0, "low": -100.0, "high": -100.0}
    record = json.loads(card.to_json())
    size = max((made["n_latents"] for made in record["crosscoders"]), default=10**6)
    for coder in record["crosscoders"]:
        coder.update(fve_first=-1e9, fve_second=-1e9, dead_share=1.0)
    for side in ("base", "tuned"):
        record["latents"][side].update(specific=size, failed=size)
    record["latents"]["null_rate"] = 1.0
    for row in (*record["classes"], *record["categories"]):
        row.update(covered=True, verdict="down", diff=least, diff_simultaneous=least)
        if row.get("activation"):
            row["activation"].update(change=least, verdict="down")
    for row, own in zip(record["benchmarks"], card.benchmarks, strict=True):
        right_or_wrong = own.p_mcnemar is not None or own.metric.startswith(("acc", "mean accuracy"))
        most = 1e9 if not right_or_wrong else 1.0 if own.base <= 1 else 100.0
        most = most if lower_is_better(own) else -most
        row["delta"] = {"value": most, "low": most, "high": most}
    for row in (record.get("arena") or {"rows": []})["rows"]:
        for delta in ("delta", "delta_style"):
            row[delta] = row[delta] and {"value": -1e9, "low": -1e9, "high": -1e9}
    return Card.model_validate(record)


def small() -> Card:
    """A run so small that its intervals reach as far as they can."""
    record = json.loads(load("demo").to_json())
    record["crosscoders"][0].update(n_latents=32, dead_share=0.6)
    record["differences"] = None
    record["latents"]["null_rate"] = 0.7
    record["latents"]["base"].update(specific=10)
    record["latents"]["tuned"].update(specific=32)
    for row in record["classes"]:
        row["activation"]["change"] = {"value": -50.0, "low": -99.0, "high": 300.0}
    wide = {"value": 0.0, "low": -0.95, "high": 0.95}
    record["benchmarks"] = [
        row | {"delta": wide, "higher_is_better": row["task"] != "mdx_format"} for row in record["benchmarks"]
    ]
    return Card.model_validate(record)


@pytest.mark.parametrize("name", [*CARDS, "hostile", "small"])
def test_every_rule_can_fail(name: str, tmp_path: Path) -> None:
    card, file = small() if name == "small" else load(name), tmp_path / "policy.yaml"
    file.write_text(policy_from_card(card), encoding="utf-8")
    gate = check_card(worst(card), read_policy(file))
    assert [rule.rule for rule in gate.rules if rule.verdict != "fail"] == []


def test_a_rule_that_cannot_fail_is_a_comment_that_says_why() -> None:
    live, comments = (
        [line for line in policy_from_card(small()).splitlines() if line.startswith(start)]
        for start in ("  - {rule: ", "  # - {rule: ")
    )
    for rule, why in (
        (
            "classes.G.diff_simultaneous.low > -120",
            "it does not fall by more than 100: Specialized Capabilities: now −66.7",
        ),
        ("classes.A.activation.change.low > -140", "it does not fall by more than 100: "),
        ("benchmarks.mdx_arithmetic.delta.low > -1.2", "it does not fall by more than 1: acc: now 0.000"),
        ("benchmarks.mdx_format.delta.high < 1.2", "it does not rise by more than 1: "),
        ("latents.tuned.specific < 84", "a dictionary has 32 latents: now 32"),
    ):
        assert [
            line for line in comments if line.startswith(f"  # - {{rule: '{rule}'") and f"# cannot fail, {why}" in line
        ]
    for rule in ("crosscoders.base--tuned.dead_share < 1", "latents.null_rate < 1", "latents.base.specific < 32"):
        assert [line for line in live if line.startswith(f"  - {{rule: '{rule}'")]
    assert [line for line in live if "benchmarks.mdx_answer_harmless.margin.delta.low > -1.2" in line]


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
