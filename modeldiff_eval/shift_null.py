"""When a latent's shift counts as changed: its interval must exclude 0, and it must beat what a harmless control shows.

The control is base against itself in another precision. Latents at the threshold move by many percent there although
nothing was learned, so z alone means nothing (ALGORITHMS §3b); every latent gets a bar of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeldiff_eval.stats_bootstrap import bootstrap_ratio

FloatArray = NDArray[np.float64]
QUANTILE = 0.99
"""Of the latents of equal mass in the control: what their pooled bar covers."""
STRATA = 10
STRATUM_LATENTS = 50
"""A stratum has at least so many latents; below 100 its 99 % is its largest."""
MIN_LATENTS = 10
"""With fewer latents in the control than this there are no peers to judge by."""
MIN_BLOCKS = 8
"""Blocks of documents that a latent must fire in before anything is said about it."""


def enough(mass: FloatArray) -> NDArray[np.bool_]:
    """Latents that fire in at least :data:`MIN_BLOCKS` blocks under one model; ``mass`` is [2, blocks, latents]."""
    fired: NDArray[np.bool_] = ((mass > 0).sum(axis=1) >= MIN_BLOCKS).any(axis=0)
    return fired


def null_bars(null_mass: FloatArray, base_mass: FloatArray, *, draws: int, rng: np.random.Generator) -> FloatArray:
    """|relative change| that each latent must exceed: the larger of its own control's bound and of its peers'.

    Its own: the further end of the 95 % interval of its shift in the control. Its peers': the :data:`QUANTILE` of
    |shift| among the control's latents of about the same share of all mass; the rarer a latent, the noisier it is.

    Args:
        null_mass: [2, blocks, latents] of base and of base in another precision.
        base_mass: [latents] of base on the text that is measured, which puts latents into strata where the control,
            on less text, did not reach them.

    Returns:
        [latents]; infinite everywhere where the control has too few latents to say anything.
    """
    value, low, high = (bound - 1 for bound in bootstrap_ratio(null_mass[1], null_mass[0], draws=draws, rng=rng))
    known = enough(null_mass) & np.isfinite(value)
    strata = max(1, min(STRATA, int(known.sum()) // STRATUM_LATENTS))
    if known.sum() < MIN_LATENTS or base_mass.sum() <= 0:
        return np.full(len(value), np.inf)
    share = null_mass[0].sum(axis=0) / null_mass[0].sum()
    edges = np.quantile(share[known], np.arange(1, strata) / strata)
    place = np.searchsorted(edges, np.where(known, share, base_mass / base_mass.sum()), side="right")
    peers = np.asarray(
        [np.quantile(np.abs(value[known & (place == stratum)]), QUANTILE, method="higher") for stratum in range(strata)]
    )
    own = np.fmax(np.abs(low), np.abs(high))
    own = np.where(known, np.fmax(own, np.abs(value)), np.abs(value))
    bars: FloatArray = np.fmax(np.where(np.isfinite(own), own, 0.0), peers[place])
    return bars


def beyond_null(value: FloatArray, low: FloatArray, high: FloatArray, bars: FloatArray) -> NDArray[np.bool_]:
    """Latents whose interval excludes 0 and whose change exceeds their bar; undefined ones never do.

    Args:
        value, low, high, bars: [latents], as fractions of base's mass.
    """
    with np.errstate(invalid="ignore"):
        return ((low > 0) | (high < 0)) & (np.abs(value) > bars)
