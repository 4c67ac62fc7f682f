"""From sums per document to what the causal panel says: effect, matched random effect, their difference, a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import CausalMeasure, Estimate, Verdict
from modeldiff_eval.stats import estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAIL = (0.025, 0.975)


def resampled(groups: int, *, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[draws, groups] how often each document comes in each resample; every figure of a panel shares them."""
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)


def mean_estimate(sums: NDArray[np.float64], tokens: NDArray[np.float64], weights: NDArray[np.float64]) -> Estimate:
    """Mean over tokens with its interval over documents; ``sums`` and ``tokens`` [groups], ``weights`` [draws, groups]."""
    low, high = np.quantile((weights @ sums) / (weights @ tokens), _TAIL)
    return estimate(float(sums.sum() / tokens.sum()), float(low), float(high))


def causal_measure(
    effect: NDArray[np.float64],
    random: NDArray[np.float64],
    tokens: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    rng: np.random.Generator,
) -> CausalMeasure:
    """One figure of a patched set beside its random sets.

    The difference asks whether the set differs from *a* matched random set, not from their mean: its interval is the
    prediction interval of one more draw, ``effect − mean ± t(R − 1)·s·√(1 + 1/R)``, inside every resample of the documents
    (with a handful of sets the spread of their mean would be far too small a yardstick).

    Args:
        effect: patched minus as it is, summed over each document's tokens [groups].
        random: the same for R random sets [R, groups]; fewer than two give no difference.
        tokens: [groups] tokens that were summed.
        weights: [draws, groups] from :func:`resampled`.

    Raises:
        SettingsError: the shapes do not belong together.
    """
    if effect.shape != tokens.shape or random.shape[1:] != tokens.shape or weights.shape[1:] != tokens.shape:
        raise SettingsError(
            f"effect {effect.shape}, random {random.shape}, tokens {tokens.shape} and weights {weights.shape} must agree on the documents."
        )
    own = mean_estimate(effect, tokens, weights)
    nothing = Estimate(value=None, low=None, high=None)
    draws = len(random)
    if draws < 2:
        return CausalMeasure(effect=own, random=nothing, difference=nothing, verdict="unclear")
    means = random.sum(1) / tokens.sum()
    others = (weights @ random.T) / (weights @ tokens)[:, None]
    step = student.rvs(draws - 1, size=len(weights), random_state=rng) * others.std(1, ddof=1) * np.sqrt(1 + 1 / draws)
    spread = (weights @ effect) / (weights @ tokens) - others.mean(1) + step
    value = float(effect.sum() / tokens.sum() - means.mean())
    low, high = (float(bound) for bound in np.quantile(spread, _TAIL))
    difference = estimate(value, min(low, value), max(high, value))
    return CausalMeasure(
        effect=own,
        random=estimate(float(means.mean()), float(means.min()), float(means.max())),
        difference=difference,
        verdict=_verdict(own, difference),
    )


def _verdict(effect: Estimate, difference: Estimate) -> Verdict:
    """The side that both intervals lie on; a random set that did worse does not make an effect of nothing."""
    bounds: list[Any] = [effect.low, effect.high, difference.low, difference.high]
    if None in bounds:
        return "unclear"
    if effect.high < 0 and difference.high < 0:  # type: ignore[operator]
        return "down"
    return "up" if effect.low > 0 and difference.low > 0 else "unclear"  # type: ignore[operator]


def matched(
    latents: NDArray[np.int64],
    pool: NDArray[np.int64],
    features: NDArray[np.float64],
    *,
    draws: int,
    rng: np.random.Generator,
    reach: int = 3,
) -> NDArray[np.int64]:
    """Random sets like ``latents``: for each one another latent of about its frequency and decoder norm.

    Every latent is answered by one of the ``reach · draws`` nearest of the pool (by ``features``, each in units of its
    spread over the pool), drawn at random; no latent comes twice in one set.

    Args:
        latents: [n] the set; pool: [m] latents that may stand in.
        features: [all latents, features], such as log frequency and log norm.

    Returns:
        [draws, n] latents, or [0, n] where the pool is smaller than the set.
    """
    if len(pool) < len(latents) or not len(latents):
        return np.zeros((0, len(latents)), dtype=np.int64)
    scale = features[pool].std(0)
    scaled = features / np.where(scale > 0, scale, 1)
    out = np.zeros((draws, len(latents)), dtype=np.int64)
    orders = [pool[np.argsort(np.square(scaled[pool] - scaled[j]).sum(1), kind="stable")] for j in latents]
    for row in out:
        taken: set[int] = set()
        for place in rng.permutation(len(latents)):
            free = [int(j) for j in orders[place][: reach * draws + len(latents)] if int(j) not in taken]
            row[place] = free[int(rng.integers(min(len(free), reach * draws)))]
            taken.add(int(row[place]))
    return out
