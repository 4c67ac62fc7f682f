"""A dictionary of what differs: a sparse autoencoder on tuned − base, and where each of its latents comes from.

A crosscoder spends its latents on what both models share, and an exclusive latent carries half the energy and half the
decoder norm that the selection scores: few ever form. In the difference of the two models' activations on the same token
all that is shared cancels, and every latent is one that differs. Its direction ``u`` and code ``f`` do not say who has it;
the models do. With ``x_m`` about their means, along ``u`` and where it fires,

    share = ½·(1 + β_first + β_second),  β_m = Σ f⟨x_m, u⟩ / Σ f²,  β_second − β_first ≈ 1

is 1 when only the second model has it, 0 when only the first has it (with −u), ½ when the one wrote −u/2 where the other
wrote u/2 (the same behaviour, written in another direction), and beyond when one model has more of what both have.

The result is an ordinary :class:`Crosscoder` whose encoder reads the difference and whose decoder rows are
``(share − 1)·u`` and ``share·u``: Latent Scaling, top documents, names, patching and exports work on it unchanged. Latent
Scaling reads both models along ``u``, so ν of a rewritten latent is −1 and not 0, as it is in a crosscoder.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import diags_array
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import binom, false_discovery_control
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.latents import Blocks, Nu, Progress, parts_of
from modeldiff_eval.quality import Rows
from modeldiff_eval.sparse import Sparse

_SAMPLE = 65_536
EXCHANGE_BLOCKS = 1024
"""At most so many blocks of documents in the exchange control."""
TOP_BLOCKS = 32
"""Blocks that vote on whether a latent is more than noise: 32 of 32 has p = 2e-10, 26 of 32 has 3e-4."""
RIDGE = 0.01
"""Draws shares to ½, so that of latents which always fire together none gets more than the models have."""
_STEPS = 200


def difference_of(both: Float[Tensor, "rows 2 d_model"]) -> Float[Tensor, "rows 2 d_model"]:
    """Second − first, given as both models' rows: a crosscoder of such rows is an autoencoder of the difference."""
    return (both[:, 1] - both[:, 0])[:, None].expand(-1, 2, -1)


def attributed(autoencoder: Crosscoder, rows: Rows, train_rows: Int[Tensor, " train"], *, seed: int) -> Crosscoder:
    """An autoencoder of :func:`difference_of` rows as a crosscoder of both models, each latent given to its origin.

    Codes and selection stay the same. Both models get one scale, so that what is equal in them cancels. Shares are measured
    on at most 65,536 of ``train_rows``.
    """
    n, d = autoencoder.n_latents, autoencoder.d_model
    chosen = np.random.default_rng(seed).permutation(len(train_rows))[:_SAMPLE]
    sample = rows(train_rows[torch.from_numpy(np.sort(chosen))])
    mean = sample.double().mean(0)
    scale = torch.sqrt(d / (sample.double() - mean).square().sum(2).mean()).float()
    own, both = autoencoder.scale[0], autoencoder.W_enc.view(n, 2, d).sum(1)
    u = autoencoder.W_dec.view(n, 2, d)[:, 0] * (scale / own)
    offset = (mean[1] - mean[0]).float() - autoencoder.mean[0]
    coder = Crosscoder(
        W_enc=torch.cat([-both, both], 1) * (own / scale),
        b_enc=autoencoder.b_enc + both @ (offset * own),
        W_dec=_rows_of(torch.full((n,), 0.5), u),
        b_dec=torch.zeros(2 * d),
        mean=mean.float(),
        scale=scale.repeat(2),
        threshold=autoencoder.threshold,
        k=autoencoder.k,
    )
    coder = _selecting_like(autoencoder, coder)
    share, b_dec = _shares(coder, sample, u)
    return _selecting_like(autoencoder, replace(coder, W_dec=_rows_of(share, u), b_dec=b_dec))


def _rows_of(share: Float[Tensor, " latents"], u: Float[Tensor, "latents d_model"]) -> Float[Tensor, "latents inputs"]:
    return torch.cat([(share - 1)[:, None] * u, share[:, None] * u], 1)


def _selecting_like(autoencoder: Crosscoder, coder: Crosscoder) -> Crosscoder:
    norms = coder.code_norm()
    return replace(coder, selection=torch.where(norms > 0, autoencoder.code_norm() / norms, 0))


def _shares(
    coder: Crosscoder, sample: Float[Tensor, "rows 2 d_model"], u: Float[Tensor, "latents d_model"]
) -> tuple[Float[Tensor, " latents"], Float[Tensor, " inputs"]]:
    """Least squares of all latents' shares at once, and the decoder's bias; ½ for latents that never fire.

    What both models together have, about its mean, is Σ (2·share − 1)·f·u and a rest. Latents that fire together in similar
    directions share the blame for one another, so one at a time, however often, does not get there: conjugate gradients do.
    """
    n, d = coder.n_latents, coder.d_model
    pieces: list[Sparse] = []
    along = torch.zeros(n, dtype=torch.float64)
    squares, fired, both_mean = (
        torch.zeros_like(along),
        torch.zeros_like(along),
        torch.zeros(2 * d, dtype=torch.float64),
    )
    for part in sample.split(4096):  # type: ignore[no-untyped-call]
        x = coder.normalise(part)
        f = coder.encode(x)
        latent, row = (f > 0).T.nonzero(as_tuple=True)
        codes = Sparse((len(f), n), row, latent, f[row, latent])
        both = x.view(-1, 2, d).sum(1)
        along += (codes.gather(codes.values, both, torch.empty_like(u)).double() * u.double()).sum(1)
        squares += f.double().square().sum(0)
        fired += f.double().sum(0)
        both_mean += x.double().sum(0)
        pieces.append(codes)
    both_mean /= len(sample)
    along -= fired * (u.double() @ both_mean.view(2, d).sum(0))
    ridge = squares * u.double().square().sum(1)

    def times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """The normal equations' matrix, codes about their means, on one vector."""
        v = torch.from_numpy(vector)
        rows = (v[:, None] * u.double()).float()
        out, total = torch.zeros_like(v), torch.zeros(d, dtype=torch.float64)
        for codes in pieces:
            written = codes.times(rows)
            total += written.double().sum(0)
            out += (codes.gather(codes.values, written, torch.empty_like(u)).double() * u.double()).sum(1)
        product: NDArray[np.float64] = (out - fired * (u.double() @ (total / len(sample))) + RIDGE * ridge * v).numpy()
        return product

    matrix = LinearOperator((n, n), matvec=times, dtype=np.float64)
    scaled = diags_array(torch.where(ridge > 0, 1 / ridge, 1.0).numpy())
    found, unfinished = cg(matrix, along.numpy(), rtol=1e-4, maxiter=_STEPS, M=scaled)
    if unfinished:
        warnings.warn(
            f"The origin of latents was not settled after {_STEPS} steps: latents that fire together may be given to the wrong model.",
            RuntimeWarning,
            stacklevel=2,
        )
    share = (0.5 * (1 + torch.from_numpy(found))).float()
    return share, (both_mean - (fired / len(sample)) @ _rows_of(share, u).double()).float()


def explained(coder: Crosscoder, rows: Rows, heldout: Int[Tensor, " heldout"]) -> tuple[float, float | None]:
    """What share of the models' energy the difference is, and what share of that its dictionary explains; held out.

    Energies are about the means, of both models together; None where nothing differs.
    """
    d = coder.d_model
    energy, difference, rest = 0.0, 0.0, 0.0
    offset, total, n = torch.zeros(d, dtype=torch.float64), torch.zeros(2 * d, dtype=torch.float64), len(heldout)
    for part in heldout.split(2048):  # type: ignore[no-untyped-call]
        x = coder.normalise(rows(part))
        error = x - coder.decode(coder.encode(x))
        energy += float(x.double().square().sum())
        total += x.double().sum(0)
        gap, left = (halves.view(-1, 2, d).double().diff(dim=1).squeeze(1) for halves in (x, error))
        difference += float(gap.square().sum())
        rest += float(left.square().sum())
        offset += gap.sum(0)
    energy -= float(total.square().sum()) / n
    difference -= float(offset.square().sum()) / n
    return difference / energy, 1 - rest / difference if difference > 0 else None


@dataclass(frozen=True)
class Exchanged:
    """Largest f of every latent in every block of held-out documents: as the models are, and with the two exchanged.

    ``energy`` [latents]: what each adds to the squared difference of the models on the tokens that count; ``weighted`` [weights,
    latents]: the same with every token weighted.
    """

    measured: Float[NDArray[np.float32], "blocks latents"]
    exchanged: Float[NDArray[np.float32], "blocks latents"]
    energy: Float[NDArray[np.float64], " latents"]
    weighted: Float[NDArray[np.float64], "weights latents"]

    def p_values(self, *, top: int = TOP_BLOCKS) -> Float[NDArray[np.float64], " latents"]:
        """One-sided sign test: of the ``top`` blocks with the largest f of either kind, how many have it as the models are?

        Where nothing but noise tells the models apart each of them has it with probability ½, whatever the dictionary was
        trained on, for these documents were held out. Only the strongest blocks vote, since a rare latent is silent in most.
        1 for latents that never fire.
        """
        return _sign_test(self._votes(top)[1])

    def voters(self, *, top: int = TOP_BLOCKS) -> Int[NDArray[np.int64], " latents"]:
        """Blocks that vote on each latent."""
        votes: NDArray[np.int64] = np.abs(self._votes(top)[1]).sum(0)
        return votes

    def null_share(
        self, defined: Bool[NDArray[np.bool_], " latents"], *, rate: float, rng: np.random.Generator, draws: int = 200
    ) -> float | None:
        """Mean share of ``defined`` that :func:`changed` finds when the models are exchanged in each block with probability ½.

        Whatever is found then is false. Latents share their strongest blocks, so a draw finds nearly none or many at once.
        None where no latent is defined.
        """
        if not defined.any():
            return None
        order, sign = self._votes(TOP_BLOCKS)
        order, sign = order[:, defined], sign[:, defined]
        found = []
        for _ in range(draws):
            swap = np.where(rng.random(len(self.measured)) < 0.5, -1, 1)
            p = _sign_test(sign * swap[order])
            found.append(float(changed(p, np.ones(len(p), dtype=np.bool_), rate=rate).mean()))
        return float(np.mean(found))

    def _votes(self, top: int) -> tuple[Int[NDArray[np.int64], "top latents"], Int[NDArray[np.int64], "top latents"]]:
        """The ``top`` blocks with the largest f of either kind, and whether it is as the models are: 1, −1, or 0 for neither."""
        order = np.argsort(-np.maximum(self.measured, self.exchanged), axis=0, kind="stable")[:top]
        real, other = (np.take_along_axis(part, order, axis=0) for part in (self.measured, self.exchanged))
        return order, np.sign(real - other).astype(np.int64)


def _sign_test(sign: Int[NDArray[np.int64], "top latents"]) -> Float[NDArray[np.float64], " latents"]:
    votes = np.abs(sign).sum(0)
    p: NDArray[np.float64] = binom.sf((sign > 0).sum(0) - 1, votes, 0.5)
    return np.where(votes > 0, p, 1.0)


def needed_blocks(measured: int, changed: int, *, rate: float) -> int:
    """How many blocks must vote, all alike, before one more latent than ``changed`` of ``measured`` could pass at ``rate``.

    Benjamini–Hochberg lets the next one through at p ≤ rate · (changed + 1) / measured, and n votes alike have p = 2⁻ⁿ.
    """
    return max(1, math.ceil(math.log2(max(measured, 1) / (rate * (changed + 1)))))


def exchanged(
    coder: Crosscoder,
    rows: Rows,
    blocks: Blocks,
    *,
    counted: Bool[NDArray[np.bool_], " tokens"] | None = None,
    weights: Float[NDArray[np.float64], "weights tokens"] | None = None,
    on_progress: Progress | None = None,
) -> Exchanged:
    """The built-in null control: the difference with its sign reversed, through the same dictionary.

    Args:
        blocks: of whole documents, at most about a thousand; a block is what is exchanged.
        counted: by token number, which tokens count; all if left out. Tokens that many documents begin with should not: their
            copies are no independent votes.
        weights: by token number, for :attr:`Exchanged.weighted`.
    """
    largest = torch.zeros(2, blocks.n, coder.n_latents)
    weights = np.zeros((0, 0)) if weights is None else weights
    squares, weighted = (torch.zeros(n, coder.n_latents, dtype=torch.float64) for n in (1, len(weights)))
    d = coder.d_model
    for done, (part, block) in parts_of(blocks, 1024):
        x = coder.normalise(rows(part))
        where = torch.from_numpy(block)[:, None].expand(-1, coder.n_latents)
        codes = coder.encode(x)
        other = coder.encode(x.view(-1, 2, d).flip(1).flatten(1))
        if counted is not None:
            seen = torch.from_numpy(counted[part.numpy()])
            part, codes, other, where = part[seen], codes[seen], other[seen], where[seen]
        square = codes.double().square()
        squares += square.sum(0)
        if len(weights):
            weighted += torch.from_numpy(weights[:, part.numpy()]) @ square
        for number, f in enumerate((codes, other)):
            largest[number].scatter_reduce_(0, where, f, "amax")
        if on_progress:
            on_progress(done, len(blocks.rows))
    size = coder.W_dec.view(-1, 2, d).double().diff(dim=1).square().sum((1, 2))
    return Exchanged(largest[0].numpy(), largest[1].numpy(), (squares[0] * size).numpy(), (weighted * size).numpy())


NUMERICAL_SHARE = 0.25
"""A latent with as much of its energy in the numerical control is rounding, not tuning."""


def numerical(
    coder: Crosscoder, rows: Rows, null: Rows, index: Int[Tensor, " rows"]
) -> Bool[NDArray[np.bool_], " latents"]:
    """Latents that rounding alone explains: their energy Σ f² on a null pair is at least a quarter of that on the pair.

    Args:
        null: for the same row numbers, one model and the same model in another precision; their difference may have
            either sign, so it is read with both.
    """
    sums = torch.zeros(2, coder.n_latents, dtype=torch.float64)
    for part in index.split(2048):  # type: ignore[no-untyped-call]
        sums[0] += coder.encode(coder.normalise(rows(part))).double().square().sum(0)
        same = null(part)
        gap = (same[:, 1] - same[:, 0]) / 2
        for sign in (-1, 1):
            # Only the difference is read: the mean of both models is no matter.
            pair = coder.mean + torch.stack([-sign * gap, sign * gap], 1)
            sums[1] += coder.encode(coder.normalise(pair)).double().square().sum(0) / 2
    out: NDArray[np.bool_] = ((sums[1] >= NUMERICAL_SHARE * sums[0]) & (sums[1] > 0)).numpy()
    return out


def changed(
    p: Float[NDArray[np.float64], " latents"], defined: Bool[NDArray[np.bool_], " latents"], *, rate: float
) -> Bool[NDArray[np.bool_], " latents"]:
    """Latents that tell the models apart beyond noise, at a false discovery rate (Benjamini–Hochberg over ``defined``)."""
    chosen = np.zeros(len(p), dtype=np.bool_)
    if defined.any():
        chosen[defined] = false_discovery_control(p[defined]) <= rate
    return chosen


def shifted(
    p: Float[NDArray[np.float64], " latents"], nu: Mapping[int, Nu], beyond: Bool[NDArray[np.bool_], " latents"], *, rate: float
) -> dict[int, Bool[NDArray[np.bool_], " latents"]]:  # fmt: skip
    """By claim, the latents ``beyond`` noise that the other model has less of, at a false discovery rate among just those."""
    return {side: changed(p, own.less(), rate=rate) & beyond for side, own in nu.items()}
