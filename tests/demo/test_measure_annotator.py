"""The measurement of the offline annotator: how latents are simulated, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest

from modeldiff_eval.annotate_offline import FITTED
from modeldiff_eval.demo.measure_annotator import measure, pools, resample, simulate
from modeldiff_eval.taxonomy import Taxonomy


def test_the_halves_share_no_text_and_hold_every_category() -> None:
    even, odd = pools(Taxonomy.load())
    assert not set(even.texts) & set(odd.texts)
    assert not set(even.source) & set(odd.source)
    for half in (even, odd):
        assert set(half.category.tolist()) == set(range(-1, 30))


def test_simulated_latents_are_what_they_say() -> None:
    even, _ = pools(Taxonomy.load())
    of = dict(zip(even.texts, even.category.tolist(), strict=True))
    drawn = simulate(even, latents=300, n_categories=30, rng=np.random.default_rng(1))
    assert set(drawn.kind) == {"theme", "weak", "token", "topic", "random"}
    for passages, truth, kind in zip(drawn.passages, drawn.truth, drawn.kind, strict=True):
        assert len(passages) in (4, 8, 12)
        assert (truth >= 0) == (kind == "theme")
        if kind == "theme":
            assert sum(of[text] == truth for text in passages) / len(passages) >= 0.62
        if kind == "topic":
            assert all(of[text] == -1 for text in passages)


def test_a_resample_keeps_every_category() -> None:
    even, _ = pools(Taxonomy.load())
    again = resample(even, np.random.default_rng(2))
    assert set(again.category.tolist()) == set(range(-1, 30))
    assert len(set(again.source)) < len(set(even.source))


@pytest.mark.slow
def test_the_measured_accuracy_and_the_constants() -> None:
    found = measure(resamples=20, latents=1500, refit=True)
    figures = found["figures"]
    assert figures["named_right"]["value"] > 0.85
    assert figures["accuracy"]["value"] > 0.7
    for kind in ("weak", "token", "topic", "random"):
        assert figures[f"none_kept_{kind}"]["value"] > 0.85
    assert figures["accuracy"]["low"] < figures["accuracy"]["value"] < figures["accuracy"]["high"]
    # The constants in the package are those of the fit.
    assert found["constants"]["slope"] == pytest.approx(FITTED.slope, rel=0.1)
    assert found["constants"]["bar"] == pytest.approx(FITTED.bar, rel=0.1)
    assert found["constants"]["few"] == pytest.approx(FITTED.few, rel=0.3)
