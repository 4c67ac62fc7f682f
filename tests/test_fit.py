"""What a crosscoder is trained on and measured on, what names it in the cache, and which models are in memory meanwhile."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pair import save_corpus

from modeldiff_eval import fit
from modeldiff_eval import workspace as ws
from modeldiff_eval.corpus import ReadReport, TokenCorpus
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings
from modeldiff_eval.train_step import TrainSettings

BOS = 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", documents=90, seed=5)


def prepared(pair: tuple[Path, Path], text: Path, cache: Path, **changed: Any) -> tuple[ws.Workspace, fit.Material]:
    values = {
        "base": str(pair[0]), "tuned": str(pair[1]), "corpus": (str(text),), "rollouts": 0, "latents": 20, "k": 2, "steps": 4,
        "dtype": "float32", "layer": 1, "batch": 128, "max_length": 128, "measure_tokens": 2000,
    }  # fmt: skip
    settings, _ = make_settings(values | changed, environ={})
    work = ws.open_workspace(settings, cache=cache, reporter=Reporter())
    return work, fit.harvest(work, ws.gather_text(work))


@pytest.mark.parametrize(("stream", "tokens"), [(False, 4 + 4), (True, 4 + 4)])
def test_what_counts_as_a_training_token_by_hand(stream: bool, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three documents of 5, 4 and 6 tokens; the first and the last begin with a BOS; the last is held out."""
    ids = np.array([BOS, 7, 7, 7, 7, 8, 8, 8, 8, BOS, 9, 9, 9, 9, 9], dtype=np.int32)
    sequences = np.array([[0, 5, 0], [5, 9, 1], [9, 15, 2]])
    corpus = TokenCorpus("key", ids, sequences, {"id": ["a", "b", "c"], "heldout": [False, False, True]}, ReadReport())
    norms = SimpleNamespace(norms=np.ones(6 if stream else 15, dtype=np.float32))
    monkeypatch.setattr(fit, "harvest_role", lambda *_: norms)
    settings = SimpleNamespace(stream=stream, measure_tokens=1000)
    work: Any = SimpleNamespace(
        settings=settings, tokenizer=SimpleNamespace(bos_token_id=BOS), sources=["base", "tuned"]
    )
    made = fit.harvest(work, corpus)
    assert (made.tokens, made.dropped_bos, made.kept.dropped_bos) == (tokens, 2, 1 if stream else 2)
    assert made.measured.ids.tolist() == (ids[9:].tolist() if stream else ids.tolist())
    assert len(made.kept.rows) == (5 if stream else 13)


def test_streamed_and_kept_rows_count_the_same_training_tokens(
    base_model: Path, tuned_model: Path, text: Path, cache: Path
) -> None:
    """Where nothing is an outlier; the sample is of held-out documents alone."""
    _, kept = prepared((base_model, tuned_model), text, cache)
    _, streamed = prepared((base_model, tuned_model), text, cache, stream=True)
    assert kept.kept.dropped_outliers == 0
    assert streamed.tokens == kept.tokens
    assert kept.corpus.tokens > streamed.measured.tokens >= 2000
    assert streamed.corpus.heldout_documents()[streamed.measured.sequences[:, 2]].all()


@pytest.mark.parametrize("stream", [False, True])
def test_everything_that_decides_a_crosscoder_names_it(
    base_model: Path, tuned_model: Path, merged_model: Path, text: Path, cache: Path, stream: bool
) -> None:
    pair = (base_model, tuned_model)

    def key(models: tuple[Path, Path] = pair, **changed: Any) -> str:
        work, material = prepared(models, text, cache, stream=stream, **changed)
        return fit.cache_folder(work, material, "base", "tuned").name

    before = key()
    assert before == key(annotate_top=3, draws=300)
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"batch": 64}, {"layer": 0}, {"dtype": "bfloat16"}, {"tokens": 9000}, {"max_length": 64}, {"steps": 5}, {"latents": 21},
        {"k": 3}, {"lr": 0.5}, {"heldout_share": 0.4},
    ]  # fmt: skip
    others = [key(**change) for change in changes] + [key((base_model, merged_model)), key((tuned_model, base_model))]
    others += [key(measure_tokens=1000)] if stream else []
    assert len({before, *others}) == 1 + len(others)
    work, material = prepared(pair, text, cache, stream=not stream)
    assert fit.cache_folder(work, material, "base", "tuned").name != before


def test_the_size_of_a_block_names_a_streamed_crosscoder(
    base_model: Path, tuned_model: Path, text: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, material = prepared((base_model, tuned_model), text, cache, stream=True)
    before = fit.cache_folder(work, material, "base", "tuned")
    monkeypatch.setattr("modeldiff_eval.stream.BLOCK_BYTES", 1 << 20)
    assert fit.cache_folder(work, material, "base", "tuned") != before


def test_threads_go_where_the_time_goes(
    base_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: two models of two blocks read cost 2 · 2 · 2 · p for a token, a step 4 · 4 · 32 · latents."""
    work, _ = prepared((base_model, base_model), text, tmp_path)
    models = work.pool.together(work.sources["base"], work.sources["tuned"])
    p = sum(parameter.numel() for parameter in ws.weights.blocks(models[0].model)[0].parameters())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)

    def shared(latents: float) -> tuple[int | None, int | None]:
        return fit._threads(models, 1, TrainSettings(n_latents=int(latents), k=2, steps=4))

    even = 8 * p / (4 * 4 * 32)
    assert [shared(even), shared(even / 3), shared(3 * even)] == [(4, 4), (6, 2), (2, 6)]
    assert [shared(2), shared(1000 * even)] == [(8, 1), (1, 7)]
    models[0].__dict__["device"] = torch.device("cuda")
    assert shared(even) == (None, None)


@pytest.mark.parametrize(("stream", "limit", "there"), [(False, 0, 0), (False, 1 << 30, 2), (True, 0, 2)])
def test_models_in_memory_while_the_crosscoder_is_trained(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stream: bool, limit: int, there: int,
) -> None:  # fmt: skip
    """Big ones are gone, unless rows come straight from them; after the training they go in any case."""
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    load, train = ws.weights.load, fit.train_method

    def spy_load(*arguments: Any, **options: Any) -> Any:
        made = load(*arguments, **options)
        loaded.append(weakref.ref(made.model))
        return made

    def spy_train(*arguments: Any, **options: Any) -> Any:
        gc.disable()  # What is gone, the pool itself has let go of.
        try:
            alive.append(sum(model() is not None for model in loaded))
        finally:
            gc.enable()
        return train(*arguments, **options)

    monkeypatch.setattr(ws, "KEEP_LOADED_BYTES", limit)
    monkeypatch.setattr(ws.weights, "load", spy_load)
    monkeypatch.setattr(fit, "train_method", spy_train)
    work, material = prepared((base_model, tuned_model), text, tmp_path, stream=stream)
    assert (fit.fit(work, material, "base", "tuned", log_folder=tmp_path / "logs") / "quality.json").exists()
    assert alive == [there]
    assert sum(model() is not None for model in loaded) == (2 if limit else 0)
