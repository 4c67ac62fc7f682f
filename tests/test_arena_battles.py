"""Battles from files: every form, every wrong field, categories, style, and the rows that come of them."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sample_battles import battles

from modeldiff_eval.arena import read_arena, require_arena
from modeldiff_eval.arena_battles import read_battles
from modeldiff_eval.arena_categories import FEWEST
from modeldiff_eval.arena_files import kind_of, read_bytes
from modeldiff_eval.errors import EvidenceError, NotListedError, UsageError

NAMES = ["base-9b-it", "base-9b-it-simpo", "other", "third"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "case_study"


def records(n: int = 600, *, seed: int = 0, style: bool = True) -> list[dict[str, Any]]:
    """Battles as LMArena publishes them."""
    rng = np.random.default_rng(seed)
    data = battles(np.array([0.0, 0.5, 0.2, -0.4]), n, seed=seed)
    out = []
    for i in range(n):
        winner = {1.0: "model_a", 0.0: "model_b", 0.5: "tie (bothbad)" if i % 2 else "tie"}[data.points[i]]
        row: dict[str, Any] = {
            "model_a": NAMES[data.first[i]],
            "model_b": NAMES[data.second[i]],
            "winner": winner,
            "language": "German" if i % 3 == 0 else "English",
            "is_code": bool(i % 4 == 0),
            "category_tag": {"math_v0.1": {"math": bool(i % 5 == 0)}, "if_v0.1": {"if": False, "score": 2}},
        }
        if style:
            a, b = (int(x) for x in rng.integers(20, 400, size=2))
            row["conv_metadata"] = {
                "sum_assistant_a_tokens": a,
                "sum_assistant_b_tokens": b,
                "header_count_a": {"h1": 1, "h2": i % 3},
                "header_count_b": {"h1": 0, "h2": 2},
                "list_count_a": {"ordered": 0, "unordered": i % 4},
                "list_count_b": {"ordered": 1, "unordered": 0},
                "bold_count_a": {"**": i % 2, "__": 0},
                "bold_count_b": {"**": 1, "__": None},
            }
        out.append(row)
    return out


def flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{key: row[key] for key in ("model_a", "model_b", "winner", "language")} for row in rows])


def save(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    path = folder / f"battles.{kind}"
    text = {
        "json": lambda: json.dumps(rows),
        "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
        "csv": lambda: flat(rows).to_csv(index=False),
    }
    plain = kind.removesuffix(".gz")
    if plain == "parquet":
        pd.DataFrame(rows).to_parquet(folder / "plain.parquet")
        data = (folder / "plain.parquet").read_bytes()
    else:
        data = text[plain]().encode()
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "battles.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "json.gz", "jsonl.gz", "csv.gz", "parquet.gz"])
def test_every_form_holds_the_same_battles(tmp_path: Path, kind: str) -> None:
    rows = records()
    path = save(tmp_path, rows, kind)
    assert kind_of(path) == "battles"
    held, expected = read_battles(path), read_battles(save(tmp_path, rows, "json"))
    assert held.models == sorted(NAMES)
    for part in ("first", "second", "points", "weight"):
        assert np.array_equal(getattr(held.battles, part), getattr(expected.battles, part))
    assert set(held.categories) >= {"german", "english"}
    if not kind.startswith("csv"):
        assert held.style == ("length", "headers", "lists", "bold")
        assert np.allclose(held.battles.style, expected.battles.style)
        assert {"coding", "math"} <= set(held.categories)
        assert "if" not in held.categories  # none


def test_rows_of_a_card(tmp_path: Path) -> None:
    arena, caveats = read_arena(save(tmp_path, records(3000), "json"), base="org/Base-9b-it", tuned=NAMES[1], draws=200)
    assert (arena.kind, arena.independence_assumed, arena.source) == ("battles", False, "battles.json")
    assert arena.scale is not None
    assert "mean of the 4 models" in arena.scale
    rows = {row.category: row for row in arena.rows}
    assert next(iter(rows)) == "full"
    assert set(rows) == {"full", "english", "german", "coding", "math"}
    full = rows["full"]
    assert full.delta.low is not None
    assert full.delta.high is not None
    assert full.delta.low < 0.5 * 400 / math.log(10) * 0.8 < full.delta.high  # a fifth are ties, which draw together
    assert (full.verdict, full.battles) == ("up", 3000)
    for one in (full.delta_style, full.style_effect, full.delta_style_unpenalised, full.style_effect_unpenalised):
        assert one is not None
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.high
    assert [c.feature for c in arena.style] == ["length", "headers", "lists", "bold"]
    said = " ".join(caveats)
    for words in (
        "Bradley-Terry over 3,000 battles of 4 models",
        "no independence is assumed",
        "Holm over 5 rows",
        "shrunken as LMArena's",
    ):
        assert words in said


def test_swapping_the_models_mirrors_the_rows(tmp_path: Path) -> None:
    path = save(tmp_path, records(800), "json")
    forth, _ = read_arena(path, base=NAMES[0], tuned=NAMES[1], draws=100)
    back, _ = read_arena(path, base=NAMES[1], tuned=NAMES[0], draws=100)
    for one, two in zip(forth.rows, back.rows, strict=True):
        assert one.delta.low == pytest.approx(-two.delta.high, abs=1e-4)
        assert one.base_win_rate == two.tuned_win_rate


def test_a_judges_preferences(tmp_path: Path) -> None:
    rows = [
        {
            "generator_1": "ref",
            "generator_2": model,
            "preference": preference,
            "instruction": f"ask {i}",
            "output_1": "a b",
            "output_2": "a",
        }
        for model, share in (("base", 0.3), ("tuned", 0.6))
        for i in range(100)
        for preference in [1.0 + (i / 100 < share)]
    ]
    rows[0]["preference"], rows[1]["preference"], rows[2]["preference"] = 1.5, 0, 1.25
    held = read_battles(save(tmp_path, rows, "json"))
    assert held.prompts == "instruction"
    assert list(held.battles.points[:3]) == [0.5, 0.5, 0.75]
    assert held.battles.points[99] == 1
    arena, caveats = read_arena(save(tmp_path, rows, "json"), base="base", tuned="tuned", draws=300)
    [row] = arena.rows
    assert row.base_win_rate is not None
    assert row.tuned_win_rate is not None
    assert row.base_win_rate.value == pytest.approx(30 - 0.5 - 0.5 - 0.75)
    assert row.tuned_win_rate.value == pytest.approx(60)
    assert (row.base_battles, row.tuned_battles, row.verdict) == (100, 100, "up")
    assert any("100 prompts (by instruction)" in c for c in caveats)


def test_a_winner_counts_before_a_preference(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "model_a,model_b,preference,winner\nx,y,1.9,model_a\nx,y,1.2,model_b\n")
    assert list(read_battles(path).battles.points) == [1, 0]


def test_weights(tmp_path: Path) -> None:
    text = "model_a,model_b,winner,weight\n" + "x,y,model_a,3\n" * 5 + "x,y,model_b,1\n" * 15 + "x,y,model_a,0\n"
    arena, _ = read_arena(csv_of(tmp_path, text), base="x", tuned="y", draws=100)
    assert arena.rows[0].delta.value == pytest.approx(0, abs=1e-9)
    assert arena.rows[0].battles == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model_a,model_b,winner\nx,y,tie\nx,y,modela\n",
            r"line 3, winner: 'modela' is none of .*Did you mean 'model_a'",
        ),
        ("model_a,model_b\nx,y\n", "neither a column winner nor a column preference"),
        ("model_a,model_b,preference\nx,y,2.5\n", r"line 2, preference: '2.5' is out of range"),
        ("model_a,model_b,preference\nx,y,much\n", r"line 2, preference: 'much' is not a number"),
        ("model_a,model_b,winner,weight\nx,y,tie,-1\n", r"line 2, weight: '-1' is no weight"),
        ("model_a,model_b,winner,weight\nx,y,tie,\n", r"line 2, weight: '' is no weight"),
        ("model_a,model_b,winner\nx,,tie\n", r"line 2, model_b: '' is no model's name"),
        ("model_a,model_b,winner\nx,x,tie\n", "no battle between two models"),
        ("model_a,model_b,winner\n", "no battle between two models"),
        ("model_a,model_b,winner\nx,y,tie,z\n", "line 2: 3 fields expected, found 4"),
        ("model_a,model_b,winner\nx,y,tie\nx,y", "line 3: 3 fields expected, found 2"),
        ("model_a,model_b,winner,winner\nx,y,tie,tie\n", "names a column twice"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        read_battles(csv_of(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.json", '[{"model_a": "x"}]', "no column model_b"),
        ("b.json", "[1, 2]", "battle 1: expected model_a, model_b and winner, found 1"),
        ("b.json", "[{", "is not JSON"),
        ("b.json", "[" * 100_000, "is not JSON"),
        ("b.json", '[{"model_a": "x", "model_b": "y", "winner": {"a": 1}}]', "battle 1, winner"),
        ("b.jsonl", '{"model_a": "x", "model_b": "y", "winner": "tie"}\n{"model_a"', "line 2 is not JSON"),
        ("b.json", '[{"model_a": "x", "model_b": "y", "winner": "tie", "weight": NaN}]', "NaN is no number"),
        ("b.parquet", "PAR1", "not a parquet file"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(EvidenceError, match=said):
        read_battles(tmp_path / name)


def test_battles_without_winner_or_opponent_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = records(100)
    rows[0]["winner"], rows[1]["winner"] = None, ""
    rows[2]["model_b"] = rows[2]["model_a"]
    held = read_battles(save(tmp_path, rows, "json"))
    assert len(held.battles.first) == 97
    assert any("2 battles" in c and "no winner" in c for c in held.caveats)
    assert any("1 battles" in c and "against itself" in c for c in held.caveats)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(b"0" * (3 << 20)))
    with pytest.raises(EvidenceError, match="more than 2 MiB"):
        read_bytes(packed, limit=2 << 20)


def test_missing_models_are_not_listed_and_close_names_are_shown(tmp_path: Path) -> None:
    path = save(tmp_path, records(100), "json")
    for read in (read_arena, require_arena):
        with pytest.raises(NotListedError, match=r"no model 'base-9b-simpo'.*Did you mean 'base-9b-it-simpo'"):
            read(path, base=NAMES[0], tuned="lab/base-9b-simpo")
    require_arena(path, base=NAMES[0], tuned=NAMES[1])
    with pytest.raises(UsageError, match="which carry style themselves"):
        require_arena(path, base=NAMES[0], tuned=NAMES[1], style_path=path)


def fight(pairs: list[tuple[str, str, str]], times: int = 12) -> str:
    return "model_a,model_b,winner\n" + "".join(f"{a},{b},{w}\n" for a, b, w in pairs * times)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("base", "x", "tie"), ("tuned", "y", "tie")], "no chain of battles links the two models"),
        ([("base", "x", "tie"), ("tuned", "x", "model_a")], "tuned won every battle"),
        ([("base", "x", "model_b"), ("tuned", "x", "tie")], "base lost every battle"),
        ([("base", "x", "tie"), ("tuned", "y", "tie"), ("x", "y", "model_a")], "their difference has no bound"),
    ],
)
def test_models_that_cannot_be_rated_together_are_refused(tmp_path: Path, pairs: Any, said: str) -> None:
    with pytest.raises(EvidenceError, match=said):
        read_arena(csv_of(tmp_path, fight(pairs)), base="base", tuned="tuned")


def test_an_undefeated_third_model_is_left_out_and_changes_nothing(tmp_path: Path) -> None:
    three = [("base", "x", "tie"), ("tuned", "x", "model_a"), ("tuned", "x", "model_b"), ("base", "tuned", "model_b")]
    alone, _ = read_arena(csv_of(tmp_path, fight(three)), base="base", tuned="tuned", draws=100)
    more = [*three, ("champion", "base", "model_a"), ("champion", "x", "model_a")]
    beside, caveats = read_arena(csv_of(tmp_path, fight(more)), base="base", tuned="tuned", draws=100)
    assert beside.rows[0].delta.value == pytest.approx(alone.rows[0].delta.value, abs=1e-6)
    assert any("1 of 4 models are left out" in c for c in caveats)


def test_a_category_that_cannot_be_rated_is_a_named_gap(tmp_path: Path) -> None:
    rows = records(400, style=False)
    for row in rows:
        row["category"] = "poems" if NAMES[1] not in (row["model_a"], row["model_b"]) else "prose"
    arena, caveats = read_arena(save(tmp_path, rows, "json"), base=NAMES[0], tuned=NAMES[1], draws=100)
    assert "poems" not in {row.category for row in arena.rows}
    assert any(c.startswith("Arena poems is left out: tuned has no battle") for c in caveats)


def test_few_prompts_give_no_interval(tmp_path: Path) -> None:
    text = "model_a,model_b,winner,prompt_id\n" + "x,y,model_a,p\nx,y,model_b,q\n" * 50
    with pytest.raises(EvidenceError, match="only 2 prompts"):
        read_arena(csv_of(tmp_path, text), base="x", tuned="y")


def test_style_counts_that_are_missing_are_a_named_gap(tmp_path: Path) -> None:
    rows = records(100)
    rows[6]["conv_metadata"]["sum_assistant_a_tokens"] = None
    held = read_battles(save(tmp_path, rows, "json"))
    assert held.style == ()
    assert any("1 of 100 battles have no valid length (the first is battle 7)" in c for c in held.caveats)


def test_categories_are_capped(tmp_path: Path) -> None:
    rows = records(4000, style=False)
    for i, row in enumerate(rows):
        row["category"] = f"c{i % 1000}" if i >= 2 * FEWEST else "two words"
    assert set(read_battles(save(tmp_path, rows, "json")).categories) == {
        "two_words",
        "english",
        "german",
        "coding",
        "math",
    }


def test_equal_runs_are_equal(tmp_path: Path, tmp_path_factory: Callable[..., Any]) -> None:
    path = save(tmp_path, records(300), "json")
    assert read_arena(path, base=NAMES[0], tuned=NAMES[1], draws=50) == read_arena(
        path, base=NAMES[0], tuned=NAMES[1], draws=50
    )


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_alpaca_eval_ratings_are_those_of_evalica_and_win_rates_the_published_ones() -> None:
    evalica = pytest.importorskip("evalica")
    from modeldiff_eval.bradley_terry import Likelihood, add_up

    held = read_battles(SHARED / "alpaca_eval" / "battles.csv.gz")
    data = held.battles._replace(style=np.zeros((len(held.battles.first), 0)))
    fitted = Likelihood(add_up(data)).fit()
    outcome = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [held.models[i] for i in data.first],
        [held.models[i] for i in data.second],
        [outcome[p] for p in data.points],
        tolerance=1e-14,
        limit=1_000_000,
    ).scores.reindex(held.models)
    strengths = np.log(theirs.to_numpy())
    strengths -= strengths.mean()
    finite = np.isfinite(strengths)
    assert finite.all()
    assert fitted.theta == pytest.approx(strengths, abs=1e-7)
    print(f"largest difference of {len(strengths)} log strengths: {np.abs(fitted.theta - strengths).max():.1e}")
