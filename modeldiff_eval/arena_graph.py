"""Which models of a set of battles can be rated against each other at all.

A Bradley-Terry rating is finite only among models that beat each other round about (Ford 1957): from each there must be
a chain of wins or ties to every other. Models outside such a group are infinitely better or worse in the limit, and
then their battles say nothing about the group; so leaving them out is exact.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from modeldiff_eval.bradley_terry import Battles

BoolArray = NDArray[np.bool_]


def rated_together(battles: Battles, base: int, tuned: int) -> BoolArray | str:
    """Models with finite ratings beside ``base`` and ``tuned`` [models], or why these two have none.

    A tie, and a preference between 0 and 1, counts as a win of either side.
    """
    used = battles.weight > 0
    first, second, points = battles.first[used], battles.second[used], battles.points[used]
    if base not in first and base not in second:
        return "base has no battle"
    if tuned not in first and tuned not in second:
        return "tuned has no battle"
    if not _same(_graph(battles.n_models, first, second), base, tuned, connection="weak").any():
        return "no chain of battles links the two models"
    winners = np.concatenate([first[points > 0], second[points < 1]])
    losers = np.concatenate([second[points > 0], first[points < 1]])
    wins = _graph(battles.n_models, winners, losers)
    group = _same(wins, base, tuned, connection="strong")
    if group.any():
        return group
    for model, name in ((base, "base"), (tuned, "tuned")):
        if model not in winners:
            return f"{name} lost every battle, so its rating has no lower bound"
        if model not in losers:
            return f"{name} won every battle, so its rating has no upper bound"
    return "no chain of wins leads from each of the two models to the other, so their difference has no bound"


def keep_models(battles: Battles, kept: BoolArray) -> tuple[Battles, BoolArray]:
    """The battles among ``kept`` models, renumbered, and which battles these are."""
    inside = kept[battles.first] & kept[battles.second]
    number = np.cumsum(kept) - 1
    return select(battles, inside)._replace(
        n_models=int(kept.sum()), first=number[battles.first[inside]], second=number[battles.second[inside]]
    ), inside


def select(battles: Battles, chosen: BoolArray) -> Battles:
    """Some of the battles, with their prompts renumbered."""
    unit = None if battles.unit is None else np.unique(battles.unit[chosen], return_inverse=True)[1].reshape(-1)
    return Battles(
        battles.n_models,
        battles.first[chosen],
        battles.second[chosen],
        battles.points[chosen],
        battles.weight[chosen],
        unit,
        battles.style[chosen],
    )


def _graph(n: int, start: NDArray[Any], end: NDArray[Any]) -> csr_array:
    return csr_array((np.ones(len(start)), (start, end)), shape=(n, n))


def _same(graph: csr_array, base: int, tuned: int, *, connection: Literal["weak", "strong"]) -> BoolArray:
    """Members of the component that holds both; all False where they are apart."""
    _, label = connected_components(graph, directed=True, connection=connection)
    inside: BoolArray = (label == label[base]) & (label[tuned] == label[base])
    return inside
