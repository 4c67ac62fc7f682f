"""Checkpoints of a training: whole or absent, one file for each rank, exact to continue from.

A file is named ``checkpoint-<step>-<rank>-of-<world>.safetensors``; older steps are removed only when every rank has
written the new one, so that a kill at any moment leaves a complete set.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeldiff_eval.crosscoder_files import write_tensors
from modeldiff_eval.errors import CrosscoderError, OutputError
from modeldiff_eval.store import PARTIAL
from modeldiff_eval.train_step import Trainer

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
_FILE = re.compile(r"checkpoint-(\d+)-(\d+)-of-(\d+)\.safetensors")


def save(trainer: Trainer, folder: Path) -> None:
    """Write this rank's part, then drop older steps.

    Raises:
        OutputError: the disk is full or gone; the checkpoint of before is still there.
    """
    tensors = dict(zip(NAMES, trainer.parameters, strict=True)) | {
        "silent_rows": trainer.silent_rows, "mean": trainer.mean, "scale": trainer.scale,
    }  # fmt: skip
    for name, parameter in zip(NAMES, trainer.parameters, strict=True):
        if state := trainer.optimiser.state[parameter]:
            tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
    metadata = {"selector": json.dumps(trainer.selector.state()), "settings": trainer.settings.model_dump_json()}
    failure: OutputError | None = None
    try:
        write_tensors(folder / _name(trainer.step_number, trainer.ranks.rank, trainer.ranks.world), tensors, metadata)
    except OutputError as error:
        failure = error
    # All ranks stay in step, whatever happened to one of them.
    if not trainer.ranks.minimum(int(failure is None)):
        raise failure or OutputError(f"Another rank could not write its part of the checkpoint in {folder}.")
    for old, (step, rank, _) in _files(folder).items():
        if rank == trainer.ranks.rank and step < trainer.step_number:
            old.unlink(missing_ok=True)


def restore(trainer: Trainer, folder: Path) -> bool:
    """Continue from the newest complete checkpoint, if there is one.

    Raises:
        CrosscoderError: it was made by other settings or another number of ranks, or cannot be read.
    """
    step = newest(folder, trainer.ranks.world)
    if step is None:
        return False
    path = folder / _name(step, trainer.ranks.rank, trainer.ranks.world)
    tensors, metadata = _read(path)
    _require_settings(path, json.loads(metadata["settings"]), json.loads(trainer.settings.model_dump_json()))
    for name, parameter in zip(NAMES, trainer.parameters, strict=True):
        parameter.copy_(tensors[name])
        if f"m.{name}" in tensors:
            trainer.optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": tensors[f"m.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"v.{name}"].to(parameter.device),
            }
    trainer.silent_rows.copy_(tensors["silent_rows"])
    trainer.mean, trainer.scale = tensors["mean"].to(trainer.mean), tensors["scale"].to(trainer.scale)
    trainer.selector.set_state(json.loads(metadata["selector"]))
    trainer.step_number = step
    return True


def weights(folder: Path, world: int) -> dict[str, Tensor]:
    """W_enc, b_enc, W_dec and b_dec of the newest checkpoint, the latents of all ranks together."""
    step = newest(folder, world)
    if step is None:
        raise CrosscoderError(f"{folder} holds no complete checkpoint of {world} ranks.")
    paths = [folder / _name(step, rank, world) for rank in range(world)]
    joined = {name: torch.cat([_read(path, name)[0][name] for path in paths]) for name in NAMES[:3]}
    return joined | _read(paths[0], "b_dec")[0]


def remove(folder: Path) -> None:
    """Delete every checkpoint of a training that is finished, and what a kill in the middle of a write left."""
    for path in [*_files(folder), *(path for path in folder.glob(f"*{PARTIAL}") if path.is_file())]:
        path.unlink(missing_ok=True)


def newest(folder: Path, world: int) -> int | None:
    """The newest step that all ranks have written, or None.

    Raises:
        CrosscoderError: there are complete checkpoints, but of another number of ranks.
    """
    found: dict[tuple[int, int], int] = {}
    for step, _, of in _files(folder).values():
        found[step, of] = found.get((step, of), 0) + 1
    complete = [(step, of) for (step, of), n in found.items() if n == of]
    steps = [step for step, of in complete if of == world]
    if complete and not steps:
        raise CrosscoderError(
            f"The checkpoint in {folder} was written by {complete[-1][1]} processes; this run has {world}. Start as many, or remove it."
        )
    return max(steps, default=None)


def _name(step: int, rank: int, world: int) -> str:
    return f"checkpoint-{step}-{rank}-of-{world}.safetensors"


def _files(folder: Path) -> dict[Path, tuple[int, int, int]]:
    matches = {path: _FILE.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return {
        path: (int(match[1]), int(match[2]), int(match[3]))
        for path, match in sorted(matches.items())
        if match is not None
    }


def _read(path: Path, *names: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors called ``names``, or all, and what is noted beside them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in names or file.keys()}
            return tensors, file.metadata()
    except (OSError, SafetensorError) as error:
        raise CrosscoderError(
            f"The checkpoint {path} cannot be read ({error}); the disk may have failed. Remove it to train from the start."
        ) from error


def _require_settings(path: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    differing = [name for name in asked if held.get(name) != asked[name]]
    if differing:
        what = ", ".join(f"{name} {held.get(name)} there, {asked[name]} now" for name in differing)
        raise CrosscoderError(
            f"The checkpoint {path} belongs to other settings ({what}). Use those, another folder, or remove it."
        )
