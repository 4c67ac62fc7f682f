"""The ways of training a dictionary that ``--method`` chooses between; all by one trainer, all giving a :class:`Crosscoder`.

``batchtopk``: the crosscoder of the paper. ``dedicated``: a share of its latents can only write to one model (2602.11729).
``delta``: the difference of the two reconstructions weighs more in the loss (2603.04426). ``difference``: an autoencoder of
tuned − base (2605.07324), each latent attributed to its origin (:mod:`modeldiff_eval.difference`).

Which one is the default, and why: docs/decisions/012-methods.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.difference import attributed, difference_of
from modeldiff_eval.quality import Rows
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.settings import Method
from modeldiff_eval.trackers import Tracker
from modeldiff_eval.train import OnStep, RowSource, measured_normaliser, train
from modeldiff_eval.train_step import TrainSettings

DEDICATED_SHARE = 1 / 8
"""Share of the latents that only the first model has, and of those that only the second has."""
DELTA_WEIGHT = 2.0
"""How many times an error in the difference costs what it costs in the sum; its square in the loss."""

_SIGN_ROWS = 65_536


def train_settings(
    method: Method, *, n_latents: int, k: int, steps: int, batch: int, lr: float, seed: int
) -> TrainSettings:
    """What a method makes of the sizes of a run.

    What differs has far fewer latents than what is shared: ``difference`` takes a third of the latents, 3/8 of k, twice the
    steps (two thirds of the crosscoder's products) and three times the learning rate, at most 3e-3.
    """
    if method == "difference":
        n_latents = max(2, n_latents // 3)
        k, steps = min(n_latents, max(1, round(3 * k / 8))), 2 * steps
        lr = max(lr, min(3 * lr, 3e-3))
    exclusive = DEDICATED_SHARE if method == "dedicated" else 0.0
    return TrainSettings(n_latents=n_latents, k=k, steps=steps, batch=batch, lr=lr, seed=seed, exclusive=exclusive)


@dataclass(frozen=True)
class _Transformed:
    """A source whose rows went through a function."""

    source: RowSource
    function: Callable[[Float[Tensor, "rows 2 d_model"]], Float[Tensor, "rows 2 d_model"]]

    def normaliser_sample(self, n: int) -> Float[Tensor, "n 2 d_model"]:
        return self.function(self.source.normaliser_sample(n))

    def batches(self, start: int, stop: int) -> Generator[Float[Tensor, "rows 2 d_model"], None, None]:
        inner = self.source.batches(start, stop)
        try:
            for rows in inner:
                yield self.function(rows)
        finally:
            inner.close()


def train_method(
    method: Method,
    source: RowSource,
    settings: TrainSettings,
    *,
    rows: Rows,
    train_rows: Int[Tensor, " train"],
    heldout: Int[Tensor, " heldout"],
    folder: Path,
    device: torch.device | None = None,
    ranks: Ranks | None = None,
    checkpoint_minutes: float | None = None,
    on_step: OnStep | None = None,
    track: Tracker | None = None,
) -> Crosscoder:
    """Train by a method; see :func:`modeldiff_eval.train.train` for the arguments and what is raised.

    Args:
        rows, train_rows, heldout: rows that lie at hand: thresholds, and the origin of latents, are measured on them.
    """

    def run(own: RowSource, own_rows: Rows, statistics: tuple[Tensor, Tensor] | None = None) -> Crosscoder:
        return train(
            own, settings, folder=folder, heldout=(own_rows, heldout), device=device, ranks=ranks, statistics=statistics,
            checkpoint_minutes=checkpoint_minutes, on_step=on_step, track=track,
        )  # fmt: skip

    if method == "difference":
        sample = train_rows if len(train_rows) else heldout  # Streamed: only held-out rows lie at hand.
        offset = difference_of(source.normaliser_sample(_SIGN_ROWS))[:, 0].double().mean(0)
        if not _varies(source.normaliser_sample(_SIGN_ROWS), rows, heldout):
            return _nothing(rows(heldout[:8192]), settings)
        # The sign is the data's own, so that exchanging the models exchanges every answer and nothing else.
        if offset[offset.abs().argmax()] < 0:
            source, rows = _Transformed(source, exchange), _exchanged(rows)
            return exchange_halves(_train_difference(run, source, rows, sample, settings))
        return _train_difference(run, source, rows, sample, settings)
    if method == "delta":
        mean, scale = measured_normaliser(source, ranks or Ranks())
        turn = SumAndDifference(mean, scale, DELTA_WEIGHT)
        start = torch.zeros_like(mean), torch.ones_like(scale)
        return turn.back(run(_Transformed(source, turn), lambda index: turn(rows(index)), start))
    return run(source, rows)


def _train_difference(
    run: Callable[[RowSource, Rows], Crosscoder], source: RowSource, rows: Rows, sample: Int[Tensor, " sample"], settings: TrainSettings
) -> Crosscoder:  # fmt: skip
    autoencoder = run(_Transformed(source, difference_of), lambda index: difference_of(rows(index)))
    return attributed(autoencoder, rows, sample, seed=settings.seed)


def exchange(both: Float[Tensor, "rows 2 d_model"]) -> Float[Tensor, "rows 2 d_model"]:
    """Second first."""
    return both.flip(1)


def _exchanged(rows: Rows) -> Rows:
    return lambda index: exchange(rows(index))


def exchange_halves(coder: Crosscoder) -> Crosscoder:
    """The same crosscoder for rows of the two models exchanged."""
    n, d = coder.n_latents, coder.d_model
    W_enc, W_dec = (weights.view(n, 2, d).flip(1).flatten(1) for weights in (coder.W_enc, coder.W_dec))
    return replace(
        coder, W_enc=W_enc, W_dec=W_dec, b_dec=coder.b_dec.view(2, d).flip(0).flatten(), mean=coder.mean.flip(0), scale=coder.scale.flip(0)
    )  # fmt: skip


def _varies(sample: Float[Tensor, "sample 2 d_model"], rows: Rows, heldout: Int[Tensor, " heldout"]) -> bool:
    """Whether the difference is not the same on every token: nothing, or a constant vector, is nothing to learn from."""
    first = difference_of(sample[:1])
    parts = (rows(part) for part in heldout.split(8192))  # type: ignore[no-untyped-call]
    return any(bool((difference_of(part) != first).any()) for part in (sample, *parts))


def _nothing(rows: Float[Tensor, "rows 2 d_model"], settings: TrainSettings) -> Crosscoder:
    """The dictionary of two models that do not differ, or by a constant: no latent ever fires."""
    inputs = rows[0].numel()
    return Crosscoder(
        W_enc=torch.zeros(settings.n_latents, inputs), b_enc=torch.zeros(settings.n_latents),
        W_dec=torch.zeros(settings.n_latents, inputs), b_dec=torch.zeros(inputs),
        mean=rows.double().mean(0).float(), scale=torch.ones(2), threshold=0.0, k=settings.k
    )  # fmt: skip


@dataclass(frozen=True)
class SumAndDifference:
    """Normalised rows as (sum, ``weight`` · difference) / √2: a crosscoder of these is one whose loss weighs the difference.

    The squared error there is that of both models plus (weight² − 1)/2 times the squared error of their difference.
    """

    mean: Float[Tensor, "2 d_model"]
    scale: Float[Tensor, " 2"]
    weight: float

    def __call__(self, rows: Float[Tensor, "rows 2 d_model"]) -> Float[Tensor, "rows 2 d_model"]:
        x = (rows - self.mean) * self.scale[:, None]
        return torch.stack([x[:, 0] + x[:, 1], self.weight * (x[:, 1] - x[:, 0])], 1) / math.sqrt(2)

    def back(self, turned: Crosscoder) -> Crosscoder:
        """The same function on raw rows. Latents go on being selected by the norm they were trained with."""
        n, d, root, w = turned.n_latents, turned.d_model, math.sqrt(2), self.weight
        total, difference = turned.W_enc.view(n, 2, d).unbind(1)
        W_enc = torch.cat([total - w * difference, total + w * difference], 1) / root
        total, difference = turned.W_dec.view(n, 2, d).unbind(1)
        W_dec = torch.cat([total - difference / w, total + difference / w], 1) / root
        total, difference = turned.b_dec.view(2, d)
        b_dec = torch.cat([total - difference / w, total + difference / w]) / root
        coder = replace(turned, W_enc=W_enc, W_dec=W_dec, b_dec=b_dec, mean=self.mean, scale=self.scale)
        norms = coder.code_norm()
        return replace(coder, selection=torch.where(norms > 0, turned.code_norm() / norms, 0))
