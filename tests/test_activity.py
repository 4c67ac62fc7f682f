"""Where latents fire in a pool of documents, against a direct computation."""

from __future__ import annotations

import numpy as np
import torch

from modeldiff_eval.activity import activity, passage_pool, spread
from modeldiff_eval.crosscoder import Crosscoder

D, N, DOCUMENTS, LENGTH = 5, 9, 12, 60


def _crosscoder() -> Crosscoder:
    g = torch.Generator().manual_seed(1)
    return Crosscoder(
        torch.randn(N, 2 * D, generator=g), torch.randn(N, generator=g) * 0.1, torch.randn(N, 2 * D, generator=g),
        torch.randn(2 * D, generator=g) * 0.1, torch.randn(2, D, generator=g), torch.tensor([0.8, 1.3]), threshold=30.0, k=3,
    )  # fmt: skip


def _sequences() -> np.ndarray:
    starts = np.arange(DOCUMENTS) * LENGTH
    # Document 3 has two sequences.
    rows = [(int(a), int(a) + LENGTH, i) for i, a in enumerate(starts)]
    rows[3:4] = [(180, 200, 3), (200, 240, 3)]
    return np.array(rows, dtype=np.int64)


def test_the_largest_activation_of_every_document_and_its_token() -> None:
    raw = torch.randn(DOCUMENTS * LENGTH, 2, D, generator=torch.Generator().manual_seed(2))
    coder, document = _crosscoder(), np.repeat(np.arange(DOCUMENTS, dtype=np.int32), LENGTH)
    kept = torch.arange(DOCUMENTS * LENGTH)[torch.arange(DOCUMENTS * LENGTH) % 7 != 0]
    pool = passage_pool(_sequences(), limit=8, rng=np.random.default_rng(0))
    asked = np.array([7, 0, 4])
    found = activity(coder, lambda i: raw[i], kept, document, pool, asked)
    v = coder.scaled(coder.normalise(raw)).numpy()
    v[np.arange(len(v)) % 7 == 0] = 0  # dropped tokens do not count
    silent = 0
    for row, latent in enumerate(asked):
        for column, name in enumerate(pool.documents):
            own = np.where(document == name, v[:, latent], -1)
            if own.max() <= 0:
                assert (found.value[row, column], found.token[row, column]) == (0, -1)
                silent += 1
            else:
                assert np.isclose(found.value[row, column], own.max(), rtol=1e-4)
                assert found.token[row, column] == own.argmax()
    assert 0 < silent < found.value.size
    assert (found.silent == (found.value == 0)).all()


def test_documents_longer_than_a_batch_are_one_document() -> None:
    raw = torch.randn(3000, 2, D, generator=torch.Generator().manual_seed(3))
    coder = _crosscoder()
    pool = passage_pool(np.array([[0, 2500, 0], [2500, 3000, 1]]), rng=np.random.default_rng(0))
    document = np.repeat(np.array([0, 1], dtype=np.int32), [2500, 500])
    found = activity(coder, lambda i: raw[i], torch.arange(3000), document, pool, np.arange(N))
    v = coder.scaled(coder.normalise(raw)).numpy()
    assert np.allclose(found.value[:, 0], v[:2500].max(0), rtol=1e-4)
    assert np.allclose(found.value[:, 1], v[2500:].max(0), rtol=1e-4)


def test_no_latents_and_no_tokens_give_empty_tables() -> None:
    pool = passage_pool(_sequences(), rng=np.random.default_rng(0))
    document = np.repeat(np.arange(DOCUMENTS, dtype=np.int32), LENGTH)
    rows = lambda i: torch.zeros(len(i), 2, D)  # noqa: E731
    assert activity(_crosscoder(), rows, torch.arange(9), document, pool, np.arange(0)).value.shape == (0, DOCUMENTS)
    none = activity(_crosscoder(), rows, torch.arange(0), document, pool, np.arange(2))
    assert none.silent.all()


def test_a_pool_holds_each_document_once_and_stays_within_its_sequences() -> None:
    sequences = _sequences()
    pool = passage_pool(sequences, limit=5, rng=np.random.default_rng(4))
    assert len(pool.documents) == len(np.unique(pool.documents)) == 5
    for name, (begin, end) in zip(pool.documents, pool.spans, strict=True):
        assert any(a <= begin < end <= b and name == d for a, b, d in sequences)
    same = passage_pool(sequences, limit=5, rng=np.random.default_rng(4))
    assert (same.documents == pool.documents).all()
    assert (same.spans == pool.spans).all()


def test_spread_takes_strong_and_weak_and_one_of_a_group() -> None:
    values = np.array([8, 7, 6, 5, 4, 3, 2, 1, 0, 0], dtype=np.float32)
    alone = np.arange(10)
    # Four quarters of the eight that fire: the middle ranks 1, 3, 5, 7.
    assert spread(values, alone, 4).tolist() == [1, 3, 5, 7]
    assert spread(values, alone, 20).tolist() == list(range(8))
    # Ties of a group leave the strongest; groups are 0,0,1,1,2,2,3,3.
    assert spread(values, alone // 2, 20).tolist() == [0, 2, 4, 6]
