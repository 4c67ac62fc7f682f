"""A folder of LMArena's tables, named by date: pairs are found, snapshots are not mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeldiff_eval.arena import read_arena
from modeldiff_eval.errors import EvidenceError

BASE, TUNED = "org/base", "lab/base-simpo"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "case_study" / "lmarena"


def table(folder: Path, name: str, tuned: float | None, category: str = "math") -> None:
    models = {"base": {"rating": 1000, "rating_q025": 990, "rating_q975": 1010}}
    if tuned is not None:
        models["base-simpo"] = {"rating": tuned, "rating_q025": tuned - 10, "rating_q975": tuned + 10}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({category: models}))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("leaderboard-text{}-20250101.json", "leaderboard-text{}-20250918.json"),
        ("2025-01-01/leaderboard-text{}.json", "2025-09-18/leaderboard-text{}.json"),
        ("table_2025.01.01{}.json", "table_2025.09.18{}.json"),
    ],
)
def test_pairs_of_tables_are_found_by_name(tmp_path: Path, older: str, newer: str) -> None:
    for name, plain, styled in ((older, 1010, 1020), (newer, 1100, 1070)):
        table(tmp_path, name.format(""), plain)
        table(tmp_path, name.format("-style-control"), styled)
    arena, caveats = read_arena(tmp_path, base=BASE, tuned=TUNED)
    assert (arena.snapshot, arena.source) == ("2025-09-18", tmp_path.name)
    assert arena.rows[0].delta.value == 100
    assert arena.rows[0].style_effect is not None
    assert arena.rows[0].style_effect.value == -30
    assert any("2 snapshots; the newest, 2025-09-18" in c for c in caveats)
    old, _ = read_arena(tmp_path, base=BASE, tuned=TUNED, snapshot="2025-01-01")
    assert old.rows[0].delta.value == 10
    with pytest.raises(EvidenceError, match=r"no snapshot '2025-01-10'.*Did you mean '2025-01-01'"):
        read_arena(tmp_path, base=BASE, tuned=TUNED, snapshot="2025-01-10")


def test_the_newest_table_with_both_models_counts(tmp_path: Path) -> None:
    table(tmp_path, "2025-01-01.json", 1010)
    table(tmp_path, "2025-02-01.json", None)
    arena, caveats = read_arena(tmp_path, base=BASE, tuned=TUNED)
    assert arena.snapshot == "2025-01-01"
    assert any("2025-02-01, does not list both" in c for c in caveats)


def test_other_arenas_are_left_out(tmp_path: Path) -> None:
    table(tmp_path, "2025-01-01/leaderboard-text.json", 1010)
    table(tmp_path, "2025-01-01/leaderboard-vision.json", 900)
    arena, caveats = read_arena(tmp_path, base=BASE, tuned=TUNED)
    assert arena.rows[0].delta.value == 10
    assert any("1 files of other arenas" in c for c in caveats)


def test_undated_files_beside_dated_ones_are_left_out(tmp_path: Path) -> None:
    table(tmp_path, "2025-01-01.json", 1010)
    table(tmp_path, "old.json", 900)
    arena, caveats = read_arena(tmp_path, base=BASE, tuned=TUNED)
    assert arena.rows[0].delta.value == 10
    assert any("name no date" in c for c in caveats)


def test_two_undated_tables_contradict_each_other(tmp_path: Path) -> None:
    table(tmp_path, "a.json", 1010)
    table(tmp_path, "b.json", 900)
    with pytest.raises(EvidenceError, match=r"another rating in math.*name the files by their dates"):
        read_arena(tmp_path, base=BASE, tuned=TUNED)


def test_folders_without_tables_or_with_battles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="holds no CSV or JSON"):
        read_arena(tmp_path, base=BASE, tuned=TUNED)
    (tmp_path / "battles.csv").write_text("model_a,model_b,winner\n")
    with pytest.raises(EvidenceError, match=r"holds battles .battles.csv."):
        read_arena(tmp_path, base=BASE, tuned=TUNED)


def test_only_style_control_is_said(tmp_path: Path) -> None:
    table(tmp_path, "2025-01-01-style-control.json", 1010)
    with pytest.raises(EvidenceError, match="only ratings with style control"):
        read_arena(tmp_path, base=BASE, tuned=TUNED)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
@pytest.mark.parametrize("name", ["overall_history_gemma2.csv", "overall_history.csv.gz"])
def test_a_table_day_by_day(name: str) -> None:
    base, tuned = "google/gemma-2-9b-it", "princeton-nlp/gemma-2-9b-it-SimPO"
    arena, _ = read_arena(SHARED / name, base=base, tuned=tuned)
    assert arena.snapshot is not None
    assert arena.snapshot > "2025"
    assert arena.rows[0].verdict == "up"
