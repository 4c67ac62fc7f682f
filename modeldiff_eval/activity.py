"""Where latents fire in a sample of documents: what contrast and detection draw their passages from.

A :class:`Pool` is one passage from each of some documents, whatever the latents. :func:`activity` says for every latent
and document whether the latent fires in it at all, how strongly, and where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from modeldiff_eval.annotation import context_span
from modeldiff_eval.crosscoder import Crosscoder

POOL = 2000
"""Documents in a pool at most."""
_BATCH = 1024
Rows = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows 2 d_model"]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pool:
    """One passage from each of some documents, ascending. ``spans``: first token and end in the corpus."""

    documents: Int[NDArray[np.int64], " passages"]
    spans: Int[NDArray[np.int64], "passages 2"]


def passage_pool(
    sequences: Int[NDArray[np.int64], "sequences 3"], *, limit: int = POOL, rng: np.random.Generator
) -> Pool:
    """At most ``limit`` documents at random and from each a passage at random, cut by :func:`context_span`.

    Args:
        sequences: first token, end, document of every sequence of the corpus.
    """
    order = rng.permutation(len(sequences))
    documents, first = np.unique(sequences[order, 2], return_index=True)
    chosen = np.sort(rng.permutation(len(documents))[:limit])
    spans = []
    for begin, end, _ in sequences[order[first[chosen]]]:
        start, stop = context_span(int(rng.integers(end - begin)), int(end - begin))
        spans.append((begin + start, begin + stop))
    return Pool(documents[chosen].astype(np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2))


@dataclass(frozen=True)
class Activity:
    """Largest v of some latents in every document of a pool, and the token where; 0 and −1 where a latent is silent."""

    value: Float[NDArray[np.float32], "latents passages"]
    token: Int[NDArray[np.int64], "latents passages"]

    @property
    def silent(self) -> Bool[NDArray[np.bool_], "latents passages"]:
        """Whether the latent fires on no token of the passage's whole document."""
        return self.token < 0


def activity(
    crosscoder: Crosscoder,
    rows: Rows,
    kept: Int[Tensor, " kept"],
    document: Int[NDArray[np.int32], " tokens"],
    pool: Pool,
    latents: Int[NDArray[np.int64], " latents"],
    *,
    on_progress: Progress | None = None,
) -> Activity:
    """Encode every kept token of the pool's documents for the given latents only.

    Args:
        kept: kept token numbers, ascending; tokens that were dropped count as silent.
        document: document of every token of the corpus.
    """
    used = torch.from_numpy(np.asarray(latents, dtype=np.int64))
    value = np.zeros((len(latents), len(pool.documents)), dtype=np.float32)
    token = np.full(value.shape, -1, dtype=np.int64)
    of_row = document[kept.numpy()]
    place = np.searchsorted(pool.documents, of_row)
    inside = place < len(pool.documents)
    inside[inside] = pool.documents[place[inside]] == of_row[inside]
    wanted, place = kept[torch.from_numpy(inside)], place[inside]
    weights, bias = crosscoder.W_enc[used].T, crosscoder.b_enc[used]
    norm, cut = crosscoder.code_norm()[used], crosscoder.cut()[used]
    for start in range(0, len(wanted) if len(used) else 0, _BATCH):
        part, own = wanted[start : start + _BATCH], place[start : start + _BATCH]
        v = torch.relu(crosscoder.normalise(rows(part)) @ weights + bias) * norm
        v = v.mul_(v > cut)
        ends = np.flatnonzero(np.diff(own, append=-1)) + 1
        for a, b in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
            top, where = v[a:b].max(0)
            column = int(own[a])
            better = top.float().numpy() > value[:, column]
            value[better, column] = top.float().numpy()[better]
            token[better, column] = part[a + where].numpy()[better]
        if on_progress:
            on_progress(min(start + _BATCH, len(wanted)), len(wanted))
    return Activity(value, token)


def spread(
    values: Float[NDArray[np.float32], " passages"], group: Int[NDArray[np.int64], " passages"], n: int
) -> Int[NDArray[np.int64], " chosen"]:
    """Places of ``n`` firing passages (or all), spread evenly over their ranks by activation, strongest first.

    Of each group of documents (the answers to one prompt) only the strongest passage can be chosen.
    """
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    _, first = np.unique(group[order], return_index=True)
    order = order[np.sort(first)]
    if len(order) <= n:
        return order
    middles: NDArray[np.int64] = ((np.arange(n) + 0.5) * len(order) / n).astype(np.int64)
    return order[middles]
