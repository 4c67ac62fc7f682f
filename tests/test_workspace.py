"""Which models are kept loaded, and on which device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lm import tiny_tokenizer
from tiny_pair import load_model

from modeldiff_eval import models
from modeldiff_eval import workspace as ws
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings

CPU = torch.device("cpu")


@pytest.fixture
def pool(tmp_path: Path) -> ws.Pool:
    return ws.Pool(CPU, torch.float32, tmp_path)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that are loaded, in turn."""
    seen: list[str] = []
    load = models.load

    def spy(source: models.Source, **options: Any) -> models.Loaded:
        seen.append(Path(source.location).name)
        return load(source, **options)

    monkeypatch.setattr(ws.weights, "load", spy)
    return seen


def test_small_models_stay_and_big_ones_go_one_by_one(
    pool: ws.Pool, loads: list[str], base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = (models.resolve(str(folder)) for folder in (base_model, tuned_model))
    assert pool.get(base) is pool.get(base)
    pool.get(tuned)
    pool.trim()
    pool.get(base)
    assert loads == ["tiny-base", "tiny-tuned"]
    monkeypatch.setattr(ws, "KEEP_LOADED_BYTES", 1)
    pool.trim()
    pool.get(base)
    pool.get(tuned)
    pool.get(base)
    assert loads[2:] == ["tiny-base", "tiny-tuned", "tiny-base"]


def test_big_models_are_there_together_where_both_are_needed(
    pool: ws.Pool,
    loads: list[str],
    base_model: Path,
    tuned_model: Path,
    merged_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ws, "KEEP_LOADED_BYTES", 1)
    base, tuned, other = (models.resolve(str(folder)) for folder in (base_model, tuned_model, merged_model))
    pool.get(base)
    pair = pool.together(base, tuned)
    assert [model.source for model in pair] == [base, tuned]
    assert pool.together(base, tuned) == pair
    pool.together(base, other)
    assert loads == ["tiny-base", "tiny-tuned", "tiny-merged"]


def test_a_model_that_someone_else_holds_stays(
    pool: ws.Pool, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no folder that it could be loaded from again."""
    monkeypatch.setattr(ws, "KEEP_LOADED_BYTES", 1)
    source = models.Source("tuned", "folder", "nowhere", None, None, "key")
    given = models.Loaded(source, load_model(tuned_model), tiny_tokenizer(), CPU, torch.float32)
    pool.put(given)
    pool.get(models.resolve(str(base_model)))
    pool.trim()
    assert pool.get(source) is given


def test_a_model_beside_itself_is_loaded_once(pool: ws.Pool, base_model: Path) -> None:
    source = models.resolve(str(base_model))
    first, second = pool.together(source, source)
    assert first is second


def test_a_gpu_is_named_by_its_number(
    base_model: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harvesting thread has a current device of its own."""
    monkeypatch.setattr(ws.weights, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    settings, _ = make_settings(
        {"base": str(base_model), "tuned": str(base_model), "corpus": (str(small_corpus),), "dtype": "float32"},
        environ={},
    )
    assert ws.open_workspace(settings, cache=tmp_path, reporter=Reporter()).pool.device == torch.device("cuda:3")
