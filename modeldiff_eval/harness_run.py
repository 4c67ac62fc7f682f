"""One comparison with the model that lm-eval has loaded, from the metadata of a task."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.in_memory import adapter_off, is_adapted
from modeldiff_eval.models import EMBEDDED, embedded_gguf, public_name
from modeldiff_eval.records import Card
from modeldiff_eval.settings import Settings, make_settings

_ELSEWHERE = {
    "base": "The base is base_model=ID.",
    "tuned": "The tuned model is the one that lm-eval evaluates: --model_args pretrained=ID.",
    "tasks": "Benchmarks stand beside this task: --tasks modeldiff,arc_easy.",
    "task_limit": "lm-eval has --limit.",
    "num_fewshot": "lm-eval has --num_fewshot.",
    "cluster_by": "It belongs to saved results, which `modeldiff-eval --benchmarks` reads.",
    "benchmarks": "Saved results are read by `modeldiff-eval --benchmarks`.",
}
"""Settings that are no metadata, and where what they do belongs."""
_OF_THE_MODEL = frozenset({"device", "dtype", "max_length", "batch_size", "max_batch_size"})
"""Names that are lm-eval's here: those of :class:`Settings` among them are not read from the metadata."""
SETTINGS = frozenset(Settings.model_fields) - frozenset(_ELSEWHERE) - _OF_THE_MODEL
"""Metadata that is handed on to the comparison: ``layer``, ``tokens``, ``crosscoder``, ``preset`` and the like."""
OWN = frozenset({"base_model", "card", "out"})
"""Metadata of the task itself. ``out`` is the run's folder."""
_OF_LM_EVAL = frozenset({"version", "config_source"})


def check_names(metadata: Mapping[str, Any]) -> list[str]:
    """Refuse misspelt metadata, and return names that mean nothing here (other tasks may read them).

    lm-eval merges its model arguments into the metadata of every task, so names of its models' own parameters are let pass.

    Raises:
        UsageError: a name is close to one of ours, or belongs elsewhere.
    """
    from lm_eval.models.huggingface import HFLM

    theirs = frozenset(inspect.signature(HFLM.__init__).parameters) | _OF_LM_EVAL | _OF_THE_MODEL
    unknown = []
    for name in sorted(map(str, metadata.keys() - SETTINGS - OWN - theirs)):
        if name in _ELSEWHERE:
            raise UsageError(f"The task modeldiff takes no metadata {name!r}. {_ELSEWHERE[name]}")
        if hint := did_you_mean(name, SETTINGS | OWN, cutoff=0.8):
            raise UsageError(
                f"The task modeldiff knows no metadata {name!r}.{hint} Settings are those of `modeldiff-eval --help`."
            )
        unknown.append(name)
    return unknown


def require_live(lm: Any) -> None:
    """Refuse what cannot be looked into: an API, another engine, several processes.

    Raises:
        UsageError: which of these it is, and what to do.
    """
    import torch

    name = type(lm).__name__
    if not isinstance(getattr(lm, "model", None), torch.nn.Module) or getattr(lm, "tokenizer", None) is None:
        raise UsageError(
            f"The task modeldiff looks inside the model, which {name} does not allow. Run it with --model hf, or show a "
            "finished run: --metadata card=PATH."
        )
    if getattr(lm, "backend", "causal") != "causal":
        raise UsageError(f"The task modeldiff compares decoder-only models; this one's backend is {lm.backend!r}.")
    require_one_process(getattr(lm, "world_size", 1))


def require_one_process(world_size: int) -> None:
    """Raise UsageError when several processes evaluate."""
    if max(world_size, int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(
            "The task modeldiff runs in one process. Start lm-eval without accelerate launch or torchrun for it, and the "
            "benchmarks in a run of their own."
        )


def compare(lm: Any, metadata: Mapping[str, Any]) -> tuple[Card, Path]:
    """The card that the metadata asks for, and where it is: a finished one, or a comparison with the loaded model now."""
    if metadata.get("card"):
        path = Path(str(metadata["card"])).expanduser()
        return read_card(path), path / "card.json" if path.is_dir() else path
    require_live(lm)
    return run_pair(lm, metadata)


def run_pair(lm: Any, metadata: Mapping[str, Any]) -> tuple[Card, Path]:
    """Compare the model that lm-eval has loaded with its base; the card and its path.

    The base is ``base_model``; where that is left out, or names the model under the adapter, it is that model with the
    adapter off, and nothing is loaded.

    Raises:
        UsageError: no base is named and the model has no adapter.
        ModelDiffError: the models cannot be compared; see :mod:`modeldiff_eval.errors`.
    """
    from rich.console import Console

    from modeldiff_eval.diff import diff
    from modeldiff_eval.terminal import TerminalReporter

    settings, toggled = pair_settings(lm, metadata)
    default = Path("runs") / "lm-eval" / f"{_folder_name(settings.tuned)}--{_folder_name(settings.base)}"
    out = Path(str(metadata.get("out") or default))
    run = diff(
        settings=settings,
        out=out,
        base_loaded=(adapter_off(lm.model), lm.tokenizer) if toggled else None,
        tuned_loaded=(lm.model, lm.tokenizer),
        reporter=TerminalReporter(Console(stderr=True)),
    )
    return run.card, run.out / "card.json"


def pair_settings(lm: Any, metadata: Mapping[str, Any]) -> tuple[Settings, bool]:
    """Settings of the comparison, and whether the base is the loaded model with its adapter off."""
    loaded = _name_of(lm, metadata)
    adapted = is_adapted(lm.model)
    base = str(metadata.get("base_model") or (loaded if adapted else ""))
    if not base:
        raise UsageError(needs_base())
    adapter = getattr(lm, "peft", None) or metadata.get("peft") or next(iter(getattr(lm.model, "peft_config", ())), "")
    given: dict[str, Any] = {name: value for name, value in metadata.items() if name in SETTINGS and value is not None}
    for name, value in given.items():
        if isinstance(value, str) and get_origin(Settings.model_fields[name].annotation) is tuple:
            given[name] = (value,)
    settings, _ = make_settings(
        {
            "base": base,
            "tuned": str(adapter) if adapted else loaded,
            "device": str(lm.model.device),
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            **given,
        },
        environ={},
    )
    # lm-eval runs the benchmarks, beside this task.
    return settings.model_copy(update={"tasks": ()}), adapted and _place(base) == _place(loaded)


def needs_base() -> str:
    """What to say when no base is named."""
    return (
        "The task modeldiff needs its base: --metadata base_model=ID (a hub id, a folder or a .gguf file), or --model_args "
        "peft=ADAPTER, whose base is the model under it; or card=PATH of a finished run."
    )


def run_key(metadata: Mapping[str, Any]) -> str:
    """Equal for two tasks that ask for the same comparison."""
    wanted = {name: value for name, value in metadata.items() if name in SETTINGS | OWN}
    return json.dumps(wanted, sort_keys=True, default=str)


def _name_of(lm: Any, metadata: Mapping[str, Any]) -> str:
    """What the evaluated model (under its adapter) was loaded from."""
    name = getattr(lm, "pretrained", None)
    if not isinstance(name, str):
        model = lm.model.get_base_model() if is_adapted(lm.model) else lm.model
        name = str(model.name_or_path or metadata.get("pretrained") or "evaluated")
    return str(Path(name) / str(metadata["gguf_file"])) if metadata.get("gguf_file") else name


def _place(model: str) -> str:
    """Equal for two names of one file or folder; a hub id stands for itself."""
    path = embedded_gguf() if model == EMBEDDED else Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def _folder_name(model: str) -> str:
    return public_name(model).replace("/", "__").replace("\\", "__")
