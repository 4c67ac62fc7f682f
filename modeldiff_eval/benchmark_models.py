"""Base and tuned for benchmarks. Where tuned is an adapter of a big base, one set of weights serves both.

Models that fit in memory together are there already, tuned with its adapter merged as everything else in the run sees it.
Bigger ones would be loaded one after the other; then the adapter is put on the base instead and switched off for the base's
turn. Scores of the two ways differ by rounding, so what is cached says which it was. The choice depends on the models only,
never on what happens to be loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from modeldiff_eval.errors import MismatchedModelsError
from modeldiff_eval.models import Source, load_tokenizer
from modeldiff_eval.workspace import KEEP_LOADED_BYTES, Workspace


class Ready(NamedTuple):
    """A model to run. ``key`` identifies weights, precision and how an adapter is applied."""

    model: Any
    tokenizer: Any
    key: str


def is_adapter_of(base: Source, tuned: Source) -> bool:
    """Whether ``tuned`` is ``base`` plus an adapter."""
    return tuned.adapter is not None and base.adapter is None and tuned.foundation.key == base.key


@contextmanager
def model_of(work: Workspace, role: str, *, most: int = KEEP_LOADED_BYTES) -> Iterator[Ready]:
    """The model of one role while it is benchmarked.

    Args:
        most: bytes of both models together up to which each is loaded for itself.

    Raises:
        ModelError: it cannot be loaded. MismatchedModelsError: the adapter does not fit.
    """
    base, source = work.sources["base"], work.sources[role]
    own = f"{source.key}-{work.pool.dtype}"
    if role == "base" or not is_adapter_of(base, source):
        loaded = work.pool.get(source)
        yield Ready(loaded.model, loaded.tokenizer, own)
        return
    if 2 * work.pool.size(base) <= most:
        loaded = work.pool.get(source)
        yield Ready(loaded.model, loaded.tokenizer, own)
        return
    with adapted(work.pool.get(base).model, source) as model:
        yield Ready(model, load_tokenizer(source, cache=work.cache), f"{own}-unmerged")


@contextmanager
def adapted(model: Any, source: Source) -> Iterator[Any]:
    """``model`` with the adapter of ``source`` on it, taken off again afterwards; the weights of ``model`` never change."""
    from peft import PeftModel

    try:
        wrapped = PeftModel.from_pretrained(model, str(source.adapter), autocast_adapter_dtype=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MismatchedModelsError(
            f"The adapter {source.adapter} does not fit {source.location}: {first} Give the model it was trained on as --base."
        ) from error
    try:
        yield wrapped.eval().base_model.model
    finally:
        wrapped.unload()
