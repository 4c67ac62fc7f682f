"""Groups of latents by the direction of their texts: k-means on the sphere, and how far the grouping can be trusted.

Where no number of groups is asked for, it is the smallest whose mean silhouette is within one standard error of the best.
Sentence embeddings of latents have no clear gaps, so the curve is flat and the number is a matter of taste more than a
finding; the adjusted Rand index between groupings of disjoint halves says how much of the grouping would come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score

from modeldiff_eval.records import Record

MIN_MEMBERS = 3
PAIRS = 5
_DIMENSIONS = 50
_SILHOUETTE_ROWS = 2000
_GRID = (4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60)
_MAX_CLASSES = 12

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Stability(Record):
    """Adjusted Rand index (1 the same grouping, 0 chance) of two groupings of the same ``n`` latents.

    ``seeds``: two seeds on all latents. ``halves``: each grouping is fitted to one of two disjoint random halves and
    extended to all latents; mean, smallest and largest of ``pairs`` such pairs.
    """

    n: int
    pairs: int
    seeds: float
    halves: float
    halves_low: float
    halves_high: float


@dataclass(frozen=True)
class Groups:
    """``of[latent]`` is the latent's group, -1 for none; ``centres`` [groups, d] are unit; ``silhouettes`` by number tried.

    ``asked``: the number that was fitted; a group that does not hold together is not counted.
    """

    of: Ints
    centres: Floats
    silhouettes: dict[int, float]
    asked: int

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.centres)

    def central(self, vectors: Floats, group: int) -> Ints:
        """The latents of a group, the most central first."""
        members = np.flatnonzero(self.of == group)
        order = np.argsort(-(vectors[members] @ self.centres[group]), kind="stable")
        return members[order]


def unit(rows: Floats) -> Floats:
    """Rows ``[n, d]`` scaled to length 1; rows of zeros stay."""
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return scaled


def reduced(rows: Floats, *, seed: int) -> Floats:
    """Unit rows ``[n, min(50, …)]``: the mean is taken off, the main axes are kept."""
    size = min(_DIMENSIONS, *rows.shape)
    made = PCA(size, svd_solver="randomized" if size < min(rows.shape) else "full", random_state=seed)
    return unit(made.fit_transform(rows).astype(np.float64))


def group(vectors: Floats, count: int | None, *, seed: int) -> Groups:
    """Group unit ``vectors`` [n, d] into ``count`` groups, or into the number that the silhouette chooses.

    A latent nearer on average to another group than to its own (negative silhouette) belongs to none, nor do the
    latents of a group of fewer than ``MIN_MEMBERS``; there may thus be fewer groups than asked for.
    """
    tried: dict[int, float] = {}
    if count is None:
        count, tried = choose_count(vectors, seed=seed)
    of = _fit(vectors, count, seed).predict(vectors).astype(np.int64)
    if _spread(of):
        of[silhouette_samples(vectors, of) < 0] = -1
    sizes = np.bincount(of[of >= 0], minlength=count)
    kept = np.flatnonzero(sizes >= MIN_MEMBERS)
    renamed = np.full(count + 1, -1, dtype=np.int64)  # The last entry stands for -1.
    renamed[kept] = np.arange(len(kept))
    of = renamed[of]
    centres = [vectors[of == k].mean(axis=0) for k in range(len(kept))]
    return Groups(of, unit(np.array(centres)) if centres else np.zeros((0, vectors.shape[1])), tried, count)


def choose_count(vectors: Floats, *, seed: int) -> tuple[int, dict[int, float]]:
    """The fewest groups whose mean silhouette is within one standard error of the best; the mean by number tried.

    Silhouettes are taken of at most 2,000 latents; their standard error does not know of the grouping's own chance.
    """
    sample = np.random.default_rng(seed).permutation(len(vectors))[:_SILHOUETTE_ROWS]
    tried, errors = {}, {}
    for k in [k for k in _GRID if k <= len(vectors) // (2 * MIN_MEMBERS)] or [2]:
        of = _fit(vectors, k, seed).predict(vectors)[sample]
        scores = silhouette_samples(vectors[sample], of) if _spread(of) else np.full(len(of), -1.0)
        tried[k], errors[k] = round(float(scores.mean()), 4), float(scores.std() / np.sqrt(len(scores)))
    best = max(tried, key=lambda k: tried[k])
    return min(k for k in tried if tried[k] >= tried[best] - errors[best]), tried


def merged(groups: Groups, vectors: Floats, together: Sequence[Sequence[int]]) -> Groups:
    """The groups with each of ``together`` made one, in the order of the first member."""
    target = np.arange(groups.count)
    for members in together:
        target[list(members)] = min(members)
    kept, target = np.unique(target, return_inverse=True)
    of = np.where(groups.of >= 0, target[groups.of], -1)
    centres = unit(np.stack([vectors[of == k].mean(axis=0) for k in range(len(kept))]))
    return Groups(of, centres, groups.silhouettes, groups.asked)


def second_level(centres: Floats, count: int | None) -> Ints:
    """The class of each group: Ward's clustering of the ``centres`` [groups, d], numbered by their first group."""
    most = len(centres)
    if count is None:
        tried = {k: _score(centres, k) for k in range(2, min(_MAX_CLASSES, most - 1) + 1)}
        count = max(tried, key=lambda k: tried[k]) if tried else 1
    if count >= most:
        return np.arange(most)
    if count == 1:
        return np.zeros(most, dtype=np.int64)
    of = AgglomerativeClustering(count, linkage="ward").fit_predict(centres)
    order = {int(k): i for i, k in enumerate(dict.fromkeys(of.tolist()))}
    return np.array([order[int(k)] for k in of], dtype=np.int64)


def stability(vectors: Floats, count: int, *, seed: int, pairs: int = PAIRS) -> Stability:
    """How much of the grouping into ``count`` comes again with another seed and from other latents."""
    first = _fit(vectors, count, seed).predict(vectors)
    other = _fit(vectors, count, seed + 1).predict(vectors)
    rng = np.random.default_rng(seed)
    halves = []
    for i in range(pairs):
        order = rng.permutation(len(vectors))
        parts = np.array_split(order, 2)
        one, two = (_fit(vectors[part], min(count, len(part)), seed + i).predict(vectors) for part in parts)
        halves.append(float(adjusted_rand_score(one, two)))
    return Stability(
        n=len(vectors),
        pairs=pairs,
        seeds=round(float(adjusted_rand_score(first, other)), 3),
        halves=round(float(np.mean(halves)), 3),
        halves_low=round(min(halves), 3),
        halves_high=round(max(halves), 3),
    )


def _fit(vectors: Floats, count: int, seed: int) -> KMeans:
    return KMeans(min(count, len(vectors)), n_init=4, random_state=seed).fit(vectors)


def _score(centres: Floats, count: int) -> float:
    of = AgglomerativeClustering(count, linkage="ward").fit_predict(centres)
    return float(silhouette_score(centres, of))


def _spread(of: Ints) -> bool:
    """Whether a silhouette is defined: at least two groups, and fewer groups than rows."""
    return 2 <= len(np.unique(of)) < len(of)
