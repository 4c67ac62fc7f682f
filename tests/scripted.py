"""A replier whose answers a test writes, in memory; and evidence to ask it about."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modeldiff_eval.annotation import Evidence, Excerpt
from modeldiff_eval.ask import Question, Reply
from modeldiff_eval.errors import AnnotationError
from modeldiff_eval.prompts import DESCRIBE_TOOL

Answer = dict[str, Any] | str


def description(label: str = "polite apologies", **changes: Any) -> dict[str, Any]:
    """A right answer of step 1."""
    return {
        "patterns": ["the speaker is sorry"],
        "label": label,
        "description": f"Fires on {label}. It is active on the word that carries the meaning.",
        "reason": "nearly all documents agree",
        "confidence": "high",
    } | changes


def choice(category: str = "A.2", **changes: Any) -> dict[str, Any]:
    """A right answer of step 2."""
    return {"reason": "the definition fits", "category": category, "confidence": 0.8} | changes


def is_first(question: Question) -> bool:
    """Whether this is step 1."""
    return question.tool == DESCRIBE_TOOL


class Scripted:
    """Answers by a function, in reverse order. A text is a failure. ``stops_after``: answers before an error."""

    name = "scripted"

    def __init__(
        self, answer: Callable[[Question], Answer], *, version: str = "1", stops_after: int | None = None
    ) -> None:
        self.answer, self.version, self.paid, self.stops_after = answer, version, True, stops_after
        self.asked: list[Question] = []

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for question in reversed(questions):
            if self.stops_after is not None and len(self.asked) >= self.stops_after:
                raise AnnotationError("The money is spent.")
            self.asked.append(question)
            said = self.answer(question)
            failed = isinstance(said, str)
            yield Reply(
                question=question.digest, replier=self.name, value=None if failed else said,  # type: ignore[arg-type]
                failure=said if failed else None,  # type: ignore[arg-type]
            )  # fmt: skip


def by_step(first: Callable[[Question], Answer], second: Callable[[Question], Answer]) -> Callable[[Question], Answer]:
    """One function for each step."""
    return lambda question: first(question) if is_first(question) else second(question)


def excerpt(text: str, *, document: str | None = None, active: int = 0, strength: float = 1.0) -> Excerpt:
    """A text whose words are its tokens; number ``active`` fires."""
    tokens = re.findall(r"\s*\S+|\s+$", text) or [text]
    strengths = [strength if i == active % len(tokens) else 0.0 for i in range(len(tokens))]
    return Excerpt(text=text, tokens=tokens, activations=strengths, document=document)


def latent(number: int, texts: Sequence[str] = (), **more: Any) -> Evidence:
    """Evidence of four documents, or of ``texts``."""
    texts = texts or [f"I am sorry about number {number}, part {k}." for k in range(4)]
    return Evidence(
        latent=number,
        examples=[excerpt(text, document=f"d{k}", active=2, strength=2.0 - 0.1 * k) for k, text in enumerate(texts)],
        **more,
    )
