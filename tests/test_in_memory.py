"""Models that somebody else has loaded, and the base under an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lm import tiny_tokenizer
from tiny_pair import load_model

from modeldiff_eval.errors import ModelError, UsageError
from modeldiff_eval.in_memory import adapter_off, in_memory, in_precision, is_adapted
from modeldiff_eval.models import Loaded
from modeldiff_eval.settings import make_settings

IDS = torch.arange(40).reshape(2, 20)


def adapted(base: Path, **options: Any) -> Any:
    """A fresh PEFT model whose adapter does something."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        load_model(base), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **options)
    ).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    return wrapped


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}])
def test_the_twin_is_the_model_with_its_adapter_disabled(base_model: Path, options: dict[str, Any]) -> None:
    model = adapted(base_model, **options)
    twin = adapter_off(model)
    with model.disable_adapter():
        disabled = logits(model)
    assert torch.equal(logits(twin), disabled)
    assert torch.equal(disabled, logits(load_model(base_model)))
    assert not torch.equal(logits(model), disabled), "the adapter is on again, and does something"
    assert not is_adapted(twin)


def test_the_twin_costs_no_memory(base_model: Path) -> None:
    model = adapted(base_model)
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    twin = adapter_off(model)
    assert {parameter.data_ptr() for parameter in twin.parameters()} <= theirs
    assert {buffer.data_ptr() for buffer in twin.buffers()} <= {buffer.data_ptr() for buffer in model.buffers()}


@pytest.mark.parametrize("options", [{"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_an_adapter_that_changed_the_base_needs_its_base_named(base_model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="base_model=ID"):
        adapter_off(adapted(base_model, **options))


def test_virtual_tokens_are_refused(base_model: Path) -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model

    model = get_peft_model(load_model(base_model), PromptTuningConfig(TaskType.CAUSAL_LM, num_virtual_tokens=2))
    settings, _ = make_settings({"base": "b", "tuned": "t"}, environ={})
    with pytest.raises(UsageError, match="PROMPT_TUNING, which adds virtual tokens"):
        in_memory(settings, tuned=(model, tiny_tokenizer()))
    with pytest.raises(UsageError, match="virtual tokens"):
        adapter_off(model)


def test_names_and_keys(base_model: Path) -> None:
    settings, _ = make_settings({"base": "org/base", "tuned": "my/lora"}, environ={})
    model = adapted(base_model)
    model.get_base_model().config._name_or_path = "org/base"
    model.get_base_model().name_or_path = "org/base"
    tokenizer = tiny_tokenizer()
    pair = in_memory(settings, base=(adapter_off(model), tokenizer), tuned=(model, tokenizer))
    assert pair["tuned"].source.foundation.key == pair["base"].source.key
    assert pair["tuned"].source.key != pair["base"].source.key
    assert (pair["tuned"].info().id, pair["tuned"].info().adapter) == ("org/base", "my/lora")
    assert pair["base"].info().adapter is None
    plain = in_memory(settings, base=(load_model(base_model), tokenizer))["base"]
    assert plain.source.key == pair["base"].source.key, "the same weights, the same key"
    assert in_memory(settings) == {}


def test_a_copy_in_another_precision_leaves_the_first_alone(base_model: Path) -> None:
    model = load_model(base_model)
    settings, _ = make_settings({"base": "b", "tuned": "t"}, environ={})
    given = in_memory(settings, base=(model, tiny_tokenizer()))["base"]
    other = in_precision(given, torch.bfloat16)
    assert (other.dtype, other.model.dtype, model.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert other.source is given.source


def test_quantised_weights_cannot_be_cast(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(base_model)

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("`.to` is not supported for `4-bit` models.")

    monkeypatch.setattr(type(model), "to", refuse)
    settings, _ = make_settings({"base": "b", "tuned": "t"}, environ={})
    given: Loaded = in_memory(settings, base=(model, tiny_tokenizer()))["base"]
    with pytest.raises(ModelError, match="null_tokens=0"):
        in_precision(given, torch.bfloat16)
