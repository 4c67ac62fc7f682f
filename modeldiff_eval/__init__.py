"""What a fine-tune changed inside a language model, with intervals.

::

    import modeldiff_eval as md
    run = md.diff("X", "Y", anchor="P")
    run.card        # the report card (records.Card)
    run.latents     # a pandas DataFrame, one row for each (side, latent)
    run.plot.classes()              # a forest plot
    md.load("runs/tuned")           # a run that was finished earlier
    md.read_card("reports/demo")    # a card alone; md.card_from_counts("counts.yaml") makes one
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from modeldiff_eval._version import __version__

if TYPE_CHECKING:
    from modeldiff_eval.card_file import read_card
    from modeldiff_eval.counts import card_from_counts
    from modeldiff_eval.diff import diff
    from modeldiff_eval.run import Run, load

__all__ = ["Run", "__version__", "card_from_counts", "diff", "load", "read_card"]

_PLACES = {"diff": "diff", "Run": "run", "load": "run", "read_card": "card_file", "card_from_counts": "counts"}


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first asked for."""
    if name in _PLACES:
        import importlib

        importlib.import_module("modeldiff_eval.run")  # Notebooks then show cards as pages.
        value = getattr(importlib.import_module(f"modeldiff_eval.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'modeldiff_eval' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps ``modeldiff_eval.diff`` the function when the module of that name is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.diff if name == "diff" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
