"""What keeps lm-eval from touching the rest of a run: its progress bars, its logging and the global generators."""

from __future__ import annotations

import inspect
import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

Progress = Callable[[int, int], None]
"""Called with (done, of)."""


class _Bar:
    """Stands in for lm-eval's progress bars: silent, and tells ``on_progress`` of those that count requests."""

    def __init__(self, on_progress: Progress | None, items: Any = None, *, total: int | None = None, **_: Any) -> None:
        self._items, self._total, self._done = items, total, 0
        self._tell = on_progress if items is None else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items or ())

    def update(self, n: int = 1) -> None:
        self._done += n
        if self._tell is not None and self._total:
            self._tell(self._done, self._total)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def progress_bars(on_progress: Progress | None) -> Iterator[None]:
    """Replace lm-eval's progress bars."""

    def bar(items: Any = None, **settings: Any) -> _Bar:
        return _Bar(on_progress, items, **settings)

    bars = [module for name, module in sys.modules.items() if name.startswith("lm_eval.") and hasattr(module, "tqdm")]
    modules: list[Any] = [module for module in bars if inspect.isclass(module.tqdm)]
    before = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = bar
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            module.tqdm = original


def seed_everything(seed: int) -> None:
    """Seed the global generators that lm-eval's tasks may use."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the global generators back afterwards, whatever lm-eval does with them."""
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Only errors from lm-eval and its libraries, unless ``verbose``."""
    names = () if verbose else ("lm_eval", "transformers", "datasets")
    with ExitStack() as stack:
        for name in names:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
