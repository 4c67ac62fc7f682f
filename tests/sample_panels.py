"""Made-up panels of simpler methods for sample cards."""

from __future__ import annotations

from typing import Any


def _e(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def probing(said: str) -> dict[str, Any]:
    def row(code: str, name: str, diff: float, p: float, verdict: str) -> dict[str, Any]:
        estimates = {"base": _e(0.9, 0.05), "tuned": _e(0.9 + diff, 0.05), "diff": _e(diff, 0.01)}
        return {
            "code": code,
            "name": name,
            "n": 320,
            "positives": 12,
            "p": p,
            "p_adjusted": p,
            "verdict": verdict,
            **estimates,
        }

    return {
        "said": said, "layer": 14, "pooling": "mean over the document's tokens", "documents_train": 900, "documents_heldout": 320,
        "prompts_heldout": 160, "base": _e(0.9, 0.02), "tuned": _e(0.9, 0.02), "diff": _e(0.0, 0.003),
        "classes": [row("A", "Safety", -0.012, 0.02, "down")],
        "categories": [row("A.1", "Harm", -0.004, 0.6, "unclear"), row("A.2", "Crime", 0.0, 1.0, "unclear")],
    }  # fmt: skip


def lens(first: str, second: str) -> dict[str, Any]:
    up = [
        {"token": first, "score": _e(2.1, 0.2), "p_adjusted": 0.001},
        {"token": second, "score": _e(1.9, 0.4), "p_adjusted": 0.2},
    ]
    common = {"norm": _e(8.7, 0.3), "share": _e(5.8, 0.2), "null_norm": 0.84, "p": 0.001, "up": up}
    return {
        "layer": 14,
        "draws": 1000,
        "scopes": [
            {"positions": 5, "tokens": 6421, "documents": 1210, "prompts": 609, "down": up[:1], **common},
            {"positions": None, "tokens": 48_172, "documents": 1210, "prompts": 609, "down": [], **common},
        ],
    }
