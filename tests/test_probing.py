"""The probing baseline."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeldiff_eval import probing as p
from modeldiff_eval.activations import Activations
from modeldiff_eval.errors import CorpusError, MissingDependencyError

CATEGORIES = [("A.1", "One"), ("B.7", "Two"), ("C.10", "Three")]
CLASSES = [("A", "First"), ("B", "Second"), ("C", "Third")]


def data(*, signal: tuple[float, float], n: int = 240, seed: int = 0, shuffle: bool = False) -> p.Labelled:
    """Documents of three categories, the first of which moves one coordinate by ``signal`` in base and in tuned."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    shown = rng.permutation(label) if shuffle else label
    noise = rng.standard_normal((n, 12))
    features = []
    for strength in signal:
        x = noise.copy()
        x[:, 0] += strength * (label == 0)
        features.append(x)
    return p.Labelled(
        (features[0], features[1]),
        [CATEGORIES[i][0] for i in shown],
        [f"g{i // 2}" for i in range(n)],
        (np.arange(n) // 2) % 4 == 0,
    )


def run(labelled: p.Labelled, draws: int = 500) -> Any:
    return p.probing(labelled, CLASSES, CATEGORIES, layer=3, draws=draws, rng=np.random.default_rng(0))


def test_what_only_tuned_shows_is_found() -> None:
    panel = run(data(signal=(0.0, 3.0)))
    row = panel.categories[0]
    assert row.tuned.value > 0.9 > 0.7 > row.base.value
    assert row.verdict == "up"
    assert row.diff.low > 0
    assert "A.1 One" in panel.said
    assert (panel.documents_train, panel.documents_heldout, panel.prompts_heldout, row.positives) == (180, 60, 30, 20)
    mirrored = run(data(signal=(3.0, 0.0))).categories[0]
    assert mirrored.diff.value == pytest.approx(-row.diff.value)
    assert mirrored.verdict == "down"


def test_identical_models_differ_in_nothing() -> None:
    panel = run(data(signal=(2.0, 2.0)))
    for row in (*panel.classes, *panel.categories):
        assert (row.diff.value, row.diff.low, row.diff.high, row.p, row.verdict) == (0, 0, 0, 1.0, "unclear")
    assert "none of 3 categories reads differently" in panel.said


def test_labels_without_meaning_give_chance() -> None:
    rows = [row for seed in range(4) for row in run(data(signal=(2.0, 2.0), seed=seed, shuffle=True), 50).categories]
    assert abs(np.mean([row.base.value for row in rows]) - 0.5) < 0.07


def test_too_few_documents_are_refused_with_the_numbers() -> None:
    with pytest.raises(CorpusError, match=r"16 training and 8 held-out documents.*22 training and 8 held-out"):
        run(data(signal=(1.0, 1.0), n=30))
    whole = data(signal=(1.0, 1.0))
    streamed = p.Labelled(whole.features, whole.category, whole.prompt, np.ones(240, dtype=bool))
    with pytest.raises(CorpusError, match="do not stream"):
        run(streamed)
    with pytest.raises(CorpusError, match="0 held-out"):
        run(p.Labelled(whole.features, whole.category, whole.prompt, np.zeros(240, dtype=bool)))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install scikit-learn"):
        run(data(signal=(1.0, 1.0)))


def test_auc_by_hand_with_weights_and_ties() -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    weights = np.array([[1.0, 1, 1, 1], [1, 2, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0]])
    found = p.weighted_auc(score, positive, weights)
    assert found[:3].tolist() == [0.875, 1.0, 0.5]  # (1 + 0.5 + 1 + 1) / 4; all won; one tie
    assert np.isnan(found[3])


def test_rows_are_averaged_by_document(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0], [7.0, 7.0]])
    (tmp_path / "rows.bin").write_bytes(rows.numpy().tobytes())
    stored = Activations("k", tmp_path, 2, torch.float32, rows.norm(dim=1).numpy())
    found = p.pooled(stored, torch.tensor([0, 1, 3]), np.array([0, 0, 2]), 3)
    assert found[[0, 2]].tolist() == [[2.0, 1.0], [7.0, 7.0]]
    assert np.isnan(found[1]).all()
