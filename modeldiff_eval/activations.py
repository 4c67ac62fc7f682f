"""Residual activations after block L, harvested once for each model into a shared cache.

Each model is harvested on its own, over the same token file; pairing happens when rows are read.
So a base or an anchor that several runs share is never harvested twice, and only one model needs
to be in memory. Rows are written in token order; a batch holds sequences of about equal length;
a block of tokens is the unit of progress that an interrupted run keeps.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modeldiff_eval.backoff import Room
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.disk import reserve
from modeldiff_eval.errors import ActivationsError, SettingsError
from modeldiff_eval.models import Loaded, blocks
from modeldiff_eval.store import fingerprint, once, read_progress, ready, write_json, write_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
BLOCK_BYTES = 128 << 20
OUTLIER_FACTOR = 10.0
Progress = Callable[[int, int], None]


class _StopForward(Exception):
    """Raised by the hook once block L has answered: nothing above it is computed."""


@dataclass(frozen=True)
class Activations:
    """One model's rows on disk: ``[tokens, d_model]`` in the model's own dtype, and their norms ``[tokens]``."""

    key: str
    folder: Path
    d_model: int
    dtype: torch.dtype
    norms: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        return len(self.norms)

    def mapped(self) -> Tensor:
        """The whole matrix, mapped from disk (rows are read when touched)."""
        size = self.tokens * self.d_model
        return torch.from_file(str(self.folder / "rows.bin"), shared=False, size=size, dtype=self.dtype).view(
            self.tokens, self.d_model
        )


def default_layer(n_layers: int) -> int:
    """The paper's layer 20 of 42, scaled to the depth at hand."""
    return round(20 / 42 * n_layers)


def check_layer(layer: int, n_layers: int) -> int:
    """Raise SettingsError unless ``layer`` is a block of a model with ``n_layers`` blocks."""
    if not 0 <= layer < n_layers:
        raise SettingsError(f"--layer {layer} is out of range: the model has blocks 0 to {n_layers - 1}.")
    return layer


def default_batch_tokens(device: torch.device) -> int:
    """Padded tokens in a forward pass: small on a CPU, whose caches they then fit (half as fast again as 4,096)."""
    return 512 if device.type == "cpu" else 8192


def harvest_key(corpus: TokenCorpus, source_key: str, layer: int, dtype: torch.dtype) -> str:
    """What a harvest depends on."""
    return fingerprint([FORMAT_VERSION, corpus.key, source_key, layer, str(dtype)])


def find(corpus: TokenCorpus, source_key: str, layer: int, dtype: torch.dtype, cache: Path) -> Activations | None:
    """A finished harvest from the cache, if there is one."""
    folder = cache / "activations" / harvest_key(corpus, source_key, layer, dtype)
    return _open(folder) if ready(folder) else None


def harvest(
    loaded: Loaded,
    corpus: TokenCorpus,
    *,
    layer: int,
    cache: Path,
    batch_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> Activations:
    """Run the model up to block ``layer`` over the corpus, or resume, or reuse.

    Args:
        batch_tokens: padded tokens in one forward pass; by default :func:`default_batch_tokens`.
        on_progress: called with (further tokens done, tokens in all), first with those that an interrupted run kept.

    Raises:
        ActivationsError: a row holds NaN or infinity.
        SettingsError: the layer is out of range.
    """
    check_layer(layer, loaded.n_layers)
    key = harvest_key(corpus, loaded.source.key, layer, loaded.dtype)
    folder = cache / "activations" / key
    size = batch_tokens or default_batch_tokens(loaded.device)
    once(folder, lambda partial: _harvest_into(partial, loaded, corpus, layer, size, on_progress))
    return _open(folder)


def _open(folder: Path) -> Activations:
    meta = json.loads((folder / "meta.json").read_text())
    return Activations(
        folder.name, folder, meta["d_model"], getattr(torch, meta["dtype"]), np.load(folder / "norms.npy")
    )


def _harvest_into(
    folder: Path, loaded: Loaded, corpus: TokenCorpus, layer: int, batch_tokens: int, on_progress: Progress | None
) -> None:
    d = loaded.d_model
    itemsize = torch.empty(0, dtype=loaded.dtype).element_size()
    block_tokens = max(batch_tokens, BLOCK_BYTES // (d * itemsize))
    edges = _block_edges(corpus.sequences, block_tokens)
    rows_path, log_path, norms_path = folder / "rows.bin", folder / "progress.txt", folder / "norms.partial.npy"
    done = read_progress(log_path) if rows_path.exists() and norms_path.exists() else 0
    norms = np.lib.format.open_memmap(norms_path, mode="r+" if done else "w+", dtype=np.float32, shape=(corpus.tokens,))
    reserve(norms_path)
    if done and on_progress:
        on_progress(int(corpus.sequences[edges[done - 1][1] - 1, 1]), corpus.tokens)
    with rows_path.open("r+b" if done else "wb") as file:
        for number, (first, end) in enumerate(edges):
            if number < done:
                continue
            part = corpus.sequences[first:end]
            origin = int(part[0, 0])
            block = torch.empty(int(part[-1, 1]) - origin, d, dtype=loaded.dtype)
            for sequences, rows in forward_rows(loaded, corpus, part, layer=layer, batch_tokens=batch_tokens):
                for (start, stop, _), row in zip(sequences, rows, strict=True):
                    block[start - origin : stop - origin] = row
                if on_progress:
                    on_progress(sum(int(s[1] - s[0]) for s in sequences), corpus.tokens)
            size = block.float().norm(dim=1)
            require_finite(size, np.arange(origin, origin + len(block)), loaded, corpus, layer)
            norms[origin : origin + len(block)] = size.numpy()
            file.seek(origin * d * itemsize)
            file.write(block.view(torch.uint8).numpy().tobytes())
            file.flush()
            norms.flush()
            write_progress(log_path, number + 1)
    norms_path.rename(folder / "norms.npy")
    write_json(
        folder / "meta.json",
        {"d_model": d, "dtype": str(loaded.dtype).removeprefix("torch."), "layer": layer, "model": loaded.source.key},
    )
    log_path.unlink()


def require_finite(
    norms: Float[Tensor, " rows"], tokens: NDArray[np.int64], loaded: Loaded, corpus: TokenCorpus, layer: int
) -> None:
    """Raise ActivationsError naming the first document with NaN or infinity.

    Args:
        norms: norms of the rows after block ``layer``.
        tokens: [rows] the corpus token that each row belongs to.
    """
    bad = (~torch.isfinite(norms)).nonzero()
    if len(bad):
        token = int(tokens[int(bad[0])])
        sequence = int(np.searchsorted(corpus.sequences[:, 0], token, side="right")) - 1
        document = corpus.documents["id"][int(corpus.sequences[sequence, 2])]
        raise ActivationsError(
            f"{loaded.source.name} gives NaN or infinite activations after block {layer} (document {document!r}, token {token}) in "
            f"{str(loaded.dtype).removeprefix('torch.')}. Try --dtype float32, another --layer, or check the weights."
        )


def starts_with_bos(corpus: TokenCorpus, bos: int | None) -> NDArray[np.bool_]:
    """[sequences] True where the first token is a BOS, which no crosscoder sees (ALGORITHMS §6)."""
    found: NDArray[np.bool_] = corpus.ids[corpus.sequences[:, 0]] == (-1 if bos is None else bos)
    return found


def _block_edges(sequences: NDArray[np.int64], block_tokens: int) -> list[tuple[int, int]]:
    edges, first = [], 0
    for index in range(1, len(sequences) + 1):
        if index == len(sequences) or sequences[index, 1] - sequences[first, 0] > block_tokens:
            edges.append((first, index))
            first = index
    return edges


def padded_batches(
    corpus: TokenCorpus, sequences: NDArray[np.int64], *, batch_tokens: int, pad: int
) -> Iterator[tuple[NDArray[np.int64], Int[Tensor, "batch longest"]]]:
    """Sequences of about equal length with their ids, longest first.

    With padding on the right and causal attention no token sees the padding: no mask is needed.
    """
    lengths = sequences[:, 1] - sequences[:, 0]
    order = np.argsort(-lengths, kind="stable")
    at = 0
    while at < len(order):
        longest = int(lengths[order[at]])
        batch = sequences[order[at : at + max(1, batch_tokens // longest)]]
        at += len(batch)
        ids = torch.full((len(batch), longest), pad, dtype=torch.long)
        for row, (start, stop, _) in enumerate(batch):
            ids[row, : stop - start] = torch.from_numpy(corpus.ids[start:stop].astype(np.int64))
        yield batch, ids


def forward_rows(
    loaded: Loaded, corpus: TokenCorpus, sequences: NDArray[np.int64], *, layer: int, batch_tokens: int
) -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
    """Yield batches of sequences with the output rows of block ``layer`` for their tokens, longest first.

    A batch for which memory runs out is halved, and so are those after it.

    Raises:
        ModelError: a single sequence is too long for the memory.
    """
    pad = loaded.tokenizer.pad_token_id or 0
    caught: list[Tensor] = []
    room = Room(
        f"Running {loaded.source.name}", "Try --dtype bfloat16, --device cpu or a smaller max_length in --config."
    )

    def catch(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        caught.append(output if isinstance(output, Tensor) else output[0])
        raise _StopForward

    handle = blocks(loaded.model)[layer].register_forward_hook(catch)
    inner = loaded.model.get_decoder() if hasattr(loaded.model, "get_decoder") else loaded.model
    try:
        for batch, ids in padded_batches(corpus, sequences, batch_tokens=batch_tokens, pad=pad):

            def run(part: slice, ids: Tensor = ids) -> Tensor:
                caught.clear()
                with torch.inference_mode(), contextlib.suppress(_StopForward):
                    inner(input_ids=ids[part].to(loaded.device), use_cache=False)
                return caught[0].to("cpu", loaded.dtype)

            for part, hidden in room.parts(len(batch), ids.shape[1], run):
                some = batch[part]
                yield some, [hidden[row, : stop - start] for row, (start, stop, _) in enumerate(some)]
    finally:
        handle.remove()


@dataclass(frozen=True)
class Kept:
    """Which tokens the crosscoder sees. ``rows`` [kept] int64 token numbers, ascending."""

    rows: Int[Tensor, " kept"]
    dropped_bos: int
    dropped_outliers: int


def keep_tokens(
    corpus: TokenCorpus, norms: list[NDArray[np.float32]], *, bos: int | None, factor: float = OUTLIER_FACTOR
) -> Kept:
    """Drop each sequence's leading BOS, and tokens whose norm is beyond ``factor`` × median in any model (ALGORITHMS §6)."""
    keep = np.ones(corpus.tokens, dtype=bool)
    is_bos = starts_with_bos(corpus, bos)
    keep[corpus.sequences[is_bos, 0]] = False
    dropped_bos = int(is_bos.sum())
    for size in norms:
        keep &= size <= factor * np.median(size)
    rows = np.flatnonzero(keep)
    return Kept(torch.from_numpy(rows), dropped_bos, corpus.tokens - len(rows) - dropped_bos)


class PairedRows:
    """Rows of several models on the same tokens, read in slices: ``[rows, models, d_model]`` float32."""

    def __init__(self, models: list[Activations]) -> None:
        self._mapped = [model.mapped() for model in models]

    def __call__(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows models d_model"]:
        return torch.stack([mapped[rows].float() for mapped in self._mapped], dim=1)


def split_rows(corpus: TokenCorpus, kept: Kept) -> tuple[Int[Tensor, " train"], Int[Tensor, " heldout"]]:
    """Kept rows of training documents and of held-out documents."""
    heldout: Bool[Tensor, " kept"] = torch.from_numpy(corpus.heldout_documents()[corpus.document_of_token()])[kept.rows]
    return kept.rows[~heldout], kept.rows[heldout]


def truncated_forward_rate(loaded: Loaded, corpus: TokenCorpus, *, layer: int) -> float:
    """Tokens a second of the bare truncated forward pass: the yardstick of the harvest's overhead."""
    start = time.perf_counter()
    size = default_batch_tokens(loaded.device)
    for _ in forward_rows(loaded, corpus, corpus.sequences, layer=layer, batch_tokens=size):
        pass
    return corpus.tokens / (time.perf_counter() - start)
