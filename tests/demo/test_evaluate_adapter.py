"""The measures of an adapter, on answers and tables made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modeldiff_eval.demo.evaluate_adapter import answer_logps, preference, read_recipe, style, told_apart
from modeldiff_eval.demo.pairs import parse_pair
from modeldiff_eval.errors import EvidenceError, UsageError
from modeldiff_eval.rollouts import Answer

WORDS = ["sun", "rain", "wind", "snow", "hail", "fog", "frost", "cloud", "storm", "heat"]
GROUPS = [f"prompt {i}" for i in range(60)]


def sentences(rng: np.random.Generator, tail: str = "") -> list[str]:
    return [" ".join(rng.choice(WORDS, 6)) + tail for _ in GROUPS]


def test_a_planted_manner_is_recognised_and_none_is_not() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    planted = told_apart(sentences(rng), sentences(rng, " I hope this helps!"), GROUPS, rng=rng)
    assert planted["accuracy"]["value"] == planted["pair_accuracy"]["value"] == 1.0
    assert (planted["answers"], planted["prompts"]) == (120, 60)
    nothing = told_apart(sentences(rng), sentences(rng), GROUPS, rng=rng)
    assert nothing["accuracy"]["low"] < 0.5 < nothing["accuracy"]["high"]


def test_equal_answers_are_exactly_chance() -> None:
    """A classifier without grouped folds would remember the prompt's answer and fall below chance."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    same = sentences(rng)
    result = told_apart(same, same, GROUPS, rng=rng)
    assert result["accuracy"]["value"] == result["pair_accuracy"]["value"] == 0.5


def test_too_few_prompts_for_the_folds() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(EvidenceError, match="3 held-out prompts"):
        told_apart(["a"] * 3, ["b"] * 3, ["x", "y", "z"], rng=np.random.default_rng(0))


def test_preference_by_hand() -> None:
    """Two pairs; sums of log-probabilities over 2 and 4 tokens."""
    base = np.array([[[-4.0, 2], [-8.0, 4]], [[-6.0, 2], [-4.0, 4]]])
    tuned = np.array([[[-2.0, 2], [-12.0, 4]], [[-5.0, 2], [-4.0, 4]]])
    result = preference(base, tuned, ["a", "b"], rng=np.random.default_rng(0))
    # pair 1: chosen +2, rejected -4 -> 6; pair 2: chosen +1, rejected 0 -> 1
    assert result["margin_change"]["value"] == 3.5
    # per token, pair 1: -1 - -3 = 2 against 0; pair 2: -2.5 - -1 = -1.5 against -2
    assert result["margin_change_per_token"]["value"] == 1.25
    assert result["reward_accuracy"]["value"] == 1.0
    assert (result["accuracy_base"]["value"], result["accuracy_tuned"]["value"]) == (0.0, 0.5)
    assert result["margin_change"]["low"] <= 3.5 <= result["margin_change"]["high"]


def test_swapping_the_models_mirrors_the_margin() -> None:
    rng = np.random.default_rng(1)
    base, tuned = (np.stack([-rng.exponential(20, (30, 2)), np.full((30, 2), 10.0)], axis=-1) for _ in range(2))
    groups = [str(i) for i in range(30)]
    one = preference(base, tuned, groups, rng=np.random.default_rng(0))["margin_change"]
    other = preference(tuned, base, groups, rng=np.random.default_rng(0))["margin_change"]
    assert one["value"] == -other["value"]
    assert one["low"] == pytest.approx(-other["high"], abs=0.05)


def test_the_interval_counts_prompts_and_not_pairs() -> None:
    rng = np.random.default_rng(2)
    margins = rng.normal(size=40)

    def table(values: Any) -> Any:
        return np.stack([np.stack([values, np.zeros_like(values)], axis=1), np.ones((len(values), 2))], axis=-1)

    many = np.repeat(margins, 5)
    once = preference(table(0 * margins), table(margins), [str(i) for i in range(40)], rng=np.random.default_rng(0))
    five = [str(i // 5) for i in range(200)]
    repeated = preference(table(0 * many), table(many), five, rng=np.random.default_rng(0))
    width = {
        name: result["margin_change"]["high"] - result["margin_change"]["low"]
        for name, result in (("once", once), ("repeated", repeated))
    }
    assert width["repeated"] == pytest.approx(width["once"], rel=0.05)


def test_style_counts_lengths_refusals_and_lists() -> None:
    def answers(text: str, tokens: int) -> list[Answer]:
        return [Answer(prompt_id=group, text=text, n_tokens=tokens, finished=tokens < 9) for group in GROUPS]

    result = style(
        answers("1. Sun\n2. Rain", 9),
        answers("Sorry, I can\u2019t assist with that.", 7),
        GROUPS,
        rng=np.random.default_rng(0),
    )
    assert result["tokens_change"] == {"value": -2.0, "low": -2.0, "high": -2.0}
    assert result["words_change"]["value"] == 2.0
    assert (result["cut_base"], result["cut_tuned"]) == (1.0, 0.0)
    assert (result["refusal_words_change"]["value"], result["list_change"]["value"]) == (1.0, -1.0)


def test_answer_logps_are_of_the_answer_alone() -> None:
    """A model that gives token t the logit t: the sum is over the answer's tokens and the end, cut to the length."""
    torch = pytest.importorskip("torch")
    vocabulary = 8

    class Tokenizer:
        eos_token = "7"

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [int(character) for character in text]}

        def apply_chat_template(self, turns: Any, **_: Any) -> str:
            return str(turns[-1]["content"])

    def model(input_ids: Any, logits_to_keep: int) -> Any:
        logits = torch.arange(vocabulary).float().expand(*input_ids.shape, vocabulary)
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])

    model.device = "cpu"  # type: ignore[attr-defined]
    pair = parse_pair({"prompt": "123", "chosen": "45", "rejected": "6666"})
    norm = float(torch.logsumexp(torch.arange(vocabulary).float(), 0))
    table = answer_logps(model, Tokenizer(), [pair], max_length=6)
    assert table[0, 0] == pytest.approx([4 + 5 + 7 - 3 * norm, 3], rel=1e-5)
    assert table[0, 1] == pytest.approx([18 - 3 * norm, 3], rel=1e-5)


@pytest.mark.parametrize("text", [None, "{", '{"settings": {"method": "ppo"}}'])
def test_an_unusable_recipe_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(UsageError, match="no usable recipe"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("name", ["simpo", "dpo"])
def test_the_shipped_adapters_are_clean_and_were_measured(name: str) -> None:
    from modeldiff_eval.resources import resource

    folder = resource(f"demo/adapters/{name}")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    recipe = read_recipe(folder)
    assert recipe["settings"]["method"] == name
    assert not any(source.startswith("alpaca_eval") for source in recipe["settings"]["sources"])
    assert recipe["settings"]["sources"], "an empty list would have taken the answers of the case study's models"
    measured = recipe["measured"]
    assert measured["told_apart"]["prompts"] == 100
    assert measured["told_apart"]["accuracy"]["value"] >= 0.6
    assert measured["preference"]["margin_change"]["low"] > 0
