"""One-to-one matching of directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def cosines(
    found: Float[NDArray[np.float64], "found d_model"], planted: Float[NDArray[np.float64], "planted d_model"]
) -> Float[NDArray[np.float64], "found planted"]:
    """Signed cosines; 0 where a direction is."""
    norms = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found, planted)]
    units = [rows / np.where(norm > 0, norm, 1) for rows, norm in zip((found, planted), norms, strict=True)]
    product: NDArray[np.float64] = units[0] @ units[1].T
    return product


def match(cosine: Float[NDArray[np.float64], "found planted"], *, least: float) -> Int[NDArray[np.int64], " found"]:
    """One-to-one by the Hungarian method over cosines of at least ``least``: the planted partner of each, or −1."""
    good = np.where(cosine >= least, cosine, 0.0)
    partner = np.full(len(good), -1)
    rows, columns = linear_sum_assignment(good, maximize=True)
    real = good[rows, columns] > 0
    partner[rows[real]] = columns[real]
    return partner
