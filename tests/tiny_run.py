"""What tests of whole runs share: a quick annotator, a reporter that remembers, and what a run wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modeldiff_eval.annotation import Annotation, Evidence, annotation_key
from modeldiff_eval.progress import Advance, Reporter
from modeldiff_eval.records import Card
from modeldiff_eval.store import fingerprint
from modeldiff_eval.taxonomy import Taxonomy

STEPS = 60
Runner = Callable[..., Any]


class ByHash:
    """A quick stand-in for the sentence encoder: a category from the hash of the first example."""

    name, version, paid = "by hash", "1", False

    def __init__(self) -> None:
        self.codes = [category.code for category in Taxonomy.load(None).categories][:6]

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        for item in evidence:
            text = item.examples[0].text
            yield Annotation(
                latent=item.latent, label=text[:12], description=None, confidence=0.5, reason=None, failure=None,
                category=self.codes[int(fingerprint(text), 16) % len(self.codes)], annotator=self.name,
                key=annotation_key(self, item),
            )  # fmt: skip


class Recorder(Reporter):
    """Remembers how often every stage reported; ``stop`` raises in the middle of one."""

    def __init__(self, stop: str | None = None, at: int = 0) -> None:
        self.calls: dict[str, list[int]] = {}
        self.stop, self.at = stop, at

    @contextmanager
    def task(self, title: str, *, unit: str = "") -> Iterator[Advance]:
        own = self.calls.setdefault(title, [])

        def advance(done: int, total: int) -> None:
            own.append(done)
            if self.stop and title.startswith(self.stop) and done >= self.at:
                raise KeyboardInterrupt

        yield advance

    def work(self) -> set[str]:
        """Stages that harvested or trained."""
        return {t for t in self.calls if t.startswith(("Activations", "Null control: base", "Training", "Answers"))}


def but_for_created(card: Card) -> dict[str, Any]:
    return card.model_dump(exclude={"created"})


def notes(run: Any) -> dict[str, Any]:
    return json.loads((run.out / "run.json").read_text())
