"""Several processes training one dictionary (``torchrun``): who they are and the few things they exchange.

Latents are divided over the ranks, and so are the rows of each batch. A step exchanges the rows, the scores
of the candidates, and one partial reconstruction: about 4·B·2d numbers, whatever the size of the dictionary.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from modeldiff_eval.errors import RankError

TIMEOUT_MINUTES = 30
_PROBE = timedelta(seconds=10)
_BEAT_SECONDS = 60.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """This process among ``world``; alone unless :meth:`from_environment` finds ``torchrun``."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls, device: str | None = None) -> Ranks:
        """Join the process group that ``torchrun`` or ``accelerate launch`` announces, if there is one.

        Args:
            device: where the trainer will work; CUDA where there is one.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() and (device or "cuda").startswith("cuda") else "gloo"
            if backend == "nccl":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group(backend, timeout=timedelta(minutes=TIMEOUT_MINUTES))
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leader(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's part of ``n`` things; parts differ by one at most."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, in place, bitwise equal on all of them."""
        if self.world > 1:
            with self._named("adding up"):
                dist.all_reduce(values)
        return values

    def minimum(self, value: int) -> int:
        """The smallest of the ranks' numbers."""
        if self.world == 1:
            return value
        held = torch.tensor([value], device=_device())
        with self._named("agreeing"):
            dist.all_reduce(held, op=dist.ReduceOp.MIN)
        return int(held)

    def concatenate(self, part: Float[Tensor, "n ..."]) -> Float[Tensor, "all ..."]:
        """The parts of all ranks in rank order; their lengths may differ."""
        if self.world == 1:
            return part
        home, part = part.device, part.to(_device())  # NCCL exchanges CUDA tensors only
        with self._named("exchanging rows"):
            sizes = [torch.empty(1, dtype=torch.int64, device=part.device) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(part)], device=part.device))
            lengths = [int(size) for size in sizes]
            padded = part.new_zeros((max(lengths), *part.shape[1:]))
            padded[: len(part)] = part
            parts = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)]).to(home)

    def after_leader(self, work: Callable[[], _T]) -> _T:
        """``work`` of the leader, then of the others, who wait for it however long it takes."""
        if self.world == 1:
            return work()
        if not self.leader:
            while self.minimum(1) == 0:
                pass
            return work()
        with self._beating():
            done = work()
        self.minimum(1)
        return done

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Tell the waiting ranks now and then that the leader is at work: they give up after ``TIMEOUT_MINUTES`` of silence."""
        stop = threading.Event()

        def beat() -> None:
            with suppress(RankError):  # The leader meets it at its next exchange.
                while not stop.wait(_BEAT_SECONDS):
                    self.minimum(0)

        thread = threading.Thread(target=beat, name="beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def leave(self) -> None:
        """Part from the other ranks; what follows is each one's own."""
        if self.world > 1 and dist.is_initialized():
            self.wait()
            dist.destroy_process_group()

    def wait(self) -> None:
        """Return when every rank has arrived."""
        if self.world > 1:
            with self._named("waiting"):
                dist.barrier()

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"Rank {self.rank} of {self.world} lost {self._missing()} while {what}; training stops here and continues "
                f"from its last checkpoint when started again. ({str(error).splitlines()[0][:200]})"
            ) from error

    def _missing(self) -> str:
        """Which rank stopped, as far as can be told."""
        others = [rank for rank in range(self.world) if rank != self.rank]
        if len(others) == 1:
            return f"rank {others[0]}"
        try:
            dist.monitored_barrier(timeout=_PROBE, wait_all_ranks=True)
        except (RuntimeError, ValueError) as error:
            return f"another rank ({str(error).splitlines()[0][:120]})"
        return "another rank"


def _device() -> torch.device:
    if dist.get_backend() != "nccl":
        return torch.device("cpu")
    # By number: a thread has a current device of its own.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
