"""Harvested rows are the model's own hidden states, whatever the batching, and an interruption costs one block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from tiny_pair import load_model

from modeldiff_eval import activations as acts
from modeldiff_eval import manifest, models
from modeldiff_eval.corpus import TokenCorpus, tokenise
from modeldiff_eval.errors import ActivationsError, SettingsError

LAYER = 1


@pytest.fixture(scope="module")
def loaded(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> models.Loaded:
    return models.load(
        models.resolve(str(base_model)), device=torch.device("cpu"), dtype=torch.float32, cache=tmp_path_factory.mktemp("c")
    )  # fmt: skip


@pytest.fixture(scope="module")
def corpus(loaded: models.Loaded, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return tokenise(
        [str(small_corpus)], loaded.tokenizer, template=None, cache=tmp_path_factory.mktemp("c"), max_length=64
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of at most 512 tokens, so that the small corpus has many."""
    monkeypatch.setattr(acts, "BLOCK_BYTES", 512 * 32 * 4)
    return 512


def in_dtype(loaded: models.Loaded, dtype: torch.dtype, tmp_path: Path) -> models.Loaded:
    return models.load(loaded.source, device=loaded.device, dtype=dtype, cache=tmp_path)


def hidden_states(base_model: Path, corpus: TokenCorpus, layer: int) -> torch.Tensor:
    """What transformers says about every sequence on its own, without padding, from the whole model."""
    model = load_model(base_model)
    rows = []
    with torch.inference_mode():
        for start, end, _ in corpus.sequences:
            ids = torch.from_numpy(corpus.ids[start:end].astype(np.int64))[None]
            rows.append(model(ids, output_hidden_states=True).hidden_states[layer + 1][0])
    return torch.cat(rows)


@pytest.mark.parametrize("layer", [0, 1])
def test_rows_are_the_hidden_states_after_the_block(
    loaded: models.Loaded, corpus: TokenCorpus, base_model: Path, tmp_path: Path, layer: int
) -> None:
    found = acts.harvest(loaded, corpus, layer=layer, cache=tmp_path)
    expected = hidden_states(base_model, corpus, layer)
    assert found.mapped().shape == expected.shape == (corpus.tokens, 32)
    torch.testing.assert_close(found.mapped(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.norms, expected.norm(dim=1).numpy(), rtol=1e-4)


def test_the_last_block_is_read_before_the_final_norm(
    loaded: models.Loaded, corpus: TokenCorpus, base_model: Path, tmp_path: Path
) -> None:
    """transformers normalises its last hidden state; the residual stream after the last block is not."""
    found = acts.harvest(loaded, corpus, layer=2, cache=tmp_path).mapped()
    normalised = load_model(base_model).model.norm(found)
    torch.testing.assert_close(normalised, hidden_states(base_model, corpus, 2), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, normalised, atol=0.1)


def test_nothing_above_the_block_runs(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path) -> None:
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, block in enumerate(models.blocks(loaded.model))
    ]
    try:
        acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {0, 1}


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_batching_and_padding_do_not_change_rows(
    loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, batch_tokens: int
) -> None:
    alone = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "a").mapped()
    other = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "b", batch_tokens=batch_tokens).mapped()
    torch.testing.assert_close(other, alone, rtol=1e-4, atol=1e-4)


def test_blocks_cover_the_corpus_in_order(corpus: TokenCorpus) -> None:
    edges = acts._block_edges(corpus.sequences, 500)
    assert len(edges) > 3
    assert [first for first, _ in edges] == [0, *(end for _, end in edges[:-1])]
    assert edges[-1][1] == len(corpus.sequences)
    assert all(corpus.sequences[e - 1, 1] - corpus.sequences[f, 0] <= 500 for f, e in edges)


class Interrupt(Exception):
    pass


def test_an_interrupted_harvest_resumes_and_gives_the_same_bytes(
    loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, small_blocks: int
) -> None:
    whole = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "whole", batch_tokens=256)
    n_blocks = len(acts._block_edges(corpus.sequences, small_blocks))
    assert n_blocks > 4
    done = 0

    def interrupt(tokens: int, _: int) -> None:
        nonlocal done
        done += tokens
        if done > corpus.tokens // 2:
            raise Interrupt

    with pytest.raises(Interrupt):
        acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "cut", batch_tokens=256, on_progress=interrupt)
    assert acts.find(corpus, loaded.source.key, LAYER, loaded.dtype, tmp_path / "cut") is None
    again: list[int] = []
    resumed = acts.harvest(
        loaded, corpus, layer=LAYER, cache=tmp_path / "cut", batch_tokens=256, on_progress=lambda n, _: again.append(n)
    )
    for name in ("rows.bin", "norms.npy", "meta.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert {p.name for p in resumed.folder.iterdir()} == {"rows.bin", "norms.npy", "meta.json", manifest.NAME}
    # The finished blocks are reported at once; only the block that was cut, and what follows it, is computed again.
    assert done - small_blocks - 256 <= again[0] <= done
    assert sum(again) == corpus.tokens
    assert max(again[1:]) <= 256


@pytest.mark.parametrize("left", ["", "many", None])
def test_a_harvest_whose_progress_cannot_be_read_begins_again(
    loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, small_blocks: int, left: str | None
) -> None:
    """As a kill in the middle of noting it, or a version that noted it otherwise, can leave it."""
    whole = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "whole", batch_tokens=256)
    seen: list[int] = []

    def interrupt(tokens: int, _: int) -> None:
        seen.append(tokens)
        if sum(seen) > 2 * small_blocks:
            raise Interrupt

    with pytest.raises(Interrupt):
        acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "cut", batch_tokens=256, on_progress=interrupt)
    (note,) = (tmp_path / "cut").rglob("progress.txt")
    if left is None:
        note.unlink()
    else:
        note.write_text(left)
    again = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path / "cut", batch_tokens=256)
    assert (again.folder / "rows.bin").read_bytes() == (whole.folder / "rows.bin").read_bytes()


def test_progress_of_a_harvest_reaches_the_total(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path, on_progress=lambda n, total: seen.append((n, total)))
    assert sum(n for n, _ in seen) == corpus.tokens
    assert {total for _, total in seen} == {corpus.tokens}


def test_a_second_harvest_is_read_from_the_shared_cache(
    loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert acts.find(corpus, loaded.source.key, LAYER, loaded.dtype, tmp_path) is None
    first = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    monkeypatch.setattr(acts, "forward_rows", None)
    again = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    found = acts.find(corpus, loaded.source.key, LAYER, loaded.dtype, tmp_path)
    assert found is not None
    assert first.key == again.key == found.key
    assert torch.equal(found.mapped(), first.mapped())


def test_the_key_sees_model_layer_dtype_and_text(loaded: models.Loaded, corpus: TokenCorpus) -> None:
    keys = {
        acts.harvest_key(corpus, "m", 1, torch.float32),
        acts.harvest_key(corpus, "n", 1, torch.float32),
        acts.harvest_key(corpus, "m", 2, torch.float32),
        acts.harvest_key(corpus, "m", 1, torch.bfloat16),
        acts.harvest_key(replace(corpus, key="other"), "m", 1, torch.float32),
    }
    assert len(keys) == 5


def test_bfloat16_rows_keep_their_type(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path) -> None:
    found = acts.harvest(in_dtype(loaded, torch.bfloat16, tmp_path), corpus, layer=LAYER, cache=tmp_path)
    exact = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    assert found.mapped().dtype == found.dtype == torch.bfloat16
    assert (found.folder / "rows.bin").stat().st_size == corpus.tokens * 32 * 2
    error = (found.mapped().float() - exact.mapped()).norm() / exact.mapped().norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_weights_name_the_document(base_model: Path, corpus: TokenCorpus, tmp_path: Path, bad: float) -> None:
    """The embedding of one token is broken: the first document that holds it is named."""
    broken = models.load(
        models.resolve(str(base_model)), device=torch.device("cpu"), dtype=torch.float32, cache=tmp_path
    )
    token = int(corpus.ids[corpus.tokens // 2])
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[token] = bad
    first = int(np.flatnonzero(corpus.ids == token)[0])
    document = corpus.documents["id"][corpus.document_of_token()[first]]
    with pytest.raises(ActivationsError, match=rf"NaN or infinite .*block 1 \(document '{document}', token \d+\)") as e:
        acts.harvest(broken, corpus, layer=LAYER, cache=tmp_path)
    assert e.value.exit_code == 3
    assert "float32" in str(e.value)
    assert acts.find(corpus, broken.source.key, LAYER, broken.dtype, tmp_path) is None


@pytest.mark.parametrize("layer", [-1, 3, 40])
def test_a_layer_out_of_range(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, layer: int) -> None:
    with pytest.raises(SettingsError, match=rf"--layer {layer} is out of range: the model has blocks 0 to 2"):
        acts.harvest(loaded, corpus, layer=layer, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_default_layer_is_the_papers() -> None:
    assert acts.default_layer(42) == 20
    assert acts.default_layer(30) == 14
    assert 0 <= acts.default_layer(1) <= 0


def test_the_hook_is_gone_afterwards(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path) -> None:
    acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    with torch.inference_mode():
        assert loaded.model(torch.arange(5)[None]).logits.shape == (1, 5, 259)


# Which tokens are kept, and on which side ----------------------------------------------------------


def test_bos_and_joint_outliers_are_dropped_and_counted(corpus: TokenCorpus) -> None:
    ids = np.array(corpus.ids)
    bos = corpus.sequences[::3, 0]
    ids[bos] = 258
    ids[corpus.sequences[1, 0] + 3] = 258  # not at the start: text, kept
    marked = replace(corpus, ids=ids)
    first, second = np.ones(corpus.tokens, np.float32), np.full(corpus.tokens, 2.0, np.float32)
    spare = int(corpus.sequences[4, 0]) + 2
    first[spare], second[spare + 1], first[bos[0]] = 10.5, 21.0, 99.0  # the last one is a BOS already
    first[spare + 2] = 9.5
    kept = acts.keep_tokens(marked, [first, second], bos=258)
    assert kept.dropped_bos == len(bos)
    assert kept.dropped_outliers == 2
    assert len(kept.rows) == corpus.tokens - len(bos) - 2
    gone = set(range(corpus.tokens)) - set(kept.rows.tolist())
    assert gone == {*bos.tolist(), spare, spare + 1}
    assert bool((kept.rows.diff() > 0).all())


def test_a_tokenizer_without_bos_drops_none(corpus: TokenCorpus) -> None:
    kept = acts.keep_tokens(corpus, [np.ones(corpus.tokens, np.float32)], bos=None)
    assert (kept.dropped_bos, kept.dropped_outliers, len(kept.rows)) == (0, 0, corpus.tokens)


def test_rows_split_by_document(corpus: TokenCorpus) -> None:
    kept = acts.keep_tokens(corpus, [np.ones(corpus.tokens, np.float32)], bos=None)
    train, heldout = acts.split_rows(corpus, kept)
    assert len(train) + len(heldout) == corpus.tokens
    document = corpus.document_of_token()
    assert not set(document[train.numpy()]) & set(document[heldout.numpy()])
    assert corpus.heldout_documents()[document[heldout.numpy()]].all()


def test_paired_rows_are_those_of_each_model(
    loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path, tuned_model: Path
) -> None:
    other = models.load(models.resolve(str(tuned_model)), device=loaded.device, dtype=torch.bfloat16, cache=tmp_path)
    one, two = (acts.harvest(m, corpus, layer=LAYER, cache=tmp_path) for m in (loaded, other))
    chosen = torch.tensor([5, 0, 77])
    rows = acts.PairedRows([one, two])(chosen)
    assert rows.shape == (3, 2, 32)
    assert rows.dtype == torch.float32
    assert torch.equal(rows[:, 0], one.mapped()[chosen])
    assert torch.equal(rows[:, 1], two.mapped()[chosen].float())


def test_shapes_are_checked_in_tests(loaded: models.Loaded, corpus: TokenCorpus, tmp_path: Path) -> None:
    """The import hook of conftest.py is at work: a wrong shape cannot pass a test."""
    pair = acts.PairedRows([acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)])
    with pytest.raises(jaxtyping.TypeCheckError):
        pair(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(jaxtyping.TypeCheckError):
        acts.Kept(torch.zeros(3), 0, 0)


def test_a_model_of_another_family_is_harvested_alike(tmp_path: Path, small_corpus: Path) -> None:
    """GPT-NeoX blocks return tuples in some releases and are named otherwise."""
    from tiny_lm import tiny_tokenizer
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        bos_token_id=256, eos_token_id=257, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path / "neox"
    model = GPTNeoXForCausalLM(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    loaded = models.load(models.resolve(str(folder)), device=torch.device("cpu"), dtype=torch.float32, cache=tmp_path)
    corpus = tokenise([str(small_corpus)], loaded.tokenizer, template=None, cache=tmp_path, max_length=64)
    found = acts.harvest(loaded, corpus, layer=LAYER, cache=tmp_path)
    torch.testing.assert_close(found.mapped(), hidden_states(folder, corpus, LAYER), rtol=1e-4, atol=1e-4)
