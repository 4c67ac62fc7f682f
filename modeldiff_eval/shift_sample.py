"""Class totals of activation mass from a random sample of latents, where naming all of them would cost too much.

Choosing the most shifted latents and averaging a class over them is biased (ALGORITHMS §3b). A sample with known
probabilities is not: each latent stands for 1 / its probability.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from modeldiff_eval.errors import SettingsError


def inclusion(weight: Float[NDArray[np.float64], " latents"], n: int) -> Float[NDArray[np.float64], " latents"]:
    """Probabilities that add up to ``n``, proportional to ``weight`` as far as none exceeds 1; 0 where the weight is 0.

    Raises:
        SettingsError: a weight is negative or not finite, or fewer than ``n`` latents have one.
    """
    if not np.isfinite(weight).all() or (weight < 0).any() or not 0 < n <= np.count_nonzero(weight):
        raise SettingsError(
            f"{n} of {np.count_nonzero(weight)} latents with a positive weight cannot be sampled; weights are finite and ≥ 0."
        )
    out = np.zeros(len(weight))
    certain = np.zeros(len(weight), dtype=bool)
    while True:
        rest = weight * ~certain
        total = rest.sum()
        out = np.where(certain, 1.0, rest * ((n - certain.sum()) / total) if total > 0 else 0.0)
        if not (over := out > 1).any():
            return out
        certain |= over


def draw(
    probability: Float[NDArray[np.float64], " latents"], *, rng: np.random.Generator
) -> Int[NDArray[np.int64], " sampled"]:
    """Latents drawn with exactly these probabilities, as many as they add up to (systematic sampling, shuffled order)."""
    order = rng.permutation(len(probability))
    ends = np.cumsum(probability[order])
    n = round(float(ends[-1]))
    ends *= n / ends[-1]
    ticks = rng.random() + np.arange(n)
    return np.sort(order[np.searchsorted(ends, ticks, side="right").clip(max=len(order) - 1)])


def horvitz_thompson(
    mass: Float[NDArray[np.float64], "blocks sampled"],
    probability: Float[NDArray[np.float64], " sampled"],
    group: Int[NDArray[np.int64], " sampled"],
    n_groups: int,
) -> Float[NDArray[np.float64], "blocks groups"]:
    """Unbiased totals of every group over all latents, from the sampled ones.

    Args:
        mass: of the sampled latents.
        probability: with which each was drawn.
        group: of each, −1 where it belongs to none.

    Raises:
        SettingsError: a probability is not in (0, 1].
    """
    if not ((probability > 0) & (probability <= 1)).all():
        raise SettingsError("Every sampled latent needs the probability in (0, 1] with which it was drawn.")
    out = np.zeros((len(mass), n_groups))
    for number in range(n_groups):
        mine = group == number
        out[:, number] = (mass[:, mine] / probability[mine]).sum(axis=1)
    return out
