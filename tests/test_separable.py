"""Groups in place of ranks: laws of the interval order, and one case by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldiff_eval.records import Estimate
from modeldiff_eval.separable import groups, stretched


def around(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def test_by_hand_three_steps_and_one_that_spans_them() -> None:
    estimates = [around(10, 1), around(0, 1), around(-10, 1), around(0, 30)]
    assert groups(estimates) == [1, 2, 3, 1]


def test_one_card_has_its_own_interval_and_more_cards_wider_ones() -> None:
    assert stretched(around(0, 1), 1) == pytest.approx((-1, 1))
    low, high = stretched(around(0, 1), 200) or (0, 0)
    assert -low == high == pytest.approx(3.6623 / 1.95996, rel=1e-3)


def test_what_two_cards_show_a_hundred_need_not() -> None:
    pair = [around(2.6, 1), around(0, 1)]
    assert groups(pair) == [1, 2]
    assert groups([*pair, *[around(1.3, 50)] * 98])[:2] == [1, 1]


def test_no_interval_no_group() -> None:
    half = Estimate(value=3, low=1, high=None)
    none = Estimate(value=None, low=None, high=None)
    assert groups([half, none, around(0, 1)]) == [None, None, 1]
    assert groups([]) == []


def test_touching_is_not_apart() -> None:
    assert groups([Estimate(value=1, low=1, high=1), Estimate(value=1, low=1, high=1)]) == [1, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0.01, 20), st.floats(0.01, 20)), max_size=25))
def test_members_overlap_and_every_later_group_is_surely_below_one_of_the_group_before(
    drawn: list[tuple[float, float, float]],
) -> None:
    estimates = [Estimate(value=v, low=v - a, high=v + b) for v, a, b in drawn]
    found = groups(estimates)
    bounds = [stretched(e, len(estimates)) or (0.0, 0.0) for e in estimates]
    for i, j in combinations(range(len(found)), 2):
        if found[i] == found[j]:
            assert bounds[i][0] <= bounds[j][1]
            assert bounds[j][0] <= bounds[i][1]
    for i, group in enumerate(found):
        above = [found[j] or 0 for j in range(len(found)) if bounds[j][0] > bounds[i][1]]
        assert group == 1 + max(above, default=0)


def test_equal_models_are_hardly_ever_put_apart() -> None:
    rng = np.random.default_rng(0)
    apart = sum(
        max(g or 1 for g in groups([around(float(x), 1.95996) for x in rng.normal(size=40)])) > 1 for _ in range(200)
    )
    assert apart <= 10  # At most 5 % of the boards; Bonferroni intervals that must be disjoint are rarer still.
