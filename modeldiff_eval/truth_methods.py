"""What the truth bench measures: methods, the fits they make of a pair, and the claims that rules draw from a fit.

A method is anything with a name that turns a planted pair into a :class:`Fit`; a fit names directions and claims
"this one is only in base" or "only in tuned". Here: the BatchTopK crosscoder, with three rules on one training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from modeldiff_eval import latents as measure
from modeldiff_eval.crosscoder import Crosscoder, delta_norm
from modeldiff_eval.planted import PlantedPair
from modeldiff_eval.planted_constants import Scoring, Training
from modeldiff_eval.quality import Quality, evaluate
from modeldiff_eval.train import MappedSource, train
from modeldiff_eval.train_step import TrainSettings

OnStep = Callable[[int, int], None]
Level = Literal["specific", "shifted"]
_BELOW_ONE = 1 - 1e-6
"""No threshold is higher: equal models have ν = 1 up to rounding."""


@dataclass(frozen=True)
class Claims:
    """What one rule says. ``level``: "specific" claims the other model lacks the latent, "shifted" that it has less of it.

    ``chosen`` [latents] for base and for tuned. ``threshold`` is the upper limit of ν^ε that a shifted latent lies below;
    None where the rule has no such number, or where none kept the false discovery rate.
    """

    rule: str
    level: Level
    chosen: tuple[Bool[NDArray[np.bool_], " latents"], Bool[NDArray[np.bool_], " latents"]]
    threshold: float | None = None


class Fit(Protocol):
    """What a method made of one pair. ``nu`` is claimed for base and for tuned; ``scale`` is each model's factor."""

    @property
    def directions(self) -> Float[NDArray[np.float64], "latents 2 d_model"]:
        """What a unit of each latent adds to base and to tuned."""
        ...

    @property
    def nu(self) -> tuple[measure.Nu, measure.Nu]: ...

    @property
    def scale(self) -> Float[NDArray[np.float64], " 2"]: ...

    @property
    def quality(self) -> Quality: ...

    def claims(self, null: Fit, scoring: Scoring) -> list[Claims]:
        """Every rule's claims; ``null`` is a fit of the same method to a pair without differences."""
        ...


class Method(Protocol):
    """A way of finding model-specific latents."""

    @property
    def name(self) -> str: ...

    def fit(self, pair: PlantedPair, training: Training, scoring: Scoring, *, seed: int, on_step: OnStep) -> Fit:
        """Train on the documents that are not held out, measure on those that are."""
        ...


@dataclass(frozen=True)
class CrosscoderFit:
    """A trained crosscoder and its Latent Scaling on held-out documents."""

    crosscoder: Crosscoder
    nu: tuple[measure.Nu, measure.Nu]
    quality: Quality

    @property
    def directions(self) -> Float[NDArray[np.float64], "latents 2 d_model"]:
        rows: NDArray[np.float64] = self.crosscoder.W_dec.view(self.crosscoder.n_latents, 2, -1).double().numpy()
        return rows

    @property
    def scale(self) -> Float[NDArray[np.float64], " 2"]:
        factors: NDArray[np.float64] = self.crosscoder.scale.double().numpy()
        return factors

    def claims(self, null: Fit, scoring: Scoring) -> list[Claims]:
        norms = delta_norm(self.crosscoder.decoder_norms()).double().numpy()
        cut = scoring.delta_norm_cut
        base, tuned = (nu.specific(error=scoring.nu_error, reconstruction=scoring.nu_reconstruction) for nu in self.nu)
        return [
            Claims("delta_norm cuts", "specific", (norms < cut, norms > 1 - cut)),
            Claims("paper thresholds", "specific", (base, tuned)),
            shifted(self.nu, null.nu, rate=scoring.false_discovery_rate),
        ]


def shifted(nu: tuple[measure.Nu, measure.Nu], null: tuple[measure.Nu, measure.Nu], *, rate: float) -> Claims:
    """Latents whose upper limit of ν^ε (ranking half) lies below a threshold set from a null run.

    The threshold is the largest t at which (1 + null latents below t), brought to the number of latents measured here,
    is at most ``rate`` of the latents below t. Both sides share it. Where no t will do, nothing is claimed.
    """
    upper = [side.rank_error_high for side in nu]
    threshold = null_threshold(
        np.concatenate(upper), np.concatenate([side.rank_error_high for side in null]), rate=rate
    )
    with np.errstate(invalid="ignore"):
        chosen = [high <= (-np.inf if threshold is None else threshold) for high in upper]
    return Claims("shifted", "shifted", (chosen[0], chosen[1]), threshold)


def null_threshold(
    upper: Sequence[float] | NDArray[np.float64], null: Sequence[float] | NDArray[np.float64], *, rate: float
) -> float | None:
    """The largest value of ``upper`` below 1 with an estimated false discovery rate of at most ``rate``; NaN is left out."""
    here, there = np.asarray(upper, dtype=np.float64), np.asarray(null, dtype=np.float64)
    here, there = np.sort(here[~np.isnan(here)]), np.sort(there[~np.isnan(there)])
    if not len(here) or not len(there):
        return None
    below_here = np.searchsorted(here, here, side="right")
    below_null = np.searchsorted(there, here, side="right")
    good = ((1 + below_null) * len(here) / len(there) <= rate * below_here) & (here <= _BELOW_ONE)
    return float(here[good][-1]) if good.any() else None


class BatchTopK:
    """The package's own crosscoder, trained and measured as a run does it."""

    name = "batchtopk"

    def fit(
        self, pair: PlantedPair, training: Training, scoring: Scoring, *, seed: int, on_step: OnStep
    ) -> CrosscoderFit:
        settings = TrainSettings(**training.model_dump(), seed=seed)
        train_rows, heldout = (torch.from_numpy(np.flatnonzero(part)) for part in (~pair.heldout, pair.heldout))
        with tempfile.TemporaryDirectory() as folder:
            crosscoder = train(
                MappedSource(lambda i: pair.rows[i], train_rows, batch=settings.batch, seed=seed),
                settings,
                folder=Path(folder),
                heldout=(lambda i: pair.rows[i], heldout),
                on_step=lambda step, steps, _: on_step(step, steps),
            )
        return measured(crosscoder, pair, scoring, seed=seed)


def measured(crosscoder: Crosscoder, pair: PlantedPair, scoring: Scoring, *, seed: int) -> CrosscoderFit:
    """Latent Scaling of a crosscoder on the pair's held-out documents, for both claims."""
    train_rows, heldout = (torch.from_numpy(np.flatnonzero(part)) for part in (~pair.heldout, pair.heldout))
    blocks = measure.document_blocks(heldout, pair.document, seed=seed)
    sums = measure.scaling(crosscoder, lambda i: pair.rows[i], blocks)
    # The same resamples for both claims: exchanging the models then exchanges the answers, and nothing else.
    base, tuned = (
        measure.nu_intervals(sums, side, min_firings=scoring.min_firings, rng=np.random.default_rng([seed, 11]))
        for side in (0, 1)
    )
    return CrosscoderFit(crosscoder, (base, tuned), evaluate(crosscoder, lambda i: pair.rows[i], heldout, train_rows))
