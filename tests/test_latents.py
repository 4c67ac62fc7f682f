"""Latent Scaling, activation shift and top documents against direct computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from modeldiff_eval import latents as L
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import CorpusError
from modeldiff_eval.families import families

D, N, TOKENS, DOCUMENTS = 5, 9, 240, 30


@pytest.fixture
def crosscoder() -> Crosscoder:
    g = torch.Generator().manual_seed(1)
    return Crosscoder(
        torch.randn(N, 2 * D, generator=g), torch.randn(N, generator=g) * 0.1, torch.randn(N, 2 * D, generator=g),
        torch.randn(2 * D, generator=g) * 0.1, torch.randn(2, D, generator=g), torch.tensor([0.8, 1.3]), threshold=2.0, k=3,
    )  # fmt: skip


@pytest.fixture
def raw() -> Tensor:
    return torch.randn(TOKENS, 2, D, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def document() -> np.ndarray:
    return np.repeat(np.arange(DOCUMENTS, dtype=np.int32), TOKENS // DOCUMENTS)


def direct_beta(crosscoder: Crosscoder, raw: Tensor, latent: int, model: int, side: int, target: str) -> float:
    """β by its definition (ALGORITHMS §3), one latent at a time, in float64."""
    x = crosscoder.normalise(raw).double()
    f = crosscoder.encode(crosscoder.normalise(raw)).double()
    W = crosscoder.W_dec.double()
    x_hat = f @ W + crosscoder.b_dec.double()
    part = slice(model * D, (model + 1) * D)
    y = x_hat[:, part]
    if target == "error":
        y = x[:, part] - (x_hat[:, part] - f[:, latent : latent + 1] * W[latent, part])
    d = W[latent, side * D : (side + 1) * D]
    return float(((f[:, latent] @ y) @ d) / (f[:, latent].square().sum() * d.square().sum()))


@pytest.mark.parametrize("side", [0, 1])
def test_nu_of_all_latents_equals_the_definition(
    crosscoder: Crosscoder, raw: Tensor, document: np.ndarray, side: int
) -> None:
    blocks = L.document_blocks(torch.arange(TOKENS), document, seed=0)
    sums = L.scaling(crosscoder, lambda i: raw[i], blocks)
    error, reconstruction = sums.nu(side, np.ones((1, blocks.n)))
    compared = 0
    for latent in range(N):
        for target, ours in (("error", error[0]), ("reconstruction", reconstruction[0])):
            own, other = (direct_beta(crosscoder, raw, latent, m, side, target) for m in (side, 1 - side))
            if own > 0 or np.isfinite(ours[latent]):
                assert ours[latent] == pytest.approx(other / own, rel=1e-5)
                compared += 1
    assert compared >= N


def test_identical_models_give_nu_of_one(crosscoder: Crosscoder, raw: Tensor, document: np.ndarray) -> None:
    same = torch.cat([crosscoder.W_dec[:, :D]] * 2, 1)
    crosscoder = Crosscoder(
        crosscoder.W_enc,
        crosscoder.b_enc,
        same,
        crosscoder.b_dec[:D].repeat(2),
        crosscoder.mean[:1].repeat(2, 1),
        torch.ones(2),
        2.0,
        3,
    )
    x = raw[:, :1].repeat(1, 2, 1)
    sums = L.scaling(crosscoder, lambda i: x[i], L.document_blocks(torch.arange(TOKENS), document, seed=0))
    error, reconstruction = sums.nu(1, np.ones((1, 30)))
    for nu in (error, reconstruction):
        assert np.isfinite(nu).any()
        np.testing.assert_allclose(nu[np.isfinite(nu)], 1.0, rtol=1e-6)


def test_swapping_the_models_swaps_the_claims(crosscoder: Crosscoder, raw: Tensor, document: np.ndarray) -> None:
    def swap(w: Tensor) -> Tensor:
        return w.view(len(w), 2, D).flip(1).flatten(1)

    mirrored = Crosscoder(
        swap(crosscoder.W_enc), crosscoder.b_enc, swap(crosscoder.W_dec), swap(crosscoder.b_dec[None])[0], crosscoder.mean.flip(0),
        crosscoder.scale.flip(0), crosscoder.threshold, 3,
    )  # fmt: skip
    blocks = L.document_blocks(torch.arange(TOKENS), document, seed=0)
    one = L.scaling(crosscoder, lambda i: raw[i], blocks).nu(1, np.ones((1, blocks.n)))
    two = L.scaling(mirrored, lambda i: raw[i].flip(1), blocks).nu(0, np.ones((1, blocks.n)))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_rare_and_dead_latents_are_undefined_never_zero(
    crosscoder: Crosscoder, raw: Tensor, document: np.ndarray
) -> None:
    crosscoder.b_enc[2] = -1e6
    blocks = L.document_blocks(torch.arange(TOKENS), document, seed=0)
    sums = L.scaling(crosscoder, lambda i: raw[i], blocks)
    nu = L.nu_intervals(sums, 1, min_firings=5, rng=np.random.default_rng(0))
    assert np.isnan(nu.error[2])
    assert np.isnan(nu.rank_error[2])
    assert not nu.specific(error=1e9, reconstruction=1e9)[2]
    impossible = L.nu_intervals(sums, 1, min_firings=10_000, rng=np.random.default_rng(0))
    assert np.isnan(impossible.error).all()
    defined = ~np.isnan(nu.error)
    assert defined.any()
    assert (nu.error_low[defined] <= nu.error_high[defined]).all()


def test_ranking_and_reporting_use_different_documents(
    crosscoder: Crosscoder, raw: Tensor, document: np.ndarray
) -> None:
    blocks = L.document_blocks(torch.arange(TOKENS), document, seed=0)
    sums = L.scaling(crosscoder, lambda i: raw[i], blocks)
    nu = L.nu_intervals(sums, 1, min_firings=1, rng=np.random.default_rng(0))
    both = ~np.isnan(nu.error) & ~np.isnan(nu.rank_error)
    assert (nu.error[both] != nu.rank_error[both]).all()
    first = np.zeros((1, blocks.n))
    first[0, : blocks.n // 2] = 1
    np.testing.assert_allclose(nu.rank_error[both], sums.nu(1, first)[0][0][both])


def test_blocks_hold_whole_documents(document: np.ndarray) -> None:
    blocks = L.document_blocks(torch.arange(10, TOKENS), document, seed=3, limit=7)
    for number in range(DOCUMENTS):
        assert len(set(blocks.block[document[10:] == number])) <= 1
    assert blocks.n == 7
    assert blocks.documents.sum() == len(set(document[10:]))


def test_too_few_documents_are_refused(document: np.ndarray) -> None:
    with pytest.raises(CorpusError, match="Only 3 held-out documents"):
        L.document_blocks(torch.arange(24), document, seed=0)


def test_top_documents_are_exact(crosscoder: Crosscoder, raw: Tensor, document: np.ndarray) -> None:
    tokens = torch.arange(0, TOKENS)
    peaks, firings = L.top_documents(crosscoder, lambda i: raw[i], tokens, document, n=4)
    v = crosscoder.scaled(crosscoder.normalise(raw)).numpy()
    np.testing.assert_array_equal(firings, (v > 0).sum(0))
    for latent in range(N):
        best = np.array([v[document == k, latent].max() for k in range(DOCUMENTS)])
        expected = np.sort(best[best > 0])[::-1][:4]
        np.testing.assert_allclose([p.activation for p in peaks[latent]], expected, rtol=1e-6)
        assert len({p.document for p in peaks[latent]}) == len(peaks[latent])
        for peak in peaks[latent]:
            assert v[peak.token, latent] == pytest.approx(peak.activation, rel=1e-5)


def test_top_documents_do_not_depend_on_the_batches(crosscoder: Crosscoder, document: np.ndarray) -> None:
    big = torch.randn(6000, 2, D, generator=torch.Generator().manual_seed(5))
    owner = np.repeat(np.arange(60, dtype=np.int32), 100)
    peaks, _ = L.top_documents(crosscoder, lambda i: big[i], torch.arange(6000), owner, n=5)
    v = crosscoder.scaled(crosscoder.normalise(big)).numpy()
    for latent in range(N):
        best = np.sort([v[owner == k, latent].max() for k in range(60)])[::-1][:5]
        np.testing.assert_allclose([p.activation for p in peaks[latent]], best[best > 0], rtol=1e-5)


def test_windows_stay_inside_their_sequence_and_hide_dropped_tokens(
    crosscoder: Crosscoder, raw: Tensor, document: np.ndarray
) -> None:
    sequences = np.array([[8 * i, 8 * i + 8, i] for i in range(DOCUMENTS)], dtype=np.int64)
    kept = torch.tensor([i for i in range(TOKENS) if i % 8])  # the first token of each sequence was dropped
    peaks, _ = L.top_documents(crosscoder, lambda i: raw[i], kept, document, n=2)
    windows = L.windows(crosscoder, lambda i: raw[i], peaks, sequences, kept, radius=3)
    v = crosscoder.scaled(crosscoder.normalise(raw)).numpy()
    seen = 0
    for latent, (own, around) in enumerate(zip(peaks, windows, strict=True)):
        for peak, window in zip(own, around, strict=True):
            assert window.start // 8 == (window.end - 1) // 8 == peak.token // 8
            for offset, value in enumerate(window.activations):
                token = window.start + offset
                assert value == pytest.approx(0 if token % 8 == 0 else v[token, latent], rel=1e-4, abs=1e-6)
                seen += 1
    assert seen > 20


class TestFamilies:
    def test_close_directions_and_shared_firing_join(self) -> None:
        directions = np.array([[1.0, 0, 0], [0.95, 0.1, 0], [0, 1.0, 0], [0, 0, 1.0]])
        assert len(set(families(directions, None))) == 3
        activity = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.9], [0, 0, 0.9, 1]])
        joined = families(directions, activity)
        assert joined[0] == joined[1]
        assert joined[2] == joined[3] != joined[0]

    def test_none_and_zero(self) -> None:
        assert len(families(np.zeros((0, 3)), None)) == 0
        assert len(set(families(np.zeros((2, 3)), None))) == 2
