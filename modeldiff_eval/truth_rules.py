"""Rules that turn ν and Δ_norm into claims "only in base" and "only in tuned", and where their thresholds come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from modeldiff_eval.latents import Nu
from modeldiff_eval.planted_constants import Scoring

Level = Literal["specific", "shifted"]
BothNu = tuple[Nu, Nu]
"""Claimed for base, claimed for tuned."""
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


def by_delta_norm(norms: Float[NDArray[np.float64], " latents"], scoring: Scoring) -> Claims:
    """Decoder norm almost only in one model. NaN (both norms 0) is claimed for neither."""
    with np.errstate(invalid="ignore"):
        chosen = norms < scoring.delta_norm_cut, norms > 1 - scoring.delta_norm_cut
    return Claims("delta_norm cuts", "specific", chosen)


def by_fixed_thresholds(nu: BothNu, scoring: Scoring) -> Claims:
    """The paper's: ν^ε and ν^r both below a constant."""
    base, tuned = (side.specific(error=scoring.nu_error, reconstruction=scoring.nu_reconstruction) for side in nu)
    return Claims("paper thresholds", "specific", (base, tuned))


def by_exchange(
    nu: BothNu, less: Mapping[int, Bool[NDArray[np.bool_], " latents"]], scoring: Scoring
) -> tuple[Claims, Claims]:
    """Of a dictionary of differences, as a run does it: what the exchange control lets through and the other model has none,
    or has less, of.

    Args:
        less: by claim, from :func:`modeldiff_eval.difference.shifted`.
    """
    base, tuned = (side.absent(scoring.nu_error) & less[number] for number, side in enumerate(nu))
    return (
        Claims("specific (exchange)", "specific", (base, tuned)),
        Claims("shifted (exchange)", "shifted", (less[0], less[1]), threshold=1.0),
    )


def by_null_run(nu: BothNu, null: BothNu, scoring: Scoring) -> Claims:
    """Upper limit of ν^ε below a threshold that the upper limits of a run without differences set."""
    threshold = null_threshold(_pooled(nu), _pooled(null), rate=scoring.false_discovery_rate)
    return Claims("shifted (null run)", "shifted", _below(nu, threshold), threshold)


def by_reseeding(nu: BothNu, again: BothNu, partner: Int[NDArray[np.int64], " latents"], scoring: Scoring) -> Claims:
    """Upper limit of ν^ε below a threshold set by how far two dictionaries of one pair differ in ν.

    Only latents that the second dictionary has as well (``partner`` there, −1 for none) are claimed. The null value of such
    a latent is the upper limit it would have if ν were 1 and off by as much as the two dictionaries disagree:
    ``1 + (ν − ν_again) / √2 + (upper − ν)``.
    """
    known = partner >= 0
    null = []
    for here, there in zip(nu, again, strict=True):
        disagree = here.rank_error[known] - there.rank_error[partner[known]]
        null.append(1 + disagree / np.sqrt(2) + here.rank_error_high[known] - here.rank_error[known])
    upper = np.concatenate([side.rank_error_high[known] for side in nu])
    threshold = null_threshold(upper, np.concatenate(null), rate=scoring.false_discovery_rate)
    base, tuned = (chosen & known for chosen in _below(nu, threshold))
    return Claims("shifted (re-seeded)", "shifted", (base, tuned), threshold)


def null_threshold(
    upper: Sequence[float] | NDArray[np.float64], null: Sequence[float] | NDArray[np.float64], *, rate: float
) -> float | None:
    """The largest value t of ``upper`` below 1 with an estimated false discovery rate of at most ``rate``; NaN is left out.

    The estimate is (1 + null values up to t), brought to the number of values measured here, over the values up to t.
    None where no t will do: too few latents, or too like the null ones.
    """
    here, there = np.asarray(upper, dtype=np.float64), np.asarray(null, dtype=np.float64)
    here, there = np.sort(here[~np.isnan(here)]), np.sort(there[~np.isnan(there)])
    if not len(here) or not len(there):
        return None
    up_to = np.searchsorted(here, here, side="right")
    expected = (1 + np.searchsorted(there, here, side="right")) * len(here) / len(there)
    good = (expected <= rate * up_to) & (here <= _BELOW_ONE)
    return float(here[good][-1]) if good.any() else None


def _pooled(nu: BothNu) -> NDArray[np.float64]:
    return np.concatenate([side.rank_error_high for side in nu])


def _below(nu: BothNu, threshold: float | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    with np.errstate(invalid="ignore"):
        base, tuned = (side.rank_error_high <= (-np.inf if threshold is None else threshold) for side in nu)
    return base, tuned
