"""One-to-one matching of directions, as the truth bench uses it; lives in :mod:`modeldiff_eval.matching`."""

from __future__ import annotations

from modeldiff_eval.matching import cosines, match

__all__ = ["cosines", "match"]
