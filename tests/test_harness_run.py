"""From a task's metadata and the model that lm-eval has loaded to a comparison."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from sample_cards import full_card
from test_in_memory import adapted
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval import harness_run
from modeldiff_eval.errors import SettingsError, UsageError

Seen = Callable[..., Any]


def live(model: Any = None, **more: Any) -> Any:
    """What the task asks of lm-eval's model."""
    return SimpleNamespace(
        model=model or tiny_model(), tokenizer=tiny_tokenizer(), backend="causal", world_size=1, **more
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    """Run a pair with ``diff`` stubbed, and return what it was called with."""
    story = importlib.import_module("modeldiff_eval.diff")
    fake = create_autospec(story.diff)
    fake.return_value.card, fake.return_value.out = full_card(), tmp_path
    monkeypatch.setattr(story, "diff", fake)

    def call(lm: Any, metadata: dict[str, Any]) -> Any:
        assert harness_run.run_pair(lm, metadata) == (full_card(), tmp_path / "card.json")
        return fake.call_args.kwargs

    return call


def test_a_comparison_gets_the_live_model_and_settings_that_exist(seen: Seen) -> None:
    lm = live(pretrained="org/tuned")
    metadata = {
        "base_model": "org/base",
        "pretrained": "org/tuned",
        "crosscoder": "folder",
        "tokens": 2000,
        "version": 2.0,
    }
    call = seen(lm, {**metadata, "causal_tasks": "mdx_format", "corpus": ["a.jsonl", "b.jsonl"], "max_length": 2048})
    assert call["tuned_loaded"] == (lm.model, lm.tokenizer)
    assert call["base_loaded"] is None
    settings = call["settings"]
    assert (settings.base, settings.tuned, settings.dtype, settings.device) == (
        "org/base",
        "org/tuned",
        "float32",
        "cpu",
    )
    assert (settings.crosscoder, settings.tokens, settings.tasks) == (("folder",), 2000, ())
    assert (settings.causal_tasks, settings.corpus) == (("mdx_format",), ("a.jsonl", "b.jsonl"))
    assert settings.max_length == 512, "lm-eval's max_length is its model's, not that of our documents"


def test_each_pair_has_a_folder_of_its_own(seen: Seen) -> None:
    assert seen(live(pretrained="org/tuned"), {"base_model": "org/base"})["out"] == Path(
        "runs/lm-eval/org__tuned--org__base"
    )
    assert seen(live(pretrained="org/tuned"), {"base_model": "org/base", "out": "mine"})["out"] == Path("mine")


def test_the_base_of_an_adapter_is_the_model_with_it_off(seen: Seen, base_model: Path) -> None:
    model = adapted(base_model)
    call = seen(live(model, pretrained="org/base", peft="my/lora"), {"peft": "my/lora"})
    assert (call["settings"].base, call["settings"].tuned) == ("org/base", "my/lora")
    twin, _ = call["base_loaded"]
    ids = torch.arange(12).reshape(1, 12)
    with torch.inference_mode(), model.disable_adapter():
        assert torch.equal(twin(ids).logits, model(ids).logits)
    assert seen(live(model, pretrained="org/base", peft="my/lora"), {"base_model": "org/base"})["base_loaded"]
    folder = str(base_model)
    assert seen(live(model, pretrained=folder, peft="lora"), {"base_model": f"{folder}/../{base_model.name}"})[
        "base_loaded"
    ]
    other = seen(live(model, pretrained="org/base", peft="my/lora"), {"base_model": "org/other"})
    assert (other["settings"].base, other["base_loaded"]) == ("org/other", None), "another base is loaded as named"


def test_a_gguf_file_is_named_by_its_path(seen: Seen) -> None:
    metadata = {"base_model": "embedded", "pretrained": "models", "gguf_file": "tuned.gguf"}
    assert seen(live(pretrained="models"), metadata)["settings"].tuned == str(Path("models/tuned.gguf"))


def test_without_adapter_a_base_must_be_named() -> None:
    with pytest.raises(UsageError, match="--metadata base_model=ID"):
        harness_run.run_pair(live(pretrained="org/tuned"), {})


def test_impossible_settings_are_named() -> None:
    with pytest.raises(SettingsError, match="latents"):
        harness_run.pair_settings(live(pretrained="t"), {"base_model": "b", "latents": "many"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("base_modle", "Did you mean 'base_model'"),
        ("basemodel", "Did you mean 'base_model'"),
        ("token", "Did you mean 'tokens'"),
        ("cross_coder", "Did you mean 'crosscoder'"),
        ("base", "base_model=ID"),
        ("tuned", "pretrained=ID"),
        ("tasks", "--tasks modeldiff,arc_easy"),
        ("task_limit", "--limit"),
    ],
)
def test_misspelt_metadata_is_refused(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        harness_run.check_names({"base_model": "b", name: "x"})


def test_metadata_of_others_is_let_pass() -> None:
    model = [
        "pretrained",
        "peft",
        "revision",
        "dtype",
        "gguf_file",
        "max_length",
        "trust_remote_code",
        "parallelize",
        "tokenizer",
    ]
    free = [
        *(
            "attn_implementation",
            "load_in_4bit",
            "load_in_8bit",
            "low_cpu_mem_usage",
            "device_map",
            "use_safetensors",
            "variant",
        ),
        *("cache_dir", "rope_scaling", "bnb_4bit_compute_dtype", "max_seq_lengths", "torch_dtype", "local_files_only"),
    ]
    known = ["version", "config_source", "base_model", "card", "out", "layer", "batch_size"]
    assert harness_run.check_names(dict.fromkeys([*model, *free, *known], 1)) == sorted(free)


def test_what_cannot_be_looked_into_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.dummy import DummyLM

    with pytest.raises(UsageError, match=r"DummyLM does not allow.*--model hf"):
        harness_run.require_live(DummyLM())
    engine = SimpleNamespace(model=object(), tokenizer=tiny_tokenizer())
    with pytest.raises(UsageError, match="SimpleNamespace does not allow"):
        harness_run.require_live(engine)
    both = live()
    both.backend = "seq2seq"
    with pytest.raises(UsageError, match="decoder-only"):
        harness_run.require_live(both)
    several = live()
    several.world_size = 2
    with pytest.raises(UsageError, match="one process"):
        harness_run.require_live(several)
    harness_run.require_live(live())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        harness_run.require_live(live())


def test_a_finished_card_by_file_or_folder(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(full_card().to_json(), encoding="utf-8")
    for named in (path, tmp_path):
        assert harness_run.compare(None, {"card": str(named)}) == (full_card(), path)


def test_two_tasks_ask_for_the_same_run_or_not() -> None:
    key = harness_run.run_key
    assert key({"base_model": "b", "config_source": "one"}) == key({"config_source": "two", "base_model": "b"})
    assert key({"base_model": "b"}) != key({"base_model": "c"})
    assert key({"base_model": "b", "layer": 1}) != key({"base_model": "b", "layer": 2})
