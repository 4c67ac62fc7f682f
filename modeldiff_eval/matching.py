"""One-to-one matching of directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

LARGEST = 8192
"""Directions on a side up to which the Hungarian method is used; it takes time with the cube of their number."""
_CHUNK = 1024


def cosines(
    found: Float[NDArray[np.float64], "found d_model"], planted: Float[NDArray[np.float64], "planted d_model"]
) -> Float[NDArray[np.float64], "found planted"]:
    """Signed cosines; 0 where a direction is."""
    product: NDArray[np.float64] = _units(found) @ _units(planted).T
    return product


def match(cosine: Float[NDArray[np.float64], "found planted"], *, least: float) -> Int[NDArray[np.int64], " found"]:
    """One-to-one by the Hungarian method over cosines of at least ``least``: the planted partner of each, or −1."""
    good = np.where(cosine >= least, cosine, 0.0)
    partner = np.full(len(good), -1)
    rows, columns = linear_sum_assignment(good, maximize=True)
    real = good[rows, columns] > 0
    partner[rows[real]] = columns[real]
    return partner


def has_partner(
    first: Float[NDArray[np.float64], "first inputs"],
    second: Float[NDArray[np.float64], "second inputs"],
    *,
    least: float,
    largest: int = LARGEST,
) -> Bool[NDArray[np.bool_], " first"]:
    """Whether each row of ``first`` has a partner among ``second`` of a cosine of at least ``least``, one to one.

    By the Hungarian method among the rows that have any neighbour that close. Where more than ``largest`` such rows are left
    on a side, two rows are partners if each is the other's nearest: never more partners than the Hungarian method finds.
    Cosines are made in chunks of rows, so memory is one chunk and, for the Hungarian method, the rows that are left.
    """
    a, b = _units(first), _units(second)
    found = np.zeros(len(a), dtype=bool)
    if not len(a) or not len(b):
        return found
    nearest, best = np.zeros(len(a), dtype=np.int64), np.full(len(a), -np.inf)
    back, back_best = np.zeros(len(b), dtype=np.int64), np.full(len(b), -np.inf)
    for start in range(0, len(a), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosine = a[part] @ b.T
        nearest[part] = cosine.argmax(1)
        best[part] = np.take_along_axis(cosine, nearest[part, None], 1)[:, 0]
        column, rows = cosine.max(0), cosine.argmax(0) + start
        better = column > back_best
        back[better], back_best[better] = rows[better], column[better]
    left, right = np.flatnonzero(best >= least), np.flatnonzero(back_best >= least)
    if max(len(left), len(right)) > largest:
        found[left] = back[nearest[left]] == left
    elif len(left):
        found[left] = match(a[left] @ b[right].T, least=least) >= 0
    return found


def _units(rows: Float[NDArray[np.float64], "n inputs"]) -> Float[NDArray[np.float64], "n inputs"]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(norm > 0, norm, 1)
    return unit
