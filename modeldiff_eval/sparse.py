"""Sparse pieces that training and measuring share: places in the code matrix, and the products that touch only them.

Places are kept sorted by latent. There are many more latents than rows in a batch: read in this order each latent's
vector is fetched from memory once and the rows stay in the cache, which makes dot products and weight gradients two to
three times as fast as row by row. PyTorch multiplies CSR matrices on CPUs and on CUDA; on other devices the same sums are
made by gather and scatter.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
_CSR_DEVICES = ("cpu", "cuda")
_PIECE = 1 << 16


@dataclass(frozen=True)
class Places:
    """Some entries of a matrix [rows, latents], sorted by latent and then by row."""

    shape: tuple[int, int]
    row: Int[Tensor, " active"]
    latent: Int[Tensor, " active"]

    @cached_property
    def _pointers(self) -> Tensor:
        return _pointers(self.latent, self.shape[1])

    def dots(
        self, rows: Float[Tensor, "rows inputs"], latents: Float[Tensor, "latents inputs"]
    ) -> Float[Tensor, " active"]:
        """⟨rows[row], latents[latent]⟩ at every place."""
        if rows.device.type in _CSR_DEVICES:
            pattern = self._csr(torch.zeros(len(self.row), dtype=rows.dtype, device=rows.device))
            dots: Tensor = torch.sparse.sampled_addmm(pattern, latents, rows.T, beta=0.0).values()
            return dots
        out = rows.new_empty(len(self.row))
        for piece in _pieces(len(out)):
            out[piece] = (rows[self.row[piece]] * latents[self.latent[piece]]).sum(1)
        return out

    def gather(
        self,
        values: Float[Tensor, " active"],
        dense: Float[Tensor, "rows inputs"],
        out: Float[Tensor, "latents inputs"],
    ) -> Float[Tensor, "latents inputs"]:
        """Σ over places of value · dense[row] for every latent, written to ``out``: a weight gradient."""
        if dense.device.type in _CSR_DEVICES:
            # A fresh result of this size costs more than the product (its pages are new every time); `out` is kept.
            return torch.addmm(out, self._csr(values), dense, beta=0, out=out)
        out.zero_()
        for piece in _pieces(len(values)):
            out.index_add_(0, self.latent[piece], dense[self.row[piece]] * values[piece, None])
        return out

    def _csr(self, values: Tensor) -> Tensor:
        shape = self.shape[::-1]
        return torch.sparse_csr_tensor(self._pointers, self.row, values, shape, check_invariants=False)


@dataclass(frozen=True)
class Sparse(Places):
    """The selected entries of the code matrix; ``values`` are unscaled f > 0."""

    values: Float[Tensor, " active"]

    def times(self, dense: Float[Tensor, "latents inputs"]) -> Float[Tensor, "rows inputs"]:
        """codes · dense: the decoder's product."""
        if dense.device.type in _CSR_DEVICES:
            order = torch.argsort(self.row, stable=True)
            edges = _pointers(self.row, self.shape[0])
            weights = self.values[order]
            return embedding_bag(
                self.latent[order], dense, edges, mode="sum", per_sample_weights=weights, include_last_offset=True
            )
        out = dense.new_zeros(self.shape[0], dense.shape[1])
        for piece in _pieces(len(self.values)):
            out.index_add_(0, self.row[piece], dense[self.latent[piece]] * self.values[piece, None])
        return out


def _pointers(sorted_index: Tensor, n: int) -> Tensor:
    """Where the entries of each of ``n`` groups begin, and the end of the last."""
    pointers = torch.zeros(n + 1, dtype=torch.int64, device=sorted_index.device)
    torch.cumsum(torch.bincount(sorted_index, minlength=n), 0, out=pointers[1:])
    return pointers


def _pieces(n: int) -> list[slice]:
    return [slice(start, start + _PIECE) for start in range(0, n, _PIECE)]
