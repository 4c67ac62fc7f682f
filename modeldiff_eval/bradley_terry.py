"""Bradley-Terry ratings from battles, ties as half a win, with or without style covariates.

``P(first beats second) = σ(θ_first − θ_second + β·x)`` (Bradley and Terry 1952; the style term as in Chatbot Arena's
style control, 2024). Battles with equal models and equal style are added up, and Newton's method runs on these sums for
many weightings at once, which is what makes the bootstrap of :mod:`modeldiff_eval.bradley_terry_errors` cheap.

Ratings are ``1000 + θ · 400 / ln 10``; the mean of all fitted models is 1000, so only differences carry meaning.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from modeldiff_eval.errors import EvidenceError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ELO = 400 / math.log(10)
"""Elo points of one unit of θ."""
ORIGIN = 1000.0
"""The mean rating of the fitted models."""
_STEPS = 100
_FLAT = 1e-10
"""Curvature, against the largest, in a direction that the battles say nothing about."""
_NO_MAXIMUM = (
    "The battles have no single most likely ratings: some model, or the style of the answers, tells all winners from all "
    "losers, or two features of style always move together. More battles would help."
)
_FAR = 500.0
"""Log-odds beyond which σ is 0 or 1 in double precision anyway."""


class Battles(NamedTuple):
    """Battles, each seen from its first model."""

    n_models: int
    first: IntArray
    """Index of the first model [battles]."""
    second: IntArray
    points: FloatArray
    """What the first model takes: 1, ½ for a tie, 0, or a judge's preference in between [battles]."""
    weight: FloatArray
    unit: IntArray | None
    """What was drawn together, such as the prompt [battles], numbered from 0; ``None``: every battle by itself."""
    style: FloatArray
    """Antisymmetric covariates, first against second [battles, features]; no columns for none."""


class Rows(NamedTuple):
    """Battles with equal pair and equal style added up, sorted by pair, the lower index first."""

    n_models: int
    first: IntArray
    second: IntArray
    style: FloatArray
    """[rows, features]"""
    weight: FloatArray
    """Sum of the weights [rows]."""
    points: FloatArray
    """Weighted sum of what the lower index takes [rows]."""
    of_battle: IntArray
    """Which row each battle went to [battles]."""
    starts: IntArray
    """First row of every pair [pairs]."""


class Fit(NamedTuple):
    """Maximum of the (penalised) likelihood."""

    theta: FloatArray
    """Strengths [models], mean 0."""
    beta: FloatArray
    """Style coefficients [features]."""
    information: FloatArray
    """Negative second derivative [models + features, models + features], singular along "all θ alike"."""

    @property
    def ratings(self) -> FloatArray:
        """Elo [models]."""
        return ORIGIN + ELO * self.theta


def add_up(battles: Battles) -> Rows:
    """Sum what the likelihood cannot tell apart."""
    swap = battles.first > battles.second
    low, high = np.minimum(battles.first, battles.second), np.maximum(battles.first, battles.second)
    style = np.where(swap[:, None], -battles.style, battles.style) + 0.0
    pair = low * battles.n_models + high
    if style.shape[1]:
        kinds, of_battle = np.unique(np.column_stack([pair, style]), axis=0, return_inverse=True)
        pairs, style = kinds[:, 0].astype(np.int64), kinds[:, 1:]
    else:
        pairs, of_battle = np.unique(pair, return_inverse=True)
        style = np.zeros((len(pairs), 0))
    of_battle = of_battle.reshape(-1).astype(np.int64)
    taken = battles.weight * np.where(swap, 1 - battles.points, battles.points)
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    return Rows(
        n_models=battles.n_models,
        first=pairs // battles.n_models,
        second=pairs % battles.n_models,
        style=style,
        weight=_sums(of_battle, battles.weight, len(pairs)),
        points=_sums(of_battle, taken, len(pairs)),
        of_battle=of_battle,
        starts=starts.astype(np.int64),
    )


def _sums(number: IntArray, values: FloatArray, n: int) -> FloatArray:
    """Sums of ``values`` [battles] by ``number`` [n]."""
    return np.bincount(number, values, n).astype(np.float64)


def without_style(rows: Rows) -> Rows:
    """The same battles with their style forgotten: one row a pair."""
    pair_of_row = np.zeros(len(rows.first), dtype=np.int64)
    pair_of_row[rows.starts[1:]] = 1
    pair_of_row = np.cumsum(pair_of_row)
    return rows._replace(
        first=rows.first[rows.starts],
        second=rows.second[rows.starts],
        style=np.zeros((len(rows.starts), 0)),
        weight=np.add.reduceat(rows.weight, rows.starts),
        points=np.add.reduceat(rows.points, rows.starts),
        of_battle=pair_of_row[rows.of_battle],
        starts=np.arange(len(rows.starts), dtype=np.int64),
    )


class Likelihood:
    """The likelihood of battles that :func:`add_up` has summed, and its maxima.

    Every model must have taken and given points; :mod:`modeldiff_eval.arena_graph` finds those that did.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.n_models, self.n_features = rows.n_models, rows.style.shape[1]
        number = np.arange(len(rows.first))
        one = np.ones(len(rows.first))
        sides = csr_array(
            (np.concatenate([one, -one]), (np.tile(number, 2), np.concatenate([rows.first, rows.second]))),
            shape=(len(number), rows.n_models),
        )
        self._design = hstack([sides, csr_array(rows.style)], format="csr") if self.n_features else sides
        self._transposed = self._design.T.tocsr()
        starts = np.zeros(len(number), dtype=np.int64)
        starts[rows.starts] = 1
        self._pairs = csr_array((one, (np.cumsum(starts) - 1, number)), shape=(len(rows.starts), len(number)))
        self._sides_of_pair = abs(sides[rows.starts]).T.tocsr()
        self._tilted = [sides.multiply(rows.style[:, f, None]).T.tocsr() for f in range(self.n_features)]
        self._two_features = [(f, g) for f in range(self.n_features) for g in range(f + 1)]
        self._products = np.array([rows.style[:, f] * rows.style[:, g] for f, g in self._two_features])
        self._widest = np.abs(rows.style).max(axis=0) if self.n_features else np.zeros(0)

    def fit(self, *, shrink: float = 0.0) -> Fit:
        """The most likely ratings.

        Args:
            shrink: penalty ``½ · shrink · Σβ²`` beside the *mean* log-likelihood, as LMArena fits style (1.0); 0 for
                none.

        Raises:
            EvidenceError: no single finite maximum, because style tells all winners from all losers, or repeats itself.
        """
        start = np.zeros((self.n_models + self.n_features, 1))
        points, weight = self.rows.points[:, None], self.rows.weight[:, None]
        found = self.solve(points, weight, shrink=shrink, start=start, tolerance=1e-10)
        _, hessian = self._derivatives(points, weight, found, shrink)
        sizes = np.linalg.eigvalsh(hessian[0])  # the smallest is 0: all θ alike
        if sizes[1] < _FLAT * sizes[-1]:
            raise EvidenceError(_NO_MAXIMUM)
        return Fit(found[: self.n_models, 0], found[self.n_models :, 0], hessian[0])

    def solve(
        self, points: FloatArray, weight: FloatArray, *, shrink: float, start: FloatArray, tolerance: float = 0.01
    ) -> FloatArray:
        """Newton's method for many weightings of the battles at once.

        Args:
            points: weighted points of the first model [rows, draws].
            weight: summed weights [rows, draws].
            shrink: as in :meth:`fit`.
            start: parameters to begin with [models + features, 1 or draws].
            tolerance: largest change of any log-odds in the last step. Convergence is quadratic, so that 0.01 leaves
                an error below 5e-5, or 0.01 Elo.

        Returns:
            Parameters [models + features, draws].

        Raises:
            EvidenceError: some weighting has no finite maximum.
        """
        m = self.n_models
        values = start.copy() if start.shape[1] == points.shape[1] else np.repeat(start, points.shape[1], axis=1)
        for _ in range(_STEPS):
            gradient, hessian = self._derivatives(points, weight, values, shrink)
            # θ has a free constant; a multiple of the all-ones matrix fixes it without touching differences.
            hessian[:, :m, :m] += np.trace(hessian[:, :m, :m], axis1=1, axis2=2)[:, None, None] / m**2
            try:
                step = np.linalg.solve(hessian, gradient.T[:, :, None])[:, :, 0].T
            except np.linalg.LinAlgError:
                break
            if not np.all(np.isfinite(step)):
                break
            reach = np.ptp(step[:m], axis=0) + self._widest @ np.abs(step[m:])
            # Full steps near the maximum; further out the step with which Newton's method never overshoots on a
            # logistic likelihood, log(1 + d) / d (generalised self-concordance, Sun and Tran-Dinh 2019).
            values += step * np.where(reach < 1, 1.0, np.log1p(reach) / np.maximum(reach, 1e-12))
            if float(reach.max()) < tolerance:
                return values
        raise EvidenceError(_NO_MAXIMUM)

    def _derivatives(
        self, points: FloatArray, weight: FloatArray, values: FloatArray, shrink: float
    ) -> tuple[FloatArray, FloatArray]:
        """Gradient [parameters, draws] and negative Hessian [draws, parameters, parameters] of the log-likelihood."""
        m, rows = self.n_models, self.rows
        ridge = shrink * weight.sum(axis=0)
        p = self._design @ values
        _sigmoid(p)
        curve = weight * p
        gradient = self._transposed @ (points - curve)
        gradient[m:] -= ridge * values[m:]
        curve *= 1 - p
        hessian = np.zeros((values.shape[1], len(values), len(values)))
        pairs = self._pairs @ curve
        first, second = rows.first[rows.starts], rows.second[rows.starts]
        hessian[:, first, second] = hessian[:, second, first] = -pairs.T
        diagonal = np.arange(m)
        hessian[:, diagonal, diagonal] = (self._sides_of_pair @ pairs).T
        for f, tilted in enumerate(self._tilted):
            hessian[:, :m, m + f] = hessian[:, m + f, :m] = (tilted @ curve).T
            hessian[:, m + f, m + f] = ridge
        if self._two_features:
            f, g = np.array(self._two_features).T
            products = (self._products @ curve).T
            hessian[:, m + f, m + g] += products
            hessian[:, m + g, m + f] = hessian[:, m + f, m + g]
        return gradient, hessian


def _sigmoid(odds: FloatArray) -> None:
    """σ in place; several times faster here than SciPy's ``expit``, and as exact for the log-odds that occur."""
    np.clip(odds, -_FAR, _FAR, out=odds)
    np.negative(odds, out=odds)
    np.exp(odds, out=odds)
    odds += 1
    np.reciprocal(odds, out=odds)
