"""Costs by hand, and that what is not known stays unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeldiff_eval.ask import Usage
from modeldiff_eval.claude_endpoint import DEFAULT_MODEL
from modeldiff_eval.claude_errors import known_models
from modeldiff_eval.claude_prices import cost, estimate, model_facts, price_table
from modeldiff_eval.errors import UsageError

MODEL = "claude-haiku-4-5"


def test_a_cost_by_hand() -> None:
    usage = Usage(input=1_000_000, output=200_000, cache_write=400_000, cache_read=10_000_000)
    assert cost(usage, MODEL) == pytest.approx(1.0 + 1.0 + 0.5 + 1.0)
    assert cost(usage, MODEL, batch=True) == pytest.approx(1.75)
    assert cost(usage, "claude-haiku-4-5-20251001") == cost(usage, MODEL)
    assert cost(usage, "qwen3-8b") is None


def test_an_estimate_by_hand() -> None:
    # 100 questions with 5,000 shared tokens, 1,000 of their own and answers of 200.
    made = estimate(100, 5000, 1000, 200, MODEL)
    assert made.most == pytest.approx((600_000 * 1 + 20_000 * 5) / 1e6)
    assert made.cost == pytest.approx((100_000 * 1 + 5000 * 1.25 + 99 * 5000 * 0.1 + 20_000 * 5) / 1e6)
    assert (made.input_tokens, made.output_tokens) == (600_000, 20_000)
    half = estimate(100, 5000, 1000, 200, MODEL, batch=True)
    assert (half.cost, half.most) == (pytest.approx(made.cost / 2), pytest.approx(made.most / 2))


def test_a_short_prefix_is_not_cached() -> None:
    made = estimate(100, 4000, 1000, 200, MODEL)
    assert made.cost == made.most
    assert estimate(0, 4000, 1000, 200, MODEL).cost == 0.0


def test_thinking_that_cannot_be_turned_off_is_counted() -> None:
    made = estimate(10, 100, 100, 200, "claude-opus-5-5")
    assert made.output_tokens == 10 * 4200
    assert "always thinks" in str(made.note)


def test_an_unknown_model_has_no_price() -> None:
    made = estimate(10, 100, 100, 200, "qwen3-8b")
    assert made.cost is None
    assert made.most is None
    assert "No price" in str(made.note)


def test_the_table_is_sound() -> None:
    table = price_table()
    assert table.models.keys() <= set(known_models())
    for name, facts in table.models.items():
        assert facts.cache_read < facts.input < facts.cache_write < facts.output, name
        assert facts.cache_write == pytest.approx(1.25 * facts.input), name
    assert model_facts(DEFAULT_MODEL)


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("date: 2026-01-01\nbatch_factor: 0.5\nmodels:\n  m: {input: cheap}\n")
    with pytest.raises(UsageError, match=r"prices\.yaml: not a price table \(models\.m\.input"):
        price_table(path)
