"""What a name means, what is refused and why, and that an adapter computes what its merged checkpoint computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_lm import tiny_tokenizer
from tiny_pair import load_model, save_adapter, save_model

from modeldiff_eval import models as m
from modeldiff_eval.errors import MismatchedModelsError, ModelError, UnsafeWeightsError

CPU = torch.device("cpu")


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def compared(first: Path, second: Path, tmp_path: Path, sample: list[str]) -> list[str]:
    sources = m.resolve_all(str(first), str(second), None)
    return m.check_comparable(
        {
            role: (s, m.load_config(s, cache=tmp_path), m.load_tokenizer(s, cache=tmp_path))
            for role, s in sources.items()
        },
        sample,
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, base_model: Path) -> list[tuple[str, str | None]]:
    """A hub that holds ``base_model`` under every name; what was asked is in the list."""
    asked: list[tuple[str, str | None]] = []

    def snapshot(repo: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        asked.append((repo, revision))
        return str(base_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("org/name", ("org/name", None)),
        ("org/na.me-1_x@v1.0", ("org/na.me-1_x", "v1.0")),
        ("gpt2", ("gpt2", None)),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3")),
    ],
)
def test_hub_ids(hub: list[tuple[str, str | None]], name: str, wanted: tuple[str, str | None]) -> None:
    source = m.resolve(name)
    assert hub == [wanted]
    assert source.kind == "folder"
    assert source.revision


@pytest.mark.parametrize("name", ["org/na me", "org//name", "name!", "a/b/c", "./absent", "/absent", "x.gguf"])
def test_names_that_mean_nothing(hub: list[tuple[str, str | None]], name: str) -> None:
    with pytest.raises(ModelError, match=r"no model at|neither a path that exists nor a hub id"):
        m.resolve(name)
    assert not hub


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ModelError, match=r"'org/name' from the hub: no route") as caught:
        m.resolve("org/name")
    assert caught.value.exit_code == 3


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        m.resolve(str(tmp_path))


def test_the_key_is_the_weights_not_the_place(base_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    copy = copied(base_model, tmp_path / "copy")
    assert m.resolve(str(copy)).key == m.resolve(str(base_model)).key
    assert m.resolve(str(tuned_model)).key != m.resolve(str(base_model)).key


def test_a_folder_without_weights_is_half_downloaded(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="half downloaded"):
        m.resolve(str(folder))


def test_a_missing_shard_is_named(base_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    load_model(base_model).save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    m.resolve(str(folder))
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"half downloaded; missing: {shards[1].name}\."):
        m.resolve(str(folder))


def test_a_torn_index_is_half_downloaded(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(ModelError, match="half downloaded"):
        m.resolve(str(folder))


def test_truncated_weights_are_refused(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"Cannot load .*half downloaded"):
        m.load(m.resolve(str(folder)), device=CPU, dtype=torch.float32, cache=tmp_path)


def test_weights_that_do_not_cover_the_model_are_refused(base_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(base_model, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "layers.1.mlp.up_proj" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj"):
        m.load(m.resolve(str(folder)), device=CPU, dtype=torch.float32, cache=tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_are_refused(base_model: Path, tmp_path: Path, name: str) -> None:
    folder = copied(base_model, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsafeWeightsError, match="pickled"):
        m.resolve(str(folder))


def test_a_pickled_adapter_is_refused(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UnsafeWeightsError, match="pickled adapter"):
        m.resolve_all(str(base_model), str(folder), None)


def test_an_adapter_without_weights_or_with_torn_configuration(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path / "a")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        m.resolve_all(str(base_model), str(folder), None)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        m.resolve_all(str(base_model), str(folder), None)


def test_an_adapter_for_another_base_is_refused(base_model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "wide", seed=0, width=64)
    folder = save_adapter(other, tmp_path / "wide-lora", seed=0, stated="org/wide-model")
    source = m.resolve_all(str(base_model), str(folder), None)["tuned"]
    with pytest.raises(MismatchedModelsError, match=r"does not fit .*trained on org/wide-model") as caught:
        m.load(source, device=CPU, dtype=torch.float32, cache=tmp_path)
    assert caught.value.exit_code == 2


def test_an_adapter_for_a_deeper_base_is_refused(base_model: Path, tmp_path: Path) -> None:
    """Its shapes fit layer by layer, but some of its weights have no place to go."""
    folder = save_adapter(save_model(tmp_path / "deep", seed=0, layers=5), tmp_path / "deep-lora", seed=0)
    source = m.resolve_all(str(base_model), str(folder), None)["tuned"]
    with pytest.raises(MismatchedModelsError, match="does not fit"):
        m.load(source, device=CPU, dtype=torch.float32, cache=tmp_path)


def test_an_adapter_that_names_another_model_of_the_same_shape_gets_a_caveat(base_model: Path, tmp_path: Path) -> None:
    folder = save_adapter(base_model, tmp_path / "lora", seed=0, stated="org/quite-different")
    source = m.resolve_all(str(base_model), str(folder), None)["tuned"]
    loaded = m.load(source, device=CPU, dtype=torch.float32, cache=tmp_path)
    assert ["org/quite-different" in caveat for caveat in loaded.caveats] == [True]
    assert str(tmp_path) not in loaded.caveats[0]


def test_an_adapter_alone_brings_its_base(base_model: Path, adapter: Path) -> None:
    source = m.resolve(str(adapter))
    assert source.foundation.key == m.resolve(str(base_model)).key
    assert source.key.startswith(source.foundation.key + "+")


def test_two_adapters_share_the_foundation_of_the_anchor(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    other = save_adapter(base_model, tmp_path / "other", seed=9, stated="org/not-here")
    sources = m.resolve_all(str(adapter), str(other), str(base_model))
    assert {s.foundation.key for s in sources.values()} == {sources["anchor"].key}
    assert len({s.key for s in sources.values()}) == 3
    assert list(sources) == ["anchor", "base", "tuned"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_equals_its_merged_checkpoint_bit_for_bit(
    base_model: Path, adapter: Path, merged_model: Path, dtype: torch.dtype, tmp_path: Path
) -> None:
    sources = m.resolve_all(str(base_model), str(adapter), None)
    ours, base, merged = (
        m.load(s, device=CPU, dtype=dtype, cache=tmp_path).model
        for s in (sources["tuned"], sources["base"], m.resolve(str(merged_model)))
    )
    ids = torch.arange(60).view(2, 30)
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, merged(ids).logits)
        assert not torch.equal(ours(ids).logits, base(ids).logits)
    state, expected = ours.state_dict(), merged.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) and state[name].dtype == dtype for name in state)


def test_loaded_models_say_what_they_are(base_model: Path, adapter: Path, tmp_path: Path) -> None:
    source = m.resolve_all(str(base_model), str(adapter), None)["tuned"]
    info = m.load(source, device=CPU, dtype=torch.bfloat16, cache=tmp_path).info()
    assert (info.id, info.adapter, info.n_layers, info.d_model, info.dtype) == (
        "tiny-base", "tiny-lora", 3, 32, "bfloat16",
    )  # fmt: skip


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="half downloaded"):
        m.resolve(str(path))
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"not a \.gguf file"):
        m.resolve(str(tmp_path / "model.bin"))


def test_a_gguf_of_garbage_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + b"\x03\x00\x00\x00" + b"\x00" * 64)
    source = m.resolve(str(path))
    for work in (m.load_config, m.load_tokenizer):
        with pytest.raises(ModelError, match=r"Cannot read .*model\.gguf"):
            work(source, cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "models" / f"gguf-{source.key}").exists()


def test_a_config_of_garbage_is_an_error_of_ours(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="Cannot read the configuration"):
        m.load_config(m.resolve(str(folder)), cache=tmp_path)


def test_code_in_a_model_folder_is_not_run(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    source = m.resolve(str(folder))
    with pytest.raises(ModelError, match="Add --trust-remote-code"):
        m.load_config(source, cache=tmp_path)
    with pytest.raises(ModelError, match="Add --trust-remote-code"):
        m.load(source, device=CPU, dtype=torch.float32, cache=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_width_and_depth_mismatch_name_what_differs(base_model: Path, tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", seed=0, width=64)
    deep = save_model(tmp_path / "deep", seed=0, layers=4)
    with pytest.raises(MismatchedModelsError, match=r"d_model 32, .*wide \(tuned\) has 64"):
        compared(base_model, wide, tmp_path, [])
    with pytest.raises(MismatchedModelsError, match=r"layers 3, .*deep \(tuned\) has 4"):
        compared(base_model, deep, tmp_path, [])


def test_tokenizers_that_split_the_corpus_differently_are_refused(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["river"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(MismatchedModelsError, match=r"tokenizers of .* differ: on 'by the river' token 7 is") as caught:
        compared(base_model, folder, tmp_path, ["by the sea", "by the river"])
    assert caught.value.exit_code == 2
    assert ["259" in caveat or "260" in caveat for caveat in compared(base_model, folder, tmp_path, ["sea"])] == [True]


def test_an_added_padding_token_is_harmless(base_model: Path, tmp_path: Path) -> None:
    folder = copied(base_model, tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    caveats = compared(base_model, folder, tmp_path, ["by the river", "more text"])
    assert len(caveats) == 1
    assert "259 and 260 entries" in caveats[0]


def test_a_tokenizer_that_shares_ids_and_pads_by_eos(base_model: Path, tmp_path: Path) -> None:
    tokenizer = m.load_tokenizer(m.resolve(str(base_model)), cache=tmp_path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 257
    assert compared(base_model, base_model, tmp_path, ["text"]) == []


def test_the_blocks_are_the_decoder_in_order(base_model: Path) -> None:
    model = load_model(base_model)
    assert list(m.blocks(model)) == list(model.model.layers)


def test_a_device_that_is_not_there() -> None:
    for name in ("nonsense", "cuda:99"):
        with pytest.raises(ModelError, match=name):
            m.pick_device(name)


def test_public_names_hide_folders(tmp_path: Path) -> None:
    assert m.public_name(str(tmp_path / "a" / "model")) == "model"
    assert m.public_name("org/name") == "org/name"
