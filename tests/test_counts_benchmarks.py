"""Published benchmark scores: where an interval comes from, what is said where there is none, and who else gives the score."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from modeldiff_eval.counts_benchmarks import benchmarks_from_spec
from modeldiff_eval.counts_spec import read_spec
from modeldiff_eval.counts_spec_evidence import BenchmarkSpec
from modeldiff_eval.resources import resource
from modeldiff_eval.stats import newcombe


def spec(**fields: Any) -> BenchmarkSpec:
    return BenchmarkSpec.model_validate(
        {"task": "t", "metric": "m", "n": 100, "source": "s", "base": 40, "tuned": 60} | fields
    )


def test_an_interval_from_bounds_from_errors_or_from_items() -> None:
    rows, _ = benchmarks_from_spec(
        [
            spec(base_bounds=[37, 42], tuned_bounds=[56, 63]),
            spec(base_se=3.0, tuned_se=4.0),
            spec(proportion=100),
            spec(tuned_se=4.0),
        ]
    )
    bounds = rows[0].delta
    assert (bounds.low, bounds.high) == pytest.approx((20 - math.hypot(4, 2), 20 + math.hypot(3, 3)))
    errors = rows[1].delta
    assert (errors.low, errors.high) == pytest.approx((20 - 1.96 * 5, 20 + 1.96 * 5), abs=1e-3)
    items, expected = rows[2].delta, newcombe(40, 100, 60, 100)
    assert (items.low, items.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert (rows[3].delta.low, rows[3].p, rows[3].verdict) == (None, None, "unclear")
    assert all(row.mde > 0 for row in rows[:3])
    assert rows[3].mde is None


def test_a_score_that_nobody_published_is_named_and_no_row() -> None:
    rows, notes = benchmarks_from_spec(
        [spec(base=None, tuned=60, proportion=100, missing="nobody ran it"), spec(tuned=None, missing="it failed")]
    )
    assert rows == []
    assert notes == [
        "t m: tuned 60.0 (95 % 50.2 to 69.1, n 100; s); base not listed: nobody ran it. There is no difference to give.",
        "t m: base 40.0 (no interval, n 100; s); tuned not listed: it failed. There is no difference to give.",
    ]


def test_an_excluded_row_gives_its_numbers_and_the_reason() -> None:
    rows, notes = benchmarks_from_spec([spec(proportion=100, excluded="broken set-up")])
    assert rows == []
    assert notes == ["Left out of the table: t m, 40.0 to 60.0, +20.0 (95 % +6.1 to +32.8, n 100; s): broken set-up."]


def test_another_publication_covers_a_score_or_does_not() -> None:
    also = [
        {"side": "tuned", "score": 59, "se": 1, "source": "A"},
        {"side": "base", "score": 50, "bounds": [45, 55], "source": "B"},
    ]
    _, notes = benchmarks_from_spec([spec(proportion=100, graded=True, also=also)])
    assert notes[-2:] == [
        "t m, tuned: 60.0 by s; 59.0 by A, whose 95 % interval of 57.0 to 61.0 covers it.",
        "t m, base: 40.0 by s; 50.0 by B, whose 95 % interval of 45.0 to 55.0 does not cover it.",
    ]
    assert "Items of these score between nothing and all, so the interval is rather too wide: t m." in notes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": None}, "say under 'missing' why"),
        ({"base": None, "tuned": None, "missing": "x"}, "neither 'base' nor 'tuned'"),
        ({"graded": True}, "'graded' needs 'proportion'"),
        ({"base_bounds": [41, 50]}, "base score 40.0 lies outside its bounds"),
        ({"base": None, "missing": "x", "base_bounds": [1, 2]}, "'base_bounds' stand without a score"),
        ({"also": [{"side": "base", "score": 1, "source": "A"}]}, "either 'se' or 'bounds'"),
        (
            {"base": None, "missing": "x", "also": [{"side": "base", "score": 1, "se": 1, "source": "A"}]},
            "speaks of a score that is null",
        ),
        ({"base": float("nan")}, "finite"),
    ],
)
def test_unsound_scores_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**fields)


@pytest.mark.parametrize("name", ["paper_simpo", "paper_dpo"])
def test_the_case_study_holds_the_published_benchmarks(name: str) -> None:
    specs = read_spec(resource(f"reports/{name}.yaml")).benchmarks
    rows, notes = benchmarks_from_spec(specs)
    by_name = {(row.task, row.metric): row for row in rows}
    assert {"gsm8k", "gpqa", "bbh", "musr", "mmlu_pro", "alpaca_eval_2", "arena_hard_v0.1", "wildbench_v2"} == {
        row.task for row in rows
    }
    win = by_name["alpaca_eval_2", "win rate"]
    assert 0 < win.delta.low < win.delta.value < win.delta.high
    controlled = by_name["alpaca_eval_2", "length-controlled win rate"]
    assert (controlled.delta.low, controlled.verdict) == (None, "unclear")
    assert len([text for text in notes if "covers it" in text]) == 3
    assert not [text for text in notes if "does not cover" in text]
    assert [text for text in notes if text.startswith("Left out of the table: ifeval")]
    discrete = {"paper_simpo": "67.1 (95 % 63.8 to 70.3, n 805", "paper_dpo": "66.7 (95 % 63.3 to 69.8, n 805"}[name]
    assert [text for text in notes if "discrete win rate" in text and discrete in text and "base not listed" in text]
