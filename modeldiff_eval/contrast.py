"""Hard negatives: for each latent, near passages on which it does not fire at all.

A name that fits only what was shown says little: "numbers" fits a latent for years and one for prices. Passages that
read alike and leave the latent silent show where its meaning ends. Near is by sentence embedding, or by TF-IDF
(scikit-learn) where the encoder is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from modeldiff_eval.annotate_words import clean, find_boilerplate
from modeldiff_eval.annotation import Evidence, Excerpt
from modeldiff_eval.embedding import SentenceEmbedder
from modeldiff_eval.errors import MissingDependencyError

_CHUNK = 512
_TFIDF_WORDS = 4096
Vectors = Float[NDArray[np.float32], "texts size"]
Embed = Callable[[Sequence[str]], Vectors]


def passage_embedder(ordinary: Sequence[str], *, max_tokens: int = 64) -> tuple[Embed, str]:
    """A function from texts to unit vectors, and what it is called; empty texts get 0.

    Chat-template marks and lines that very many of the ``ordinary`` passages hold are left out first, and the mean of
    ordinary text is taken off, so that two passages are near by what sets them apart.

    The encoder is one of its own: bf16 vectors depend a little on what is embedded together, and a run that is resumed must choose
    the same passages again.
    """
    boilerplate = find_boilerplate(ordinary)

    def bare(texts: Sequence[str]) -> list[str]:
        return [clean(text, boilerplate) for text in texts]

    raw: Callable[[Sequence[str]], Vectors]
    try:
        raw, name = SentenceEmbedder(max_tokens=max_tokens).embed, "sentence embeddings"
    except MissingDependencyError:
        raw, name = _tfidf(bare(ordinary)), "TF-IDF"
    known = [text for text in bare(ordinary) if text]
    mean = raw(known).mean(axis=0) if known else np.float32(0)

    def embed(texts: Sequence[str]) -> Vectors:
        cleaned = bare(texts)
        vectors = (raw(cleaned) - mean) * np.array([bool(text) for text in cleaned], dtype=np.float32)[:, None]
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = (vectors / np.maximum(length, 1e-9)).astype(np.float32)
        return unit

    return embed, name


def _tfidf(texts: Sequence[str]) -> Callable[[Sequence[str]], Vectors]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    model: Any = TfidfVectorizer(max_features=_TFIDF_WORDS, sublinear_tf=True, token_pattern=r"(?u)\w+")
    model.fit([*texts, "empty"])
    return lambda texts: model.transform(list(texts)).toarray().astype(np.float32)


def hard_negatives(
    centres: Float[NDArray[np.float32], "latents size"],
    vectors: Float[NDArray[np.float32], "passages size"],
    silent: Bool[NDArray[np.bool_], "latents passages"],
    group: Int[NDArray[np.int64], " passages"],
    n: int,
) -> Int[NDArray[np.int64], "latents n"]:
    """Places of the ``n`` passages nearest to each latent's centre among those on which it is silent, nearest first.

    Of each group of documents at most one is taken; −1 where there are no more. Ties go to the lower place.
    """
    out = np.full((len(centres), n), -1, dtype=np.int64)
    for start in range(0, len(centres), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = np.where(silent[part], centres[part] @ vectors.T, -np.inf)
        order = np.argsort(-near, axis=1, kind="stable")
        for row, places in enumerate(order, start=start):
            seen: set[int] = set()
            count = 0
            for place in places:
                if count == n or not silent[row, place]:
                    break
                if int(group[place]) not in seen:
                    seen.add(int(group[place]))
                    out[row, count] = place
                    count += 1
    return out


def centres_of(evidence: Sequence[Evidence], embed: Embed) -> Float[NDArray[np.float32], "latents size"]:
    """Mean direction of each latent's shown passages, of unit length (0 where the passages are empty)."""
    groups = [list(dict.fromkeys(example.passage for example in item.examples)) for item in evidence]
    vectors = embed([text for group in groups for text in group])
    ends = np.cumsum([len(group) for group in groups])
    means = [part.mean(axis=0) if len(part) else np.zeros(vectors.shape[1]) for part in np.split(vectors, ends)[:-1]]
    centres = np.stack(means) if means else np.zeros((0, vectors.shape[1]))
    unit: Vectors = (centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit


def with_contrast(
    evidence: Sequence[Evidence], passages: Sequence[Excerpt], places: Int[NDArray[np.int64], "latents n"], n: int
) -> list[Evidence]:
    """The same evidence with the first ``n`` hard negatives of each latent as its contrast.

    Args:
        passages: the pool, as excerpts.
        places: from :func:`hard_negatives`, in the order of ``evidence``.
    """
    return [
        item.model_copy(update={"contrast": tuple(passages[int(place)] for place in row[:n] if place >= 0)})
        for item, row in zip(evidence, places, strict=True)
    ]
