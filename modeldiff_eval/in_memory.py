"""Models that someone else has loaded: lm-eval, or a notebook.

Their weights are used as they stand, never changed and never loaded again; what identifies them is a hash of their weights.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeldiff_eval.errors import ModelError, UsageError
from modeldiff_eval.models import Loaded, Source
from modeldiff_eval.settings import Settings

if TYPE_CHECKING:
    import torch

_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of initialising LoRA that take something out of the base's own weights."""


def in_memory(
    settings: Settings, *, base: tuple[Any, Any] | None = None, tuned: tuple[Any, Any] | None = None
) -> dict[str, Loaded]:
    """Models by role, from (model, tokenizer) of those that are loaded already.

    A PEFT model counts as its foundation with an adapter, unmerged; the card names both.

    Raises:
        UsageError: the adapter adds tokens to the text instead of changing layers.
    """
    found: dict[str, Loaded] = {}
    if base is not None:
        found["base"] = _loaded(*base, Source(settings.base, "folder", settings.base, None, None, _digest(base[0])))
    if tuned is not None:
        model, name = tuned[0], settings.tuned
        source = Source(name, "folder", name, None, None, _digest(model))
        if is_adapted(model):
            require_layers(model)
            foundation = str(model.get_base_model().name_or_path or settings.base)
            root = found["base"].source.key if base is not None else source.key
            source = dataclasses.replace(source, location=foundation, adapter=Path(name), key=f"{root}+{source.key}")
        found["tuned"] = _loaded(*tuned, source)
    return found


def is_adapted(model: Any) -> bool:
    """Whether this is a PEFT model, with its adapter beside the weights and not merged into them."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def require_layers(model: Any) -> None:
    """Refuse adapters that put virtual tokens before the text: their layers alone do not compute what the model does."""
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        kind = next(str(config.peft_type.value) for config in model.peft_config.values() if config.is_prompt_learning)
        raise UsageError(
            f"The adapter is of the kind {kind}, which adds virtual tokens and changes no layer; a crosscoder has nothing to "
            "compare. Use an adapter that changes layers, such as LoRA."
        )


def adapter_off(model: Any) -> Any:
    """The base of a PEFT model, as a model of its own that shares every tensor with it: no second load, no memory.

    It computes what ``with model.disable_adapter():`` does, and both can run at the same time.

    Raises:
        UsageError: with its adapter off the model would not be its base.
    """
    from peft.utils import ModulesToSaveWrapper

    require_layers(model)
    for config in model.peft_config.values():
        start = str(getattr(config, "init_lora_weights", "")).lower()
        if getattr(config, "bias", "none") != "none" or start.startswith(_CHANGES_THE_BASE):
            raise UsageError(
                "This adapter changed weights of the model beneath it (its configuration says "
                f"bias={getattr(config, 'bias', 'none')!r}, init_lora_weights={start!r}), so the model with the adapter off is not "
                "the base. Name the base: base_model=ID."
            )
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for name, module in list(twin.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # unload() would keep its trained copy.
            parent, _, own = name.rpartition(".")
            setattr(twin.get_submodule(parent), own, module.original_module)
    return twin.unload().eval()


def in_precision(loaded: Loaded, dtype: torch.dtype) -> Loaded:
    """A copy of a loaded model that computes in ``dtype``.

    Raises:
        ModelError: its weights are quantised and stay what they are.
    """
    try:
        model = copy.deepcopy(loaded.model).to(dtype)
    except ValueError as error:
        raise ModelError(
            f"{loaded.source.name} cannot be cast to {dtype}: {str(error).splitlines()[0]} The null control needs that; "
            "null_tokens=0 leaves it out."
        ) from error
    return dataclasses.replace(loaded, model=model, dtype=dtype)


def _loaded(model: Any, tokenizer: Any, source: Source) -> Loaded:
    return Loaded(source, model, tokenizer, model.device, model.dtype)


def _digest(model: Any) -> str:
    """Identifies the weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).float().numpy().tobytes())
    return digest.hexdigest()[:16]
