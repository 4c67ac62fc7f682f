"""Classes beside the outside measures that speak about them: the map, the verdicts, the rank correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from test_findings import row

from modeldiff_eval.agreement import (
    AgreementMap,
    Compared,
    Pair,
    compare,
    map_for,
    packaged,
    rank_correlations,
    read_map,
    sentence,
)
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import (
    ActivationChange,
    AgreementRow,
    Arena,
    ArenaRow,
    BenchmarkRow,
    Coverage,
    Estimate,
    LevelEstimate,
    Verdict,
)
from modeldiff_eval.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def arena(**deltas: tuple[float, Verdict]) -> Arena:
    rows = [
        ArenaRow(category=name, base=1, tuned=2, delta=Estimate(value=value, low=None, high=None), verdict=said)
        for name, (value, said) in deltas.items()
    ]
    return Arena(source="s", snapshot=None, independence_assumed=True, rows=rows)


def benchmark(task: str, delta: float, verdict: Verdict) -> BenchmarkRow:
    return BenchmarkRow(
        task=task, metric="acc", n=10, base=0.5, tuned=0.5 + delta, delta=LevelEstimate(value=delta, low=None, high=None),
        p=None, p_adjusted=None, mde=None, verdict=verdict, paired=True, source="s",
    )  # fmt: skip


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pair(number: int, inside: float | None, outside: float | None, kind: str = "arena", code: str = "B") -> Compared:
    verdicts: dict[str, Any] = {"latent_verdict": "unclear", "outside_verdict": "unclear", "agrees": None}
    item = AgreementRow.model_validate({"class": code, "category_or_task": f"c{number}", **verdicts})
    return Compared.model_validate({"row": item, "kind": kind, "inside": inside, "outside": outside})


@pytest.mark.parametrize(
    ("inside", "outside", "agrees"),
    [("up", "up", True), ("up", "down", False), ("unclear", "up", None), ("up", "unclear", None)],
)
def test_verdicts_agree_disagree_or_cannot_be_told(inside: Verdict, outside: Verdict, agrees: bool | None) -> None:
    rows = [row("D.16", 3, inside), row("A", 3, inside)]
    (found,) = compare(packaged(), rows, arena=arena(**{"if": (1.0, outside)}))
    assert (found.row.class_, found.row.category_or_task) == ("D.16", "instruction_following")
    assert (found.row.agrees, found.inside, found.outside, found.kind) == (agrees, 3, 1.0, "arena")


def test_answering_harmless_questions_is_less_refusal() -> None:
    rows = [row("A", 3, "up")]
    found = compare(
        packaged(),
        rows,
        benchmarks=[benchmark("mdx_refuse_harmful", 0.2, "up"), benchmark("mdx_answer_harmless", 0.1, "up")],
    )
    assert [(c.row.category_or_task, c.row.outside_verdict, c.row.agrees, c.row.reversed) for c in found] == [
        ("mdx_refuse_harmful", "up", True, False),
        ("mdx_answer_harmless", "down", False, True),
    ]
    assert [c.outside for c in found] == [0.2, -0.1]


def test_a_language_that_the_corpus_lacks_is_not_covered() -> None:
    coverage = Coverage(languages=[{"language": "de", "tokens": 5}, {"language": "ko", "tokens": 0}], categories=[])
    outside = arena(german=(3.0, "up"), japanese=(-3.0, "down"), korean=(-3.0, "down"))
    found = compare(packaged(), [row("B", 3, "up")], arena=outside, coverage=coverage)
    assert {c.row.category_or_task: (c.row.latent_verdict, c.row.agrees, c.inside) for c in found} == {
        "german": ("up", True, 3),
        "japanese": ("not covered", None, None),
        "korean": ("not covered", None, None),
    }
    assert all(c.row.agrees is not None for c in compare(packaged(), [row("B", 3, "up")], arena=outside))


def test_the_activation_view_takes_the_place_of_undefined_shares() -> None:
    change = Estimate(value=-2.0, low=-3, high=-1)
    moved = ActivationChange(change=change, p_adjusted=0.01, verdict="down", n_latents=9, n_documents=9, null_size=0.1)
    own = row("G", None, "unclear").model_copy(update={"activation": moved})
    (found,) = compare(packaged(), [own], arena=arena(math=(-5.0, "down")))
    assert (found.row.latent_verdict, found.row.agrees, found.inside) == ("down", True, -2.0)
    uncovered = own.model_copy(update={"verdict": "not covered"})
    assert compare(packaged(), [uncovered], arena=arena(math=(-5.0, "down")))[0].row.latent_verdict == "not covered"


def test_a_metric_of_which_less_is_better_is_turned_round() -> None:
    falls = benchmark("gsm8k", -0.2, "down").model_copy(update={"higher_is_better": False})
    (found,) = compare(packaged(), [row("G", 1, "up")], benchmarks=[falls])
    assert (found.row.outside_verdict, found.row.agrees, found.row.reversed, found.outside) == ("up", True, True, 0.2)


def test_only_the_first_metric_of_a_task_speaks() -> None:
    rows = [benchmark("mdx_format", 0.2, "up"), benchmark("mdx_format", -0.2, "down")]
    (found,) = compare(packaged(), [row("E", 1, "up")], benchmarks=rows)
    assert found.row.agrees is True


def test_the_correlation_is_scipys_with_an_interval_and_follows_the_seed() -> None:
    made = rng()
    values = made.normal(size=(9, 2))
    values[:, 1] += values[:, 0]
    found = [pair(i, float(a), float(b)) for i, (a, b) in enumerate(values)]
    (own,) = rank_correlations(found, rng=rng())
    assert own.value.value == pytest.approx(spearmanr(*values.T).statistic)
    assert own.value.low is not None
    assert own.value.high is not None
    assert -1 <= own.value.low < own.value.value < own.value.high <= 1
    assert (own.n, own.classes, own.of) == (9, 1, "arena")
    assert rank_correlations(found, rng=rng()) == [own]
    text = sentence(found, [own])
    assert text is not None
    assert "of 9 pairs 0 agree, 0 disagree, and 9 cannot be told" in text
    assert "n 9 pairs of 1 classes" in text


def test_few_pairs_categories_and_gaps_give_no_correlation() -> None:
    five = [pair(i, float(i), float(i)) for i in range(5)]
    more = [pair(9, 1.0, 2.0, code="D.16"), pair(10, None, 2.0)]
    (own,) = rank_correlations([*five, *more], rng=rng())
    assert own.value.value is None
    assert own.note == "5 pairs are fewer than 6"
    assert rank_correlations(more, rng=rng()) == []
    (flat,) = rank_correlations([pair(i, 1.0, float(i)) for i in range(6)], rng=rng())
    assert (flat.value.value, flat.note) == (None, "one side does not vary")
    both = [*five, *[pair(i, float(i), 0.1 * i, "benchmarks") for i in range(6)]]
    assert [(c.of, c.value.value) for c in rank_correlations(both, rng=rng())] == [("arena", None), ("benchmarks", 1.0)]


def test_nothing_to_compare_says_nothing() -> None:
    assert compare(packaged(), [row("B", 1, "up")]) == []
    assert sentence([], []) is None


def test_the_packaged_map_fits_the_packaged_taxonomy_alone() -> None:
    assert map_for(None, TAXONOMY) == packaged()
    raw = {"version": 1, "classes": [{"code": "A", "name": "Tone", "categories": [
        {"code": "A.1", "name": "Polite", "description": "Kind words to a stranger.", "cues": ["please"]}]}]}  # fmt: skip
    assert map_for(None, Taxonomy.from_mapping(raw, source="test")).pairs == []


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("version: 1\npairs:\n  - {code: C, outside: boolq}\n")
    assert map_for(str(path), TAXONOMY) == AgreementMap(version=1, pairs=[Pair(code="C", outside="boolq")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\npairs: [{code: H, outside: x}]", "no 'H'"),
        ("version: 1\npairs: [{code: B, outside: x}, {code: B, outside: x}]", "twice"),
        ("version: 1\npairs: [{code: B, outside: x, direction: 2}]", "pairs.0.direction"),
        ("version: 2\npairs: []", "version"),
        ("version: 1\npair: []", "pair"),
        ("version: [1", "not valid YAML"),
        ("", "A line reads"),
    ],
)
def test_a_wrong_map_says_what_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_map(path, TAXONOMY)
    with pytest.raises(UsageError, match="Cannot read"):
        read_map(tmp_path / "none.yaml", TAXONOMY)
