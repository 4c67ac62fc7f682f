"""LMArena beside the card: Elo of base and tuned by category, their difference and what style control takes away.

The numbers come from published tables (:mod:`modeldiff_eval.arena_table_rows`) or, fitted here, from battles
(:mod:`modeldiff_eval.arena_battle_rows`); which of the two a path holds is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from modeldiff_eval.arena_battle_rows import arena_from_battles
from modeldiff_eval.arena_battles import read_battles
from modeldiff_eval.arena_files import kind_of
from modeldiff_eval.arena_names import find_model, slug
from modeldiff_eval.arena_table_rows import arena_from_tables
from modeldiff_eval.arena_verdicts import Correction
from modeldiff_eval.bradley_terry_errors import DRAWS
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Arena

__all__ = ["read_arena", "require_arena", "slug"]


def read_arena(
    path: Path,
    *,
    base: str,
    tuned: str,
    style_path: Path | None = None,
    snapshot: str | None = None,
    correction: Correction = "holm",
    draws: int = DRAWS,
    seed: int = 0,
    on_draws: Callable[[int, int], None] | None = None,
) -> tuple[Arena, list[str]]:
    """Elo of both models, with the interval of their difference.

    The verdict is the sign of ``delta`` (without style control) when its p, adjusted over the rows, is below 0.05.

    Args:
        path: LMArena's table, a folder of tables named by date, or a file of battles.
        base: the base model's name; ``org/Name@revision`` is understood as the slug ``name``.
        tuned: the same for the tuned model.
        style_path: the table with style control, when it is a file of its own.
        snapshot: which snapshot of tables; the newest that lists both models when not given. Of battles it is a label.
        correction: over the rows.
        draws: resamples of battles; tables bring their own intervals.
        seed: of the resampling.
        on_draws: told how many resamples are done, and of how many.

    Returns:
        The arena part of the card, and caveats.

    Raises:
        NotListedError: one of the models is not there.
        EvidenceError: a file is malformed, or does not have the snapshot.
        UsageError: a table of style control was given beside battles.
    """
    if kind_of(path) == "tables":
        return arena_from_tables(
            path, base=base, tuned=tuned, style_path=style_path, snapshot=snapshot, correction=correction
        )
    _refuse_style(path, style_path)
    return arena_from_battles(
        path,
        base=base,
        tuned=tuned,
        snapshot=snapshot,
        correction=correction,
        draws=draws,
        rng=np.random.default_rng([seed, 43]),
        on_draws=on_draws,
    )


def require_arena(
    path: Path, *, base: str, tuned: str, style_path: Path | None = None, snapshot: str | None = None
) -> None:
    """Fail before any long work where :func:`read_arena` would fail on the input; nothing is fitted.

    Raises:
        the errors of :func:`read_arena`.
    """
    if kind_of(path) == "tables":
        arena_from_tables(path, base=base, tuned=tuned, style_path=style_path, snapshot=snapshot)
        return
    _refuse_style(path, style_path)
    models = read_battles(path).models
    for model in (base, tuned):
        find_model(model, models, source=path.name)


def _refuse_style(path: Path, style_path: Path | None) -> None:
    if style_path is not None:
        raise UsageError(f"{path.name} holds battles, which carry style themselves; leave --arena-style out.")
