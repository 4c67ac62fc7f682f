"""The panels of simpler methods on tiny models: from a workspace to the card's slots, and the caveats in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval import fit, panels
from modeldiff_eval import workspace as ws
from modeldiff_eval.errors import MissingDependencyError
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings
from modeldiff_eval.taxonomy import Taxonomy


def measured(
    base: Path, tuned: Path, corpus: Path, cache: Path, *, same: bool = False
) -> tuple[dict[str, Any], list[str]]:
    settings, _ = make_settings(
        {"base": str(base), "tuned": str(tuned), "corpus": (str(corpus),), "rollouts": 0, "layer": 1, "tokens": 60_000},
        environ={},
    )
    work = ws.open_workspace(settings, cache=cache, reporter=Reporter())
    material = fit.harvest(work, ws.gather_text(work))
    rows = {"base": material.rows["base"], "tuned": material.rows["base" if same else "tuned"]}
    return panels.measure_panels(work, material.measured, material.kept, rows, Taxonomy.load(None)), work.caveats


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 answered prompts of two categories that use different words."""
    path = tmp_path_factory.mktemp("labelled") / "chats.jsonl"
    rows = []
    for number in range(100):
        words = ("river stone bright", "code list number")[number % 2]
        turns = [
            {"role": "user", "content": f"{words} {number}?"},
            {"role": "assistant", "content": f"{words} yes {number}"},
        ]
        rows.append({"id": f"d{number}", "category": ("A.1", "B.8")[number % 2], "messages": turns})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_both_panels_are_filled(base_model: Path, tuned_model: Path, labelled: Path, tmp_path: Path) -> None:
    found, caveats = measured(base_model, tuned_model, labelled, tmp_path)
    probing, lens = found["probing"], found["lens"]
    assert [row.code for row in probing.categories] == ["A.1", "B.8"]
    assert all(row.base.value > 0.9 for row in probing.categories)
    assert probing.documents_train + probing.documents_heldout == 100
    first, whole = lens.scopes
    assert (first.positions, whole.positions, lens.layer) == (5, None, 1)
    assert (first.documents, first.prompts, first.tokens) == (100, 100, 500)
    assert whole.tokens > first.tokens
    assert first.p < 0.01
    assert not [line for line in caveats if "robing" in line or "lens" in line]


def test_a_model_against_itself_shows_nothing(base_model: Path, labelled: Path, tmp_path: Path) -> None:
    found, _ = measured(base_model, base_model, labelled, tmp_path, same=True)
    assert all(not (scope.up or scope.down) and scope.p == 1.0 for scope in found["lens"].scopes)
    assert {row.diff.value for row in found["probing"].categories} == {0.0}


def test_what_cannot_be_measured_leaves_a_caveat(
    base_model: Path, tuned_model: Path, small_corpus: Path, tmp_path: Path
) -> None:
    found, caveats = measured(base_model, tuned_model, small_corpus, tmp_path / "small")
    assert found["probing"] is None
    assert any(line.startswith("Probing was not done: Probing needs a category with at least 16") for line in caveats)
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"text": f"only text, number {n}"}) + "\n" for n in range(20)))
    found, caveats = measured(base_model, tuned_model, plain, tmp_path / "plain")
    assert found == {"probing": None, "lens": None}
    assert any("states no category" in line for line in caveats)
    assert any("answers to 0 prompts where 16 are needed" in line for line in caveats)


def test_without_scikit_learn_the_run_goes_on(
    base_model: Path, tuned_model: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise MissingDependencyError("Probing needs scikit-learn: pip install scikit-learn.")

    monkeypatch.setattr(panels, "probing", absent)
    found, caveats = measured(base_model, tuned_model, labelled, tmp_path)
    assert found["probing"] is None
    assert found["lens"] is not None
    assert any("pip install scikit-learn" in line for line in caveats)
