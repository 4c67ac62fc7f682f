"""Printed Elo differences against every snapshot of the arena, and against the ratings printed beside them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeldiff_eval.counts import card_from_counts
from modeldiff_eval.counts_evidence import arena_from_spec
from modeldiff_eval.counts_spec import PublishedSpec, read_spec
from modeldiff_eval.counts_spec_evidence import ArenaSpec
from modeldiff_eval.errors import UsageError
from modeldiff_eval.findings import signed
from modeldiff_eval.published import compare_elo, elo_caveats
from modeldiff_eval.published_snapshots import by_category, snapshots_caveats
from modeldiff_eval.records import Arena, Card
from modeldiff_eval.resources import resource

DATES = ["2025-03-07", "2025-05-27", "2025-11-05", "2025-12-17"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "case_study" / "lmarena" / "categories_gemma2.csv"


@pytest.fixture(scope="module")
def simpo() -> Card:
    return card_from_counts(resource("reports/paper_simpo.yaml"), draws=200)


def arena(**days: Sequence[tuple[str, float]]) -> Arena:
    """Snapshots ``d1``, ``d2`` … of (category, difference); every rating is ± 5, so a difference is ± 7.1."""
    raw = [
        {
            "snapshot": day,
            "rows": [
                {"category": name, "base": [1000, 995, 1005], "tuned": [1000 + delta, 995 + delta, 1005 + delta]}
                for name, delta in rows
            ],
        }
        for day, rows in days.items()
    ]
    last = raw.pop()
    spec = ArenaSpec.model_validate({"source": "a table", **last, "other_snapshots": raw})
    return arena_from_spec(spec, Path())[0]


def printed(**deltas: float) -> PublishedSpec:
    return PublishedSpec.model_validate(
        {"source": "a paper", "arena": {name: {"delta": value} for name, value in deltas.items()}}
    )


def test_math_is_negative_in_all_four(simpo: Card) -> None:
    """What the issue of this check was: +10 is printed, and style would explain −22."""
    math = by_category(simpo.arena)["math"]
    assert [day.snapshot for day in math] == DATES
    assert [round(day.row.delta.value, 1) for day in math] == [-8.8, -9.1, -10.1, -10.6]
    assert all(day.row.delta.low < 0 < day.row.delta.high for day in math)
    assert [round(day.row.style_effect.value, 1) for day in math] == [-1.1, -1.1, -1.2, -1.7]
    (said,) = [text for text in simpo.caveats if "in all 4 snapshots" in text]
    assert said.startswith(
        "Arena math without style control is negative in all 4 snapshots, −8.8 (95 % −27.8 to +9.1; 2025-03-07)"
    )
    assert "the paper prints +10. Each interval includes zero" in said
    assert "−1.7 (2025-12-17) there, not −22" in said
    assert any(
        "leaderboard of 2025-09-18, which the paper took its Elo from, is not among" in text for text in simpo.caveats
    )
    assert any("korean (3 of 4)" in text for text in simpo.caveats)


def test_the_other_snapshots_stay_apart(simpo: Card) -> None:
    assert (simpo.arena.snapshot, len(simpo.arena.rows)) == (DATES[-1], 12)
    assert [item.snapshot for item in simpo.arena.other_snapshots] == DATES[:-1]
    assert all(row.delta.low is not None for item in simpo.arena.other_snapshots for row in item.rows)
    first = {row.category: row for row in simpo.arena.other_snapshots[0].rows}
    assert (first["german"].delta_style, first["german"].style_effect) == (None, None)
    assert Card.model_validate_json(simpo.to_json()) == simpo


def test_signs_that_turn_and_printed_values_that_do_not_fit() -> None:
    found = arena(
        d1=[("math", -30.0), ("german", -20.0), ("coding", 10.0), ("lone", 1.0)],
        d2=[("math", -40.0), ("german", 20.0), ("coding", 12.0)],
    )
    out = snapshots_caveats(found, printed(math=30, german=15, coding=60, missing=4))
    assert out[0].startswith("a table, 2 snapshots (d1, d2)")
    assert "Of 3 categories in all of them, 2 keep the sign" in out[0]
    assert "2 exclude zero every time, row by row (coding, math). The sign changes in german." in out[0]
    assert "Not listed in every snapshot: lone (1 of 2)." in out[0]
    assert out[1:] == [
        "Arena math without style control is negative in all 2 snapshots, −30.0 (95 % −37.1 to −22.9; d1), "
        "−40.0 (95 % −47.1 to −32.9; d2), where a paper prints +30. 2 of the intervals exclude zero.",
        "Arena german without style control: a paper prints +15, against the sign of 1 of 2 snapshots, "
        "−20.0 (95 % −27.1 to −12.9; d1).",
        "Arena coding without style control: a paper prints +60, outside the interval of 2 of 2 snapshots, "
        "+10.0 (95 % +2.9 to +17.1; d1), +12.0 (95 % +4.9 to +19.1; d2).",
    ]


def test_what_agrees_or_rounds_to_zero_is_not_named() -> None:
    found = arena(d1=[("math", 10.0), ("german", -0.4)], d2=[("math", 11.0), ("german", 0.3)])
    assert len(snapshots_caveats(found, printed(math=10, german=1))) == 1
    assert len(snapshots_caveats(found)) == 1
    assert snapshots_caveats(found.model_copy(update={"other_snapshots": []}), printed(math=-10)) == []


def test_tables_1_and_3_hold_together() -> None:
    published = read_spec(resource("reports/paper_simpo.yaml")).published
    cells = compare_elo(published)
    assert len(cells) == 33
    assert all(cell.reproduced for cell in cells)
    raw = published.model_dump()
    raw["arena"]["german"]["delta"] = 35.0
    raw["arena"]["chinese"]["delta_style"] = 37.0
    wrong = elo_caveats("it", compare_elo(PublishedSpec.model_validate(raw)))
    assert "29 of 33" in wrong[0]
    assert wrong[1:] == [
        "Arena german, difference without style control: it prints +35; its own printed numbers give +34; rounding can explain it.",
        "Arena german, style effect: it prints −7; its own printed numbers give −8; rounding can explain it.",
        "Arena chinese, difference with style control: it prints +37; its own printed numbers give +27; rounding cannot explain it.",
        "Arena chinese, style effect: it prints −13; its own printed numbers give −3; rounding cannot explain it.",
    ]
    assert elo_caveats("it", compare_elo(printed(math=3))) == []


def test_a_folder_of_tables_gives_its_other_snapshots(tmp_path: Path) -> None:
    """Snapshots without one of the models are named, not read as zero."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for date, names, delta in (("2025-01-01", "bt", 4), ("2025-02-01", "bx", 0), ("2025-03-01", "bt", -6)):
        lines = ["category,model,rating,rating_q025,rating_q975"]
        lines += [f"math,model-{name},{1000 + (delta if name == 't' else 0)},990,1010" for name in names]
        (folder / f"{date}.csv").write_text("\n".join(lines), encoding="utf-8")
    spec = ArenaSpec(table="tables", base="model-b", tuned="model-t")
    found, notes = arena_from_spec(spec, tmp_path)
    assert (found.snapshot, [row.delta.value for row in found.rows]) == ("2025-03-01", [-6])
    assert [(item.snapshot, item.rows[0].delta.value) for item in found.other_snapshots] == [("2025-01-01", 4)]
    assert "Arena snapshots in which not both models are listed: 2025-02-01." in notes
    assert "The sign changes in math." in snapshots_caveats(found)[0]


def test_the_readme_shows_every_snapshot(simpo: Card) -> None:
    text = resource("reports/README.md").read_text(encoding="utf-8")
    for name, days in by_category(simpo.arena).items():
        on = {day.snapshot: day.row for day in days}
        cells = [
            f"{signed(on[d].delta.value)} [{signed(on[d].delta.low)}, {signed(on[d].delta.high)}]"
            if d in on
            else "not listed"
            for d in DATES
        ]
        effects = [
            signed(on[d].style_effect.value) if d in on and on[d].style_effect is not None else "not listed"
            for d in DATES
        ]
        assert f"| {' | '.join([name, *cells, ', '.join(effects)])} |" in text
    (rho,) = [item for item in simpo.rank_correlations if item.of == "arena"]
    value = rho.value
    assert f"{signed(value.value, 2)} (95 % {signed(value.low, 2)} to {signed(value.high, 2)}, n {rho.n}" in text


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
@pytest.mark.shared
def test_the_same_from_lmarenas_own_tables(simpo: Card) -> None:
    spec = ArenaSpec(table=SHARED.name, base="gemma-2-9b-it", tuned="gemma-2-9b-it-SimPO")
    found = by_category(arena_from_spec(spec, SHARED.parent)[0])
    for name, days in by_category(simpo.arena).items():
        assert [day.snapshot for day in days] == [day.snapshot for day in found[name]]
        for ours, theirs in zip(days, found[name], strict=True):
            for one, other in ((ours.row.delta, theirs.row.delta), (ours.row.delta_style, theirs.row.delta_style)):
                assert (one is None) == (other is None)
                if one is not None:
                    assert (one.value, one.low, one.high) == pytest.approx(
                        (other.value, other.low, other.high), abs=0.005
                    )


def _other(raw: dict[str, Any], **changes: Any) -> None:
    raw["arena"]["other_snapshots"][0].update(changes)


def _doubled(raw: dict[str, Any]) -> list[Any]:
    row = raw["arena"]["other_snapshots"][0]["rows"][0]
    return [row, copy.deepcopy(row)]


BAD = [
    (lambda raw: _other(raw, snapshot=DATES[-1]), "2025-12-17 of the snapshots is given twice"),
    (lambda raw: raw["arena"].pop("snapshot"), "need 'rows' and the 'snapshot'"),
    (lambda raw: _other(raw, rows=_doubled(raw)), "overall of the snapshot 2025-03-07 is given twice"),
    (lambda raw: _other(raw, rows=[]), "other_snapshots.0.rows: .*at least 1"),
    (
        lambda raw: _other(raw, rows=[{"category": "math", "base": [1000, 990], "tuned": [1000, 990, 1010]}]),
        r"other_snapshots.0.rows.0.base: a short rating is \[rating, low, high\]",
    ),
    (lambda raw: _other(raw, day=1), "other_snapshots.0.day: unknown key"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_snapshots_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    raw = yaml.safe_load(resource("reports/paper_simpo.yaml").read_text(encoding="utf-8"))
    change(raw)
    path = tmp_path / "counts.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_spec(path)
