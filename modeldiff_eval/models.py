"""Models: refuse what cannot be compared, load weights safely; :mod:`modeldiff_eval.model_sources` says what a name means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeldiff_eval.errors import MismatchedModelsError, ModelError
from modeldiff_eval.model_sources import EMBEDDED as EMBEDDED
from modeldiff_eval.model_sources import Source as Source
from modeldiff_eval.model_sources import embedded_gguf as embedded_gguf
from modeldiff_eval.model_sources import is_adapter as is_adapter
from modeldiff_eval.model_sources import public_name as public_name
from modeldiff_eval.model_sources import resolve as resolve
from modeldiff_eval.model_sources import resolve_all as resolve_all
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.records import ModelInfo
from modeldiff_eval.store import once, write_json
from modeldiff_eval.umask import follow_umask

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Loaded:
    """A model ready to run, with the dtype and device it computes in."""

    source: Source
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    caveats: list[str] = field(default_factory=list)

    @property
    def n_layers(self) -> int:
        return len(blocks(self.model))

    @property
    def d_model(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def info(self) -> ModelInfo:
        """The record of this model for the card."""
        source = self.source
        return ModelInfo(
            id=public_name(source.location),
            revision=source.revision or source.foundation.key,
            adapter=public_name(str(source.adapter)) if source.adapter else None,
            dtype=str(self.dtype).removeprefix("torch."),
            n_layers=self.n_layers,
            d_model=self.d_model,
        )


def load_config(source: Source, *, cache: Path) -> Any:
    """The model's configuration, without its weights."""
    from transformers import AutoConfig

    folder = _dequantised(source, cache) if source.kind == "gguf" else Path(source.location)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=source.trust_remote_code, local_files_only=True)
    except Exception as error:
        raise ModelError(f"Cannot read the configuration of {source.name}: {_first_line(error)}") from error


def pick_device(device: str | None) -> torch.device:
    """``cuda``, ``mps`` or ``cpu``, the first that is there, unless one is asked for."""
    import torch

    if device:
        try:
            chosen = torch.device(device)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """bf16 where the hardware computes in it, else float32, unless one is asked for."""
    import torch

    if dtype:
        return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        return (
            torch.bfloat16
            if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_instructions()
            else torch.float32
        )
    return torch.float32


def _has_bf16_instructions() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


def load(source: Source, *, device: torch.device, dtype: torch.dtype, cache: Path) -> Loaded:
    """Load weights; an adapter is merged in float32 before the cast, so a merged checkpoint computes the same.

    Raises:
        ModelError: the weights are unreadable. MismatchedModelsError: the adapter does not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = _dequantised(source, cache) if source.kind == "gguf" else Path(source.location)
    load_dtype = torch.float32 if source.adapter else dtype
    caveats: list[str] = []
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=load_dtype,
            use_safetensors=True,
            trust_remote_code=source.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(
            f"Cannot load {source.name}: {_first_line(error)} The file may be half downloaded; fetch it again."
        ) from error
    if absent := sorted(loading["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError(
            f"{source.name} has no weights for {absent[0]} and {len(absent) - 1} other tensors that its configuration asks for. "
            "Fetch it again, or check config.json."
        )
    if source.adapter:
        model, caveats = _merge_adapter(model, source)
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return Loaded(source, model, load_tokenizer(source, cache=cache), device, dtype, caveats)


def load_tokenizer(source: Source, *, cache: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer; an adapter folder's own one, with its chat template, comes first."""
    from transformers import AutoTokenizer

    folder = _dequantised(source, cache) if source.kind == "gguf" else Path(source.location)
    if source.adapter and (source.adapter / "tokenizer.json").exists():
        folder = source.adapter
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=source.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        raise ModelError(f"Cannot load the tokenizer of {source.name}: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if "trust_remote_code" in str(error):
        return f"{line} Add --trust-remote-code to run that code, if you trust it."
    return line if line.endswith(".") else line + "."


def _dequantised(source: Source, cache: Path) -> Path:
    """De-quantise a GGUF once into the cache as float32 safetensors."""
    folder = cache / "models" / f"gguf-{source.foundation.key}"

    def make(partial: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = Path(source.location)
        try:
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:
            raise ModelError(
                f"Cannot read {path}: {_first_line(error)} Is this GGUF's architecture known to transformers?"
            ) from error
        config = model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(partial, safe_serialization=True)
        follow_umask(partial.glob("*.safetensors"))
        tokenizer.save_pretrained(partial)
        write_json(partial / "gguf.json", {"names": _gguf_names(path)})

    once(folder, make)
    return folder


def _gguf_names(path: Path) -> list[str]:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    names = [str(fields[key].contents()) for key in ("general.name", "general.basename") if key in fields]
    return [*names, path.stem]


def _merge_adapter(model: PreTrainedModel, source: Source) -> tuple[PreTrainedModel, list[str]]:
    from peft import PeftModel

    assert source.adapter is not None
    config = read_json((source.adapter / "adapter_config.json").read_text())
    stated = str(config.get("base_model_name_or_path") or "")
    try:
        wrapped = PeftModel.from_pretrained(model, str(source.adapter), autocast_adapter_dtype=True)
        _require_all_placed(wrapped, source.adapter)
        merged: Any = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise MismatchedModelsError(
            f"The adapter {source.adapter} does not fit {source.location}: {_first_line(error)} "
            f"It says it was trained on {stated or 'an unnamed model'}; give that model as --base."
        ) from error
    caveats = []
    known = {_plain(Path(source.location).name), _plain(source.location.split("/")[-1])}
    known |= {_plain(part) for part in Path(source.location).parts}
    if stated and not any(
        _plain(stated.split("/")[-1]) in name or (name and name in _plain(stated)) for name in known if len(name) > 3
    ):
        caveats.append(
            f"The adapter {source.adapter.name} says it was trained on {stated}; it was applied to {public_name(source.location)}, whose shapes fit."
        )
    return merged, caveats


def _require_all_placed(wrapped: Any, adapter: Path) -> None:
    """Raise ValueError unless the adapter's LoRA tensors are exactly those of the wrapped model; PEFT drops others silently."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    ours = {name for name in get_peft_model_state_dict(wrapped, save_embedding_layers=False) if "lora_" in name}
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = {name for name in file.keys() if "lora_" in name}  # noqa: SIM118 (not a dictionary)
    if odd := sorted(stored ^ ours):
        place = "the model" if odd[0] in stored else "the adapter"
        raise ValueError(f"{odd[0]} and {len(odd) - 1} other tensors are missing in {place}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def blocks(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The decoder blocks, in order.

    Raises:
        ModelError: no list of blocks of the stated depth was found.
    """
    import torch

    config = model.config.get_text_config()
    depth = int(config.num_hidden_layers)
    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if not found:
        raise ModelError(
            f"No list of {depth} decoder blocks was found in {type(model).__name__}; its layers cannot be hooked."
        )
    return list(found[0])


def check_comparable(
    models: dict[str, tuple[Source, Any, PreTrainedTokenizerBase]], sample: Sequence[str]
) -> list[str]:
    """Refuse models that do not share width, depth and tokenizer.

    Args:
        models: role → (source, configuration, tokenizer).
        sample: texts of the corpus that every tokenizer must encode alike.

    Returns:
        Caveats about harmless differences.
    """
    (first_role, (first, config, tokenizer)), *others = models.items()
    caveats: list[str] = []
    for role, (source, other_config, other_tokenizer) in others:
        for name, words in (("hidden_size", "d_model"), ("num_hidden_layers", "layers")):
            a, b = getattr(config.get_text_config(), name), getattr(other_config.get_text_config(), name)
            if a != b:
                raise MismatchedModelsError(
                    f"{first.name} ({first_role}) has {words} {a}, {source.name} ({role}) has {b}; a crosscoder needs a fine-tune "
                    f"of the same architecture. Is {source.name} tuned from {first.name}?"
                )
        for text in sample:
            a_ids, b_ids = (
                tokenizer(text, add_special_tokens=False).input_ids,
                other_tokenizer(text, add_special_tokens=False).input_ids,
            )
            if a_ids != b_ids:
                at = next(
                    (i for i, (a, b) in enumerate(zip(a_ids, b_ids, strict=False)) if a != b),
                    min(len(a_ids), len(b_ids)),
                )
                raise MismatchedModelsError(
                    f"The tokenizers of {first.name} ({first_role}) and {source.name} ({role}) differ: on {text[:40]!r} token {at} is "
                    f"{a_ids[at : at + 1]} in the one and {b_ids[at : at + 1]} in the other. Both models must read the same tokens."
                )
        if len(tokenizer) != len(other_tokenizer):
            caveats.append(
                f"The tokenizers of {first_role} and {role} have {len(tokenizer)} and {len(other_tokenizer)} entries; the corpus encodes identically."
            )
    return caveats
