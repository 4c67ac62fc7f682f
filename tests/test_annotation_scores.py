"""κ by hand and by law, annotators' files, repeats in the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeldiff_eval.annotation import Annotation, Evidence, Excerpt
from modeldiff_eval.annotation_scores import (
    Code,
    Repeated,
    annotator_agreement,
    at_level,
    codes_of,
    cohen,
    fleiss,
    halves,
    over_repeats,
    read_codes,
)
from modeldiff_eval.errors import AnnotationError
from modeldiff_eval.naming_shares import share_shifts_over_repeats
from modeldiff_eval.records import ClassRow
from modeldiff_eval.stats_shares import share_shifts

GROUPS = [("A", "Safety"), ("B", "Language")]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _note(latent: int, category: str | None, failure: str | None = None) -> Annotation:
    return Annotation(
        latent=latent, label="x", description=None, category=category, confidence=0.5, reason=None, failure=failure,
        annotator="test", key=str(latent),
    )  # fmt: skip


def test_codes_by_level() -> None:
    assert [at_level(code, "classes") for code in ("A.2", "", "none", None)] == ["A", "", "", None]
    assert [at_level(code, "categories") for code in ("A.2", "", "none", None)] == ["A.2", "", "", None]


def test_cohen_by_hand() -> None:
    # 6 latents: both A.1 three times, both none once, once each A.1 against none: agree 4 of 6, chance (4·4 + 2·2) / 36.
    first: list[Code] = ["A.1", "A.1", "A.1", "", "A.1", "none", None]
    second: list[Code] = ["A.1", "A.1", "A.1", "none", "", "A.1", "A.1"]
    found = cohen(first, second, of="two", level="categories", rng=_rng(), draws=200)
    assert found.latents == 6
    assert found.agree == pytest.approx(4 / 6)
    assert found.value.value == pytest.approx((4 / 6 - 20 / 36) / (1 - 20 / 36))


def test_fleiss_by_hand() -> None:
    # Two latents agree fully (3 of 3), four split 2 to 1; "" and "none" are one answer.
    split: list[list[Code]] = [["A.1", "A.2", "A.1"]] * 4
    rows: list[list[Code]] = [["A.1"] * 3, ["", "none", ""], *split, ["A.1", None, "A.1"]]
    found = fleiss(rows, of="3 repeats", level="categories", rng=_rng(), draws=200)
    p = np.array([11, 4, 3]) / 18
    agree, chance = (2 + 4 / 3) / 6, float((p**2).sum())
    assert (found.latents, found.raters) == (6, 3)
    assert found.agree == pytest.approx(2 / 6)
    assert found.value.value == pytest.approx((agree - chance) / (1 - chance))
    # By class A.1 and A.2 are the same.
    assert fleiss(rows, of="3", level="classes", rng=_rng(), draws=200).value.value == pytest.approx(1)


def test_kappa_is_one_for_equal_answers_and_about_zero_for_unrelated_ones() -> None:
    rng = np.random.default_rng(3)
    codes: list[Code] = [f"{c}.1" for c in rng.choice(["A", "B", "C"], 300)]
    other: list[Code] = [codes[i] for i in rng.permutation(300)]
    same = cohen(codes, codes, of="x", level="classes", rng=_rng(), draws=100)
    assert (same.value.value, same.agree) == (1.0, 1.0)
    chance = cohen(codes, other, of="x", level="classes", rng=_rng(), draws=300)
    assert chance.value.low is not None
    assert chance.value.high is not None
    assert chance.value.low < 0 < chance.value.high
    assert chance.value.high - chance.value.low < 0.3
    swapped = cohen(other, codes, of="x", level="classes", rng=_rng(), draws=300)
    assert swapped.value.value == pytest.approx(chance.value.value)


@pytest.mark.parametrize(
    ("first", "second"), [([], []), (["A.1"] * 4, ["A.1"] * 4), (["A.1"] * 9, ["A.1"] * 9), ([None] * 9, ["A.1"] * 9)]
)
def test_kappa_is_null_and_not_zero_where_it_is_undefined(first: list[Code], second: list[Code]) -> None:
    found = cohen(first, second, of="x", level="classes", rng=_rng(), draws=100)
    assert (found.value.value, found.value.low, found.value.high) == (None, None, None)
    many = fleiss(list(zip(first, second, strict=True)), of="x", level="classes", rng=_rng(), draws=100)
    assert many.value.value is None


def test_the_intervals_are_those_of_the_libraries_resample_by_resample() -> None:
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

    rng = np.random.default_rng(4)
    answers = rng.choice(["A.1", "B.2", "C.1"], (40, 1))
    rows = np.where(rng.random((40, 3)) < 0.6, answers, rng.choice(["A.1", "B.2", "D.4"], (40, 3)))
    table, codes = aggregate_raters(rows)[0], np.unique(rows, return_inverse=True)[1].reshape(40, 3)
    own = _rng()
    parts = [own.integers(40, size=40) for _ in range(150)]
    by_two = [cohen_kappa_score(codes[part, 0], codes[part, 1]) for part in parts]
    by_all = [fleiss_kappa(table[part]) for part in parts]
    two = cohen(rows[:, 0].tolist(), rows[:, 1].tolist(), of="x", level="categories", rng=_rng(), draws=150)
    every = fleiss(rows.tolist(), of="x", level="categories", rng=_rng(), draws=150)
    for found, drawn in ((two, by_two), (every, by_all)):
        low, high = np.quantile(drawn, (0.025, 0.975))
        assert (found.value.low, found.value.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_halves_are_disjoint_and_even() -> None:
    examples = [Excerpt(text=str(i), tokens=[], activations=[], document=str(i)) for i in range(7)]
    first, second = halves([Evidence(latent=3, examples=examples)])
    assert [e.document for e in first[0].examples] == ["0", "2", "4", "6"]
    assert [e.document for e in second[0].examples] == ["1", "3", "5"]


def test_two_annotators_files(tmp_path: Path) -> None:
    lines = tmp_path / "annotations.jsonl"
    notes = [
        _note(0, "A.1"),
        _note(0, "B.7"),
        _note(1, None),
        _note(2, None, "no answer"),
        *(_note(i, "A.1") for i in range(3, 9)),
    ]
    lines.write_text("\n".join(note.model_dump_json() for note in notes) + '\n{"latent": 9, "la')
    table = tmp_path / "human.csv"
    table.write_text(
        "latent,label,category\n0,x,B.7\n1,y,none\n2,z,A.1\n" + "".join(f"{i},w,A.2\n" for i in range(3, 12))
    )
    first, second = read_codes(lines), read_codes(table)
    assert first == {0: "B.7", 1: "", 2: None, **dict.fromkeys(range(3, 9), "A.1")}
    classes, categories = annotator_agreement(first, second, of="offline and human", rng=_rng())
    assert (classes.latents, classes.agree, classes.value.value) == (8, 1.0, 1.0)
    assert (categories.latents, categories.agree) == (8, 2 / 8)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "latent,category\nseven,A.1\n", '{"latent": 1}\n{"latent": 2}\n'])
def test_files_that_are_no_annotations_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(AnnotationError, match="x"):
        read_codes(tmp_path / "x")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_codes(tmp_path / "missing")
    with pytest.raises(AnnotationError, match="no latent in common"):
        annotator_agreement({1: "A.1"}, {2: "A.1"}, of="two", rng=_rng())


def _shifts(base: np.ndarray, tuned: np.ndarray) -> list[ClassRow]:
    return share_shifts(
        base,
        tuned,
        np.arange(len(base)),
        np.arange(100, 100 + len(tuned)),
        groups=GROUPS,
        covered=None,
        draws=4000,
        rng=_rng(),
    ).rows


def _width(row: object) -> float:
    return row.diff.high - row.diff.low  # type: ignore[attr-defined, no-any-return]


def test_repeats_that_agree_leave_the_interval_and_those_that_differ_widen_it() -> None:
    base, tuned = np.repeat([0, 1, -1], 10), np.repeat([0, 1, -1], [20, 5, 5])
    rows = _shifts(base, tuned)

    def repeated(labels: np.ndarray, noise: float, families: int) -> Repeated:
        rng = np.random.default_rng(5)
        table = np.repeat(labels[:, None], 5, axis=1)
        flip = rng.random(table.shape) < noise
        return Repeated(
            np.where(flip, rng.integers(-1, 2, table.shape), table), np.arange(families, families + len(labels))
        )

    def after(noise: float) -> list[ClassRow]:
        return over_repeats(rows, repeated(base, noise, 0), repeated(tuned, noise, 100), draws=6400, rng=_rng())

    sure, noisy = after(0.0), after(0.6)
    for before, same, wider in zip(rows, sure, noisy, strict=True):
        assert same.diff.value == wider.diff.value == before.diff.value
        assert _width(before) <= _width(same) < 1.08 * _width(before)
        assert _width(wider) > 1.1 * _width(before)
    # Noise of this kind draws the difference of class A towards 0.
    lows = [noisy[0].diff.low, rows[0].diff.low]
    assert lows[0] is not None
    assert lows[1] is not None
    assert lows[0] < lows[1] - 3


def test_a_verdict_that_hangs_on_one_answer_becomes_unclear() -> None:
    base, tuned = np.repeat([0, 1], [5, 35]), np.repeat([0, 1], [22, 18])
    rows = _shifts(base, tuned)
    assert rows[0].verdict == "up"
    sides = [
        Repeated(np.stack([labels, np.ones_like(labels), np.ones_like(labels)], axis=1), np.arange(40) + first)
        for labels, first in ((base, 0), (tuned, 100))
    ]
    assert over_repeats(rows, *sides, draws=6400, rng=_rng())[0].verdict == "unclear"


def test_repeats_of_the_wrong_shape_are_refused() -> None:
    rows = _shifts(np.array([0, 1]), np.array([0, 1]))
    good = Repeated(np.zeros((2, 3), dtype=np.int64), np.arange(2))
    for bad in (Repeated(np.zeros(2, dtype=np.int64), np.arange(2)), Repeated(good.labels, np.arange(3))):
        with pytest.raises(AnnotationError, match=r"\[latents, repeats\]"):
            over_repeats(rows, good, bad, draws=200, rng=_rng())


def test_repeats_from_the_table() -> None:
    n = 20
    table = pd.DataFrame(
        {
            "model": ["base"] * n + ["tuned"] * n, "crosscoder": "base--tuned", "latent": [*range(n), *range(n)],
            "specific": True, "annotation_failure": None, "family": [*range(n), *range(50, 50 + n)],
            "category": ["A.1"] * 10 + ["B.7"] * 10 + ["A.1"] * 16 + [None] * 4,
        }
    )  # fmt: skip
    labels = [np.repeat([0, 1], 10), np.repeat([0, -1], [16, 4])]
    shifts = {
        "classes": share_shifts(
            labels[0],
            labels[1],
            np.arange(n),
            np.arange(50, 50 + n),
            groups=GROUPS,
            covered=None,
            draws=2000,
            rng=_rng(),
        )
    }
    steady = {("base--tuned", 0): ("A.1", None, "A.1")}
    unsteady = {("base--tuned", i): ("A.1", "none", "B.7") for i in range(n)}

    def after(repeats: Mapping[tuple[str, int], Sequence[str | None]]) -> float:
        got = share_shifts_over_repeats(shifts, table, repeats, {"classes": GROUPS}, draws=6400, seed=0)
        return _width(got["classes"].rows[0])

    before = _width(shifts["classes"].rows[0])
    assert before <= after(steady) < 1.15 * before
    assert after(unsteady) > 1.2 * before
    assert codes_of([_note(1, None), _note(2, "A.1"), _note(3, None, "x")]) == ["", "A.1", None]
