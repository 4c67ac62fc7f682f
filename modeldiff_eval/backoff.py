"""When memory runs out: batches are halved and tried again, so that a run ends later and not never.

Rows of a batch do not touch each other (causal attention, padding on the right; a random stream for each answer), so a
smaller batch gives the same numbers, up to the rounding of a matrix product of another shape.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

from modeldiff_eval.errors import CrosscoderError, ModelError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left; PyTorch says it in several ways."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def let_go() -> None:
    """Give back what nobody uses any more: dead circles, and what PyTorch keeps of the GPU for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Room:
    """How large a batch has proved to be too large.

    Args:
        what: what runs, for the note and the error.
        fix: what helps when a batch of one does not fit.
    """

    def __init__(self, what: str, fix: str = "Try --dtype bfloat16 or --device cpu, or free some memory.") -> None:
        self._what, self._fix = what, fix
        self.limit: int | None = None
        """Most that a batch may cost, once one has failed."""

    def parts(self, rows: int, cost: int, run: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
        """``run`` over all rows of a batch, whole or, where memory runs out, in parts.

        Args:
            cost: of one row (padded tokens).

        Yields:
            The rows of each part, and what ``run`` made of them.

        Raises:
            ModelError: a single row does not fit.
        """
        at = 0
        while at < rows:
            most = rows - at if self.limit is None else max(1, min(rows - at, self.limit // max(1, cost)))
            part = slice(at, at + most)
            failed = None
            try:
                made = run(part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failed = _first_line(error)
            if failed is None:
                yield part, made
                at += most
                continue
            let_go()  # Here and not above: an exception that is being handled holds on to what it was working with.
            self._halve(most, cost, failed)

    def _halve(self, rows: int, cost: int, failed: str) -> None:
        if rows == 1:
            raise ModelError(f"{self._what}: out of memory with a batch of one ({failed}). {self._fix}")
        self.limit = rows // 2 * max(1, cost)
        log.warning("%s: out of memory with a batch of %d (%s). Going on with %d.", self._what, rows, failed, rows // 2)


def twice(compute: Callable[P, T], what: str) -> Callable[P, T]:
    """``compute``, called a second time where memory ran out: another process may have let go of it meanwhile.

    Raises:
        CrosscoderError: there is no memory the second time either.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return compute(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failed = _first_line(error)
        log.warning("%s: out of memory (%s). Trying once more.", what, failed)
        let_go()
        try:
            return compute(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        raise CrosscoderError(
            f"{what}: out of memory ({failed}). Take fewer --latents or a smaller batch in --config, --device cpu, or free some memory. "
            "The last checkpoint is kept: with the same settings the same command goes on from there."
        )

    return call


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
