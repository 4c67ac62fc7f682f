"""The offline annotator: sentence embeddings of a latent's top passages against the cues of each category.

1. Every distinct passage is embedded once (all-MiniLM-L6-v2) and the mean of ordinary text is taken off.
2. A category is the unit direction of its name, description and cues, less the mean of all categories.
3. A passage's component in that direction is divided by the root of what the category's own cues reach (sentence
   embeddings see some categories better than others) and cut off at ``CEILING``. A latent's score is the trimmed mean
   over its documents: every document has one vote and the largest and smallest sixth do not count, so no document can
   choose the answer, and a few perfect passages cannot outvote many that have nothing of the category.
4. A softmax over the categories and "none" turns scores into probabilities, more careful where there are few
   documents. A category is named when it has at least ``SURE``; everything else is "none".

The constants of point 4 were fitted to simulated latents by ``python -m modeldiff_eval.demo.measure_annotator --fit``,
which also measures the accuracy on prompts that were not used to fit. ``CEILING`` and ``SURE`` were set with a look at
latents of a real dictionary, which are less pure than simulated ones.

MiniLM is an English model. Other languages are recognised as such by script and function words, not understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modeldiff_eval.annotate_words import Background, Facts, clean, describe, distinct, find_boilerplate, gather, label
from modeldiff_eval.annotation import Annotation, Evidence, Excerpt
from modeldiff_eval.embedding import Progress, SentenceEmbedder, shared_embedder
from modeldiff_eval.languages import detect_language
from modeldiff_eval.resources import resource
from modeldiff_eval.store import fingerprint
from modeldiff_eval.taxonomy import Category, Taxonomy

VERSION = "offline-2"
MIN_DOCUMENTS = 3
_CHUNK = 512
_BACKGROUND_LIMIT = 2000
CEILING = 0.25
SURE = 0.7
# Weight of a category's signal, in logits: full evidence adds it, no evidence takes it away.
SIGNAL_WEIGHT = 3.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """What point 4 of the module's text has fitted: logit of a category = slope · score · n / (n + few) - bar."""

    slope: float
    bar: float
    few: float


FITTED = Constants(slope=68.9, bar=6.96, few=1.47)


@dataclass(frozen=True)
class Reading:
    """What the annotator has computed of one latent before it decides.

    ``scores`` has one entry for each category and rests on ``passages`` documents (those with text beside boilerplate).
    """

    scores: Floats
    passages: int
    facts: Facts


def probabilities(
    scores: Floats,
    documents: npt.NDArray[np.int64],
    signal: Floats,
    *,
    constants: Constants = FITTED,
) -> Floats:
    """Probabilities ``[latents, categories + 1]``, the last column "none".

    Args:
        scores: ``[latents, categories]`` (point 3 of the module's text).
        documents: ``[latents]``, how many documents each score rests on.
        signal: ``[latents, categories]`` in [-1, 1], evidence other than wording; 0 where there is none.
    """
    n = documents[:, None].astype(np.float64)
    careful = n / (n + constants.few)
    logits = constants.slope * scores * careful - constants.bar + SIGNAL_WEIGHT * signal
    logits = np.concatenate([logits, np.zeros((len(scores), 1))], axis=1)
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result


def choose(chance: Floats) -> npt.NDArray[np.int64]:
    """Index of the category that each row of :func:`probabilities` decides for, -1 for "none"."""
    best = chance[:, :-1].argmax(axis=1)
    sure = chance[np.arange(len(chance)), best] >= SURE
    return np.where(sure, best, -1)


class OfflineAnnotator:
    """Annotates without a network, a key or a GPU.

    Args:
        taxonomy: the categories; their cues are the prototypes.
        background: passages of ordinary text from the same corpus (a few hundred, cut like the evidence). They give
            the mean direction and the word frequencies that the evidence is compared with. Without them the
            taxonomy's cues and the packaged plain sentences serve, less well.
        embedder: the loaded model; None shares one, with its cache of passages, within this process.
        max_tokens: passages are cut to this many word pieces.
        on_progress: called with (done, total) while passages are embedded, the slow part.

    Raises:
        MissingDependencyError: the embedding weights are not installed.
    """

    name = "offline"
    paid = False

    def __init__(
        self,
        taxonomy: Taxonomy,
        *,
        background: Sequence[str] | None = None,
        embedder: SentenceEmbedder | None = None,
        max_tokens: int = 64,
        on_progress: Progress | None = None,
    ) -> None:
        self.taxonomy = taxonomy
        self._embedder = embedder or shared_embedder(max_tokens)
        self._on_progress = on_progress
        self._languages: dict[str, str | None] = {}
        sample = list(dict.fromkeys(background or ()))[:_BACKGROUND_LIMIT]
        self._boilerplate = find_boilerplate(sample)
        texts = [text for raw in sample if (text := clean(raw, self._boilerplate))]
        constants = (CEILING, SURE, SIGNAL_WEIGHT, FITTED.slope, FITTED.bar, FITTED.few)
        model = (self._embedder.dtype, self._embedder.max_tokens)
        self.version = fingerprint([VERSION, constants, model, taxonomy.fingerprint, texts])
        cues = [_texts(category) for category in taxonomy.categories]
        flat = [text for group in cues for text in group]
        vectors = self._embedder.embed(flat).astype(np.float64)
        ends = np.cumsum([len(group) for group in cues])
        groups = np.split(vectors, ends[:-1])
        ordinary = texts or [*flat, *_plain_sentences()]
        self._mean: Floats = self._embedder.embed(ordinary).mean(0).astype(np.float64)
        self._words = Background(ordinary)
        self._directions, self._reach = _prototypes(groups, self._mean)

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        """Yield one annotation for each latent, in order. The key is left empty for ``annotate_all`` to fill."""
        for start in range(0, len(evidence), _CHUNK):
            chunk = evidence[start : start + _CHUNK]
            readings = self.read(chunk)
            chances = self.decide(readings)
            for item, reading, chance, choice in zip(chunk, readings, chances, choose(chances), strict=True):
                yield self._annotation(item, reading, chance, int(choice))

    def read(self, evidence: Sequence[Evidence]) -> list[Reading]:
        """Scores and facts of some latents; their passages are embedded together."""
        excerpts = [distinct(item.examples) for item in evidence]
        passages = [[clean(e.passage, self._boilerplate) for e in group] for group in excerpts]
        scores = self.score(passages)
        return [
            Reading(row, sum(map(bool, texts)), self._facts(group, texts))
            for row, group, texts in zip(scores, excerpts, passages, strict=True)
        ]

    def _facts(self, excerpts: Sequence[Excerpt], texts: Sequence[str]) -> Facts:
        languages = [self._language(text) for text in texts]
        return gather(excerpts, texts, self._words, boilerplate=self._boilerplate, languages=languages)

    def score(self, passages: Sequence[Sequence[str]]) -> Floats:
        """Scores ``[latents, categories]`` of groups of cleaned passages, one for each document; empty ones do not count."""
        passages = [[text for text in group if text] for group in passages]
        vectors = self._embedder.embed([text for group in passages for text in group], on_progress=self._on_progress)
        parts = np.minimum((vectors - self._mean) @ self._directions.T / self._reach, CEILING)
        ends = np.cumsum([len(group) for group in passages])
        rows = [trimmed_mean(part) for part in np.split(parts, ends)[:-1]]
        return np.stack(rows) if rows else np.zeros((0, len(self._directions)))

    def decide(self, readings: Sequence[Reading]) -> Floats:
        """Probabilities ``[latents, categories + 1]``, the last column "none"."""
        if not readings:
            return np.zeros((0, len(self.taxonomy.categories) + 1))
        scores = np.stack([reading.scores for reading in readings])
        documents = np.array([reading.passages for reading in readings], dtype=np.int64)
        signal = np.zeros_like(scores)
        for k, category in enumerate(self.taxonomy.categories):
            if category.signal == "non_english":
                shares = [0.5 if (s := reading.facts.non_english) is None else s for reading in readings]
                signal[:, k] = 2.0 * np.array(shares) - 1.0
        return probabilities(scores, documents, signal)

    def _language(self, text: str) -> str | None:
        if text not in self._languages:
            self._languages[text] = detect_language(text)
        return self._languages[text]

    def _annotation(self, item: Evidence, reading: Reading, chance: Floats, choice: int) -> Annotation:
        facts = reading.facts
        if facts.documents == 0:
            return Annotation(
                latent=item.latent, label=None, description=None, category=None, confidence=None, reason=None,
                failure="no examples: the latent did not fire on this corpus", annotator=self.name, key="",
            )  # fmt: skip
        order = np.argsort(-chance[:-1], kind="stable")
        enough = reading.passages >= MIN_DOCUMENTS
        template = facts.boilerplate_share >= 0.5
        chosen = self.taxonomy.categories[choice] if enough and not template and choice >= 0 else None
        confidence = float(chance[order[0]] if chosen else 1.0 - chance[order[0]])
        if template:
            confidence = max(confidence, facts.boilerplate_share)
            reason = "the peaks lie in text that the chat template or the system prompt puts into most documents"
        elif not enough:
            reason = f"only {reading.passages} different document(s); {MIN_DOCUMENTS} are needed for a category"
        else:
            near = [f"{self.taxonomy.categories[int(k)].name} {chance[k]:.0%}" for k in order[:2]]
            reason = f"closest: {', '.join(near)}; none of them {chance[-1]:.0%}"
        return Annotation(
            latent=item.latent,
            label=label(facts, chosen.name if chosen else None),
            description=describe(facts),
            category=chosen.code if chosen else None,
            confidence=round(confidence, 2),
            reason=reason,
            failure=None,
            annotator=self.name,
            key="",
        )


def trimmed_mean(parts: npt.NDArray[np.floating]) -> Floats:
    """Column means of ``[documents, categories]`` without the largest and the smallest sixth of each column."""
    count = len(parts)
    if count == 0:
        return np.zeros(parts.shape[1])
    cut = count // 6
    kept: Floats = np.sort(parts.astype(np.float64), axis=0)[cut : count - cut]
    mean: Floats = kept.mean(axis=0)
    return mean


def background_of(evidence: Sequence[Evidence], *, limit: int = 1000) -> list[str]:
    """Distinct passages of the evidence itself, a fixed pseudo-random choice, for want of a sample of the corpus.

    It is biased towards text that makes latents fire; a random sample of the corpus is better.
    """
    passages = {e.passage for item in evidence for e in item.examples}
    return sorted(passages, key=lambda text: (fingerprint(text), text))[:limit]


def _plain_sentences() -> list[str]:
    lines = resource("data/none_texts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def _texts(category: Category) -> list[str]:
    """What stands for a category: name, sentences of the description, cues."""
    sentences = [part.strip() for part in re.split(r"(?<=[.;])\s+", category.description) if part.strip()]
    return [category.name, *sentences, *category.cues]


def _prototypes(groups: Sequence[npt.NDArray[np.float64]], ordinary: Floats) -> tuple[Floats, Floats]:
    """Unit directions ``[categories, d]`` and, for each, the root of its reach relative to the mean reach.

    The reach is the mean component of a category's own texts in the direction made from its other texts. With fewer
    than three categories their mean says too little, and the mean of ordinary text is taken off instead.
    """
    means = np.stack([group.mean(axis=0) for group in groups])
    centre = np.concatenate(groups).mean(axis=0) if len(groups) >= 3 else ordinary
    shifted = means - (means.mean(axis=0) if len(groups) >= 3 else ordinary)
    directions = shifted / np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-9)
    reach = np.full(len(groups), np.nan)
    for k, group in enumerate(groups):
        if len(group) >= 4:
            others = (group.sum(axis=0) - group) / (len(group) - 1) - centre
            others /= np.maximum(np.linalg.norm(others, axis=1, keepdims=True), 1e-9)
            reach[k] = max(float(((group - centre) * others).sum(axis=1).mean()), 0.05)
    typical = float(np.nanmean(reach)) if np.isfinite(reach).any() else 1.0
    return directions, np.sqrt(np.where(np.isnan(reach), 1.0, reach / typical))
