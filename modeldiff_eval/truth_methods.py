"""What the truth bench measures: methods, the fits they make of a pair, and the claims that rules draw from a fit.

A method is anything with a name that turns a planted pair into a :class:`Fit`; a fit names directions and claims
"this one is only in base" or "only in tuned". Here: the dictionaries of :mod:`modeldiff_eval.methods`; the rules of one
share its training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from modeldiff_eval import latents as measure
from modeldiff_eval.crosscoder import Crosscoder, delta_norm
from modeldiff_eval.difference import EXCHANGE_BLOCKS, Exchanged, changed, exchanged, shifted
from modeldiff_eval.methods import train_method, train_settings
from modeldiff_eval.planted import PlantedPair
from modeldiff_eval.planted_constants import Scoring, Training
from modeldiff_eval.quality import Quality, evaluate
from modeldiff_eval.settings import Method as MethodName
from modeldiff_eval.train import MappedSource
from modeldiff_eval.truth_match import cosines, match
from modeldiff_eval.truth_rules import (
    BothNu,
    Claims,
    by_delta_norm,
    by_exchange,
    by_fixed_thresholds,
    by_null_run,
    by_reseeding,
)

OnStep = Callable[[int, int], None]


@runtime_checkable
class Fit(Protocol):
    """What a method made of one pair. ``nu`` is claimed for base and for tuned; ``scale`` is each model's factor."""

    @property
    def directions(self) -> Float[NDArray[np.float64], "latents 2 d_model"]:
        """What a unit of each latent adds to base and to tuned."""
        ...

    @property
    def nu(self) -> BothNu: ...

    @property
    def scale(self) -> Float[NDArray[np.float64], " 2"]: ...

    @property
    def quality(self) -> Quality: ...

    def claims(self, controls: Controls, scoring: Scoring) -> list[Claims]:
        """Every rule's claims, always in the same order."""
        ...


@dataclass(frozen=True)
class Controls:
    """What thresholds may be set from: a fit of a pair without differences, and another seed's fit of the same pair."""

    null: Fit
    again: Fit


@runtime_checkable
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
    nu: BothNu
    quality: Quality

    @property
    def directions(self) -> Float[NDArray[np.float64], "latents 2 d_model"]:
        rows: NDArray[np.float64] = self.crosscoder.W_dec.view(self.crosscoder.n_latents, 2, -1).double().numpy()
        return rows

    @property
    def scale(self) -> Float[NDArray[np.float64], " 2"]:
        factors: NDArray[np.float64] = self.crosscoder.scale.double().numpy()
        return factors

    def claims(self, controls: Controls, scoring: Scoring) -> list[Claims]:
        return [
            by_delta_norm(delta_norm(self.crosscoder.decoder_norms()).double().numpy(), scoring),
            by_fixed_thresholds(self.nu, scoring),
            by_null_run(self.nu, controls.null.nu, scoring),
            by_reseeding(self.nu, controls.again.nu, partners(self, controls.again, scoring), scoring),
        ]


def partners(fit: Fit, again: Fit, scoring: Scoring) -> Int[NDArray[np.int64], " latents"]:
    """The latent of ``again`` that has both directions of each latent of ``fit``, or −1."""
    found, others = (some.directions.reshape(len(some.directions), -1) for some in (fit, again))
    return match(cosines(found, others), least=scoring.match_cosine)


@dataclass(frozen=True)
class DifferenceFit(CrosscoderFit):
    """A dictionary of the difference, with what its built-in null control says of each latent."""

    control: Exchanged

    def claims(self, controls: Controls, scoring: Scoring) -> list[Claims]:
        defined = ~np.isnan(self.nu[0].rank_error) | ~np.isnan(self.nu[1].rank_error)
        p, rate = self.control.p_values(), scoring.false_discovery_rate
        less = shifted(p, dict(enumerate(self.nu)), changed(p, defined, rate=rate), rate=rate)
        return [
            by_delta_norm(delta_norm(self.crosscoder.decoder_norms()).double().numpy(), scoring),
            *by_exchange(self.nu, less, scoring),
        ]


@dataclass(frozen=True)
class Dictionary:
    """One of the package's own methods, trained and measured as a run does it."""

    name: MethodName = "difference"

    def fit(
        self, pair: PlantedPair, training: Training, scoring: Scoring, *, seed: int, on_step: OnStep
    ) -> CrosscoderFit:
        settings = train_settings(self.name, **training.model_dump(), seed=seed)
        train_rows, heldout = (torch.from_numpy(np.flatnonzero(part)) for part in (~pair.heldout, pair.heldout))
        with tempfile.TemporaryDirectory() as folder:
            crosscoder = train_method(
                self.name,
                MappedSource(lambda i: pair.rows[i], train_rows, batch=settings.batch, seed=seed),
                settings,
                rows=lambda i: pair.rows[i],
                train_rows=train_rows,
                heldout=heldout,
                folder=Path(folder),
                on_step=lambda step, steps, _: on_step(step, steps),
            )
        fit = measured(crosscoder, pair, scoring, seed=seed)
        if self.name != "difference":
            return fit
        blocks = measure.document_blocks(heldout, pair.document, seed=seed, limit=EXCHANGE_BLOCKS)
        return DifferenceFit(fit.crosscoder, fit.nu, fit.quality, exchanged(crosscoder, lambda i: pair.rows[i], blocks))


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
