"""Graded evidence: class shares in which every latent counts by how surely the other model has less of it.

A latent's weight is ``max(0, 1 − upper 95 % limit of ν^ε)`` on the reporting half of the held-out documents. Not ``1 − ν^ε``:
the rectified noise of thousands of shared latents would outweigh the few that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.latents import Nu, Scaling, reporting_half
from modeldiff_eval.records import GradedCounts, GradedShare
from modeldiff_eval.stats import effective_n, estimate, number

DRAWS = 2000
LEAST_WEIGHT = 1.0
"""Total weight of a side, in latents, below which its shares are null."""
SMOOTHING = 0.75
"""Pseudo families inside and outside a class on each side, as for the shares by count."""
_CHUNK = 200


@dataclass(frozen=True)
class Shifted:
    """What a null control says about one side, where there is one.

    ``shifted`` [latents]; ``threshold`` is the upper limit of ν^ε below which a latent counts, 1 − ``delta``, set so that of
    those that count a share of ``fdr`` is expected to be false; ``rate``: share of latents that count where nothing changed.
    """

    shifted: Bool[NDArray[np.bool_], " latents"]
    rate: float
    threshold: float
    delta: float
    fdr: float = 0.05


@dataclass(frozen=True)
class Weights:
    """``weight`` [latents] of one claim; ``draws`` [draws, latents with weight > 0] of documents resampled, in their order."""

    weight: Float[NDArray[np.float64], " latents"]
    draws: Float[NDArray[np.float32], "draws positive"]

    def only(self, kept: Bool[NDArray[np.bool_], " latents"]) -> Weights:
        """The same with the weight of all other latents 0."""
        return Weights(np.where(kept, self.weight, 0.0), self.draws[:, kept[self.positive]])

    @property
    def positive(self) -> Int[NDArray[np.int64], " positive"]:
        return np.flatnonzero(self.weight > 0)


def graded_weight(
    high: Float[NDArray[np.float64], "*any"], low: Float[NDArray[np.float64], "*any"] | None = None
) -> Float[NDArray[np.float64], "*any"]:
    """Weight from the upper 95 % limit of |ν^ε|; an undefined limit weighs nothing.

    A ν^ε of −1, the opposite direction in the other model, is as far from absent as one of 1.
    """
    largest = high if low is None else np.maximum(high, -low)
    weight: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.where(np.isnan(largest), np.inf, largest))
    return weight


def weigh(sums: Scaling, nu: Nu, *, rng: np.random.Generator, draws: int = 400) -> Weights:
    """Weights of every latent, and what they become when the reporting half's document blocks are resampled.

    One ``rng`` state gives one set of documents: pass equal ones for the claims of one comparison, and they are resampled
    together. A draw moves ν^ε and its limits by the same amount. Latents of weight 0 keep it: which latents count at all is
    taken as given.
    """
    weight = graded_weight(nu.error_high, nu.error_low)
    positive = np.flatnonzero(weight > 0)
    members = np.flatnonzero(reporting_half(len(sums.squares)))
    blocks = np.zeros((draws, len(sums.squares)))
    blocks[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    drawn, _ = sums.of(positive).nu(nu.side, blocks)
    high, low = ((limit - nu.error)[positive] for limit in (nu.error_high, nu.error_low))
    return Weights(weight, graded_weight(drawn + high, drawn + low).astype(np.float32))


@dataclass(frozen=True)
class SideWeights:
    """Annotated latents of one side with weight > 0: ``label`` −1 is annotated as none of the groups.

    ``family`` numbers that both sides use are one family; ``draws`` [draws, latents] as in :class:`Weights`.
    """

    label: Int[NDArray[np.int64], " positive"]
    weight: Float[NDArray[np.float64], " positive"]
    family: Int[NDArray[np.int64], " positive"]
    draws: Float[NDArray[np.float32], "draws positive"]

    def counts(self) -> GradedCounts:
        """How many latents carry the weight."""
        n = effective_n(_family_sums(self.family, self.weight))
        weight = round(float(self.weight.sum()), 6)
        return GradedCounts(latents=len(self.weight), weight=weight, effective_n=None if n is None else number(n))


@dataclass(frozen=True)
class GradedView:
    """Graded shares by level ("classes", "categories"), None where a side's weight is too small; counts by role."""

    shares: dict[str, list[GradedShare] | None]
    counts: dict[str, GradedCounts]

    def rows(self, level: str, n: int) -> list[GradedShare | None]:
        """One share, or None, for each of the ``n`` groups of ``level``."""
        return [None] * n if (own := self.shares[level]) is None else list(own)


def graded_shares(
    base: SideWeights, tuned: SideWeights, groups: int, *, rng: np.random.Generator, draws: int = DRAWS
) -> list[GradedShare] | None:
    """Each group's share of the total weight (percent) on both sides and tuned minus base, with a 95 % interval.

    The interval resamples families (Bayesian bootstrap, jointly over both sides, :data:`SMOOTHING` pseudo families inside and
    outside a group) and, in the same draw, the documents behind the weights.

    Returns:
        None where a side's total weight is below :data:`LEAST_WEIGHT`.

    Raises:
        SettingsError: labels outside the groups.
    """
    sides = (base, tuned)
    for side in sides:
        if len(side.label) and (side.label.min() < -1 or side.label.max() >= groups):
            raise SettingsError(f"graded labels must be from -1 (none) to {groups - 1}.")
    if min(side.weight.sum() for side in sides) < LEAST_WEIGHT:
        return None
    shares = [100 * _by_group(side.label, side.weight, groups) / side.weight.sum() for side in sides]
    sampled = _resample(sides, groups, draws=draws, rng=rng)
    low, high = np.quantile(sampled[1] - sampled[0], (0.025, 0.975), axis=0)
    value = shares[1] - shares[0]
    return [
        GradedShare(
            base=number(shares[0][g]), tuned=number(shares[1][g]), diff=estimate(value[g], min(low[g], value[g]), max(high[g], value[g])),
            n_base=int((base.label == g).sum()), n_tuned=int((tuned.label == g).sum()),
        )
        for g in range(groups)
    ]  # fmt: skip


def _resample(
    sides: Sequence[SideWeights], groups: int, *, draws: int, rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Shares [draws, groups] of both sides, families and documents resampled together."""
    ids, index = np.unique(np.concatenate([side.family for side in sides]), return_inverse=True)
    member = np.split(index, [len(sides[0].family)])
    out = [np.empty((draws, groups)) for _ in sides]
    onto = [np.eye(groups + 1)[side.label][:, :groups] for side in sides]  # a label of −1 is the last column, left out
    units = [float(np.square(s).sum() / s.sum()) for s in (_family_sums(side.family, side.weight) for side in sides)]
    for start in range(0, draws, _CHUNK):
        n = min(_CHUNK, draws - start)
        family = rng.standard_exponential((n, len(ids)))
        document = rng.integers(min(len(side.draws) for side in sides), size=n)
        for s, side in enumerate(sides):
            drawn = family[:, member[s]] * side.draws[document]
            inside = units[s] * rng.standard_gamma(SMOOTHING, size=(n, groups))
            outside = units[s] * rng.standard_gamma(SMOOTHING, size=(n, groups))
            share = 100 * (drawn @ onto[s] + inside) / (drawn.sum(1, keepdims=True) + inside + outside)
            out[s][start : start + n] = share
    return out


def _by_group(label: NDArray[np.int64], weight: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    return np.bincount(label[label >= 0], weight[label >= 0], minlength=groups).astype(np.float64)


def _family_sums(family: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    _, index = np.unique(family, return_inverse=True)
    return np.bincount(index, weight).astype(np.float64)
