"""The plan of a run from its settings: for ``--dry-run``, and to refuse at once what cannot fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from modeldiff_eval.errors import ModelError, SettingsError
from modeldiff_eval.plan import GEMMA_2_9B, Plan, Shape, make_job, plan, shape_of, sizes
from modeldiff_eval.plan_machine import Machine, machine
from modeldiff_eval.settings import PAPER_MODEL, Settings

if TYPE_CHECKING:
    import torch


def plan_run(settings: Settings, cache: Path, *, ranks: int = 1) -> Plan:
    """Memory, disk and time of a run here; a few seconds of measuring.

    Raises:
        ModelError: the base model's configuration cannot be read.
        SettingsError: impossible layer or ranks.
    """
    from modeldiff_eval.models import pick_device, pick_dtype

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    job = make_job(settings, _shape(settings), dtype_bytes=dtype.itemsize, ranks=ranks)
    share = settings.heldout_share
    return plan(job, cache=cache, device=device, dtype=dtype, heldout_share=share, place=_place(cache, device))


def require_room(settings: Settings, cache: Path, *, ranks: int = 1) -> None:
    """Refuse a run that cannot fit here, before anything is fetched or computed.

    What the cache holds already counts as free: it may be this run's own.

    Raises:
        SettingsError: with what is missing and what would help (exit code 2).
    """
    from modeldiff_eval.models import pick_device, pick_dtype

    device = pick_device(settings.device)
    try:
        shape = _shape(settings)
    except ModelError:
        return  # The run itself says better what is wrong with the model.
    job = make_job(settings, shape, dtype_bytes=pick_dtype(settings.dtype, device).itemsize, ranks=ranks)
    place = _place(cache, device)
    place = place.model_copy(update={"disk_free": place.disk_free + _held(cache)})
    made = sizes(job, place, device=device)
    if not made.fits:
        what = " ".join((*made.problems, *made.advice))
        raise SettingsError(
            f"This run does not fit here. {what} --dry-run shows the whole plan, --force starts it all the same."
        )


def _shape(settings: Settings) -> Shape:
    return GEMMA_2_9B if settings.base == PAPER_MODEL else shape_of(settings.base)


def _place(cache: Path, device: torch.device) -> Machine:
    """This machine; processes that ``torchrun`` starts side by side share its RAM."""
    here = machine(cache, device)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return here.model_copy(
        update={"ram_available": here.ram_available // beside, "ram_total": here.ram_total // beside}
    )


def _held(cache: Path) -> int:
    kinds = ("activations", "crosscoders", "tokens")
    files = (file for kind in kinds for file in (cache / kind).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())
