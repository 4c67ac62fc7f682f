"""Sparse pieces that training and measuring share: code matrices in CSR, and dot products at given places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sparse:
    """The k·B selected entries of the code matrix [rows, latents], by row; ``values`` are unscaled f > 0."""

    shape: tuple[int, int]
    row: Int[Tensor, " active"]
    latent: Int[Tensor, " active"]
    values: Float[Tensor, " active"]

    def csr(self, values: Tensor | None = None) -> Tensor:
        """[rows, latents] in CSR."""
        return _csr(self.row, self.latent, self.values if values is None else values, self.shape)

    def csr_by_latent(self, values: Tensor | None = None) -> Tensor:
        """[latents, rows] in CSR: the transpose."""
        values = self.values if values is None else values
        order = torch.argsort(self.latent, stable=True)
        return _csr(self.latent[order], self.row[order], values[order], (self.shape[1], self.shape[0]))


def _csr(row: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    pointers = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    pointers[1:] = torch.cumsum(torch.bincount(row, minlength=shape[0]), 0)
    return torch.sparse_csr_tensor(pointers, column, values, shape, check_invariants=False)


def dots_at(
    left: Float[Tensor, "rows inputs"],
    right: Float[Tensor, "latents inputs"],
    row: Int[Tensor, " n"],
    latent: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """⟨left[row], right[latent]⟩ at the given places, which are sorted by row."""
    pattern = _csr(row, latent, torch.zeros(len(row), dtype=left.dtype, device=left.device), (len(left), len(right)))
    dots: Tensor = torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
    return dots
