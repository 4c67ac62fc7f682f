"""Families: latents that are one behaviour in several pieces, so that the bootstrap counts them once.

Two latents belong together when their decoder directions are close or when they fire on the same
tokens; families are the connected components, over both sides of the comparison at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

COSINE = 0.7
CO_ACTIVATION = 0.7


def families(
    directions: NDArray[np.float64],
    activity: NDArray[np.float64] | None,
    *,
    cosine: float = COSINE,
    co_activation: float = CO_ACTIVATION,
) -> NDArray[np.int64]:
    """Family number of each latent.

    Args:
        directions: [latents, d_model] decoder rows in one shared space (base and tuned residuals are close enough to be one).
        activity: [latents, tokens] scaled activations on common tokens, or None to use directions only.

    Returns:
        [latents] component numbers; a zero row is a family of its own.
    """
    n = len(directions)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    close = _similarity(directions, centre=False) > cosine
    if activity is not None:
        close |= _similarity(activity, centre=True) > co_activation
    first, second = np.nonzero(np.triu(close, 1))
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _similarity(rows: NDArray[np.float64], *, centre: bool) -> NDArray[np.float64]:
    if centre:
        rows = rows - rows.mean(1, keepdims=True)
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, size, out=np.zeros_like(rows, dtype=np.float64), where=size > 0)
    return np.asarray(unit @ unit.T)
