"""Find and read a trained crosscoder, wherever it is and whoever wrote it.

A crosscoder is named by a folder, or by ``ORG/NAME[@REVISION][:FOLDER]`` on the hub. Its format is told by what the folder
holds: our native and jumprelu forms, dictionary_learning, ckkissane. Pickles are refused with the line that converts them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modeldiff_eval import crosscoder as coders
from modeldiff_eval import crosscoder_formats as formats
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.crosscoder_files import read_config, read_tensors
from modeldiff_eval.errors import CrosscoderError, UnsafeWeightsError, UsageError
from modeldiff_eval.hub import patiently

Layout = Literal["native", "jumprelu", "dictionary_learning", "ckkissane"]
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<folder>[^:]+))?")
_CONFIGS = ("cfg.json", "config.json")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_USUAL_WEIGHTS = (coders.WEIGHTS_FILE, "model.safetensors", "cc_weights.safetensors")
_DEPTH = 3
_LISTED = 20
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file({k.removeprefix('_orig_mod.'): v.clone().contiguous() for k, v in "
    "torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])"
)


@dataclass(frozen=True)
class Found:
    """A folder that holds one crosscoder."""

    folder: Path
    layout: Layout
    weights: Path
    name: str
    revision: str | None = None


def resolve(spec: str, *, scale: tuple[float, float] | None = None) -> tuple[Crosscoder, dict[str, Any]]:
    """Read the crosscoder that ``spec`` names.

    Args:
        spec: a folder, or ``ORG/NAME[@REVISION][:FOLDER]``.
        scale: factor of each model's activations, for formats that do not say how they were normalised.

    Returns:
        The crosscoder and its metadata; ``metadata["caveat"]``, where there is one, says what a reader must know.

    Raises:
        CrosscoderError: nothing there, not a crosscoder, damaged, or one that ours cannot express.
        UnsafeWeightsError: it is pickled.
        UsageError: ``scale`` does not apply.
    """
    return read(find(spec), scale=scale)


def read(found: Found, *, scale: tuple[float, float] | None = None) -> tuple[Crosscoder, dict[str, Any]]:
    """:func:`resolve` for a folder that was found already."""
    if found.layout in ("native", "jumprelu"):
        if scale is not None:
            raise UsageError(f"{found.name} carries its own normaliser; leave --scale out.")
        crosscoder, metadata = coders.load(found.folder)
        metadata = json_safe(metadata)
    else:
        config = _config(found.folder)
        take = formats.from_ckkissane if found.layout == "ckkissane" else formats.from_dictionary_learning
        try:
            crosscoder, caveats = take(read_tensors(found.weights), config, where=found.name, scale=scale)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise CrosscoderError(
                f"{found.name} is not a {found.layout} crosscoder that can be read: {error!r}."
            ) from error
        metadata = {"imported_from": found.name, "format": found.layout, "config": json_safe(config)}
        if caveats:
            metadata["caveat"] = " ".join(caveats)
    if found.revision:
        metadata["revision"] = found.revision
    if (quality := _quality(found.folder)) is not None:
        metadata.setdefault("quality", quality)
    return crosscoder, metadata


def find(spec: str) -> Found:
    """The one crosscoder that ``spec`` names, fetched from the hub where it is not a path.

    Raises:
        CrosscoderError: nothing there, no crosscoder, or more than one.
        UnsafeWeightsError: it is pickled.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return _choose(path, str(path))
    if path.is_file():
        if path.suffix in _PICKLES:
            raise UnsafeWeightsError(_pickled(str(path), [path]))
        raise CrosscoderError(f"{path} is a file; name the folder that holds it.")
    match = None if spec.startswith((".", "~")) else _HUB_NAME.fullmatch(spec)
    if match is None:
        raise CrosscoderError(
            f"There is no folder {spec}, and a hub name looks like ORG/NAME[@REVISION][:FOLDER]. Check the path."
        )
    if ".." in Path(match["folder"] or "").parts:
        raise CrosscoderError(f"{spec}: the folder leads out of the repository. Name one inside it.")
    return _fetch(spec, match["repo"], match["revision"], match["folder"] or "")


# A folder ---------------------------------------------------------------------------------------------


def _choose(root: Path, name: str, *, listing: Iterable[str] | None = None, revision: str | None = None) -> Found:
    """The only crosscoder in ``root`` or below it; of our two forms side by side, the native one."""
    candidates = _candidates(root)
    if not candidates:
        _refuse(root, name, listing)
    if len(candidates) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in candidates)
        how = f"{name}:FOLDER" if listing is not None else "that folder"
        raise CrosscoderError(f"{name} holds {len(candidates)} crosscoders: {names}. Name one, as {how}.")
    ((folder, layout),) = candidates.items()
    return Found(folder, layout, _weights(folder, name, listing), name, revision)


def _candidates(root: Path) -> dict[Path, Layout]:
    found: dict[Path, Layout] = {}
    for depth in range(_DEPTH + 1):
        for folder in sorted({path.parent for path in root.glob("*/" * depth + "*.*") if path.is_file()}):
            if (layout := _layout(folder)) is not None:
                found[folder] = layout
        if found:
            break
    return {
        folder: layout
        for folder, layout in found.items()
        if not (layout == "jumprelu" and found.get(folder.with_name("native")) == "native")
    }


def _layout(folder: Path) -> Layout | None:
    """Told by the config where there is one, else by the tensors' names."""
    config = _config(folder)
    if "architecture" in config and "d_sae" in config:
        coders.require_architecture(config, folder)
        return "jumprelu" if config["architecture"] == "jumprelu" else "native"
    inner = config.get("trainer", config)
    if isinstance(inner, dict) and {"dict_size", "activation_dim"} <= inner.keys():
        return "dictionary_learning"
    if {"dict_size", "d_in"} <= config.keys():
        return "ckkissane"
    for path in _safetensors(folder):
        names = {name.removeprefix("_orig_mod.") for name in _tensor_names(path)}
        if {"encoder.weight", "decoder.weight"} <= names:
            return "dictionary_learning"
        if {"W_enc", "W_dec"} <= names:
            return "native" if "mean" in names else "ckkissane"
    return None


def _config(folder: Path) -> dict[str, Any]:
    for name in _CONFIGS:
        if (folder / name).is_file():
            return read_config(folder / name)
    return {}


def _safetensors(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("checkpoint-"))


def _tensor_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise CrosscoderError(f"{path} cannot be read ({error}); it may be half written. Fetch it again.") from error


def _weights(folder: Path, name: str, listing: Iterable[str] | None) -> Path:
    files = _safetensors(folder)
    for usual in _USUAL_WEIGHTS:
        if folder / usual in files:
            return folder / usual
    if len(files) == 1:
        return files[0]
    if files:
        raise CrosscoderError(f"{name} holds several weight files, {', '.join(p.name for p in files)}; keep one.")
    if pickles := _pickles(folder):
        raise UnsafeWeightsError(_pickled(name, pickles))
    raise CrosscoderError(f"{name} has a config but no weights. {_holds(folder, listing)}")


def _refuse(root: Path, name: str, listing: Iterable[str] | None) -> None:
    if any(root.glob("checkpoint-*.safetensors")):
        raise CrosscoderError(f"{name} holds an unfinished training. Continue it, or look at it with crosscoder info.")
    if pickles := _pickles(root):
        raise UnsafeWeightsError(_pickled(name, pickles))
    raise CrosscoderError(
        f"{name} holds no crosscoder: neither ours (cfg.json, {coders.WEIGHTS_FILE}) nor dictionary_learning's (config.json, "
        f"model.safetensors) nor ckkissane's (cfg.json, cc_weights.safetensors). {_holds(root, listing)}"
    )


def _holds(root: Path, listing: Iterable[str] | None) -> str:
    if listing is None:
        listing = (
            str(p.relative_to(root)) for d in range(_DEPTH + 1) for p in root.glob("*/" * d + "*") if p.is_file()
        )
    names = sorted(listing)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"It holds: {', '.join(names[:_LISTED]) or 'no files'}{more}."


def _pickles(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in _PICKLES)


def _pickled(name: str, pickles: list[Path], fetch: str = "") -> str:
    path = pickles[0]
    command = shlex.join(["python", "-c", _CONVERT, str(path), str(path.with_suffix(".safetensors"))])
    return (
        f"{name} is pickled ({path.name}), and opening a pickle can run any code. If you trust its author, convert it and give the "
        f"folder:\n{fetch}{command}"
    )


def _quality(folder: Path) -> dict[str, Any] | None:
    """Measured quality that a training wrote beside the weights."""
    beside = folder.parent if folder.name in ("native", "jumprelu") else folder
    for path in (folder / "quality.json", beside / "quality.json"):
        if path.is_file():
            return read_config(path)
    return None


# The hub ----------------------------------------------------------------------------------------------


def _fetch(spec: str, repo: str, revision: str | None, folder: str) -> Found:
    """Fetch the configs, tell the format by them, then fetch the weights of that folder only."""
    prefix = f"{folder.strip('/')}/" if folder else ""
    names = [*_CONFIGS, "quality.json"]
    snapshot = _download(repo, revision, [prefix + name for name in names] + [f"{prefix}*/{name}" for name in names])
    listing = _listing(repo, revision, snapshot)
    candidates = _candidates(snapshot / prefix)
    if len(candidates) == 1:
        below = next(iter(candidates)).relative_to(snapshot)
        pattern = str(below / "*.safetensors") if below.parts else "*.safetensors"
        _download(repo, revision, [pattern])
        pickles = [name for name in listing if Path(name).parent == below and Path(name).suffix in _PICKLES]
        if pickles and not _safetensors(snapshot / below):
            local = Path(repo.split("/")[1])
            fetch = shlex.join(["hf", "download", repo, "--include", str(below / "*"), "--local-dir", str(local)])
            if revision:
                fetch += f" --revision {shlex.quote(revision)}"
            raise UnsafeWeightsError(_pickled(spec, [local / name for name in pickles], fetch + " && "))
    return _choose(snapshot / prefix, spec, listing=listing, revision=snapshot.name)


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(patiently(repo, lambda: snapshot_download(repo, revision=revision, allow_patterns=patterns)))
    except Exception as error:  # the hub client has many error types; all mean "not here"
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CrosscoderError(
            f"There is no folder {repo}, and no hub repository of that name could be fetched: {reason} Check the spelling and your "
            "connection; private repositories need `hf auth login`."
        ) from error


def _listing(repo: str, revision: str | None, snapshot: Path) -> list[str]:
    """All files of the repository, or those at hand when the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(repo, revision=revision))
    except Exception:  # offline: the snapshot is what is known
        return [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]


def json_safe(value: Any) -> Any:
    """``value`` without NaN and infinity, which JSON cannot hold: they become null."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(inner) for inner in value]
    if isinstance(value, float):
        return value if json.dumps(value) not in ("NaN", "Infinity", "-Infinity") else None
    return value
