"""How sure Bradley-Terry ratings are: a sandwich by prompt, and a bootstrap of prompts.

Both take what was drawn together (:attr:`Battles.unit`) as one observation, so that a prompt that several models
answered, or a game that is counted three times, does not count as several opinions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from modeldiff_eval.bradley_terry import Battles, Fit, FloatArray, IntArray, Rows

DRAWS = 1000
_CELLS = 1_000_000
"""Numbers of one intermediate array: resamples are drawn in groups of this many divided by the rows."""
_GROUP = 128


def units(battles: Battles) -> int:
    """How many prompts (or single battles) were drawn."""
    return len(battles.first) if battles.unit is None else int(battles.unit.max()) + 1


def sandwich(battles: Battles, fitted: Fit) -> FloatArray:
    """Covariance ``H⁻¹ G H⁻¹`` of θ and β [models + features, models + features], G summed over prompts.

    Robust to a wrong likelihood (White 1980) and to prompts that several battles share (Liang and Zeger 1986). With a
    penalty, H includes it and the scores of the prompts are centred. Only differences of θ are meant by it.
    """
    m, n = battles.n_models, len(battles.first)
    odds = fitted.theta[battles.first] - fitted.theta[battles.second] + battles.style @ fitted.beta
    residual = battles.weight * (battles.points - expit(odds))
    unit = np.arange(n) if battles.unit is None else battles.unit
    columns = [battles.first, battles.second, *(np.full(n, m + f) for f in range(battles.style.shape[1]))]
    entries = [residual, -residual, *(residual * battles.style[:, f] for f in range(battles.style.shape[1]))]
    count = units(battles)
    scores = csr_array(
        (np.concatenate(entries), (np.tile(unit, len(columns)), np.concatenate(columns))),
        shape=(count, len(fitted.information)),
    )
    total = np.asarray(scores.sum(axis=0)).reshape(-1)
    spread = (scores.T @ scores).toarray() - np.outer(total, total) / count
    inverse = np.linalg.pinv(fitted.information, hermitian=True)
    out: FloatArray = inverse @ spread @ inverse * (count / max(1, count - 1))
    return out


def difference_error(covariance: FloatArray, base: int, tuned: int) -> float:
    """Standard error of θ_tuned − θ_base, from the joint covariance."""
    variance = covariance[tuned, tuned] + covariance[base, base] - 2 * covariance[base, tuned]
    return float(np.sqrt(max(0.0, variance)))


class Group(NamedTuple):
    """Some resamples of all battles."""

    points: FloatArray
    """[rows, draws]"""
    weight: FloatArray
    """[rows, draws]"""


def resamples(battles: Battles, rows: Rows, *, draws: int = DRAWS, rng: np.random.Generator) -> Iterator[Group]:
    """Battles weighted anew, in groups of resamples that fit into memory.

    The weights are exponential, one a prompt, with a fixed sum (the Bayesian bootstrap, Rubin 1981): no resample loses a
    model, so each has finite ratings where the data have. Battles that are alike share one Gamma draw, which has the
    distribution of the sum of theirs.

    Args:
        battles: all of them.
        rows: the same battles added up by :func:`modeldiff_eval.bradley_terry.add_up`.
        draws: number of resamples.
        rng: the only source of randomness.
    """
    copies, points, weight = _contributions(battles, rows)
    size = max(1, min(_GROUP, _CELLS // max(len(rows.first), len(copies))))
    for start in range(0, draws, size):
        drawn = rng.standard_gamma(copies, size=(min(size, draws - start), len(copies)))
        drawn *= copies.sum() / drawn.sum(axis=1, keepdims=True)
        yield Group(points @ drawn.T, weight @ drawn.T)


def _contributions(battles: Battles, rows: Rows) -> tuple[FloatArray, Any, Any]:
    """Copies of every unit [units], and what one of them adds to each row's points and weight [rows, units]."""
    taken = np.where(battles.first > battles.second, 1 - battles.points, battles.points) * battles.weight
    row: IntArray = rows.of_battle
    if battles.unit is None:
        kinds, copies = np.unique(np.column_stack([row, battles.weight, taken]), axis=0, return_counts=True)
        row, weight, taken = kinds[:, 0].astype(np.int64), kinds[:, 1], kinds[:, 2]
        unit = np.arange(len(kinds))
    else:
        unit, weight, copies = battles.unit, battles.weight, np.ones(units(battles), dtype=np.int64)
    shape = (len(rows.first), len(copies))
    return (
        copies.astype(np.float64),
        csr_array((taken, (row, unit)), shape=shape),
        csr_array((weight, (row, unit)), shape=shape),
    )
