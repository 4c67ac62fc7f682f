"""Weighted training text: the divergence by hand and against whole forward passes, the draw, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import STEPS, notes

from modeldiff_eval import diff, models, weighting
from modeldiff_eval.corpus import TokenCorpus, tokenise
from modeldiff_eval.errors import ActivationsError, SettingsError
from modeldiff_eval.models import Loaded
from modeldiff_eval.settings import make_settings
from modeldiff_eval.weighting import divergence, divergences, drawn


def test_the_divergence_of_two_coins_by_hand() -> None:
    # P = (1/2, 1/2), Q = (1/4, 3/4): KL(P‖Q) = ½ ln 2 + ½ ln ⅔, KL(Q‖P) = ¼ ln ½ + ¾ ln 3/2.
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * (0.5 * np.log(2) + 0.5 * np.log(2 / 3) + 0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert float(divergence(p, q)) == pytest.approx(expected, abs=1e-7)
    assert float(divergence(q + 7, p)) == pytest.approx(expected, abs=1e-6)
    assert float(divergence(p, p + 3)) == pytest.approx(0, abs=1e-7)


def test_rows_are_drawn_as_often_as_they_should() -> None:
    rows = torch.arange(100, 1100)
    extra = np.zeros(1000)
    extra[10], extra[20:30] = 50.0, 5.0
    found = drawn(rows, extra, seed=3)
    counts = np.bincount(found.numpy() - 100, minlength=1000)
    expected = 0.5 + 500 * extra / extra.sum()
    assert abs(len(found) - 1000) <= 1
    assert np.all((counts == np.floor(expected)) | (counts == np.ceil(expected)))
    assert counts[10] == 250 or counts[10] == 251
    others = np.delete(counts, [10, *range(20, 30)])
    assert abs(others.mean() - 0.5) < 0.01
    assert torch.equal(drawn(rows, extra, seed=3), found)
    assert not torch.equal(drawn(rows, extra, seed=4), found)


def test_nothing_is_drawn_again_where_nothing_weighs_more() -> None:
    rows = torch.arange(50)
    assert torch.equal(drawn(rows, np.zeros(50), seed=0), rows)


@pytest.fixture(scope="module")
def both(base_model: Path, tuned_model: Path, shared: Path) -> tuple[Loaded, Loaded]:
    def load(path: Path) -> Loaded:
        return models.load(models.resolve(str(path)), device=torch.device("cpu"), dtype=torch.float32, cache=shared)

    return load(base_model), load(tuned_model)


@pytest.fixture(scope="module")
def corpus(both: tuple[Loaded, Loaded], text: Path, shared: Path) -> TokenCorpus:
    return tokenise((str(text),), both[0].tokenizer, template=None, cache=shared, max_length=64, seed=0)


def test_divergences_are_those_of_whole_passes_on_training_text_only(
    both: tuple[Loaded, Loaded], corpus: TokenCorpus, tmp_path: Path
) -> None:
    found = divergences(*both, corpus, cache=tmp_path)
    heldout = corpus.heldout_documents()
    for start, stop, document in corpus.sequences[:20]:
        if heldout[document]:
            assert np.isnan(found[start:stop]).all()
            continue
        ids = torch.from_numpy(corpus.ids[start:stop].astype(np.int64))[None]
        with torch.inference_mode():
            whole = divergence(*(m.model(input_ids=ids).logits[0] for m in both))
        np.testing.assert_allclose(found[start:stop], whole.numpy(), atol=1e-5)
        assert whole.mean() > 1e-4


def test_an_interrupted_pass_goes_on(
    both: tuple[Loaded, Loaded], corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighting, "_BLOCK", 500)
    whole = divergences(*both, corpus, cache=tmp_path / "whole")
    filled: list[int] = []
    fill = weighting._fill
    monkeypatch.setattr(weighting, "_fill", lambda *a: (filled.append(1), fill(*a)))

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        divergences(*both, corpus, cache=tmp_path / "parts", on_progress=stop)
    first = len(filled)
    assert first > 1
    np.testing.assert_array_equal(divergences(*both, corpus, cache=tmp_path / "parts"), whole)
    blocks = len(filled)
    filled.clear()
    divergences(*both, corpus, cache=tmp_path / "again")
    assert len(filled) == blocks  # Nothing was done twice.
    filled.clear()
    divergences(*both, corpus, cache=tmp_path / "parts")
    assert not filled


def test_a_broken_model_is_named(both: tuple[Loaded, Loaded], corpus: TokenCorpus, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, input_ids: Any, **_: Any) -> Any:
            out = both[1].model(input_ids=input_ids)
            out.logits = out.logits * float("nan")
            return out

    base, tuned = both
    broken = Loaded(tuned.source, Broken(), tuned.tokenizer, tuned.device, tuned.dtype)
    with pytest.raises(ActivationsError, match="infinite logits"):
        divergences(base, broken, corpus, cache=tmp_path)


@pytest.mark.usefixtures("quick_runs")
def test_a_weighted_run_trains_another_dictionary_beside_the_same_crosscoder(
    base_model: Path, tuned_model: Path, text: Path, shared: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": 48, "k": 4, "steps": STEPS, "batch": 256,
        "null_tokens": 0, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "cache": shared,
    }  # fmt: skip
    runs = {
        name: diff(str(base_model), str(tuned_model), out=tmp_path / name, weighting=name, **options)
        for name in ("none", "kl", "assistant")
    }
    keys = {name: run.card.differences[0].fve for name, run in runs.items()}
    assert len(set(keys.values())) == 3
    for name in ("kl", "assistant"):
        assert notes(runs[name])["trained"] == ["(base, tuned), differences"]
        assert runs[name].card.crosscoders == runs["none"].card.crosscoders
        assert any("drawn half evenly" in caveat for caveat in runs[name].card.caveats)
    assert not any("drawn half evenly" in caveat for caveat in runs["none"].card.caveats)
    again = diff(str(base_model), str(tuned_model), out=tmp_path / "again", weighting="kl", **options)
    assert again.card.model_dump(exclude={"created"}) == runs["kl"].card.model_dump(exclude={"created"})


@pytest.mark.parametrize("other", [{"stream": True}, {"crosscoder": ("somewhere",)}])
def test_weights_that_would_do_nothing_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--weighting kl has no effect"):
        make_settings({"base": "a", "tuned": "b", "weighting": "kl", **other}, environ={})
