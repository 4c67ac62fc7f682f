"""What the crosscoder of (anchor, base) depends on: anchor, base and their text, and nothing of the tuned model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tiny_pair import perturbed

from modeldiff_eval import activations as acts
from modeldiff_eval import fit
from modeldiff_eval import workspace as ws
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings


@pytest.fixture
def materials(
    base_model: Path,
    tuned_model: Path,
    merged_model: Path,
    small_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[ws.Workspace, fit.Material]]:
    """Two anchored designs that differ in their tuned model, whose outliers are other tokens."""
    monkeypatch.setattr(acts, "keep_tokens", partial(acts.keep_tokens, factor=1.1))
    found = []
    for tuned in (merged_model, perturbed(base_model, tmp_path / "other", seed=9, scale=0.5)):
        flags = {
            "anchor": str(base_model),
            "base": str(tuned_model),
            "tuned": str(tuned),
            "corpus": (str(small_corpus),),
        }
        settings, _ = make_settings(
            {**flags, "rollouts": 0, "dtype": "float32", "latents": 32, "k": 4, "layer": 1}, environ={}
        )
        work = ws.open_workspace(settings, cache=tmp_path / "cache", reporter=Reporter())
        found.append((work, fit.harvest(work, ws.gather_text(work))))
    return found


@pytest.mark.parametrize("method", ["batchtopk", "difference"])
def test_the_shared_crosscoder_has_one_place_whatever_the_outliers_of_tuned(
    materials: list[tuple[ws.Workspace, fit.Material]], method: str
) -> None:
    one, other = (material.kept.rows for _, material in materials)
    assert one.tolist() != other.tolist()  # Else this would prove nothing.
    shared, own = (
        {fit.cache_folder(*made, "anchor", second, method) for made in materials} for second in ("base", "tuned")
    )
    assert (len(shared), len(own)) == (1, 2)


def test_a_pair_keeps_the_tokens_that_are_no_outlier_in_either_of_its_models(
    materials: list[tuple[ws.Workspace, fit.Material]],
) -> None:
    for _, material in materials:
        both, everything = material.of("anchor", "base"), set(material.kept.rows.tolist())
        assert everything < set(both.kept.rows.tolist())
        assert both.of("anchor", "base").kept.rows.equal(both.kept.rows)
        assert both.tokens == len(acts.split_rows(material.measured, both.kept)[0]) > material.tokens
