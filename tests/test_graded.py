"""Graded shares: weights from ν, laws of the shares, and one case by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from modeldiff_eval import graded_words
from modeldiff_eval import latents as L
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.graded import LEAST_WEIGHT, Shifted, SideWeights, graded_shares, graded_weight, weigh
from modeldiff_eval.records import GradedCounts, LatentCounts, Latents
from modeldiff_eval.stats_shares import share_shifts


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def side(label: list[int], weight: list[float], family: list[int] | None = None, noise: float = 0.0) -> SideWeights:
    """A side whose documents shake every weight by ``noise``."""
    w = np.array(weight, dtype=np.float64)
    draws = np.maximum(0, w + noise * rng(7).standard_normal((50, len(w)))).astype(np.float32)
    numbers = np.arange(len(w)) if family is None else np.array(family)
    return SideWeights(np.array(label, dtype=np.int64), w, numbers.astype(np.int64), draws)


def test_weights_by_hand() -> None:
    high = np.array([0.2, 0.95, 1.0, 1.4, np.nan])
    np.testing.assert_allclose(graded_weight(high), [0.8, 0.05, 0, 0, 0])


def test_shares_by_hand() -> None:
    base = side([0, 0, 1, -1], [0.5, 0.5, 0.5, 0.5])
    tuned = side([0, 1], [0.9, 0.3])
    rows = graded_shares(base, tuned, 3, rng=rng())
    assert rows is not None
    assert [(row.base, row.tuned, row.diff.value) for row in rows] == [(50, 75, 25), (25, 25, 0), (0, 0, 0)]
    assert [(row.n_base, row.n_tuned) for row in rows] == [(2, 1), (1, 1), (0, 0)]
    for row in rows:
        assert row.diff.low is not None
        assert row.diff.high is not None
        assert row.diff.low < row.diff.value < row.diff.high


def test_swapping_the_models_mirrors_the_differences() -> None:
    r = rng(3)
    sides = [side(list(r.integers(-1, 4, 80)), list(r.random(80)), noise=0.1) for _ in range(2)]
    there, back = graded_shares(*sides, 4, rng=rng(), draws=8000), graded_shares(*sides[::-1], 4, rng=rng(), draws=8000)
    assert there is not None
    assert back is not None
    for a, b in zip(there, back, strict=True):
        assert (a.base, a.tuned, a.diff.value) == (b.tuned, b.base, -b.diff.value)
        assert a.diff.low == pytest.approx(-b.diff.high, abs=1.0)


@pytest.mark.parametrize("size", [1.0, 0.25])
def test_equal_weights_are_the_shares_by_count(size: float) -> None:
    """The same values, and the same interval but for the draws, whatever the common weight."""
    r = rng(4)
    labels = [r.integers(-1, 4, n) for n in (60, 90)]
    families = [r.integers(0, 30, n) for n in (60, 90)]
    groups = [(code, code) for code in "ABCD"]
    counted = share_shifts(*labels, *families, groups=groups, covered=None, draws=8000, rng=rng()).rows
    sides = [
        side(list(label), [size] * len(label), list(family)) for label, family in zip(labels, families, strict=True)
    ]
    rows = graded_shares(*sides, 4, rng=rng(), draws=8000)
    assert rows is not None
    for row, plain in zip(rows, counted, strict=True):
        assert row.diff.value == pytest.approx(plain.diff.value, abs=1e-9)
        assert row.base == pytest.approx(plain.base.share, abs=1e-6)
        assert row.diff.low == pytest.approx(plain.diff.low, abs=0.8)
        assert row.diff.high == pytest.approx(plain.diff.high, abs=0.8)


def test_families_and_noisy_documents_widen_the_interval() -> None:
    r = rng(5)
    label, weight = [list(r.integers(0, 2, 60)) for _ in range(2)], list(0.2 + 0.3 * r.random(60))

    def width(families: bool, noise: float) -> float:
        family = [i // 6 for i in range(60)]
        own = [side(sorted(one), weight, [k + 100 * s for k in family] if families else [i + 100 * s for i in range(60)], noise)
               for s, one in enumerate(label)]  # fmt: skip
        rows = graded_shares(*own, 2, rng=rng(), draws=4000)
        assert rows is not None
        assert rows[0].diff.low is not None
        assert rows[0].diff.high is not None
        return rows[0].diff.high - rows[0].diff.low

    assert width(True, 0) > 1.5 * width(False, 0)
    assert width(False, 0.4) > 1.1 * width(False, 0)


def test_a_side_without_enough_weight_has_no_shares() -> None:
    enough, little = side([0, 1], [0.9, 0.9]), side([0] * 9, [0.1] * 9)
    assert little.weight.sum() < LEAST_WEIGHT
    assert graded_shares(enough, little, 2, rng=rng()) is None
    assert graded_shares(side([], []), enough, 2, rng=rng()) is None
    assert side([], []).counts() == GradedCounts(latents=0, weight=0, effective_n=None)
    assert side([0, 1, 1], [0.5, 0.5, 0.5], [1, 1, 2]).counts().effective_n == pytest.approx(1.5**2 / 1.25)


def test_labels_outside_the_groups_are_refused() -> None:
    with pytest.raises(SettingsError, match="from -1"):
        graded_shares(side([0, 2], [1.0, 1.0]), side([0], [1.0]), 2, rng=rng())


def test_weights_of_a_crosscoder_come_from_the_reporting_half() -> None:
    g = torch.Generator().manual_seed(1)
    d, n, tokens = 5, 9, 480
    coder = Crosscoder(
        torch.randn(n, 2 * d, generator=g), torch.zeros(n), torch.randn(n, 2 * d, generator=g), torch.zeros(2 * d),
        torch.zeros(2, d), torch.ones(2), 1.0, 3,
    )  # fmt: skip
    raw = torch.randn(tokens, 2, d, generator=g)
    blocks = L.document_blocks(torch.arange(tokens), np.repeat(np.arange(60, dtype=np.int32), 8), seed=0)
    sums = L.scaling(coder, lambda i: raw[i], blocks)
    nu = L.nu_intervals(sums, 1, min_firings=4, rng=rng())
    weights = weigh(sums, nu, rng=rng(), draws=300)
    np.testing.assert_array_equal(weights.weight, graded_weight(nu.error_high, nu.error_low))
    assert len(weights.positive) > 1
    assert weights.draws.shape == (300, len(weights.positive))
    # Documents are resampled around the weight itself.
    spread = weights.draws.std(0)
    assert (spread > 0).all()
    assert (np.abs(np.median(weights.draws, 0) - weights.weight[weights.positive]) < spread).all()
    again = weigh(sums, nu, rng=rng(), draws=300)
    np.testing.assert_array_equal(weights.draws, again.draws)


def latents(shifted: int | None, weight: float = 3.0) -> Latents:
    counts = LatentCounts(
        specific=0, shifted=shifted, annotated=0, none=0, failed=0, graded=GradedCounts(latents=9, weight=weight, effective_n=4.0)
    )  # fmt: skip
    return Latents(base=counts, tuned=counts)


def test_words_without_and_with_a_null_control() -> None:
    assert graded_words.shifted(latents(None), {}) == []
    assert "not measured" in graded_words.caveats(latents(None), {})[1]
    null = Shifted(np.array([True, False]), rate=0.004, threshold=0.93, delta=0.07)
    (said,) = graded_words.shifted(latents(12), {"base": null, "tuned": null})
    assert "12 latents of base and 12 latents of tuned are shifted" in said
    assert "5 %" in said
    assert graded_words.shifted(latents(1), {"tuned": null})[0].startswith("1 latent of tuned is shifted")
    about = graded_words.caveats(latents(12), {"tuned": null})[1]
    assert "within ±0.93" in about
    assert "0.4 %" in about


def test_words_say_n_and_why_shares_are_null() -> None:
    assert "9 latents, total weight 3.00, effective n 4.0" in graded_words.caveats(latents(None), {})[0]
    assert "are null" in graded_words.caveats(latents(None, weight=0.4), {})[0]


def test_the_headline_names_the_first_shifted_latents_of_either_model() -> None:
    null = Shifted(np.ones(1, dtype=bool), 0.0, 1.0, 0.0, 0.05)
    table = pd.DataFrame(
        [
            ("tuned", True, -1.0, "second"), ("tuned", True, -3.0, "first"), ("tuned", True, -2.0, "first"), ("tuned", False, np.nan, "never"),
            ("tuned", True, -0.5, None), ("tuned", True, -0.4, "x" * 99), ("tuned", True, -0.3, "fourth"), ("base", True, -1.0, "gone"),
        ],
        columns=["model", "shifted", "rank_key", "label"],
    )  # fmt: skip
    said = graded_words.first_named(table, {"base": null, "tuned": null})
    assert said == [f"First among them in tuned: first, second, {'x' * 60}; in base: gone."]
    assert graded_words.first_named(table, {}) == []
    assert graded_words.first_named(table[table["label"] == "never"], {"tuned": null}) == []
