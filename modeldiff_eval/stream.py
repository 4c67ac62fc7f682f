"""Training rows straight from the models, without a cache on disk: the next block is harvested while one is trained on.

The training sequences are cut into blocks. A block is run through both models by a background thread, its
rows are shuffled and handed out in batches. Which tokens a batch holds is known before anything is harvested:
a run that is resumed harvests the block that holds its next batch and none before it, and several ranks,
which share each block's sequences, hold together exactly the batches of a single process. At most two
blocks are in memory, however long the corpus is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.activations import (
    OUTLIER_FACTOR,
    check_layer,
    default_batch_tokens,
    forward_rows,
    require_finite,
    starts_with_bos,
)
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.errors import MismatchedModelsError, SettingsError
from modeldiff_eval.models import Loaded
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.stream_blocks import BlockPlan, Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 256 << 20
BLOCK_BATCHES = 16
"""A block holds at least so many batches: its rows mix, and the incomplete batch at its end costs 3 % on average."""


def default_block(batch: int, d_model: int, dtypes: Sequence[torch.dtype]) -> int:
    """Tokens in a block where nobody says otherwise."""
    return max(BLOCK_BATCHES * batch, BLOCK_BYTES // (d_model * sum(dtype.itemsize for dtype in dtypes)))


class _Stopped(Exception):
    """Raised in the harvesting thread when nobody wants its rows any more."""


@dataclass
class _Block:
    """This rank's harvested rows of one block.

    ``rows``: a matrix [tokens, d_model] for each model, in its own dtype. ``norms``: [tokens, 2].
    ``order``: the row of each shuffled token of all ranks, −1 where it is another rank's or an outlier.
    """

    rows: list[Tensor]
    norms: Float[Tensor, "tokens 2"]
    order: Int[Tensor, " all"]

    def take(self, start: int, stop: int) -> Float[Tensor, "rows 2 d_model"]:
        """This rank's rows among the shuffled tokens ``start`` … ``stop`` − 1."""
        chosen = self.order[start:stop]
        chosen = chosen[chosen >= 0].sort().values
        return torch.stack([rows[chosen].float() for rows in self.rows], dim=1)

    def drop_beyond(self, limits: Float[Tensor, " 2"]) -> int:
        """Take the rows whose norm exceeds a model's limit out of the order; how many there are."""
        outlier = (self.norms > limits).any(1)
        there = self.order.clamp_min(0)
        if len(outlier):
            self.order[outlier[there]] = -1
        return int(outlier.sum())


class StreamedSource:
    """Batches of paired rows of two models over the training documents of a corpus.

    A batch is ``batch`` tokens of one block, less those whose norm is an outlier in either model: beyond 10 × the median
    of the first block. The first pass takes the sequences as they lie, shuffled by document; each further pass
    shuffles them anew. Tokens at the end of a block that fill no batch are left out of that pass: a batch that
    reached into the next block could not be made from one block alone.

    Attributes:
        tokens, tail_tokens: text tokens of the blocks begun so far, and those among them that filled no batch; all ranks.
        outliers: this rank's outliers among them.

    Args:
        models: the first and the second model of the crosscoder; they may be on different devices.
        batch: tokens in a batch, all ranks together.
        bos: the token that is left out where a sequence starts with it.
        block_tokens: least number of tokens in a block, all ranks together; by default 256 MiB of rows, and at least
            16 batches.
        batch_tokens: padded tokens in one forward pass.
        harvest_threads, train_threads: CPU threads of the harvest, and of the calling thread while it iterates, where a
            model runs on the CPU; by default half of them, and the others. Where one side is much slower than the other, all
            threads for both may use the processors better.

    Raises:
        MismatchedModelsError: the models' widths differ.
        SettingsError: fewer training tokens than one batch, or a layer, batch or block out of range.
    """

    def __init__(
        self,
        models: Sequence[Loaded],
        corpus: TokenCorpus,
        *,
        layer: int,
        batch: int,
        seed: int,
        bos: int | None,
        block_tokens: int | None = None,
        batch_tokens: int | None = None,
        harvest_threads: int | None = None,
        train_threads: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        first, second = models
        if first.d_model != second.d_model:
            raise MismatchedModelsError(
                f"{first.source.name} has d_model {first.d_model}, {second.source.name} has {second.d_model}; a crosscoder needs "
                "a fine-tune of the same architecture."
            )
        for model in models:
            check_layer(layer, model.n_layers)
        self.d_model = first.d_model
        self._models, self._corpus, self._layer, self._ranks = (first, second), corpus, layer, ranks or Ranks()
        self._batch_tokens, self._all_threads = batch_tokens, torch.get_num_threads()
        self._threads = self._share_threads(harvest_threads, train_threads)
        block_tokens = block_tokens or default_block(batch, first.d_model, [model.dtype for model in models])
        if not 1 <= batch <= block_tokens:
            raise SettingsError(f"A block of {block_tokens} tokens holds no batch of {batch}. Take larger blocks.")
        training = ~corpus.heldout_documents()[corpus.sequences[:, 2]]
        skip = starts_with_bos(corpus, bos)[training].astype(np.int64)
        self._plan = BlockPlan(corpus.sequences[training], skip, batch, block_tokens, seed)
        if self._plan.tokens < batch:
            raise SettingsError(
                f"{self._plan.tokens} training tokens are fewer than one batch of {batch}. Give more text."
            )
        self._one_at_a_time = threading.Lock()
        self._limits: Float[Tensor, " 2"] | None = None
        self._first: _Block | None = None
        self.tokens = self.tail_tokens = self.outliers = 0

    def _share_threads(self, harvest: int | None, train: int | None) -> tuple[int, int]:
        n = self._all_threads
        if not any(model.device.type == "cpu" for model in self._models):
            return harvest or n, train or n
        # Two whole teams of OpenMP threads on the same processors would wait for each other at every barrier.
        harvest = min(harvest or max(1, n // 2), n)
        return harvest, min(train or max(1, n - harvest), n)

    def normaliser_sample(self, n: int) -> Float[Tensor, "n 2 d_model"]:
        """Up to ``n`` rows of the first block, without outliers; those of all ranks on every rank."""
        if self._first is None:
            self._first = self._first_block()
        return self._ranks.concatenate(self._first.take(0, n))

    def batches(self, start: int, stop: int) -> Generator[Float[Tensor, "rows 2 d_model"], None, None]:
        """This rank's rows of the batches ``start`` … ``stop`` − 1; batch ``i`` is the same whatever ``start`` was.

        An error of the harvest is raised at the next batch. Closing the iterator ends the harvest within one forward pass.

        Raises:
            ActivationsError: a row holds NaN or infinity; the document is named.
        """
        if start >= stop:
            return
        if self._limits is None:
            self._first = self._first_block()
        held, self._first = self._first, None
        left, places = stop - start, self._plan.places(start)
        place, at = next(places)
        with self._harvester() as harvest:
            if held is not None and (place.epoch, place.number) == (0, 0):
                ahead: Future[_Block] = Future()
                ahead.set_result(held)
            else:
                ahead = harvest(place)
            del held
            while left:
                block = ahead.result()
                self._admit(block, place)
                chosen = range(at, min(place.batches, at + left))
                left -= len(chosen)
                if left:
                    place, at = next(places)
                    ahead = harvest(place)
                for batch in chosen:
                    if ahead.done() and (error := ahead.exception()):
                        raise error
                    yield block.take(batch * self._plan.batch, (batch + 1) * self._plan.batch)
                del block  # Before the next one is awaited: never more than two.

    def _first_block(self) -> _Block:
        """Harvest the first block; its norms decide what an outlier is. Called by the thread that talks to the ranks."""
        place = next(self._plan.one_pass(0))
        with self._harvester() as harvest:
            block = harvest(place).result()
        self._limits = OUTLIER_FACTOR * self._ranks.concatenate(block.norms).median(dim=0).values
        block.drop_beyond(self._limits)
        return block

    def _admit(self, block: _Block, place: Place) -> None:
        """Take the outliers out of a fresh block, and count."""
        assert self._limits is not None  # set by the first block
        self.outliers += block.drop_beyond(self._limits)
        self.tokens += place.tokens
        self.tail_tokens += place.tokens - place.batches * self._plan.batch

    @contextlib.contextmanager
    def _harvester(self) -> Iterator[Callable[[Place], Future[_Block]]]:
        """A thread that harvests blocks; it ends within one forward pass when the context is left."""
        stopped = threading.Event()
        theirs, ours = self._threads
        torch.set_num_threads(ours)  # of this thread; the pool's thread sets its own
        pool = ThreadPoolExecutor(1, "harvest", initializer=torch.set_num_threads, initargs=(theirs,))
        try:
            yield lambda place: pool.submit(self._harvest, place, stopped)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._all_threads)

    def _harvest(self, place: Place, stopped: threading.Event) -> _Block:
        """Run both models over this rank's sequences of a block. Runs in the background: it talks to no other rank."""
        mine = place.share(self._ranks)
        order = place.order(mine, self._plan.seed)
        sequences, skip = place.sequences[mine], place.skip[mine]
        with self._one_at_a_time:  # A second iterator's hooks would cut these forward passes short.
            parts = [self._model_rows(model, sequences, skip, stopped) for model in self._models]
        return _Block([rows for rows, _ in parts], torch.stack([norms for _, norms in parts], dim=1), order)

    def _model_rows(
        self, model: Loaded, sequences: NDArray[np.int64], skip: NDArray[np.int64], stopped: threading.Event
    ) -> tuple[Float[Tensor, "tokens d_model"], Float[Tensor, " tokens"]]:
        """One model's rows for the text of some sequences, and their norms."""
        text = sequences[:, 1] - sequences[:, 0] - skip
        starts = np.cumsum(text) - text
        place = {int(start): (int(at), int(bos)) for start, at, bos in zip(sequences[:, 0], starts, skip, strict=True)}
        rows = torch.empty(int(text.sum()), self.d_model, dtype=model.dtype)
        norms = torch.empty(len(rows))
        size = self._batch_tokens or default_batch_tokens(model.device)
        with _own_stream(model.device):
            for batch, found in forward_rows(model, self._corpus, sequences, layer=self._layer, batch_tokens=size):
                if stopped.is_set():
                    raise _Stopped
                for (start, _, _), values in zip(batch, found, strict=True):
                    at, bos = place[int(start)]
                    rows[at : at + len(values) - bos] = values[bos:]
                    norms[at : at + len(values) - bos] = values[bos:].float().norm(dim=1)
        tokens = np.arange(len(rows)) + np.repeat(sequences[:, 0] + skip - starts, text)
        require_finite(norms, tokens, model, self._corpus, self._layer)
        return rows, norms


def _own_stream(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """On CUDA, a stream beside the trainer's, so that neither waits for the other's kernels."""
    if device.type == "cuda":
        stream: contextlib.AbstractContextManager[object] = torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        return stream
    return contextlib.nullcontext()
