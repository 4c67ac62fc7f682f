"""Latent Scaling of all latents in one pass beside the definition, one latent at a time, in one run on the same rows.

``pytest tests/benchmarks/test_bench_scaling.py --benchmark-only -s`` prints both times and their ratio. The direct side is
given what the latents share (normalised rows, codes and the reconstruction, made once and counted once); for each latent
it then forms the leave-one-out target and goes over all rows, in float64. It is timed on a sample of latents and
scaled up to all that fire. A second direct side looks only at the rows where the latent fires, the best that can be done
one latent at a time; it is printed, and held to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from modeldiff_eval import latents as L
from modeldiff_eval.crosscoder import Crosscoder

D, WIDTH, ROWS, K, DOCUMENTS = 4096, 576, 16_384, 32, 256
SAMPLE = 16
TARGET = 50
SECONDS: dict[str, float] = {}
ALIVE: list[int] = []


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def crosscoder() -> Crosscoder:
    """Tied random directions, a little different in the two models, and a threshold at which :data:`K` latents fire a token."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(D, WIDTH, generator=g)
    W = torch.cat([first, first + 0.3 * torch.randn(D, WIDTH, generator=g)], 1)
    W /= W.norm(dim=1, keepdim=True)
    zeros = torch.zeros(2 * WIDTH)
    return Crosscoder(W, torch.zeros(D), W, zeros, torch.zeros(2, WIDTH), torch.ones(2), 0.0, K)


@pytest.fixture(scope="module")
def rows(crosscoder: Crosscoder) -> Tensor:
    """[rows, 2, d_model]: K latents a row, some a hundred times as frequent as others, and noise."""
    g = torch.Generator().manual_seed(1)
    often = torch.logspace(0, -2, D)
    out = torch.empty(ROWS, 2 * WIDTH)
    for part in torch.arange(ROWS).split(1024):  # type: ignore[no-untyped-call]
        active = torch.multinomial(often.expand(len(part), D), K, generator=g)
        code = torch.zeros(len(part), D).scatter_(1, active, 1 + torch.rand(len(part), K, generator=g))
        out[part] = code @ crosscoder.W_dec
    out += 0.3 * out.std() * torch.randn(out.shape, generator=g)
    return out.view(-1, 2, WIDTH)


@pytest.fixture(scope="module")
def trained(crosscoder: Crosscoder, rows: Tensor) -> Crosscoder:
    """The crosscoder with its threshold set on the first rows, as the end of a training does."""
    v = crosscoder.scaled(crosscoder.normalise(rows[:2048]))
    threshold = float(v.flatten().topk(2048 * K).values[-1])
    return Crosscoder(
        crosscoder.W_enc, crosscoder.b_enc, crosscoder.W_dec, crosscoder.b_dec, crosscoder.mean, crosscoder.scale, threshold, K
    )  # fmt: skip


@pytest.fixture(scope="module")
def blocks() -> L.Blocks:
    owner = np.repeat(np.arange(DOCUMENTS, dtype=np.int32), ROWS // DOCUMENTS)
    return L.document_blocks(torch.arange(ROWS), owner, seed=0)


class Direct:
    """ν of one latent by its definition (ALGORITHMS §3)."""

    def __init__(self, crosscoder: Crosscoder, rows: Tensor) -> None:
        x = crosscoder.normalise(rows)
        f = crosscoder.encode(x)
        self.x, self.f = x.double(), f.double()
        self.decoder = crosscoder.W_dec.double()
        self.x_hat = self.f @ self.decoder + crosscoder.b_dec.double()

    def nu(self, latent: int, side: int, *, firing_only: bool = False) -> tuple[float, float]:
        """ν^ε and ν^r of the claim that ``latent`` is specific to ``side``."""
        f, x, x_hat, halves = self.f[:, latent], self.x, self.x_hat, (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH))
        if firing_only:
            where = f.nonzero()[:, 0]
            f, x, x_hat = f[where], x[where], x_hat[where]
        own = self.decoder[latent, halves[side]]
        size = f.square().sum() * own.square().sum()
        beta = []
        for half in (halves[side], halves[1 - side]):
            error = x[:, half] - (x_hat[:, half] - f[:, None] * self.decoder[latent, half])
            beta.append([float((f @ y) @ own / size) for y in (error, x_hat[:, half])])
        return beta[1][0] / beta[0][0], beta[1][1] / beta[0][1]


def _all(crosscoder: Crosscoder, rows: Tensor, blocks: L.Blocks) -> list[tuple[np.ndarray, np.ndarray]]:
    sums = L.scaling(crosscoder, lambda i: rows[i], blocks)
    whole = np.ones((1, blocks.n))
    return [sums.nu(side, whole) for side in (0, 1)]


def test_all_latents_in_one_pass(benchmark: object, trained: Crosscoder, rows: Tensor, blocks: L.Blocks) -> None:
    benchmark.group = "latent scaling"  # type: ignore[attr-defined]
    found = benchmark.pedantic(_all, args=(trained, rows, blocks), rounds=3, warmup_rounds=1)  # type: ignore[attr-defined]
    SECONDS["one pass"] = benchmark.stats.stats.median  # type: ignore[attr-defined]
    ALIVE[:] = np.flatnonzero(np.isfinite(found[0][0][0]) & np.isfinite(found[1][0][0])).tolist()
    assert len(ALIVE) > D // 2


def test_direct_set_up(benchmark: object, trained: Crosscoder, rows: Tensor) -> None:
    benchmark.group = "latent scaling"  # type: ignore[attr-defined]
    benchmark.pedantic(Direct, args=(trained, rows), rounds=1)  # type: ignore[attr-defined]
    SECONDS["shared"] = benchmark.stats.stats.median  # type: ignore[attr-defined]


@pytest.mark.parametrize("firing_only", [False, True])
def test_direct_latent_by_latent(
    benchmark: object, trained: Crosscoder, rows: Tensor, blocks: L.Blocks, firing_only: bool
) -> None:
    """The sample's ν agree to 1e-6, and the sample's median time stands for every latent that fires."""
    benchmark.group = "latent scaling"  # type: ignore[attr-defined]
    direct = Direct(trained, rows)
    found = _all(trained, rows, blocks)
    alive = ALIVE or np.flatnonzero(np.isfinite(found[0][0][0]) & np.isfinite(found[1][0][0])).tolist()
    sample = np.random.default_rng(0).choice(alive, SAMPLE, replace=False)
    for side in (0, 1):
        for latent in sample:
            expected = direct.nu(int(latent), side, firing_only=firing_only)
            np.testing.assert_allclose([nu[0, latent] for nu in found[side]], expected, rtol=1e-6)
    turn = iter(sample)

    def one() -> None:
        latent = int(next(turn))
        for side in (0, 1):
            direct.nu(latent, side, firing_only=firing_only)

    benchmark.pedantic(one, rounds=SAMPLE, iterations=1)  # type: ignore[attr-defined]
    each = benchmark.stats.stats.median  # type: ignore[attr-defined]
    if {"one pass", "shared"} <= SECONDS.keys():
        whole = SECONDS["shared"] + each * len(alive)
        what = "only the rows where it fires" if firing_only else "all rows"
        print(
            f"\n{len(alive):,} latents that fire, both claims, {ROWS:,} rows: one pass {SECONDS['one pass']:.2f} s; latent by latent over "
            f"{what} {1000 * each:.1f} ms each (median of {SAMPLE}) after {SECONDS['shared']:.1f} s shared, so {whole:,.0f} s for all: "
            f"{whole / SECONDS['one pass']:.1f} ×"
        )
        assert firing_only or whole > TARGET * SECONDS["one pass"]
