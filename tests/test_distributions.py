"""What the card draws of the latent table, counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from modeldiff_eval.distributions import BINS, NU_BINS, delta_norm_histogram, nu_maps


def _table(rows: list[tuple[str, str, str, int, float, float, float, int]]) -> pd.DataFrame:
    names = ["model", "crosscoder", "dictionary", "latent", "delta_norm", "nu_error", "nu_reconstruction", "firings"]
    return pd.DataFrame(rows, columns=names)


NAN = float("nan")
DIRECT = _table(
    [
        ("base", "base--tuned", "crosscoder", 0, 0.0, 0.02, 0.31, 5),
        ("base", "base--tuned", "crosscoder", 1, 0.51, 1.02, NAN, 9),
        ("base", "base--tuned", "crosscoder", 2, 0.5, -3.0, 0.1, 0),
        ("tuned", "base--tuned", "crosscoder", 0, 0.0, 0.02, 0.31, 5),
        ("tuned", "base--tuned", "crosscoder", 1, 0.51, NAN, NAN, 9),
        ("tuned", "base--tuned", "crosscoder", 2, 0.5, 0.99, 0.91, 0),
    ]
)


def test_both_sides_of_one_crosscoder_are_counted_once_and_dead_ones_apart() -> None:
    (found,) = delta_norm_histogram(DIRECT)
    assert (found.first, found.second, found.dead) == ("base", "tuned", 1)
    assert len(found.counts) == BINS
    assert {i: n for i, n in enumerate(found.counts) if n} == {0: 1, 20: 1}


def test_each_crosscoder_of_the_anchored_design_has_its_own_and_differences_have_none() -> None:
    one = DIRECT.assign(crosscoder=np.where(DIRECT["model"] == "base", "anchor--base", "anchor--tuned"))
    difference = DIRECT.assign(dictionary="difference", latent=DIRECT["latent"] + 3, delta_norm=NAN)
    found = delta_norm_histogram(pd.concat([one, difference]))
    assert [(h.first, h.second, sum(h.counts)) for h in found] == [("anchor", "base", 2), ("anchor", "tuned", 2)]


def test_maps_count_squares_outside_and_undefined() -> None:
    base, tuned = nu_maps(DIRECT)
    assert (base.side, base.outside, base.undefined) == ("base", 1, 1)
    assert len(base.counts) == NU_BINS
    # \u03bd error 0.02 lies in column (0.02 + 0.5) / 0.1 = 5, \u03bd reconstruction 0.31 in row 8.
    assert [(r, c) for r, row in enumerate(base.counts) for c, n in enumerate(row) if n] == [(8, 5)]
    assert (sum(map(sum, tuned.counts)), tuned.outside, tuned.undefined) == (2, 0, 1)
    assert tuned.counts[14][14] == 1


def test_with_a_dictionary_of_differences_the_map_is_of_that() -> None:
    difference = DIRECT.assign(dictionary="difference", nu_error=0.25, nu_reconstruction=0.25)
    base, _ = nu_maps(pd.concat([DIRECT, difference]))
    assert base.counts[7][7] == 3 == sum(map(sum, base.counts))
