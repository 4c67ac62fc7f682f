"""How good a crosscoder is on held-out tokens, and the threshold that gives it k active latents a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import Record
from modeldiff_eval.store import write_json

Rows = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows 2 d_model"]]
"""Row numbers → paired raw activations."""


def calibrate(
    crosscoder: Crosscoder, rows: Rows, heldout: Int[Tensor, " heldout"], *, sample: int = 65_536
) -> Crosscoder:
    """Set θ so that the mean L0 on held-out tokens is k.

    Raises:
        SettingsError: the crosscoder has no k.
    """
    if crosscoder.k < 1:
        raise SettingsError("This crosscoder was trained without a budget (k = 0), so no threshold can be set for it.")
    chosen = heldout[:sample]
    free = replace(crosscoder, threshold=0.0)
    scores = []
    for part in chosen.split(2048):  # type: ignore[no-untyped-call]
        v = free.scaled(crosscoder.normalise(rows(part)))
        v = (v if free.selection is None else v * free.selection).flatten()
        scores.append(torch.topk(v, min(len(v), 4 * crosscoder.k * len(part)), sorted=False).values)
    pooled = torch.cat(scores)
    budget = min(crosscoder.k * len(chosen), len(pooled) - 1)
    # Between the last score that is in and the first that is out: on either of them a rounding error would decide.
    edge = torch.topk(pooled, budget + 1).values[-2:].double().mean()
    return replace(crosscoder, threshold=max(float(edge), 0.0))


class Quality(Record):
    """Held-out quality. ``fve_*`` pooled over the split; ``dead_share`` is the share of latents silent over ``dead_tokens``."""

    fve_first: float
    fve_second: float
    l0: float
    dead_share: float
    dead_tokens: int
    heldout_tokens: int


def evaluate(
    crosscoder: Crosscoder, rows: Rows, heldout: Int[Tensor, " heldout"], others: Int[Tensor, " others"]
) -> Quality:
    """Pooled fve per model, mean L0 and dead share; nothing is updated (ALGORITHMS §1 and §6).

    Args:
        others: further tokens (training ones) over which latents may prove alive.
    """
    d = crosscoder.d_model
    error = torch.zeros(2, dtype=torch.float64)
    energy = torch.zeros(2, dtype=torch.float64)
    total = torch.zeros(2 * d, dtype=torch.float64)
    active = 0
    alive = torch.zeros(crosscoder.n_latents, dtype=torch.bool)
    for part in heldout.split(2048):  # type: ignore[no-untyped-call]
        x = crosscoder.normalise(rows(part))
        f = crosscoder.encode(x)
        active += int((f > 0).sum())
        alive |= (f > 0).any(0)
        error += (x - crosscoder.decode(f)).double().square().view(-1, 2, d).sum((0, 2))
        energy += x.double().square().view(-1, 2, d).sum((0, 2))
        total += x.double().sum(0)
    for part in others.split(2048):  # type: ignore[no-untyped-call]
        if bool(alive.all()):
            break
        missing = (~alive).nonzero().squeeze(1)
        x = crosscoder.normalise(rows(part))
        v = (x @ crosscoder.W_enc[missing].T + crosscoder.b_enc[missing]) * crosscoder.code_norm()[missing]
        alive[missing] = (v > crosscoder.cut()[missing]).any(0)
    spread = energy - (total.view(2, d).square().sum(1) / len(heldout))
    fve = 1 - error / spread
    return Quality(
        fve_first=float(fve[0]),
        fve_second=float(fve[1]),
        l0=active / len(heldout),
        dead_share=float((~alive).float().mean()),
        dead_tokens=len(heldout) + len(others),
        heldout_tokens=len(heldout),
    )


def write_quality(folder: Path, quality: Quality) -> None:
    """Keep the measured quality beside the weights."""
    write_json(folder / "quality.json", quality.model_dump())
