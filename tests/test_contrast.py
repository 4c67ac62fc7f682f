"""Hard negatives: near, silent, one of a group, and the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modeldiff_eval import contrast
from modeldiff_eval.annotation import Evidence, Excerpt
from modeldiff_eval.contrast import centres_of, hard_negatives, passage_embedder, with_contrast
from modeldiff_eval.errors import MissingDependencyError

ORDINARY = [
    "The cat sleeps on the warm roof.", "A dog chased the cat through the garden.", "Our kitten climbs the curtain.",
    "The bank raised its interest rate.", "Shares fell after the interest decision.", "The fund lost money last year.",
    "She bakes bread with rye flour.", "Knead the dough and let the bread rise.", "A cake needs butter and flour.",
]  # fmt: skip


def _excerpt(text: str) -> Excerpt:
    return Excerpt(text=text, tokens=[text], activations=[1.0], context=text)


def test_by_hand() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1], [-1, 0]], dtype=np.float32)
    centres = np.array([[1, 0], [0, 1]], dtype=np.float32)
    silent = np.array([[False, True, True, True, True], [True, True, True, False, True]])
    group = np.array([0, 1, 1, 2, 3])
    # Latent 0 fires on passage 0; 1 and 2 are of one group, so 1 stands for both. Latent 1: 2 before 1 (same group), 0 and 4 tie.
    assert hard_negatives(centres, vectors, silent, group, 3).tolist() == [[1, 3, 4], [2, 0, 4]]
    assert hard_negatives(centres, vectors, silent, group, 5).tolist() == [[1, 3, 4, -1, -1], [2, 0, 4, -1, -1]]


def test_never_a_passage_on_which_the_latent_fires() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    silent = rng.random((1100, 300)) < 0.5
    centres = rng.normal(size=(1100, 8)).astype(np.float32)
    places = hard_negatives(centres, vectors, silent, np.arange(300), 6)
    assert silent[np.arange(1100)[:, None], places].all()
    for row in (0, 511, 512, 1099):  # both sides of a chunk's end
        near = np.where(silent[row], vectors @ centres[row], -np.inf)
        assert near[places[row]].tolist() == sorted(near, reverse=True)[:6]
    nowhere = hard_negatives(centres[:2], vectors, np.zeros((2, 300), dtype=bool), np.arange(300), 6)
    assert (nowhere == -1).all()


def test_without_the_encoder_tf_idf_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(max_tokens: int) -> Any:
        raise MissingDependencyError("not installed")

    monkeypatch.setattr(contrast, "SentenceEmbedder", missing)
    embed, name = passage_embedder(ORDINARY)
    assert name == "TF-IDF"
    vectors = embed([*ORDINARY, "", "<|im_start|>"])
    assert np.allclose(np.linalg.norm(vectors[:9], axis=1), 1, atol=1e-5)
    assert (vectors[9:] == 0).all()
    evidence = [Evidence(latent=0, examples=[_excerpt("Bread and flour"), _excerpt("rye bread")])]
    near = centres_of(evidence, embed) @ vectors[:9].T
    assert set(np.argsort(-near[0])[:2]) <= {6, 7, 8}


def test_contrast_is_near_silent_and_in_order() -> None:
    embed, name = passage_embedder(ORDINARY)
    if name != "sentence embeddings":
        pytest.skip("needs the sentence encoder")
    evidence = [Evidence(latent=5, examples=[_excerpt("My cat purrs."), _excerpt("Two cats and a kitten play.")])]
    silent = np.ones((1, 9), dtype=bool)
    silent[0, 0] = False
    places = hard_negatives(centres_of(evidence, embed), embed(ORDINARY), silent, np.arange(9), 3)
    (item,) = with_contrast(evidence, [_excerpt(text) for text in ORDINARY], places, 2)
    assert {e.passage for e in item.contrast} == {ORDINARY[1], ORDINARY[2]}
    assert item.examples == evidence[0].examples
    assert with_contrast(evidence, [], np.full((1, 3), -1), 2)[0].contrast == ()
