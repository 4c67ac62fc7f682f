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
_CHUNK = 1024


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
    pairs = _close(directions, cosine, centre=False)
    if activity is not None:
        pairs = [*pairs, *_close(activity, co_activation, centre=True)]
    first, second = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _close(rows: NDArray[np.float64], least: float, *, centre: bool) -> list[NDArray[np.int64]]:
    """Pairs of rows [2, pairs] whose cosine exceeds ``least``, in pieces, so that memory is a piece of the table of cosines."""
    if centre:
        rows = rows - rows.mean(1, keepdims=True)
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, size, out=np.zeros_like(rows, dtype=np.float64), where=size > 0)
    out = []
    for start in range(0, len(unit), _CHUNK):
        first, second = np.nonzero(unit[start : start + _CHUNK] @ unit.T > least)
        later = second > first + start
        out.append(np.stack([first[later] + start, second[later]]))
    return out
