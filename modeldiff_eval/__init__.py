"""What a fine-tune changed inside a language model, with intervals.

::

    import modeldiff_eval as md
    run = md.diff("X", "Y", anchor="P")
    run.card        # the report card (records.Card)
    run.latents     # a pandas DataFrame, one row for each (side, latent)
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from modeldiff_eval._version import __version__

if TYPE_CHECKING:
    from modeldiff_eval.diff import Run, diff

__all__ = ["Run", "__version__", "diff"]


def __getattr__(name: str) -> Any:
    """Import the heavy parts when they are first asked for."""
    if name in ("diff", "Run"):
        import importlib

        value = getattr(importlib.import_module("modeldiff_eval.diff"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'modeldiff_eval' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps ``modeldiff_eval.diff`` the function when the module of that name is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.diff if name == "diff" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
