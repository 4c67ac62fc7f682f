"""One-to-one matching of dictionaries: identical, unrelated, by hand, and where the Hungarian method would be too slow."""

from __future__ import annotations

import numpy as np
import pytest

from modeldiff_eval import matching
from modeldiff_eval.matching import has_partner


def rows(n: int, d: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize("largest", [8192, 10])
def test_identical_dictionaries_agree_wholly_and_unrelated_ones_not_at_all(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_CHUNK", 37)
    one = rows(200)
    order = np.random.default_rng(1).permutation(200)
    assert has_partner(one, 3.0 * one[order], least=0.8, largest=largest).all()
    assert not has_partner(one, rows(200, seed=5), least=0.8, largest=largest).any()


@pytest.mark.parametrize("largest", [8192, 1])
def test_one_direction_is_nobodys_partner_twice(largest: int) -> None:
    first = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0]])
    assert has_partner(first, np.array([[2.0, 0.0], [0.0, -1.0]]), least=0.8, largest=largest).tolist() == [True, False, False]  # fmt: skip


def test_the_hungarian_method_gives_way_so_that_more_find_a_partner() -> None:
    """Both first rows are nearest to the same second row; the other one will do for one of them."""
    angle = np.deg2rad([0.0, 10.0, 4.0, -25.0])
    a, b, near, far = np.stack([np.cos(angle), np.sin(angle)], 1)
    first, second = np.stack([a, b]), np.stack([near, far])
    assert has_partner(first, second, least=0.8).tolist() == [True, True]
    assert has_partner(first, second, least=0.8, largest=1).sum() == 1


def test_nothing_to_match() -> None:
    assert has_partner(np.zeros((0, 3)), rows(4, 3), least=0.8).tolist() == []
    assert not has_partner(np.zeros((2, 3)), rows(4, 3), least=0.8).any()
    assert not has_partner(rows(2, 3), np.zeros((0, 3)), least=0.8).any()
