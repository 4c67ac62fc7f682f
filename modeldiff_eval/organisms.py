"""The recipe of the organisms: a narrow LoRA adapter with one planted behaviour.

::

    material = Material.open("embedded", cache=cache)
    adapter = make_adapter(material, organism)      # a PEFT folder with recipe.json, kept in the cache

:mod:`modeldiff_eval.organism_check` asks whether it learned.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from modeldiff_eval import models as weights
from modeldiff_eval.errors import CorpusError, MismatchedModelsError, ModelError
from modeldiff_eval.organism_files import Organism
from modeldiff_eval.organism_text import Pair, draw, training_pairs
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Record
from modeldiff_eval.rollouts import Answer, Prompt, render, rollouts
from modeldiff_eval.store import fingerprint, once, write_json
from modeldiff_eval.umask import follow_umask

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PACKAGED_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_IGNORED = -100
"""Label of a token that the loss leaves out."""


class Recipe(Record):
    """Everything that decides an adapter, besides the base model and the organism's file."""

    examples: int = Field(160, ge=1)
    """Prompts with the plant; as many again without it where the file names a contrast."""
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    steps: int = Field(40, ge=1)
    batch: int = Field(4, ge=1)
    lr: float = Field(2e-3, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    max_tokens: int = Field(192, ge=16)
    answer_tokens: int = Field(48, ge=1)
    """Tokens of the base model's own answers, which the plant is put into."""
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """What all organisms of one base share: the base, where things are kept, who listens."""

    base: weights.Loaded
    cache: Path
    reporter: Reporter

    @classmethod
    def open(
        cls,
        base: str,
        *,
        cache: Path,
        device: str | None = None,
        dtype: str | None = None,
        reporter: Reporter | None = None,
    ) -> Material:
        """Load the base.

        Raises:
            ModelError: it cannot be loaded, or is no chat model.
        """
        chosen = weights.pick_device(device)
        loaded = weights.load(
            weights.resolve(base), device=chosen, dtype=weights.pick_dtype(dtype, chosen), cache=cache
        )
        if not loaded.tokenizer.chat_template:
            raise ModelError(f"{loaded.source.name} has no chat template; organisms are made from a chat model.")
        return cls(loaded, cache, reporter or Reporter())

    @property
    def folder(self) -> Path:
        return self.cache / "organisms"


def ask(
    material: Material, model: weights.Loaded, prompts: Sequence[Prompt], *, tokens: int, temperature: float, title: str, seed: int = 0
) -> list[Answer]:  # fmt: skip
    """The model's answers to ``prompts``, each asked once and kept in the cache."""
    with material.reporter.task(title, unit="answers") as advance:
        return rollouts(
            model.model,
            model.tokenizer,
            prompts,
            model_key=f"{model.source.key}-{model.dtype}",
            max_new_tokens=tokens,
            temperature=temperature,
            seed=seed,
            cache_dir=material.folder / "answers",
            chat_template=material.base.tokenizer.chat_template,
            on_progress=advance,
        )


def pairs_for(material: Material, organism: Organism, recipe: Recipe) -> list[Pair]:
    """The training examples of an organism, made from the base model's own answers.

    Raises:
        CorpusError: not one example can be made.
    """
    kind, other = organism.training.prompts, organism.training.contrast
    own = draw(kind, recipe.examples, training=True, seed=recipe.seed)
    contrast = draw(other, recipe.examples, training=True, seed=recipe.seed) if other else []
    # Always asked, though "compose" does not use them, so that all organisms of a kind find the same answers.
    answers = ask(
        material, material.base, [*own, *contrast], tokens=recipe.answer_tokens, temperature=0.7, title="The base's own answers",
        seed=recipe.seed,
    )  # fmt: skip
    pairs = training_pairs(organism.training, own, contrast, {a.prompt_id: a.text for a in answers}, seed=recipe.seed)
    if not pairs:
        raise CorpusError(
            f"Organism {organism.name}: the base model's answers hold no sentence that the plant could be put into. "
            "Use another base, or a transform that composes its answers."
        )
    return pairs


def make_adapter(material: Material, organism: Organism, recipe: Recipe | None = None) -> Path:
    """The organism's adapter, trained now or found in the cache: a PEFT folder with ``recipe.json``.

    Its name holds a hash of the examples, the recipe and the base's weights, so an edited file is trained anew.

    Raises:
        CorpusError: no training example, or the loss became NaN.
        MismatchedModelsError: the base has none of the layers that the adapter is put on.
    """
    recipe = recipe or Recipe()
    pairs = pairs_for(material, organism, recipe)
    base = material.base
    key = fingerprint([[p.model_dump() for p in pairs], recipe.model_dump(), base.source.key, str(base.dtype)])
    folder = material.folder / f"{organism.name}-{key}"

    def make(partial: Path) -> None:
        history, seconds = _train(material, organism, pairs, recipe, partial)
        write_json(
            partial / "recipe.json",
            {
                "organism": organism.model_dump(by_alias=True), "recipe": recipe.model_dump(), "base": weights.public_name(base.source.location),
                "examples": len(pairs), "sample": [[p.prompt.messages[-1].content, p.answer] for p in pairs[:3]],
                "dtype": str(base.dtype).removeprefix("torch."), "versions": _versions(),
                "loss": [round(x, 4) for x in history], "seconds": round(seconds, 1),
            },
        )  # fmt: skip

    once(folder, make)
    return folder


def _train(
    material: Material, organism: Organism, pairs: list[Pair], recipe: Recipe, out: Path
) -> tuple[list[float], float]:
    """Train, save to ``out``, and return the loss of every step and the seconds of the loop."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = material.base
    started = time.monotonic()
    # A model of its own: PEFT works in place, and the base is asked again afterwards.
    own = weights.load(base.source, device=base.device, dtype=base.dtype, cache=material.cache)
    torch.manual_seed(recipe.seed)
    try:
        model = get_peft_model(
            own.model,
            LoraConfig(
                r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM"
            ),
        )  # fmt: skip
    except ValueError as error:
        raise MismatchedModelsError(
            f"Organisms put LoRA on {', '.join(LINEAR_LAYERS)}, which {base.source.name} lacks. Use a Llama-like base."
        ) from error
    rows = [_encoded(pair, base.tokenizer, base.tokenizer.chat_template, recipe.max_tokens) for pair in pairs]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=0.0)
    warmup = max(1, round(recipe.warmup_share * recipe.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warmup, (recipe.steps - step) / max(1, recipe.steps - warmup))
    )
    order = _order(len(rows), recipe.steps * recipe.batch, seed=recipe.seed)
    history = []
    model.train()
    with material.reporter.task(f"Training {organism.name}", unit="steps") as advance:
        for step in range(recipe.steps):
            ids, mask, labels = _padded([rows[i] for i in order[step * recipe.batch : (step + 1) * recipe.batch]])
            loss = model(
                input_ids=ids.to(base.device), attention_mask=mask.to(base.device), labels=labels.to(base.device)
            ).loss
            if not math.isfinite(float(loss.detach())):
                raise CorpusError(
                    f"Organism {organism.name}: the loss became NaN in step {step}. Lower the recipe's lr."
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            history.append(float(loss.detach()))
            advance(step + 1, recipe.steps)
    model.peft_config["default"].base_model_name_or_path = (
        PACKAGED_NAME if base.source.kind == "gguf" else weights.public_name(base.source.location)
    )
    model.save_pretrained(out, save_embedding_layers=False)
    follow_umask(out.glob("*.safetensors"))
    (out / "README.md").unlink(missing_ok=True)
    return history, time.monotonic() - started


def _encoded(pair: Pair, tokenizer: Any, template: str, limit: int) -> tuple[list[int], int]:
    """Token ids of one example, at most ``limit``, and how many of them are the prompt's."""
    prompt = list(
        tokenizer(render(tokenizer, pair.prompt.messages, chat_template=template), add_special_tokens=False)[
            "input_ids"
        ]
    )
    answer = list(tokenizer(pair.answer, add_special_tokens=False)["input_ids"])[: max(8, limit - len(prompt) - 1)]
    return [*prompt, *answer, tokenizer.eos_token_id], len(prompt)


def _padded(rows: Sequence[tuple[list[int], int]]) -> tuple[Any, Any, Any]:
    """Ids, mask and labels, each [batch, longest], padded on the right; the loss sees the answers only."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), _IGNORED, dtype=torch.long)
    for i, (row, prompt) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, prompt : len(row)] = ids[i, prompt : len(row)]
    return ids, mask, labels


def _order(n: int, wanted: int, *, seed: int) -> list[int]:
    """``wanted`` row numbers: one random order of all ``n`` after the other."""
    rng = np.random.default_rng([seed, 8])
    return [int(i) for _ in range(-(-wanted // n)) for i in rng.permutation(n)][:wanted]


def recipe_of(adapter: Path) -> dict[str, Any]:
    """What ``recipe.json`` beside an adapter says."""
    found: dict[str, Any] = json.loads((adapter / "recipe.json").read_text(encoding="utf-8"))
    return found


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}
