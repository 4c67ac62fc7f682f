"""The latents of every dictionary of a comparison, measured: those that claims are made from, and the crosscoders'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modeldiff_eval import activations as acts
from modeldiff_eval import analysis, fit, side_tables
from modeldiff_eval import workspace as ws
from modeldiff_eval.quality import Rows
from modeldiff_eval.records import DifferenceInfo


def measure_latents(
    work: ws.Workspace,
    material: fit.Material,
    coders: list[fit.Pair],
    claims: list[tuple[int, ...]],
    out: Path,
    null: tuple[acts.Activations, NDArray[np.int64]] | None,
    *,
    training: ws.Workspace | None = None,
) -> tuple[list[side_tables.Measured], list[side_tables.Measured], list[DifferenceInfo] | None]:
    """The dictionaries that claims are made from, and the crosscoders of the activation view: the same but for ``difference``.

    In each list one for every crosscoder. ``training``: the run by whose seed
    dictionaries of differences are trained. Their latents are numbered after the crosscoder's.
    """
    text, kept = material.measured, material.kept
    if work.settings.method != "difference":
        own = [
            analysis.measure_pair(work, text, kept, coder, claim, out)
            for coder, claim in zip(coders, claims, strict=True)
        ]
        return own, own, None
    whole = [analysis.measure_pair(work, text, kept, coder, (), out) for coder in coders]
    measured, infos = [], []
    for coder, claim in zip(coders, claims, strict=True):
        name = f"{coder.first}--{coder.second}" + (f"--seed-{training.settings.seed}" if training else "")
        found = fit.difference_for(training or work, material, coder, out / "differences" / name)
        one = analysis.measure_pair(
            work,
            text,
            kept,
            found.pair,
            claim,
            out,
            offset=coder.crosscoder.n_latents,
            control=True,
            null=null_pair(material, null),
            candidates=training is None,
        )
        measured.append(one)
        figures = one.control.figures(one.nu, rate=work.settings.false_discovery_rate) if one.control else {}
        infos.append(found.info.model_copy(update=figures))
    return measured, whole, infos


def null_pair(
    material: fit.Material, null: tuple[acts.Activations, NDArray[np.int64]] | None
) -> tuple[Rows, torch.Tensor] | None:
    """Base in two precisions as rows of a pair, and the held-out row numbers that there are such rows for."""
    if null is None:
        return None
    other, place = null
    _, heldout = acts.split_rows(material.measured, material.kept)
    same, again = material.rows["base"].mapped(), other.mapped()

    def rows(index: torch.Tensor) -> torch.Tensor:
        return torch.stack([same[index].float(), again[torch.from_numpy(place[index.numpy()])].float()], 1)

    return rows, heldout[torch.from_numpy(place[heldout.numpy()] >= 0)]
