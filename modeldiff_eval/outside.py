"""Evidence from outside the models: benchmarks run here or read from saved results, and LMArena's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modeldiff_eval import workspace as ws
from modeldiff_eval.card import Outside
from modeldiff_eval.errors import EvidenceError, NotListedError
from modeldiff_eval.settings import Settings


def gather_evidence(work: ws.Workspace, out: Path) -> Outside:
    """Benchmarks (run here, or read from saved results) and LMArena tables."""
    from modeldiff_eval.arena import read_arena
    from modeldiff_eval.benchmark_stage import benchmark_stage

    settings = work.settings
    rows, caveats, scores = benchmark_stage(work, out)
    arena = None
    if settings.arena:
        try:
            with work.reporter.task("Arena", unit="resamples") as advance:
                arena, notes = read_arena(**_arena_input(settings), seed=settings.seed, on_draws=advance)
            caveats += notes
        except NotListedError as error:
            if settings.arena_names:
                raise
            caveats.append(f"Arena: not listed. {error}")
    return Outside(arena, rows, caveats, scores)


def _arena_input(settings: Settings) -> dict[str, Any]:
    base, tuned = settings.arena_names or (settings.base, settings.tuned)
    path, style = (Path(name).expanduser() if name else None for name in (settings.arena, settings.arena_style))
    return {"path": path, "base": base, "tuned": tuned, "style_path": style, "snapshot": settings.arena_snapshot}


def require_arena_input(settings: Settings) -> None:
    """Wrong arena input fails before any long work; a model that no arena lists is a gap of the card, unless it was named."""
    from modeldiff_eval.arena import require_arena

    if not settings.arena:
        if settings.arena_style or settings.arena_snapshot:
            raise EvidenceError("--arena-style and --arena-snapshot need --arena, the table or the folder of tables.")
        return
    try:
        require_arena(**_arena_input(settings))
    except NotListedError:
        if settings.arena_names:
            raise
