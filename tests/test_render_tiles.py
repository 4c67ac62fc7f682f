"""The tiles compare what can be compared."""

from __future__ import annotations

from sample_cards import full_card

from modeldiff_eval.records import BenchmarkRow, LevelEstimate
from modeldiff_eval.render_tiles import benchmark_tile


def fallen(task: str, value: float, half: float | None) -> BenchmarkRow:
    low, high = (None, None) if half is None else (value - half, value + half)
    return BenchmarkRow(
        task=task, metric="score", n=9, base=0.0, tuned=value, delta=LevelEstimate(value=value, low=low, high=high),
        p=None, p_adjusted=None, mde=None, verdict="unclear", paired=True, source="s",
    )  # fmt: skip


def test_the_worst_benchmark_is_the_one_that_fell_most_by_its_own_interval() -> None:
    """Two Elo points with an interval of fifty are less than three percent with an interval of two."""
    rows = [fallen("elo", -2.0, 25.0), fallen("acc", -0.03, 0.01), fallen("alone", -40.0, None)]
    card = full_card().model_copy(update={"benchmarks": rows})
    assert benchmark_tile(card).name == "acc · score"
    first = [rows[0].model_copy(update={"headline": True}), *rows[1:]]
    assert benchmark_tile(card.model_copy(update={"benchmarks": first})).name == "elo · score"
    assert benchmark_tile(card.model_copy(update={"benchmarks": rows[2:]})).name == "alone · score"
