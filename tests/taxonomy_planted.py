"""Synthetic annotations with planted groups, and a replier that answers from a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeldiff_eval.annotation import Annotation
from modeldiff_eval.ask import Question, Reply
from modeldiff_eval.taxonomy_texts import Described

TOPICS = {
    "cooking": "bread oven flour butter recipe baking soup onion garlic pastry kitchen simmer",
    "sailing": "sail harbour boat anchor tide mast yacht rudder sailor deck captain hull",
    "medicine": "patient doctor fever vaccine surgery hospital nurse dosage symptom infection clinic diagnosis",
    "football": "goal striker referee penalty stadium league midfield offside keeper tackle coach match",
    "banking": "loan mortgage interest bank credit deposit savings account debt currency dividend broker",
    "gardening": "soil seeds compost tulip pruning roses lawn weeds greenhouse watering mulch hedge",
}


def planted(each: int = 15, *, seed: int = 0) -> tuple[list[Described], np.ndarray]:
    """``each`` latents of every topic, described by five of its twelve words, and their topics' numbers, shuffled."""
    rng = np.random.default_rng(seed)
    rows = []
    for topic, words in enumerate(TOPICS.values()):
        for _ in range(each):
            chosen = ", ".join(rng.choice(words.split(), 5, replace=False))
            rows.append((Described(None, f"Texts with {chosen}."), topic))
    order = rng.permutation(len(rows))
    return [rows[i][0] for i in order], np.array([rows[i][1] for i in order])


def write_annotations(path: Path, latents: Sequence[Described], *, failures: int = 0) -> Path:
    """The latents as an ``annotations.jsonl``, then some that failed."""
    rows = [
        Annotation(
            latent=i, label=latent.label, description=latent.words, category=None, confidence=0.5, reason=None,
            failure=None, annotator="test", key=f"k{i}",
        )
        for i, latent in enumerate(latents)
    ]  # fmt: skip
    rows += [
        Annotation(
            latent=1000 + i, label=None, description=None, category=None, confidence=None, reason=None,
            failure="no examples", annotator="test", key=f"f{i}",
        )
        for i in range(failures)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row.model_dump()) + "\n" for row in rows))
    return path


class Scripted:
    """A :class:`modeldiff_eval.ask.Replier` in memory; ``answer`` gives a value, or a text that says why it failed."""

    name = "scripted"
    version = "1"
    paid = True

    def __init__(self, answer: Callable[[Question], dict[str, Any] | str]) -> None:
        self.asked: list[Question] = []
        self._answer = answer

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for question in reversed(questions):
            self.asked.append(question)
            value = self._answer(question)
            failed = isinstance(value, str)
            yield Reply(
                question=question.digest, replier=self.name, cost=0.25,
                value=None if failed else value, failure=value if failed else None,
            )  # fmt: skip


def by_topic(question: Question) -> dict[str, Any] | str:
    """Names a group by the topic whose words stand in its question most often; merges nothing."""
    if question.tool == "merge_categories":
        return {"groups": []}
    counts = {topic: sum(question.text.count(word) for word in words.split()) for topic, words in TOPICS.items()}
    topic = max(counts, key=lambda name: counts[name])
    prefix = "All about" if question.tool == "name_class" else "About"
    return {"name": f"{prefix} {topic}", "description": f"Texts that have to do with {topic}, of any kind."}
