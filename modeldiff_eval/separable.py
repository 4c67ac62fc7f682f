"""Groups of cards that cannot be told apart, in place of ranks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

from modeldiff_eval.records import Estimate
from modeldiff_eval.stats import ALPHA, Z

RULE = (
    "Groups, not ranks: every 95 % interval of a column is stretched so that all of the column hold at once (Bonferroni over its n cards, each "
    "half-width times z(1 − 0.025/n)/z(0.975)). A card is surely below another when its stretched interval lies wholly below the other's. "
    "Group 1 are the cards that are surely below none; a card comes one group after the last of those it is surely below. So no two cards of "
    "one group can be told apart. Intervals over the same base move together, which makes these groups too coarse rather than too fine."
)


def stretched(estimate: Estimate, n: int) -> tuple[float, float] | None:
    """Bounds of ``estimate`` that hold together with those of ``n`` − 1 others; None where one is not known."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    factor = _factor(max(n, 1))
    return (
        estimate.value - factor * (estimate.value - estimate.low),
        estimate.value + factor * (estimate.high - estimate.value),
    )


@cache
def _factor(n: int) -> float:
    return -NormalDist().inv_cdf(ALPHA / 2 / n) / Z


def groups(estimates: Sequence[Estimate]) -> list[int | None]:
    """The group of every estimate, 1 for those that are surely below none; None without a whole interval.

    This is the height in the interval order: two members of one group always overlap, and a member of group g > 1 is surely
    below some member of group g − 1.
    """
    known = [i for i, e in enumerate(estimates) if stretched(e, 1) is not None]
    bounds = {i: found for i in known if (found := stretched(estimates[i], len(known))) is not None}
    out: list[int | None] = [None] * len(estimates)
    lows: list[float] = []  # Negated lower bounds, ascending; ``deepest[j]``: the largest group among the first j + 1.
    deepest: list[int] = []
    for i in sorted(bounds, key=lambda i: -bounds[i][0]):
        low, high = bounds[i]
        above = bisect_left(lows, -high)  # Touching bounds are not surely apart.
        group = 1 + (deepest[above - 1] if above else 0)
        out[i] = group
        lows.append(-low)
        deepest.append(max(group, deepest[-1]) if deepest else group)
    return out
