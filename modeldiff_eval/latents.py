"""What each latent does in the two models: Latent Scaling and top examples.

Everything is read in streams. Latent Scaling uses held-out documents only, gathered in
blocks of documents, which are what the bootstrap resamples (ALGORITHMS §3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import CorpusError
from modeldiff_eval.sparse import Places

Rows = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows 2 d_model"]]
Progress = Callable[[int, int], None]
MAX_BLOCKS = 64
_SIDES = (0, 1)


@dataclass(frozen=True)
class Blocks:
    """Held-out rows grouped into blocks of whole documents. ``block`` [rows]; ``documents`` per block."""

    rows: Int[Tensor, " rows"]
    block: NDArray[np.int64]
    documents: NDArray[np.int64]

    @property
    def n(self) -> int:
        return len(self.documents)


def document_blocks(
    rows: Int[Tensor, " rows"], document: NDArray[np.int32], *, seed: int, limit: int = MAX_BLOCKS
) -> Blocks:
    """Deal the documents of ``rows`` into at most ``limit`` blocks at random, so that blocks are exchangeable.

    Args:
        document: [tokens] document of every token of the corpus.

    Raises:
        CorpusError: fewer than four documents; no interval could be given.
    """
    of_row = document[rows.numpy()]
    names, index = np.unique(of_row, return_inverse=True)
    if len(names) < 4:
        raise CorpusError(f"Only {len(names)} held-out documents: too few for any interval. Give more text.")
    order = np.random.default_rng(seed).permutation(len(names))
    block = order[index] % min(limit, len(names))
    return Blocks(rows, block, np.bincount(np.arange(len(names)) % min(limit, len(names))))


@dataclass(frozen=True)
class Scaling:
    """Per-block sums from which every β follows; float64.

    ``actual``, ``reconstructed`` [blocks, latents, model, d* side]: Σ f⟨x̃_m, d_s⟩ and Σ f⟨x̂_m, d_s⟩;
    ``squares`` [blocks, latents]: Σ f²; ``firings`` [blocks, latents]; ``gram`` [latents, 2, 2]: ⟨d_m, d_s⟩.
    """

    actual: NDArray[np.float64]
    reconstructed: NDArray[np.float64]
    squares: NDArray[np.float64]
    firings: NDArray[np.int64]
    gram: NDArray[np.float64]
    tokens: int

    def of(self, part: slice | NDArray[np.int64]) -> Scaling:
        """The same sums of some latents."""
        return Scaling(
            self.actual[:, part],
            self.reconstructed[:, part],
            self.squares[:, part],
            self.firings[:, part],
            self.gram[part],
            self.tokens,
        )

    def nu(self, side: int, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ν^ε and ν^r [draws, latents] of latents claimed to be specific to ``side``, for block weights [draws, blocks].

        NaN where β of the model itself is not positive.
        """
        other = 1 - side
        squares = weights @ self.squares
        beta: dict[tuple[str, int], NDArray[np.float64]] = {}
        for model in _SIDES:
            actual = weights @ self.actual[:, :, model, side]
            reconstructed = weights @ self.reconstructed[:, :, model, side]
            beta["error", model] = actual - reconstructed + squares * self.gram[:, model, side]
            beta["reconstruction", model] = reconstructed
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [
                np.where(beta[target, side] > 0, beta[target, other] / beta[target, side], np.nan)
                for target in ("error", "reconstruction")
            ]
        return ratios[0], ratios[1]


def scaling(crosscoder: Crosscoder, rows: Rows, blocks: Blocks, *, on_progress: Progress | None = None) -> Scaling:
    """All latents in one float64 pass over held-out rows (ALGORITHMS §3); the leave-one-out target is algebra."""
    n, d = crosscoder.n_latents, crosscoder.d_model
    both = crosscoder.W_dec.double().view(n, 2, d)
    decoder = [both[:, side].contiguous() for side in _SIDES]
    actual = np.zeros((blocks.n, n, 2, 2))
    reconstructed = np.zeros((blocks.n, n, 2, 2))
    squares = np.zeros((blocks.n, n))
    firings = np.zeros((blocks.n, n), dtype=np.int64)
    for done, (part, block) in parts_of(blocks, 1024):
        x = crosscoder.normalise(rows(part))
        f = crosscoder.encode(x)
        x_hat = crosscoder.decode(f)
        latent, row = (f > 0).T.nonzero(as_tuple=True)
        places = Places((len(f), n), row, latent)
        values = f[row, latent].double().numpy()
        flat = block[row.numpy()] * n + latent.numpy()
        squares += _sum_at(flat, values**2, (blocks.n, n))
        firings += np.bincount(flat, minlength=blocks.n * n).reshape(blocks.n, n)
        for model in _SIDES:
            for target, total in ((x, actual), (x_hat, reconstructed)):
                y = target.view(-1, 2, d)[:, model].double().contiguous()
                for side in _SIDES:
                    total[:, :, model, side] += _sum_at(
                        flat, values * places.dots(y, decoder[side]).numpy(), (blocks.n, n)
                    )
        if on_progress:
            on_progress(done, len(blocks.rows))
    gram = torch.einsum("nmd,nsd->nms", both, both).numpy()
    return Scaling(actual, reconstructed, squares, firings, gram, len(blocks.rows))


def parts_of(blocks: Blocks, size: int) -> Iterator[tuple[int, tuple[Tensor, NDArray[np.int64]]]]:
    """(rows done, (row numbers, their blocks)) in pieces of ``size`` rows."""
    for start in range(0, len(blocks.rows), size):
        part = slice(start, start + size)
        yield min(start + size, len(blocks.rows)), (blocks.rows[part], blocks.block[part])


def _sum_at(flat: NDArray[np.int64], values: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.bincount(flat, values, minlength=shape[0] * shape[1]).astype(np.float64)
    return sums.reshape(shape)


@dataclass(frozen=True)
class Nu:
    """ν of every latent for one claim ("specific to ``side``"): value and 95 % bounds; NaN = undefined.

    ``rank_*`` comes from one half of the document blocks and decides what is specific; ``value``,
    ``low``, ``high`` come from the other half and are what the card reports (winner's curse).
    """

    side: int
    rank_error: NDArray[np.float64]
    rank_reconstruction: NDArray[np.float64]
    rank_error_low: NDArray[np.float64]
    rank_error_high: NDArray[np.float64]
    error: NDArray[np.float64]
    error_low: NDArray[np.float64]
    error_high: NDArray[np.float64]
    reconstruction: NDArray[np.float64]
    reconstruction_low: NDArray[np.float64]
    reconstruction_high: NDArray[np.float64]

    def specific(self, *, error: float, reconstruction: float) -> NDArray[np.bool_]:
        """Latents below both thresholds on the ranking half; undefined ones never are."""
        with np.errstate(invalid="ignore"):
            return (self.rank_error < error) & (self.rank_reconstruction < reconstruction)

    def absent(self, error: float) -> NDArray[np.bool_]:
        """Latents of a difference dictionary of which the other model has neither this direction nor its opposite: |ν^ε| below ``error``."""
        with np.errstate(invalid="ignore"):
            return np.abs(self.rank_error) < error

    def less(self) -> NDArray[np.bool_]:
        """Latents of which the other model has less in either direction: the interval of ν^ε lies within ±1 on the ranking half."""
        with np.errstate(invalid="ignore"):
            return (self.rank_error_high < 1) & (self.rank_error_low > -1)


def reporting_half(blocks: int) -> NDArray[np.bool_]:
    """Which document blocks [blocks] reported ν come from; the others rank."""
    half: NDArray[np.bool_] = np.arange(blocks) >= blocks // 2
    return half


def nu_intervals(sums: Scaling, side: int, *, min_firings: int, rng: np.random.Generator, draws: int = 500) -> Nu:
    """ν with block-bootstrap intervals on two halves of the documents.

    Latents that fire fewer than ``min_firings`` times in a half, or whose own β is not positive in
    97.5 % of the draws, are NaN there.
    """
    n_blocks = len(sums.squares)
    reporting = reporting_half(n_blocks)
    results = []
    for half in (~reporting, reporting):
        members = np.flatnonzero(half)
        counts = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
        weights = np.zeros((draws + 1, n_blocks))
        weights[0, members] = 1
        weights[1:, members] = counts
        often = sums.firings[half].sum(0) >= min_firings
        results.append([_summarise(values, often) for values in _chunked_nu(sums, side, weights)])
    (rank_error, rank_rec), (error, rec) = results
    return Nu(side, rank_error[0], rank_rec[0], *rank_error[1:], *error, *rec)


def _chunked_nu(sums: Scaling, side: int, weights: NDArray[np.float64], chunk: int = 2048) -> list[NDArray[np.float64]]:
    pieces: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for start in range(0, sums.squares.shape[1], chunk):
        pieces.append(sums.of(slice(start, start + chunk)).nu(side, weights))
    return [np.concatenate([piece[i] for piece in pieces], axis=1) for i in (0, 1)]


def _summarise(
    values: NDArray[np.float64], often: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Point value and percentile bounds per latent from row 0 and the draws below it."""
    undefined = np.isnan(values[1:]).mean(0) > 0.025
    keep = often & ~undefined & ~np.isnan(values[0])
    point, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    point[keep] = values[0, keep]
    if keep.any():
        low[keep], high[keep] = np.nanpercentile(values[1:, keep], [2.5, 97.5], axis=0)
    return point, low, high


@dataclass(frozen=True)
class Peak:
    """Where a latent fires most in one document. ``token`` counts from the start of the corpus."""

    token: int
    document: int
    activation: float


def top_documents(
    crosscoder: Crosscoder,
    rows: Rows,
    tokens: Int[Tensor, " tokens"],
    document: NDArray[np.int32],
    *,
    n: int,
    on_progress: Progress | None = None,
) -> tuple[list[list[Peak]], NDArray[np.int64]]:
    """The exact top-``n`` documents of every latent by largest v, and firing counts [latents].

    Args:
        tokens: kept token numbers, ascending; ``document`` [corpus tokens].
    """
    latents = crosscoder.n_latents
    score = np.full((latents, n), -np.inf)
    where = np.full((latents, n), -1, dtype=np.int64)
    firings = np.zeros(latents, dtype=np.int64)
    for start in range(0, len(tokens), 2048):
        part = tokens[start : start + 2048]
        v = crosscoder.scaled(crosscoder.normalise(rows(part)))
        firings += (v > 0).sum(0).numpy()
        row, latent = (v > 0).nonzero(as_tuple=True)
        values = v[row, latent].double().numpy()
        keep = values > score[latent.numpy(), -1]
        new = (latent.numpy()[keep], values[keep], part[row].numpy()[keep])
        if len(new[0]):
            _merge_top(score, where, new, document)
        if on_progress:
            on_progress(min(start + 2048, len(tokens)), len(tokens))
    return [
        [
            Peak(int(token), int(document[token]), float(value))
            for token, value in zip(where[j], score[j], strict=True)
            if token >= 0
        ]
        for j in range(latents)
    ], firings


def _merge_top(
    score: NDArray[np.float64],
    where: NDArray[np.int64],
    new: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]],
    document: NDArray[np.int32],
) -> None:
    touched = np.unique(new[0])
    n = score.shape[1]
    latent = np.concatenate([np.repeat(touched, n), new[0]])
    value = np.concatenate([score[touched].ravel(), new[1]])
    token = np.concatenate([where[touched].ravel(), new[2]])
    real = token >= 0
    latent, value, token = latent[real], value[real], token[real]
    # The best token of every (latent, document), then the best n documents of every latent; ties by token number.
    order = np.lexsort((token, -value, document[token], latent))
    latent, value, token = latent[order], value[order], token[order]
    first = np.ones(len(latent), dtype=bool)
    first[1:] = (latent[1:] != latent[:-1]) | (document[token][1:] != document[token][:-1])
    latent, value, token = latent[first], value[first], token[first]
    order = np.lexsort((token, -value, latent))
    latent, value, token = latent[order], value[order], token[order]
    starts = np.searchsorted(latent, touched)
    rank = np.arange(len(latent)) - np.repeat(starts, np.diff(np.append(starts, len(latent))))
    keep = rank < n
    score[touched] = -np.inf
    where[touched] = -1
    score[latent[keep], rank[keep]] = value[keep]
    where[latent[keep], rank[keep]] = token[keep]


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` … ``end`` of the corpus around a peak, with the latent's v on each."""

    start: int
    end: int
    activations: NDArray[np.float32]


def windows(
    crosscoder: Crosscoder,
    rows: Rows,
    peaks: list[list[Peak]],
    sequences: NDArray[np.int64],
    kept: Int[Tensor, " kept"],
    *,
    radius: int,
) -> list[list[Window]]:
    """The context of every peak (±``radius`` tokens within its sequence); tokens that were dropped read 0."""
    starts = sequences[:, 0]
    wanted: dict[int, list[tuple[int, int, Peak]]] = {}
    for latent, own in enumerate(peaks):
        for rank, peak in enumerate(own):
            wanted.setdefault(int(np.searchsorted(starts, peak.token, side="right")) - 1, []).append(
                (latent, rank, peak)
            )
    is_kept = np.zeros(int(sequences[-1, 1]), dtype=bool)
    is_kept[kept.numpy()] = True
    out: list[list[Window]] = [[Window(0, 0, np.zeros(0, np.float32))] * len(own) for own in peaks]
    for sequence, items in wanted.items():
        begin, stop = int(sequences[sequence, 0]), int(sequences[sequence, 1])
        x = crosscoder.normalise(rows(torch.arange(begin, stop)))
        used = torch.tensor(sorted({latent for latent, _, _ in items}))
        column = {int(latent): i for i, latent in enumerate(used)}
        v = torch.relu(x @ crosscoder.W_enc[used].T + crosscoder.b_enc[used]) * crosscoder.code_norm()[used]
        fired = torch.where(v > crosscoder.cut()[used], v, 0).numpy() * is_kept[begin:stop, None]
        for latent, rank, peak in items:
            a, b = max(begin, peak.token - radius), min(stop, peak.token + radius + 1)
            out[latent][rank] = Window(a, b, fired[a - begin : b - begin, column[latent]].astype(np.float32))
    return out
