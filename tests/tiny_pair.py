"""Models, adapters and text small enough for a test, written to disk the way a user has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_lm import tiny_tokenizer

WORDS = (
    *("river", "stone", "bright", "cook", "seven", "letter", "quiet", "green", "under", "paper", "number", "window"),
    *("bread", "north", "asks", "because", "please", "translate", "sorry", "cannot", "list", "first", "second", "code"),
)


def save_model(folder: Path, *, seed: int, layers: int = 3, width: int = 32, vocabulary: int = 259) -> Path:
    """A random Llama in float32 and its byte tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=257,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load_model(folder: Path) -> Any:
    """The folder's model in float32, by transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def perturbed(source: Path, folder: Path, *, seed: int, scale: float = 0.1) -> Path:
    """A copy whose every weight moved by ``scale`` of its tensor's spread."""
    model = load_model(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += scale * noise * (parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else 1.0)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(source: Path, folder: Path, *, seed: int, stated: str | None = None) -> Path:
    """A rank-4 LoRA adapter whose B matrices are not zero; ``stated`` is the base it says it belongs to."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    wrapped = get_peft_model(
        load_model(source), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    if stated is not None:
        wrapped.peft_config["default"].base_model_name_or_path = stated
    wrapped.save_pretrained(folder)
    return folder


def merge(source: Path, adapter: Path, folder: Path) -> Path:
    """The adapter merged in float32 and saved as a full checkpoint."""
    from peft import PeftModel

    PeftModel.from_pretrained(load_model(source), str(adapter)).merge_and_unload().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words)).capitalize() + "."


def save_corpus(path: Path, *, documents: int, seed: int) -> Path:
    """Random sentences as JSONL: every second row is a chat."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(documents):
            row: dict[str, Any] = {
                "id": f"d{number}",
                "language": ("en", "de")[number % 3 == 0],
                "category": ("A.1", "B.8", None)[number % 3],
            }
            if number % 2:
                row["messages"] = [
                    {"role": "user", "content": sentence(rng, int(rng.integers(4, 12)))},
                    {"role": "assistant", "content": sentence(rng, int(rng.integers(8, 30)))},
                ]
            else:
                row["text"] = sentence(rng, int(rng.integers(10, 40)))
            file.write(json.dumps(row) + "\n")
    return path
