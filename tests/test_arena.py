"""LMArena tables in three shapes, and what a difference between two models in them means."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval.arena import read_arena, slug
from modeldiff_eval.errors import EvidenceError, NotListedError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "case_study" / "lmarena"

BASE, TUNED = "org/Base-9b-it", "lab/Base-9b-it-Tuned@main"
HEADER = "snapshot,style_control,category,model,rating,rating_q025,rating_q975\n"
ROWS = (
    "2025-01-01,0,math,base-9b-it,1000,990,1010\n"
    "2025-01-01,0,math,base-9b-it-tuned,1050,1045,1062\n"
    "2025-01-01,0,full,base-9b-it,1000,980,1020\n"
    "2025-01-01,0,full,base-9b-it-tuned,1001,981,1021\n"
    "2025-01-01,0,only,base-9b-it,1000,980,1020\n"
    "2025-01-01,1,math,base-9b-it,1100,1090,1110\n"
    "2025-01-01,1,math,base-9b-it-tuned,1120,1110,1130\n"
)


def _csv(folder: Path, text: str = HEADER + ROWS, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _json(folder: Path, table: Any, name: str = "table.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(table))
    return path


def _entry(rating: float, half: float = 10) -> dict[str, float]:
    return {"rating": rating, "rating_q025": rating - half, "rating_q975": rating + half}


def test_a_long_table_by_hand(tmp_path: Path) -> None:
    arena, caveats = read_arena(_csv(tmp_path), base=BASE, tuned=TUNED)
    math_row, full = arena.rows
    assert (arena.source, arena.snapshot, arena.independence_assumed) == ("table.csv", "2025-01-01", True)
    assert (math_row.category, math_row.base, math_row.tuned, math_row.delta.value) == ("math", 1000, 1050, 50)
    assert math_row.delta.low == pytest.approx(50 - math.hypot(5, 10), abs=1e-6)  # tuned down, base up
    assert math_row.delta.high == pytest.approx(50 + math.hypot(12, 10), abs=1e-6)  # tuned up, base down
    assert math_row.verdict == "up"
    assert math_row.delta_style is not None
    assert math_row.style_effect is not None
    assert math_row.delta_style.value == 20
    assert (math_row.style_effect.value, math_row.style_effect.low, math_row.style_effect.high) == (-30, None, None)
    assert (full.delta.value, full.verdict, full.delta_style, full.style_effect) == (1, "unclear", None, None)
    assert any("only one model has" in c and "only" in c for c in caveats)
    assert any("Holm over 2 rows" in c and "independent" in c for c in caveats)


def test_swapping_the_models_mirrors_every_row(tmp_path: Path) -> None:
    forth, _ = read_arena(_csv(tmp_path), base=BASE, tuned=TUNED)
    back, _ = read_arena(_csv(tmp_path), base=TUNED, tuned=BASE)
    for one, two in zip(forth.rows, back.rows, strict=True):
        assert one.delta.value == -two.delta.value
        assert one.delta.low == pytest.approx(-two.delta.high)
        assert {one.verdict, two.verdict} in ({"up", "down"}, {"unclear"})


def test_json_tables_one_with_and_one_without_style(tmp_path: Path) -> None:
    plain = _json(tmp_path, {"coding": {"base-9b-it": _entry(1000), "base-9b-it-tuned": _entry(900)}})
    style = _json(tmp_path, {"coding": {"base-9b-it": _entry(1000), "base-9b-it-tuned": _entry(990)}}, "style.json")
    arena, _ = read_arena(plain, base=BASE, tuned=TUNED, style_path=style, snapshot="2025-02-02")
    assert arena.snapshot == "2025-02-02"
    assert arena.source == "table.json, style.json"
    [row] = arena.rows
    assert (row.delta.value, row.verdict) == (-100, "down")
    assert row.style_effect is not None
    assert row.style_effect.value == 90


def test_without_a_style_table_the_effect_is_null_and_said(tmp_path: Path) -> None:
    plain = _json(tmp_path, {"coding": {"base-9b-it": _entry(1000), "base-9b-it-tuned": _entry(900)}})
    arena, caveats = read_arena(plain, base=BASE, tuned=TUNED)
    assert arena.rows[0].style_effect is None
    assert any("effect of style is not known" in c for c in caveats)


def test_a_leaderboard_with_plus_and_minus(tmp_path: Path) -> None:
    table = (
        "rank,rank_stylectrl,model,arena_score,95_pct_ci,votes\n"
        "1,2,Base-9B-it-Tuned,1230,+6/-8,9000\n"
        "2,1,Base-9B-it,1210,+3/-4,20000\n"
    )
    arena, _ = read_arena(_csv(tmp_path, table), base=BASE, tuned=TUNED)
    [row] = arena.rows
    assert (row.category, row.delta.value) == ("overall", 20)
    assert row.delta.low == pytest.approx(20 - math.hypot(8, 3), abs=1e-6)
    assert row.delta.high == pytest.approx(20 + math.hypot(6, 4), abs=1e-6)


def test_ratings_without_bounds_have_no_interval_and_no_verdict(tmp_path: Path) -> None:
    table = "model,arena_score\nbase-9b-it,1000\nbase-9b-it-tuned,1500\n"
    arena, _ = read_arena(_csv(tmp_path, table), base=BASE, tuned=TUNED)
    assert (arena.rows[0].delta.low, arena.rows[0].delta.high, arena.rows[0].verdict) == (None, None, "unclear")


def test_repeated_rows_are_dropped_and_contradictions_refused(tmp_path: Path) -> None:
    first = ROWS.splitlines()[0]
    arena, caveats = read_arena(_csv(tmp_path, HEADER + ROWS + first + "\n"), base=BASE, tuned=TUNED)
    assert len(arena.rows) == 2
    assert any("1 repeated rows" in c for c in caveats)
    with pytest.raises(EvidenceError, match="line 9: base-9b-it already has another rating in math"):
        read_arena(_csv(tmp_path, HEADER + ROWS + first.replace("1000", "1001") + "\n"), base=BASE, tuned=TUNED)


def test_one_snapshot_at_a_time(tmp_path: Path) -> None:
    older = ROWS.replace("2025-01-01", "2024-06-01").replace("1050,1045,1062", "1020,1015,1032")
    path = _csv(tmp_path, HEADER + ROWS + older)
    newest, caveats = read_arena(path, base=BASE, tuned=TUNED)
    assert newest.snapshot == "2025-01-01"
    assert any("2 snapshots; the newest, 2025-01-01" in c for c in caveats)
    chosen, caveats = read_arena(path, base=BASE, tuned=TUNED, snapshot="2024-06-01")
    assert chosen.rows[0].delta.value == 20
    assert not any("snapshots" in c for c in caveats)
    with pytest.raises(EvidenceError, match=r"no snapshot '2025-01-02'.*Did you mean '2025-01-01'"):
        read_arena(path, base=BASE, tuned=TUNED, snapshot="2025-01-02")


def test_the_newest_snapshot_that_lists_both_models(tmp_path: Path) -> None:
    lonely = "2025-06-01,0,math,base-9b-it,1000,990,1010\n"
    newest, caveats = read_arena(_csv(tmp_path, HEADER + ROWS + lonely), base=BASE, tuned=TUNED)
    assert newest.snapshot == "2025-01-01"
    assert any("2025-06-01, does not list both" in c for c in caveats)
    apart = lonely + "2025-01-01,0,math,base-9b-it-tuned,1000,990,1010\n"
    with pytest.raises(NotListedError, match="no snapshot that lists the two together"):
        read_arena(_csv(tmp_path, HEADER + apart), base=BASE, tuned=TUNED)
    with pytest.raises(NotListedError, match="no model 'base-9b-it-tuned'"):
        read_arena(_csv(tmp_path, HEADER + ROWS + lonely), base=BASE, tuned=TUNED, snapshot="2025-06-01")


def test_style_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    plain = _csv(tmp_path, HEADER + ROWS)
    other = _csv(tmp_path, HEADER + ROWS.replace("2025-01-01", "2025-02-02"), "style.csv")
    with pytest.raises(EvidenceError, match="Ratings of different snapshots are not compared"):
        read_arena(plain, base=BASE, tuned=TUNED, style_path=other)
    undated = _json(tmp_path, {"math": {"base-9b-it": _entry(1000), "base-9b-it-tuned": _entry(900)}})
    both = _csv(tmp_path, HEADER + ROWS + ROWS.replace("2025-01-01", "2025-02-02"), "style.csv")
    with pytest.raises(EvidenceError, match="without style control names none"):
        read_arena(undated, base=BASE, tuned=TUNED, style_path=both)


def test_holm_or_benjamini_hochberg_over_rows(tmp_path: Path) -> None:
    table = {
        f"c{i}": {"base-9b-it": _entry(1000, 10), "base-9b-it-tuned": _entry(1000 + delta, 10)}
        for i, delta in enumerate([16, 16, 16, 16])
    }  # z = 2.22 each, p = 0.027
    path = _json(tmp_path, table)
    strict, _ = read_arena(path, base=BASE, tuned=TUNED)
    loose, caveats = read_arena(path, base=BASE, tuned=TUNED, correction="bh")
    assert {row.verdict for row in strict.rows} == {"unclear"}
    assert {row.verdict for row in loose.rows} == {"up"}
    assert any("Benjamini-Hochberg" in c for c in caveats)


def test_an_absent_model_is_named_with_the_closest_one(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"no model 'base-9b-tuned'.*Did you mean 'base-9b-it-tuned'"):
        read_arena(_csv(tmp_path), base=BASE, tuned="lab/base-9b-tuned")


def test_an_absent_model_has_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(NotListedError, match="has no model 'gpt'"):
        read_arena(_csv(tmp_path), base=BASE, tuned="gpt")
    with pytest.raises(EvidenceError, match="are one model"):
        read_arena(_csv(tmp_path), base=BASE, tuned="other/base-9b-it")


def test_two_names_with_one_slug_are_ambiguous(tmp_path: Path) -> None:
    table = "model,arena_score\nBase-9b-it,1000\nbase-9b-it,1001\nbase-9b-it-tuned,1500\n"
    with pytest.raises(EvidenceError, match=r"2 models that .* could be: Base-9b-it, base-9b-it"):
        read_arena(_csv(tmp_path, table), base=BASE, tuned=TUNED)
    assert read_arena(_csv(tmp_path, table), base="base-9b-it", tuned=TUNED)[0].rows[0].base == 1001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + ROWS.replace("1000,990", "high,990", 1), "line 2, rating: 'high' is not a number"),
        (HEADER + ROWS.replace("1000,990", "nan,990", 1), "line 2, rating: 'nan' is not a number"),
        (HEADER + ROWS.replace("1000,990", ",990", 1), "line 2, rating: the value is missing"),
        (HEADER + ROWS.replace("990,1010", "1010,990", 1), "line 2: .*outside its interval"),
        (HEADER + ROWS.replace(",0,math", ",maybe,math", 1), "line 2, style_control: 'maybe'"),
        (HEADER + ROWS.splitlines()[0][:-15], "line 2: 7 fields expected"),
        ("model,arena_score,95_pct_ci\nbase-9b-it,1000,5\n", r"line 2, 95_pct_ci: '5' is not of the form \+3/-5"),
        ("name,score\nx,1\n", "no columns model and rating or arena_score; found name, score"),
        ("", "no columns model"),
        (HEADER, "holds no ratings"),
    ],
)
def test_malformed_csv_tables_name_line_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        read_arena(_csv(tmp_path, text), base=BASE, tuned=TUNED)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("text", "must hold"),
        ({"math": 3}, "math: expected models"),
        ({"math": {"m": 1200}}, "math → m: expected rating"),
        ({"math": {"m": {"rating": "x"}}}, "math → m, rating: 'x' is not a number"),
    ],
)
def test_malformed_json_tables_name_the_entry(tmp_path: Path, table: Any, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        read_arena(_json(tmp_path, table), base=BASE, tuned=TUNED)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="cannot be read"):
        read_arena(tmp_path / "none.csv", base=BASE, tuned=TUNED)
    broken = tmp_path / "t.json"
    broken.write_text("{")
    with pytest.raises(EvidenceError, match="not JSON"):
        read_arena(broken, base=BASE, tuned=TUNED)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress((HEADER + ROWS).encode())[:-20])
    with pytest.raises(EvidenceError, match="cannot be read"):
        read_arena(packed, base=BASE, tuned=TUNED)


def test_gzipped_tables(tmp_path: Path) -> None:
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    assert (
        read_arena(packed, base=BASE, tuned=TUNED)[0].rows == read_arena(_csv(tmp_path), base=BASE, tuned=TUNED)[0].rows
    )


def test_slugs() -> None:
    assert slug("google/gemma-2-9b-it") == "gemma-2-9b-it"
    assert slug("princeton-nlp/gemma-2-9b-it-SimPO@main") == "gemma-2-9b-it-simpo"
    assert slug("Gemma 2 9B") == "gemma-2-9b"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_the_published_math_row_is_negative_and_unclear() -> None:
    arena, _ = read_arena(
        SHARED / "categories_gemma2.csv",
        base="google/gemma-2-9b-it",
        tuned="princeton-nlp/gemma-2-9b-it-SimPO",
        snapshot="2025-12-17",
    )
    row = {r.category: r for r in arena.rows}["math"]
    assert row.delta.value is not None
    assert row.delta.low is not None
    assert row.delta.high is not None
    assert round(row.delta.value, 1) == -10.6
    assert round((row.delta.high - row.delta.low) / 2, 1) == 16.4
    assert row.verdict == "unclear"
    assert {r.category: r.verdict for r in arena.rows}["full"] == "up"
