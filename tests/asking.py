"""Questions that the tests of repliers ask."""

from __future__ import annotations

from typing import Any

import mock_messages

from modeldiff_eval.ask import Question

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["A.01", "B.02", "C.03"]},
        "reason": {"type": "string", "maxLength": 400},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["category", "reason", "confidence"],
    "additionalProperties": False,
}


def questions(count: int, *, size: int = 40, max_tokens: int = 300, system: str = "You sort texts. ") -> list[Question]:
    """``count`` questions that share a system text; each text has about ``size`` words."""
    return [
        Question(
            about=f"latent {i}",
            system=system,
            text=f"Text {i}: " + " ".join(f"word{(i * 7 + j) % 97}" for j in range(size)),
            tool="categorise",
            schema_=SCHEMA,
            max_tokens=max_tokens,
        )
        for i in range(count)
    ]


def counted_as(question: Question) -> str:
    """The digest under which the mock server counts a question."""
    return mock_messages.content_digest(question.system, question.text, question.tool)
