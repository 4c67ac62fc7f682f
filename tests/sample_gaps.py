"""Cards made by code with nothing in them that may be absent, for the rendering tests."""

from __future__ import annotations

from typing import Any

from sample_cards import CLASSES

from modeldiff_eval.records import Card


def minimal_card() -> Card:
    """The smallest valid card: everything that may be absent is."""
    side = {"specific": 0, "annotated": 0, "none": 0, "failed": 0}
    return Card.model_validate(
        {
            "title": "X \u2192 Y",
            "created": "not a date",
            "mode": "direct",
            "method": "none",
            "headline": "Nothing was measured.",
            "models": {"base": {"id": "X"}, "tuned": {"id": "Y"}},
            "crosscoders": [],
            "latents": {"base": side, "tuned": side},
            "classes": [],
            "categories": [],
            "not_significant": [],
            "caveats": [],
            "provenance": {
                "package": "p",
                "versions": {},
                "seeds": {},
                "command": "c",
                "corpus": None,
                "tokens": None,
                "annotator": None,
            },
        }
    )


def sparse_card() -> Card:
    """All rows are there, but every number that may be null is, and so is every optional part of a row."""
    nothing = {"value": None, "low": None, "high": None}
    rows = [
        {
            "code": code,
            "name": name,
            "base": {"count": 0, "share": None},
            "tuned": {"count": 0, "share": None},
            "count_change": nothing,
            "diff": nothing,
            "verdict": "unclear",
            "activation": {
                "change": nothing,
                "p_adjusted": None,
                "verdict": "unclear",
                "n_latents": 0,
                "n_documents": 0,
                "null_size": None,
            },
        }
        for code, name in CLASSES.items()
    ]
    bench = {
        "task": "t",
        "metric": "acc",
        "n": 0,
        "base": 0.5,
        "tuned": 0.5,
        "delta": nothing,
        "p": None,
        "p_adjusted": None,
    }
    latent: dict[str, Any] = dict.fromkeys(
        (
            "label",
            "description",
            "category",
            "confidence",
            "nu_error",
            "nu_reconstruction",
            "activation_shift",
            "delta_norm",
            "frequency",
        )
    )
    change: dict[str, Any] = {
        "classes": rows,
        "categories": [dict(row, code=row["code"] + ".1", change=nothing, diff_simultaneous=nothing) for row in rows],
        "arena": {
            "source": "s",
            "snapshot": None,
            "independence_assumed": False,
            "rows": [
                {
                    "category": "c",
                    "base": 1.0,
                    "tuned": 1.0,
                    "delta": nothing,
                    "delta_style": nothing,
                    "style_effect": nothing,
                    "verdict": "unclear",
                }
            ],
        },
        "benchmarks": [dict(bench, mde=None, verdict="unclear", paired=False, source="s")],
        "agreement": [
            {
                "class": "A",
                "category_or_task": "t",
                "latent_verdict": "unclear",
                "outside_verdict": "unclear",
                "agrees": None,
            }
        ],
        "coverage": {"languages": [], "categories": [{}]},
        "top_latents": [
            dict(latent, model="base", latent=0, examples=[{"text": "no tokens", "tokens": [], "activations": []}]),
            dict(
                latent,
                model="tuned",
                latent=1,
                nu_error=nothing,
                examples=[{"text": "ab", "tokens": ["a", "b"], "activations": [0.0, 0.0]}],
            ),
        ],
    }
    return Card.model_validate(minimal_card().model_dump(by_alias=True) | change)
