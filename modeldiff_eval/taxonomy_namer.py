"""Who names the groups: a language model that is asked, its replies kept, or the words that tell the groups apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.annotate_words import safe
from modeldiff_eval.ask import Question, Replier, Reply, ask_all
from modeldiff_eval.errors import AnnotationError
from modeldiff_eval.progress import Reporter
from modeldiff_eval.taxonomy_cluster import Floats, Groups, merged
from modeldiff_eval.taxonomy_names import Named, class_naming, merging, named_by_words, naming, read_merges, read_name
from modeldiff_eval.taxonomy_texts import Described


class Namer:
    """Names groups by the replier where there is one; what it fails to name keeps its telling words."""

    def __init__(self, replier: Replier | None, path: Path | None, reporter: Reporter) -> None:
        self._replier = replier
        self._path = path
        self._reporter = reporter
        self.notes: list[str] = []
        self.unnamed = 0
        self.cost: float | None = None

    def categories(
        self, groups: Groups, vectors: Floats, latents: Sequence[Described], *, fewest: int
    ) -> tuple[Groups, list[Named]]:
        """The groups, some of them merged, and what each is called."""
        ordered = [[latents[i] for i in groups.central(vectors, k)] for k in range(groups.count)]
        names = named_by_words([_texts(members) for members in ordered])
        if self._replier is None:
            return groups, names
        questions = [naming(k + 1, members) for k, members in enumerate(ordered)]
        names = self._named(questions, names)
        if self.unnamed == len(names):
            raise AnnotationError(
                f"The annotator {self._replier.name!r} named none of {len(names)} groups: {self.notes[0]}."
            )
        merges = read_merges(self._ask([question := merging(names)])[question.digest], len(names), fewest=fewest)
        if isinstance(merges, str):
            self.notes.append(f"nothing was merged: {merges}")
            return groups, names
        first = {members[0]: named for members, named in merges}
        gone = {i for members, _ in merges for i in members[1:]}
        groups = merged(groups, vectors, [members for members, _ in merges])
        return groups, [first.get(i, name) for i, name in enumerate(names) if i not in gone]

    def classes(self, inside: Sequence[Sequence[Named]], latents: Sequence[Sequence[Described]]) -> list[Named]:
        """What each class is called, from its categories; without a replier from the words of its latents.

        A class of one category has that category's name.
        """
        names = named_by_words([_texts(members) for members in latents])
        names = [items[0] if len(items) == 1 else name for items, name in zip(inside, names, strict=True)]
        if self._replier is None:
            return names
        asked = [k for k, items in enumerate(inside) if len(items) > 1]
        found = self._named([class_naming(k + 1, inside[k]) for k in asked], [names[k] for k in asked])
        return [found[asked.index(k)] if k in asked else name for k, name in enumerate(names)]

    def _named(self, questions: Sequence[Question], instead: Sequence[Named]) -> list[Named]:
        values = self._ask(questions)
        made = []
        for question, fallback in zip(questions, instead, strict=True):
            named = read_name(values[question.digest])
            if isinstance(named, str):
                self.unnamed += 1
                why = values[question.digest]
                self.notes.append(f"{question.about}: {why if isinstance(why, str) else named}")
                named = fallback
            made.append(named)
        return made

    def _ask(self, questions: Sequence[Question]) -> dict[str, Any]:
        """The value of each reply by the question's digest, or the failure as a text."""
        assert self._replier is not None
        with self._reporter.task("Asking for names", unit="questions") as advance:
            replies: dict[str, Reply] = ask_all(self._replier, questions, path=self._path, on_progress=advance)
        costs = [reply.cost for reply in replies.values() if reply.cost is not None]
        if costs:
            self.cost = (self.cost or 0.0) + sum(costs)
        missing = "no reply came"
        return {
            q.digest: missing
            if (r := replies.get(q.digest)) is None
            else safe(r.failure, 200)
            if r.failure
            else r.value
            for q in questions
        }


def _texts(members: Sequence[Described]) -> list[str]:
    return [" ".join([latent.words, *latent.passages]) for latent in members]
