"""How much of a latent each model shows on the same tokens: five estimators of one quantity, from one pass over rows.

All of them answer with a mass, a sum over tokens, for each model, group of rows and latent; the paired activation shift is
mass of tuned over mass of base − 1 (ALGORITHMS §3b). Two models that are equal give equal masses to the last bit, and
swapping the models (and the crosscoder's halves) swaps them.

With x̃_m the normalised row of model m, pre_m = ReLU(W_enc·(x̃_m, x̃_m) + b_enc)·n the scaled activation when model m is
encoded alone, and f the code of the pair as it is:

- ``gated``: Σ pre_m over the tokens where the pair fires, f > 0. One gate for both models, so no token at the threshold
  counts for one of them alone. The default: of all five the smallest shifts where nothing was learned, next to ``beta``,
  and the most reproducible ones where something was.
- ``hard``: Σ pre_m where pre_m > θ. A token at the threshold counts with all its mass or with none; only here does it
  matter that a model fires elsewhere.
- ``soft``: Σ (pre_m − θ)₊. Nothing jumps at the threshold; the mass is what exceeds it.
- ``beta``: Σ f⟨x̃_m, d⟩, over the tokens where the pair fires, d the mean of the latent's two decoders; in units of
  activation mass (the factor Σv / Σf²‖d‖² is the same for both models), so that classes can be added up.
- ``calibrated``: ``hard`` with a threshold of the latent's own (:func:`calibrate`).

A run offers ``gated`` and ``hard``; the others are here to be compared with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.sparse import Places

NormalisedRows = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows 2 d_model"]]
Progress = Callable[[int, int], None]
Masses = NDArray[np.float64]
"""[2, groups, latents]: of base and of tuned."""
ESTIMATORS = ("gated", "hard", "soft", "beta", "calibrated")
PART = 1024
_MODELS = (0, 1)


@dataclass(frozen=True)
class Grouping:
    """A way to add rows up: ``of_row`` [rows] in 0 … ``n`` − 1, or −1 for rows that are left out."""

    of_row: NDArray[np.int64]
    n: int


def group_masses(
    crosscoder: Crosscoder,
    rows: NormalisedRows,
    index: Int[Tensor, " rows"],
    groupings: Sequence[Grouping],
    *,
    estimators: Sequence[str],
    thresholds: Float[Tensor, " latents"] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, list[Masses]]:
    """Masses of every latent by every estimator and grouping, in one pass.

    Args:
        rows: both models already normalised.
        index: the rows to read, [rows].
        groupings: how they are added up.
        thresholds: of :func:`calibrate`; ``calibrated`` needs them.

    Returns:
        Estimator → for every grouping [2, groups, latents].

    Raises:
        SettingsError: an unknown estimator, or ``calibrated`` without thresholds.
    """
    for name in estimators:
        if name not in ESTIMATORS:
            raise SettingsError(f"There is no shift estimator {name!r}; use one of {', '.join(ESTIMATORS)}.")
    if "calibrated" in estimators and thresholds is None:
        raise SettingsError("The estimator 'calibrated' needs thresholds: run calibrate() on training rows first.")
    n = crosscoder.n_latents
    sums = {name: [np.zeros((2, group.n, n)) for group in groupings] for name in estimators}
    pair = _Pair(crosscoder)
    cut = crosscoder.cut()
    paired = any(name in ("beta", "gated") for name in estimators)
    squares, firing = np.zeros(n), np.zeros(n)
    for start in range(0, len(index), PART):
        part = slice(start, start + PART)
        x = rows(index[part])
        if paired:
            places, v = pair.together(x)
            f = v / pair.norm[places.latent].double()
            squares += np.bincount(places.latent.numpy(), (f**2).numpy(), minlength=n)
            firing += np.bincount(places.latent.numpy(), v.numpy(), minlength=n)
        for model in _MODELS:
            alone = pair.alone(x[:, model])
            for name in estimators:
                if name == "beta":
                    where, value = places, f * places.dots(x[:, model].double().contiguous(), pair.decoder)
                elif name == "gated":
                    where, value = places, alone[places.row, places.latent].double()
                else:
                    own = thresholds if name == "calibrated" else None
                    where, value = _above(alone, cut if own is None else own)
                    value = value - cut[where.latent].double() if name == "soft" else value
                for total, group in zip(sums[name], groupings, strict=True):
                    _add(total[model], group.of_row[part], where, value.numpy())
        if on_progress:
            on_progress(min(start + PART, len(index)), len(index))
    if "beta" in estimators:
        unit = squares * pair.decoder.square().sum(1).numpy()
        factor = np.divide(firing, unit, out=np.zeros(n), where=unit > 0)
        for total in sums["beta"]:
            total *= factor
    return sums


class _Pair:
    """A crosscoder's encoder, taken apart into the two models' halves."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        d = crosscoder.d_model
        self._first, self._second = crosscoder.W_enc[:, :d].T, crosscoder.W_enc[:, d:].T
        self._both = (crosscoder.W_enc[:, :d] + crosscoder.W_enc[:, d:]).T.contiguous()
        self._bias, self.norm, self._cut = crosscoder.b_enc, crosscoder.code_norm(), crosscoder.cut()
        both = crosscoder.W_dec.double().view(-1, 2, d)
        self.decoder = both.mean(1)

    def alone(self, x: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows latents"]:
        """pre: the scaled activation when both halves of the input are ``x``, before any threshold."""
        return torch.addmm(self._bias, x, self._both).relu_().mul_(self.norm)

    def together(self, x: Float[Tensor, "rows 2 d_model"]) -> tuple[Places, Float[Tensor, " active"]]:
        """Where the pair as it is fires, and its scaled activation v there."""
        pre = torch.addmm(self._bias, x[:, 0], self._first).addmm_(x[:, 1], self._second).relu_().mul_(self.norm)
        return _above(pre, self._cut)


def _above(
    pre: Float[Tensor, "rows latents"], threshold: Float[Tensor, " latents"]
) -> tuple[Places, Float[Tensor, " active"]]:
    latent, row = (pre > threshold).T.nonzero(as_tuple=True)
    return Places((pre.shape[0], pre.shape[1]), row, latent), pre[row, latent].double()


def _add(total: NDArray[np.float64], group: NDArray[np.int64], where: Places, value: NDArray[np.float64]) -> None:
    """Add values at places to ``total`` [groups, latents]."""
    mine = group[where.row.numpy()]
    flat, used = mine * total.shape[1] + where.latent.numpy(), mine >= 0
    np.add.at(total.reshape(-1), flat[used], value[used])


def calibrate(
    crosscoder: Crosscoder, rows: NormalisedRows, index: Int[Tensor, " rows"], *, chunk: int = 512
) -> Float[Tensor, " latents"]:
    """A threshold for each latent at which models encoded alone fire as often as the pair does.

    Both models share it: their firings are pooled. A threshold of each model's own would take away the very difference in
    firing that is looked for. A latent that the pair never fires on these rows keeps the crosscoder's threshold.

    Args:
        index: rows of training documents, never of those that are measured.
    """
    x = rows(index)
    d = crosscoder.d_model
    norm = crosscoder.code_norm()
    cut = crosscoder.cut()
    out = cut.clone()
    if not len(index):
        return out
    for start in range(0, crosscoder.n_latents, chunk):
        part = slice(start, start + chunk)
        first, second = crosscoder.W_enc[part, :d].T, crosscoder.W_enc[part, d:].T
        together = (x[:, 0] @ first + x[:, 1] @ second + crosscoder.b_enc[part]) * norm[part]
        alone = torch.cat([x[:, model] @ (first + second) + crosscoder.b_enc[part] for model in _MODELS]) * norm[part]
        wanted = 2 * (together > cut[part]).sum(0)
        ordered = alone.sort(dim=0, descending=True).values
        column = torch.arange(ordered.shape[1])
        below = ordered[wanted.clamp(max=len(ordered) - 1), column]
        last = ordered[(wanted - 1).clamp(min=0), column]
        out[part] = torch.where(wanted > 0, ((below + last) / 2).clamp(min=1e-6), out[part])
    return out
