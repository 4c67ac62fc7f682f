"""A card made by code with everything in it, hostile or plain, for the rendering tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import sample_panels

from modeldiff_eval.records import Card, Verdict

HOSTILE = '<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)> & "quotes" \''
BIDI = "user\u202egnp.exe\u202c and \u2066isolated\u2069 zero\u200bwidth bell\x07 nul\x00 tag\U000e0041"
CJK = "\u6f22\u5b57\u3068\u30ab\u30bf\u30ab\u30ca\ud55c\uad6d \u0639\u0631\u0628 \U0001f600\U0001f469\u200d\U0001f4bb"
MARKUP = "[bold red]not markup[/] [link=http://evil.example]x[/link] **not bold** @you | cell `code` [a](http://evil.x)"
LONG = "An extraordinarily long label that goes on " * 12 + "W" * 400

CLASSES = {
    "A": "Safety & Content Moderation",
    "B": "Linguistic Capabilities",
    "C": "Information Processing",
    "D": "User Interaction Management",
    "E": "Format & Structure Control",
    "F": "Error Handling & Quality Control",
    "G": "Specialized Capabilities",
}
SIZES = {"A": 6, "B": 3, "C": 4, "D": 4, "E": 3, "F": 3, "G": 7}
VERDICTS: dict[str, Verdict] = {
    "A": "up",
    "B": "not covered",
    "C": "unclear",
    "D": "down",
    "E": "unclear",
    "F": "unclear",
    "G": "unclear",
}


def _estimate(value: float | None, half: float = 4.0) -> dict[str, Any]:
    return {
        "value": value,
        "low": None if value is None else value - half,
        "high": None if value is None else value + half,
    }


def _row(
    code: str, name: str, base: int, tuned: int, total: tuple[int, int], verdict: Verdict, *, activation: bool
) -> dict[str, Any]:
    shares = (100 * base / total[0], 100 * tuned / total[1])
    diff = shares[1] - shares[0]
    half = 3.0 if verdict in ("up", "down") else abs(diff) + 4.0
    relative = None
    if base:
        relative = {
            "value": 100 * diff / shares[0],
            "low": 100 * (diff - half) / shares[0],
            "high": None if base < 3 else 90.0,
        }
    shift = {
        "change": _estimate(-3 * diff, 5.0),
        "p_adjusted": 0.2,
        "verdict": "unclear",
        "n_latents": 40,
        "n_documents": 300,
        "null_size": 2.5,
    }
    return {
        "code": code,
        "name": name,
        "covered": verdict != "not covered",
        "base": {"count": base, "share": shares[0]},
        "tuned": {"count": tuned, "share": shares[1]},
        "count_change": _estimate(float(tuned - base), 8.0),
        "diff": _estimate(diff, half),
        "diff_simultaneous": _estimate(diff, 1.4 * half),
        "change": relative,
        "mde": 9.5,
        "p": 0.01,
        "p_adjusted": 0.0004 if verdict in ("up", "down") else 0.61,
        "verdict": verdict,
        "graded": {"base": 10.0, "tuned": 11.0, "diff": _estimate(1.0)},
        "activation": shift if activation else None,
    }


def _training() -> dict[str, Any]:
    """A training of 200 million rows whose loss falls and whose fve dips while k is annealed."""
    rows = [3_400_000 * (i + 1) for i in range(60)]
    share = [1 - 0.9 * np.exp(-(i + 1) / 6) - 0.1 * min(i, 12) / 12 for i in range(60)]
    return {
        "rows": rows,
        "loss": [round(1.03 - float(s), 5) for s in share],
        "fve_first": [round(float(s) - 0.02, 5) for s in share],
        "fve_second": [round(float(s) - 0.026, 5) for s in share],
        "dead": [0] * 10 + [4200 - 50 * i for i in range(50)],
        "steps": 97_656,
    }


def _latent(
    index: int, category: str | None, rng: np.random.Generator, *, text: str, label: str | None
) -> dict[str, Any]:
    words = (
        text + " and then the model explains step by step what it will not do\nbecause the request is harmful."
    ).split(" ")
    tokens = [words[0], *(" " + word for word in words[1:])]
    quiet = rng.random(len(tokens)) < 0.6
    strength = np.where(quiet, 0.0, rng.gamma(2.0, 1.5, len(tokens)))
    example = {"text": "".join(tokens), "tokens": tokens, "activations": [round(float(x), 3) for x in strength]}
    return {
        "model": "tuned" if index % 2 else "base",
        "latent": 1000 + 37 * index,
        "label": label,
        "description": None if index == 3 else f"Fires where an answer declines. {text}",
        "category": category,
        "confidence": None if index == 2 else 0.62,
        "nu_error": {"value": 0.05 + 0.04 * index, "low": 0.02, "high": 0.2 + 0.04 * index},
        "nu_reconstruction": None if index == 4 else {"value": 0.2 + 0.03 * index, "low": 0.1, "high": 0.5},
        "activation_shift": {"value": 52.0 - 9 * index, "low": 31.0 - 9 * index, "high": 70.0 - 9 * index},
        "delta_norm": None if index == 1 else 0.93,
        "frequency": 0.0042,
        "examples": [] if index == 5 else [example] * 4,
    }


def _causal(bad: Any) -> dict[str, Any]:
    """A causal panel: one set with an effect, one latent that never fires, a benchmark and two answers."""

    def measure(value: float, half: float, verdict: Verdict) -> dict[str, Any]:
        return {
            "effect": _estimate(value, half), "random": _estimate(0.002, 0.004),
            "difference": _estimate(value - 0.002, half), "verdict": verdict,
        }  # fmt: skip

    effect = {"kl": measure(-0.05, 0.01, "down"), "nll": measure(0.003, 0.02, "unclear")}
    row = {"fires": 0.31, "random_fires": 0.29, "random": [[5, 6], [7, 8]], "out": effect, "into": effect}
    return {
        "other": "anchor", "chosen": "specific", "layer": 20, "dtype": "bfloat16", "assistant_only": True, "documents": 61,
        "tokens": 4100, "patched_tokens": 4160, "draws": 2, "kl": _estimate(0.21, 0.03), "nll": _estimate(1.3, 0.2),
        "rows": [
            {"name": "All tuned-specific latents", "kind": "set", "latents": [1, 2], **row},
            {"name": bad("Safety", HOSTILE), "kind": "class", "code": "A", "latents": [1], **row},
            {
                "name": bad("refusals", f"{MARKUP} {BIDI}"), "kind": "latent", "code": None, "latents": [2], "fires": 0.0,
                "random_fires": None,
            },
        ],
        "tasks": [
            {
                "task": bad("mdx_refusal", HOSTILE), "metric": "acc", "n": 40, "tuned": 0.6, "patched": 0.4,
                "delta": _estimate(-0.2, 0.1), "p_adjusted": 0.01, "random": _estimate(0.0, 0.02), "draws": 3,
                "verdict": "down",
            }
        ],
        "texts": [
            {
                "prompt": bad("How do I?", HOSTILE), "tuned": bad("No.", HOSTILE), "patched": bad("Yes.", f"{BIDI} {HOSTILE}"),
                "other": bad("Yes!", MARKUP),
            },
            {"prompt": "p", "tuned": bad("t", CJK), "patched": bad("u", LONG), "other": ""},
        ],
    }  # fmt: skip


def full_card(*, hostile: bool = True, activation: bool = True) -> Card:
    """A card with every slot filled; ``hostile`` puts attacks and awkward scripts into all foreign text."""
    rng = np.random.default_rng(7)
    bad = (lambda plain, attack: attack) if hostile else (lambda plain, attack: plain)
    counts = {"A": (9, 22), "B": (7, 8), "C": (19, 16), "D": (20, 6), "E": (12, 10), "F": (7, 4), "G": (32, 21)}
    total = (112, 89)
    classes, categories, number = [], [], 0
    for code, name in CLASSES.items():
        base, tuned = counts[code]
        shown = bad(name, f"{name} {HOSTILE}") if code == "C" else bad(name, f"{name} {LONG}") if code == "F" else name
        classes.append(_row(code, shown, base, tuned, total, VERDICTS[code], activation=activation and code != "G"))
        for _ in range(SIZES[code]):
            number += 1
            pair = (int(rng.integers(0, 9)), int(rng.integers(0, 9)))
            label = bad(
                f"Category number {number}", f"Category {number} {CJK if number == 7 else BIDI if number == 9 else ''}"
            )
            verdict: Verdict = "not covered" if code == "B" else "unclear"
            categories.append(_row(f"{code}.{number}", label, *pair, total, verdict, activation=False))
    texts = [bad("I'm sorry, but I can't help", t) for t in (HOSTILE, BIDI, CJK, MARKUP, LONG, "plain words")]
    labels = [
        bad("refusal phrases", HOSTILE),
        "apology at the start",
        bad("translation", CJK),
        None,
        bad("lists", LONG),
        MARKUP,
    ]
    codes = ["A.2", "A.1", "B.7", None, "E.18", "A.2"]
    return Card.model_validate(
        {
            "title": bad("gemma-2-9b-it \u2192 gemma-2-9b-it-SimPO", f"base {BIDI} \u2192 tuned {HOSTILE}"),
            "created": "2026-01-15T10:30:00Z",
            "mode": "anchored",
            "method": "batchtopk crosscoder",
            "headline": bad(
                "Safety & Content Moderation grew and User Interaction Management shrank; the other five are unclear.",
                f"{MARKUP} {HOSTILE} {BIDI}",
            ),
            "gate": {
                "verdict": "fail",
                "rules": [
                    {"rule": "classes.A.diff_simultaneous.low > -5", "value": 2.1, "verdict": "pass"},
                    {"rule": "benchmarks.gsm8k.delta.low > -0.02", "value": -0.061, "verdict": "fail"},
                    {
                        "rule": f"latents.tuned.specific < 500 {bad('', HOSTILE)}",
                        "value": None,
                        "verdict": "inconclusive",
                    },
                ],
            },
            "models": {
                "anchor": {"id": "google/gemma-2-9b", "revision": "33c193028431c2fde6c6e51f29e6f17b60cbfac6"},
                "base": {
                    "id": "google/gemma-2-9b-it",
                    "revision": "main",
                    "dtype": "bfloat16",
                    "n_layers": 42,
                    "d_model": 3584,
                },
                "tuned": {
                    "id": bad("princeton-nlp/gemma-2-9b-it-SimPO", HOSTILE),
                    "revision": None,
                    "adapter": bad("adapters/simpo", BIDI),
                    "dtype": "bfloat16",
                    "n_layers": 42,
                    "d_model": 3584,
                },
            },
            "crosscoders": [
                {
                    "first": "anchor",
                    "second": side,
                    "layer": 20,
                    "n_latents": 114_688,
                    "k": 100,
                    "tokens": 200_000_000,
                    "fve_first": 0.861,
                    "fve_second": 0.857,
                    "l0": 99.7,
                    "dead_share": 0.034,
                    "source": "trained",
                    "seed_agreement": agreement,
                    "training": _training() if side == "base" else None,
                }
                for side, agreement in (("base", 0.81), ("tuned", None))
            ],
            "latents": {
                "base": {
                    "specific": 113,
                    "shifted": 140,
                    "annotated": 112,
                    "none": 1,
                    "failed": 1,
                    "effective_n": 96.4,
                },
                "tuned": {
                    "specific": 92,
                    "shifted": None,
                    "annotated": 89,
                    "none": 0,
                    "failed": 3,
                    "effective_n": None,
                },
                "null_rate": 0.0004,
            },
            "classes": classes,
            "categories": categories,
            "activation_by": [
                {
                    "split": split,
                    "part": part,
                    "tokens": 15_400,
                    "documents": 212,
                    "changes": {
                        code: {
                            "value": None if code == "F" else -3.4,
                            "low": None if code == "F" else -5.1,
                            "high": None if code == "F" else -1.6,
                        }
                        for code in CLASSES
                        if code != "G"
                    },
                }
                for split, part in (
                    ("token kind", "assistant"),
                    ("token kind", "user"),
                    ("text", bad("answers of base", HOSTILE)),
                )
            ],
            "arena": {
                "source": bad("published category tables", HOSTILE),
                "snapshot": "2025-12-17",
                "independence_assumed": True,
                "rows": [
                    {
                        "category": name,
                        "base": 1200.0 + i,
                        "tuned": 1200.0 + i + delta,
                        "delta": {"value": delta, "low": delta - half, "high": delta + half + 2},
                        "delta_style": None
                        if i == 3
                        else {"value": delta - 9, "low": delta - 9 - half, "high": delta - 9 + half},
                        "style_effect": None if i == 3 else {"value": -9.0, "low": None, "high": None},
                        "verdict": verdict,
                    }
                    for i, (name, delta, half, verdict) in enumerate(
                        (
                            ("overall", 21.3, 8.1, "up"),
                            ("math", -10.6, 16.4, "unclear"),
                            ("coding", 4.2, 12.0, "unclear"),
                            (bad("korean", CJK), -48.2, 30.1, "down"),
                            ("creative writing", 33.0, 14.0, "up"),
                        )
                    )
                ],
            },
            "benchmarks": [
                {
                    "task": task,
                    "metric": metric,
                    "n": n,
                    "base": base,
                    "tuned": base + delta,
                    "delta": {"value": delta, "low": delta - half, "high": delta + half, "level": level},
                    "p": 0.3,
                    "p_adjusted": p,
                    "mde": 2.8 * half / 1.96,
                    "verdict": verdict,
                    "paired": paired,
                    "source": "lm-eval",
                }
                for task, metric, n, base, delta, half, level, p, verdict, paired in (
                    ("gsm8k", "exact_match", 1319, 0.812, -0.041, 0.02, 0.95, 0.0002, "down", True),
                    ("arc_easy", "acc", 2376, 0.851, 0.004, 0.011, 0.95, 0.7, "unclear", True),
                    (
                        bad("ifeval", HOSTILE),
                        "prompt_level_strict_acc",
                        541,
                        0.6,
                        0.031,
                        0.04,
                        0.9,
                        0.4,
                        "unclear",
                        False,
                    ),
                    ("wikitext", "word_perplexity", 62, 12.4, 0.9, 0.31, 0.95, 0.003, "up", True),
                )
            ],
            "agreement": [
                {
                    "class": "A",
                    "category_or_task": "refusals",
                    "latent_verdict": "up",
                    "outside_verdict": "up",
                    "agrees": True,
                },
                {
                    "class": "C",
                    "category_or_task": bad("arena math", HOSTILE),
                    "latent_verdict": "unclear",
                    "outside_verdict": "unclear",
                    "agrees": None,
                },
                {
                    "class": "D",
                    "category_or_task": "ifeval",
                    "latent_verdict": "down",
                    "outside_verdict": "up",
                    "agrees": False,
                },
            ],
            "causal": _causal(bad),
            "probing": sample_panels.probing(bad("Probing would have said: little.", HOSTILE)),
            "lens": sample_panels.lens(bad(" sorry", HOSTILE), bad("\n", BIDI)),
            "annotation_quality": {
                "detector": bad("sentence embeddings", HOSTILE),
                "reader": "offline",
                "asked": 40,
                "scored": 38,
                "passages": 20,
                "detection": {"value": 0.71, "low": 0.66, "high": 0.76},
                "bar": 0.7,
                "weak": 9,
                "kappas": [
                    {
                        "of": bad("5 repeats", MARKUP),
                        "statistic": "Fleiss",
                        "level": "classes",
                        "raters": 5,
                        "latents": 40,
                        "agree": 0.6,
                        "value": {"value": 0.55, "low": 0.41, "high": 0.68},
                    },
                    {
                        "of": "offline and a file",
                        "statistic": "Cohen",
                        "level": "categories",
                        "raters": 2,
                        "latents": 3,
                        "agree": None,
                        "value": {"value": None, "low": None, "high": None},
                    },
                ],
                "repeats": 5,
                "without_weak": [
                    {"code": row["code"], "base": row["base"], "tuned": row["tuned"], "diff": row["diff"]}
                    for row in classes[:6]
                ],
            },
            "coverage": {
                "languages": [{"language": "en", "tokens": 120_000}, {"language": bad("ko", BIDI), "tokens": 900}],
                "categories": [
                    {"code": "A.1", "tokens": 4200},
                    {"code": "A.2", "tokens": 5100},
                    {"code": "B.7", "tokens": 0},
                ],
            },
            "not_significant": [
                bad("Information Processing: 112 and 89 latents, smallest visible effect 9.5 points.", HOSTILE)
            ],
            "top_latents": [_latent(i, codes[i], rng, text=texts[i], label=labels[i]) for i in range(6)],
            "caveats": ["Association is not cause.", bad("Arena intervals are marginal.", f"{HOSTILE} {BIDI} {CJK}")],
            "provenance": {
                "package": "modeldiff-eval 0.1.0",
                "versions": {"torch": "2.13", "lm-eval": "0.4.13"},
                "seeds": {"bootstrap": 0},
                "command": bad("modeldiff-eval --base X --tuned Y", f"modeldiff-eval --base '{HOSTILE}'"),
                "corpus": "sha256:0123456789abcdef",
                "tokens": 150_000,
                "annotator": "offline",
            },
        }
    )
