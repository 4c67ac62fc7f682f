"""What questions to Claude cost: a table of published prices with a date, estimates before, costs after."""

from __future__ import annotations

import datetime
import functools
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from modeldiff_eval.ask import Usage
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Record, problem_of
from modeldiff_eval.resources import resource
from modeldiff_eval.yaml_file import read_yaml

MILLION = 1_000_000
UNKNOWN_CACHE_MINIMUM = 4096
"""Assumed where a model's smallest cached prefix is not known: the largest that any model has."""


class ModelFacts(Record):
    """One model of the table; prices in US dollars per million tokens. The fields are described in the file."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_write: float = Field(ge=0)
    cache_read: float = Field(ge=0)
    cache_minimum: int | None = Field(default=None, ge=0)
    forced_tool: bool = True
    thinking: Literal["disabled", "between_tools"] | None = None
    effort: Literal["low", "medium", "high"] | None = None
    thinking_tokens: int = Field(default=0, ge=0)


class PriceTable(Record):
    """The whole file. ``date``: when the prices were read."""

    date: datetime.date
    batch_factor: float = Field(gt=0, le=1)
    models: dict[str, ModelFacts]


class CostEstimate(Record):
    """What questions will cost, in US dollars; None where the model's price is not known, and ``note`` says so.

    ``cost`` assumes that the shared prefix is read from the prompt cache wherever it is long enough for one, ``most``
    that nothing is cached. ``input_tokens`` and ``output_tokens`` are totals.
    """

    model: str
    questions: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    most: float | None
    note: str | None


@functools.cache
def price_table(path: Path | None = None) -> PriceTable:
    """The packaged table, or the one in ``path``.

    Raises:
        UsageError: the file cannot be read or is not a price table.
    """
    path = path or resource("data/claude_prices.yaml")
    try:
        return PriceTable.model_validate(read_yaml(path, "price table"))
    except ValidationError as error:
        raise UsageError(f"{path}: not a price table ({problem_of(error)}).") from error


def model_facts(model: str) -> ModelFacts | None:
    """The table's line for a model, with or without the date at the end of its name; None where there is none."""
    models = price_table().models
    return models.get(model) or models.get(re.sub(r"-\d{8}$", "", model))


def cost(usage: Usage, model: str, *, batch: bool = False) -> float | None:
    """US dollars for the tokens of ``usage``; None where the model's price is not known."""
    facts = model_facts(model)
    if facts is None:
        return None
    dollars = (
        usage.input * facts.input
        + usage.output * facts.output
        + usage.cache_write * facts.cache_write
        + usage.cache_read * facts.cache_read
    ) / MILLION
    return dollars * (price_table().batch_factor if batch else 1.0)


def estimate(
    n_questions: int, system_tokens: int, text_tokens: int, output_tokens: int, model: str, *, batch: bool = False
) -> CostEstimate:
    """What ``n_questions`` will cost.

    Args:
        system_tokens: tokens of the shared prefix (system text, tool and its schema) of one question.
        text_tokens: tokens of the rest of one question, on average.
        output_tokens: tokens of one answer, on average, without thinking.
    """
    facts = model_facts(model)
    table = price_table()
    thinking = facts.thinking_tokens if facts else 0
    note = f"Prices of {table.date.isoformat()}."
    price = most = None
    if facts is None:
        note = f"No price is known for {model!r}; the cost will not be shown."
    elif n_questions:
        plain = Usage(
            input=(system_tokens + text_tokens) * n_questions, output=(output_tokens + thinking) * n_questions
        )
        most = price = cost(plain, model, batch=batch)
        if system_tokens >= (UNKNOWN_CACHE_MINIMUM if facts.cache_minimum is None else facts.cache_minimum):
            cached = Usage(
                input=text_tokens * n_questions,
                output=plain.output,
                cache_write=system_tokens,
                cache_read=system_tokens * (n_questions - 1),
            )
            price = cost(cached, model, batch=batch)
        if thinking:
            note += f" {model} always thinks: up to {thinking} tokens an answer are counted for it."
    else:
        price = most = 0.0
    return CostEstimate(
        model=model,
        questions=n_questions,
        input_tokens=(system_tokens + text_tokens) * n_questions,
        output_tokens=(output_tokens + thinking) * n_questions,
        cost=price,
        most=most,
        note=note,
    )
