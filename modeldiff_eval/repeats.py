"""One latent asked several times: what each attempt gave, and the one annotation made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from modeldiff_eval.annotation import Annotation
from modeldiff_eval.prompts import Layout
from modeldiff_eval.reply_fields import LEVELS, NONE, Choice, Description, cut

REASON_CHARS, FAILURE_CHARS = 700, 300


@dataclass
class Attempt:
    """One repeat on its way: what step 1 and step 2 gave, or why there is nothing; ``notes`` are for the reason."""

    repeat: int
    description: Description | None = None
    choice: Choice | None = None
    failure: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def category(self) -> str | None:
        """A code, "none", or None where the attempt failed."""
        return None if self.failure or self.choice is None else self.choice.category or NONE


@dataclass
class Subject:
    """One latent: what of its evidence is shown, and its attempts."""

    latent: int
    layout: Layout
    attempts: list[Attempt]

    @property
    def categories(self) -> tuple[str | None, ...]:
        """The category of each attempt."""
        return tuple(attempt.category for attempt in self.attempts)


def vote(categories: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The category that most chose, and all that have as many votes; of a tie the category is "none".

    Raises:
        ValueError: nobody voted.
    """
    counts = Counter(categories)
    most = max(counts.values())
    leaders = tuple(code for code, count in counts.items() if count == most)
    return (leaders[0] if len(leaders) == 1 else NONE), leaders


def decide(subject: Subject, annotator: str) -> Annotation:
    """One annotation of a latent's attempts.

    The words are those of the surest attempt for the category; of a tie, of the surest attempt for any category in it. The
    confidence is what the attempts for the category stated, summed and divided by the number of usable attempts; of a tie
    with n leaders it is 1/(n + 1), since nothing speaks for "none" rather than for any of them.
    """
    usable = [(a, a.description, a.choice) for a in subject.attempts if a.category and a.description and a.choice]
    if not usable:
        failure = next((a.failure for a in subject.attempts if a.failure), "it was not asked")
        more = f" (so {len(subject.attempts)} of {len(subject.attempts)} repeats)" if len(subject.attempts) > 1 else ""
        return Annotation(
            latent=subject.latent, label=None, description=None, category=None, confidence=None, reason=None,
            failure=cut(failure, FAILURE_CHARS) + more, annotator=annotator, key="",
        )  # fmt: skip
    votes = [choice.category or NONE for _, _, choice in usable]
    category, leaders = vote(votes)
    members = [item for item, code in zip(usable, votes, strict=True) if code in leaders]
    attempt, words, choice = max(members, key=lambda item: (item[2].confidence, LEVELS[item[1].confidence]))
    if len(leaders) == 1:
        confidence = sum(member[2].confidence for member in members) / len(usable)
        notes = [choice.reason]
    else:
        confidence = 1 / (len(leaders) + 1)
        notes = [f"the repeats do not agree ({', '.join(leaders)} are level), so no category is given"]
    notes.append(f"described with {words.confidence} confidence" + (f": {words.reason}" if words.reason else ""))
    if len(subject.attempts) > 1:
        notes.append(
            f"{votes.count(category)} of {len(usable)} usable repeats of {len(subject.attempts)} chose {category}"
        )
    if aside := subject.layout.aside:
        notes.append(f"{aside} document(s) that say how to name something were set aside")
    notes += attempt.notes
    return Annotation(
        latent=subject.latent,
        label=words.label,
        description=words.description,
        category=None if category == NONE else category,
        confidence=round(confidence, 2),
        reason=cut("; ".join(note.rstrip(". ") for note in notes if note), REASON_CHARS),
        failure=None,
        annotator=annotator,
        key="",
        patterns=words.patterns,
    )
