"""What an annotator is shown and what it gives back: excerpts, evidence, annotations and the protocol itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from modeldiff_eval.records import Example, Record
from modeldiff_eval.store import fingerprint

CONTEXT_SIZE = 48
CONTEXT_STRIDE = 32


class Excerpt(Example):
    """One activating excerpt as an annotator sees it.

    ``context`` is the stretch of text to judge, cut from the document by :func:`context_span`, so that latents whose
    peaks lie close together share the same string and it is embedded once; None means ``text``. ``document`` is an id:
    no document may weigh more than its part. ``role`` is the speaker at the peak, where known.
    """

    context: str | None = None
    document: str | None = None
    role: str | None = None

    @property
    def passage(self) -> str:
        """The text to judge."""
        return self.text if self.context is None else self.context

    def example(self) -> Example:
        """The plain example, as the card shows it."""
        return Example(text=self.text, tokens=self.tokens, activations=self.activations)


class Evidence(Record):
    """What is known of one latent: its top examples, highest activation first.

    ``contrast``: near passages on which it is silent, nearest first; empty where they were not looked for.
    """

    latent: int
    examples: list[Excerpt]
    contrast: tuple[Excerpt, ...] = ()


class Annotation(Record):
    """What an annotator made of one latent.

    ``category`` is a code of the taxonomy, or None for "none of them". ``failure`` says why there is no answer at all;
    then everything else is None. ``confidence`` is in [0, 1]: the annotator's probability that its decision about the
    category ("none" included) is right. ``key`` identifies the evidence and the annotator's version. ``patterns``: what the
    examples have in common, point by point, where the annotator says so.
    """

    latent: int
    label: str | None
    description: str | None
    category: str | None
    confidence: float | None
    reason: str | None
    failure: str | None
    annotator: str
    key: str
    patterns: tuple[str, ...] = ()


@runtime_checkable
class Annotator(Protocol):
    """Anything that names latents.

    ``version`` changes whenever the same evidence could get another answer (model, prompt, taxonomy, settings);
    ``paid`` annotators have every answer flushed to the disk at once.
    """

    name: str
    version: str
    paid: bool

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        """Yield one annotation for each item, in order, as soon as it is known."""
        ...


def context_span(peak: int, length: int, *, size: int = CONTEXT_SIZE, stride: int = CONTEXT_STRIDE) -> tuple[int, int]:
    """The stretch ``[start, stop)`` of a document to judge for a peak at token ``peak`` of ``length`` tokens.

    Stretches of ``size`` tokens begin at multiples of ``stride``; the one whose middle is nearest to the peak is taken.
    A document thus has at most ``length / stride`` different stretches, whatever the number of latents. At least
    ``(size - stride) / 2`` tokens lie on either side of the peak, unless the document ends before.
    """
    if not 0 <= peak < length:
        raise ValueError(f"The peak {peak} lies outside of a document of {length} tokens.")
    start = max(0, round((peak + 0.5 - size / 2) / stride)) * stride
    last = max(0, -(-(length - size) // stride)) * stride
    start = min(start, last)
    return start, min(start + size, length)


def annotation_key(annotator: Annotator, evidence: Evidence) -> str:
    """Hash (16 hex digits) of the annotator's name and version, the examples (activations to 4 digits) and the contrast.

    The latent's number is not part of it: equal evidence deserves an equal answer.
    """
    examples = [
        [e.text, e.context, e.document, e.role, e.tokens, [float(f"{a:.4g}") for a in e.activations]]
        for e in evidence.examples
    ]
    parts: list[object] = [annotator.name, annotator.version, examples]
    if evidence.contrast:
        parts.append([e.passage for e in evidence.contrast])
    return fingerprint(parts)
