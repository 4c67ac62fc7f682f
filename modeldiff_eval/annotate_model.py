"""An annotator over anything that answers questions: Claude, a local chat model, a mock.

All descriptions are asked first, then all categories. What a model answered lies in ``replies.jsonl`` the moment it
answered, so a second run asks only what is missing, also between the two steps. An answer that cannot be used is asked for
once more, with what its field must be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.annotation import Annotation, Evidence, annotation_key
from modeldiff_eval.ask import Progress, Question, Replier, Reply, ask_all
from modeldiff_eval.errors import AnnotationError, UsageError
from modeldiff_eval.prompts import PROMPT_VERSION, categorise, describe, lay_out
from modeldiff_eval.quoting import Limits
from modeldiff_eval.repeats import Attempt, Subject, decide
from modeldiff_eval.reply_fields import Unusable, read_category, read_description
from modeldiff_eval.steering import quoted, repeated
from modeldiff_eval.store import fingerprint
from modeldiff_eval.taxonomy import Taxonomy

ATTEMPTS = 2
NO_EXAMPLES = "no examples: the latent did not fire on this corpus"
COPIED = "label: it repeats an order that stands in a document, so it is not taken"

Work = tuple[Subject, Attempt]
Ask = Callable[[Subject, Attempt, str | None], Question]
Read = Callable[[Subject, Attempt, dict[str, Any] | None], Unusable | None]


class ModelAnnotator:
    """Names latents by asking a language model.

    Args:
        taxonomy: the categories.
        replier: who answers.
        path: ``replies.jsonl``; None keeps nothing.
        repeats: how often each latent is described and categorised; :func:`modeldiff_eval.repeats.decide` says what becomes
            of several answers.
        limits: how much of the evidence is shown.
        chunk: latents whose two steps are finished before the next are begun; None asks all at once, which is fastest and
            what batches need. With a budget, a chunk makes sure that the first latents are finished when it is spent.
        on_progress: called with (done, total) questions of the current step.

    When the replier can go no further (no money left) after it answered something, the latents that are not finished fail,
    each saying why, and :attr:`stopped` holds the error. When it has answered nothing yet the error is raised.

    Raises:
        UsageError: ``repeats`` or ``chunk`` is below 1.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        replier: Replier,
        *,
        path: Path | None = None,
        repeats: int = 1,
        limits: Limits | None = None,
        chunk: int | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        if repeats < 1:
            raise UsageError(f"repeats = {repeats}: each latent must be asked at least once.")
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk = {chunk}: at least one latent must be asked at a time.")
        self.taxonomy, self.path, self.repeats, self.chunk = taxonomy, path, repeats, chunk
        self.limits = limits or Limits()
        self.on_progress = on_progress
        self.name, self.paid = replier.name, replier.paid
        self.version = fingerprint(
            [PROMPT_VERSION, replier.name, replier.version, taxonomy.fingerprint, repeats, self.limits.model_dump()]
        )
        self.stopped: AnnotationError | None = None
        self.replier = replier
        self._categories: dict[str, tuple[str | None, ...]] = {}
        self._answered = False

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        """Yield one annotation for each latent, in order. The key is left empty for ``annotate_all`` to fill.

        Raises:
            AnnotationError: the replier can go no further and has answered nothing yet.
        """
        size = self.chunk or max(len(evidence), 1)
        for start in range(0, len(evidence), size):
            for subject in self._work(evidence[start : start + size], ask=True):
                yield decide(subject, self.name)

    def first_questions(self, evidence: Sequence[Evidence]) -> list[Question]:
        """The questions of step 1, for an estimate of the cost. Step 2 asks as many, each about step 1's short answer."""
        return [
            self._ask_description(subject, attempt, None)
            for item in evidence
            if (subject := self._subject(item)).layout.documents
            for attempt in subject.attempts
        ]

    def repeat_categories(self, evidence: Sequence[Evidence]) -> dict[int, tuple[str | None, ...]]:
        """The category of every repeat by latent of ``evidence``: a code, "none", or None where the repeat failed.

        The evidence must be what was annotated, contrast included: several dictionaries may number their latents alike. What
        this object did not annotate is read from ``path`` without asking anything (an earlier process's answers lie there).
        """
        if missing := [item for item in evidence if annotation_key(self, item) not in self._categories]:
            self._work(missing, ask=False)
        return {item.latent: self._categories[annotation_key(self, item)] for item in evidence}

    def _subject(self, item: Evidence) -> Subject:
        layout = lay_out(item, self.limits)
        failure = None if layout.documents else NO_EXAMPLES
        return Subject(item.latent, layout, [Attempt(repeat, failure=failure) for repeat in range(self.repeats)])

    def _work(self, evidence: Sequence[Evidence], *, ask: bool) -> list[Subject]:
        """Both steps for some latents; without ``ask`` only what is kept counts."""
        subjects = [self._subject(item) for item in evidence]
        work = [(subject, attempt) for subject in subjects for attempt in subject.attempts]
        self._step("description", work, self._ask_description, self._read_description, ask=ask)
        self._step("category", work, self._ask_category, self._read_category, ask=ask)
        if self.repeats > 1 or not ask:
            self._categories |= {
                annotation_key(self, item): subject.categories for item, subject in zip(evidence, subjects, strict=True)
            }
        return subjects

    def _step(self, name: str, work: Sequence[Work], question_of: Ask, read: Read, *, ask: bool) -> None:
        """Ask for every attempt that has not failed; an answer that cannot be used is asked for again."""
        pending: list[tuple[Subject, Attempt, str | None]] = [(*item, None) for item in work if not item[1].failure]
        for _ in range(ATTEMPTS):
            questions = [question_of(*item) for item in pending]
            replies = self._replies(questions, ask=ask)
            again: list[tuple[Subject, Attempt, str | None]] = []
            for (subject, attempt, complaint), question in zip(pending, questions, strict=True):
                reply = replies.get(question.digest)
                if reply is None:
                    # An answer that was asked for again keeps its own fault as the reason.
                    attempt.failure = attempt.failure or f"{name}: not asked. {self.stopped or 'No reply is kept.'}"
                elif reply.failure is not None:
                    attempt.failure = f"{name}: {reply.failure}"
                else:
                    attempt.failure = None
                    if fault := read(subject, attempt, reply.value):
                        attempt.failure = f"{name}: {fault.failure}" + (" (asked twice)" if complaint else "")
                        again.append((subject, attempt, fault.complaint))
            pending = again

    def _ask_description(self, subject: Subject, attempt: Attempt, complaint: str | None) -> Question:
        return describe(subject.layout, latent=subject.latent, repeat=attempt.repeat, complaint=complaint)

    def _read_description(self, subject: Subject, attempt: Attempt, value: dict[str, Any] | None) -> Unusable | None:
        found = read_description(value)
        if isinstance(found, Unusable):
            return found
        order = repeated(found.label, subject.layout.orders)
        if order and order.direct:
            attempt.failure = COPIED
            return None
        if order:
            attempt.notes.append("the label repeats a field of that kind in a document")
        if quoted((found.description, *found.patterns), subject.layout.orders):
            attempt.notes.append("the description repeats words of an order that stands in a document")
        attempt.description = found
        return None

    def _ask_category(self, subject: Subject, attempt: Attempt, complaint: str | None) -> Question:
        assert attempt.description is not None
        return categorise(
            attempt.description, self.taxonomy, latent=subject.latent, repeat=attempt.repeat, complaint=complaint
        )

    def _read_category(self, subject: Subject, attempt: Attempt, value: dict[str, Any] | None) -> Unusable | None:
        found = read_category(value, self.taxonomy)
        if isinstance(found, Unusable):
            return found
        attempt.choice = found
        return None

    def _replies(self, questions: Sequence[Question], *, ask: bool) -> dict[str, Reply]:
        """Replies by digest; fewer than asked for where the replier stopped."""
        if not questions:
            return {}
        silent = _Silent(self.replier)
        if not ask or self.stopped:
            return ask_all(silent, questions, path=self.path)
        asked = _Remembering(self.replier)
        try:
            replies = ask_all(asked, questions, path=self.path, on_progress=self.on_progress)
        except AnnotationError as error:
            if not asked.seen and not self._answered:
                raise
            self.stopped = error
            replies = ask_all(silent, questions, path=self.path) | asked.seen
        self._answered = self._answered or bool(asked.seen)
        return replies


class _Silent:
    """Stands for a replier whose kept replies are read; it is never asked anything."""

    def __init__(self, replier: Replier) -> None:
        self.name, self.version, self.paid = replier.name, replier.version, replier.paid

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        return iter(())


class _Remembering(_Silent):
    """A replier whose replies are remembered, also those before an error."""

    def __init__(self, replier: Replier) -> None:
        super().__init__(replier)
        self._replier = replier
        self.seen: dict[str, Reply] = {}

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        with contextlib.closing(_generator(self._replier, questions)) as replies:
            for reply in replies:
                self.seen[reply.question] = reply
                yield reply


def _generator(replier: Replier, questions: Sequence[Question]) -> Generator[Reply, None, None]:
    yield from replier.ask(questions)
