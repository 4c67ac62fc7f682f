"""Arena evidence in a whole run: wrong input stops it before any work, a model that is not listed does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modeldiff_eval.errors import EvidenceError, NotListedError
from modeldiff_eval.outside import gather_evidence, require_arena_input
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import Settings, command_line, make_settings

TABLE = "model,arena_score,95_pct_ci\nbase,1000,+5/-5\nbase-simpo,1050,+5/-5\n"


def settings(folder: Path, **changes: Any) -> Settings:
    path = folder / "table.csv"
    path.write_text(TABLE)
    flags = {"base": "org/base", "tuned": "lab/base-SimPO", "arena": str(path), "tasks": ("none",)}
    return make_settings(flags | changes, environ={})[0]


def gathered(chosen: Settings) -> Any:
    work: Any = SimpleNamespace(settings=chosen, reporter=Reporter())
    return gather_evidence(work, Path("unused"))


def test_both_models_are_found(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    require_arena_input(chosen)
    outside = gathered(chosen)
    assert outside.arena.rows[0].delta.value == 50


def test_a_model_that_is_not_listed_is_a_named_gap(tmp_path: Path) -> None:
    chosen = settings(tmp_path, tuned="lab/base-simp")
    require_arena_input(chosen)
    outside = gathered(chosen)
    assert outside.arena is None
    [caveat] = outside.caveats
    assert caveat.startswith("Arena: not listed.")
    assert "Did you mean 'base-simpo'" in caveat


def test_a_name_that_was_typed_must_be_there(tmp_path: Path) -> None:
    chosen = settings(tmp_path, arena_names=("base", "base-simp"))
    for call in (require_arena_input, gathered):
        with pytest.raises(NotListedError, match="Did you mean 'base-simpo'"):
            call(chosen)


def test_wrong_files_stop_a_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        require_arena_input(settings(tmp_path, arena=str(tmp_path / "none.csv")))
    with pytest.raises(EvidenceError, match="need --arena"):
        require_arena_input(settings(tmp_path, arena=None, arena_snapshot="2025-01-01"))


def test_the_command_names_the_snapshot(tmp_path: Path) -> None:
    assert "--arena-snapshot 2025-01-01" in command_line(settings(tmp_path, arena_snapshot="2025-01-01"))
