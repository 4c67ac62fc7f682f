"""Tensors and settings of a crosscoder on disk: whole or absent, never pickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modeldiff_eval.errors import CrosscoderError, OutputError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.store import PARTIAL
from modeldiff_eval.umask import follow_umask


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from disk.

    Raises:
        CrosscoderError: it is not one.
    """
    try:
        config = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrosscoderError(f"{path} cannot be read ({error}); it may be half written.") from error
    if not isinstance(config, dict):
        raise CrosscoderError(f"{path} holds {type(config).__name__}, expected a JSON object.")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CrosscoderError: it is truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CrosscoderError(
            f"{path} cannot be read ({error}); it may be half written. Train or fetch it again."
        ) from error


def require_tensors(weights: Mapping[str, Tensor], names: tuple[str, ...], where: object) -> None:
    """Raise CrosscoderError unless all of ``names`` are there."""
    if missing := [name for name in names if name not in weights]:
        raise CrosscoderError(
            f"{where} lacks the tensor{'s' * (len(missing) > 1)} {', '.join(missing)}; it holds {', '.join(sorted(weights)) or 'none'}."
        )


def write_tensors(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is whole or absent.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial, metadata)
        follow_umask([partial])
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {path}: {error}. Free some space or choose another folder.") from error
