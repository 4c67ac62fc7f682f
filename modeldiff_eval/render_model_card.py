"""The card as a Hugging Face model card: YAML with a ``model-index`` of the benchmarks, then the Markdown."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from modeldiff_eval.records import BenchmarkRow, Card, ModelInfo
from modeldiff_eval.render_markdown import render_markdown
from modeldiff_eval.render_text import visible
from modeldiff_eval.store import write_text

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SLUG = re.compile(r"[^a-z0-9]+")
TAGS = ["model-diffing", "crosscoder", "modeldiff-eval"]


def write_model_card(card: Card, out: Path) -> Path:
    """Write ``model_card.md`` to ``out``: what to put at the head of the tuned model's README.md.

    Raises:
        OutputError: it cannot be written.
    """
    return write_text(out / "model_card.md", model_card(card))


def model_card(card: Card) -> str:
    """YAML front matter and the card's Markdown.

    ``model-index`` holds the tuned model's own benchmark values, each with the difference to base and its interval beside it;
    without benchmarks there is none. ``base_model`` is named only where it is an id on the hub (``owner/name``), since the hub
    refuses others.
    """
    front: dict[str, Any] = {"tags": TAGS}
    if (base := _hub_id(card.models.base)) is not None:
        front["base_model"] = base
    results = [_result(row) for row in card.benchmarks if math.isfinite(row.tuned)]
    if results:
        front["model-index"] = [{"name": _name(card.models.tuned), "results": results}]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n\n{render_markdown(card)}"


def _hub_id(model: ModelInfo) -> str | None:
    return model.id if _REPO.fullmatch(model.id) else None


def _name(model: ModelInfo) -> str:
    return visible(model.id if model.adapter is None else f"{model.id} + {model.adapter}", limit=200)


def _result(row: BenchmarkRow) -> dict[str, Any]:
    """One entry. The hub knows no intervals: they go into the metric's ``args``, which it keeps."""
    args = {
        "n": row.n,
        "base": row.base,
        "delta": row.delta.value,
        "delta_low": row.delta.low,
        "delta_high": row.delta.high,
    }
    return {
        "task": {"type": "text-generation"},
        "dataset": {
            "name": visible(row.task, limit=100),
            "type": _SLUG.sub("-", row.task.lower()).strip("-")[:80] or "unnamed",
        },
        "metrics": [
            {
                "type": _SLUG.sub("_", row.metric.lower()).strip("_")[:80] or "unnamed",
                "value": row.tuned,
                "name": visible(row.metric, limit=100),
                "args": {**args, "level": row.delta.level, "p_adjusted": row.p_adjusted},
            }
        ],
    }
