"""What a card says in words follows the verdicts."""

from __future__ import annotations

import pytest

from modeldiff_eval.findings import headline, interval, not_significant, share_only, signed
from modeldiff_eval.records import ClassRow, CountShare, Estimate, LatentCounts, Latents, Verdict


def row(code: str, diff: float | None, verdict: Verdict, counts: tuple[int, int] = (5, 6)) -> ClassRow:
    bounds = (None, None) if diff is None else (diff - 3, diff + 3)
    return ClassRow(
        code=code,
        name=f"class {code}",
        base=CountShare(count=counts[0], share=None if diff is None else 10.0),
        tuned=CountShare(count=counts[1], share=None if diff is None else 10.0 + diff),
        count_change=Estimate(value=counts[1] - counts[0], low=-9, high=9),
        diff=Estimate(value=diff, low=bounds[0], high=bounds[1]),
        mde=4.0,
        p=0.01,
        p_adjusted=0.01 if verdict in ("up", "down") else 0.5,
        verdict=verdict,
    )


def latents(base: int, tuned: int) -> Latents:
    sides = [LatentCounts(specific=n, annotated=n, none=0, failed=0) for n in (base, tuned)]
    return Latents(base=sides[0], tuned=sides[1])


def test_signs_and_intervals() -> None:
    assert signed(5.26) == "+5.3"
    assert signed(-5.26) == "−5.3"
    assert signed(-0.01) == "0.0"
    assert signed(None) == "not defined"
    assert interval(Estimate(value=1, low=-1, high=None)) == "−1.0 to open"


HEADLINES = [
    (
        [row("A", 2, "unclear"), row("B", -4, "unclear")],
        (9, 8),
        "None of the 2 class shifts is distinguishable from zero at 9 and 8 latents; the largest, class B at −4.0 "
        "points, could be anything from −7.0 to −1.0.",
    ),
    (
        [row("A", 0, "unclear"), row("B", 0, "unclear")],
        (9, 8),
        "None of the 2 class shifts is distinguishable from zero at 9 and 8 latents; all are exactly 0.",
    ),
    (
        [row("A", 2, "not covered"), row("B", -4, "unclear")],
        (9, 8),
        "The one class shift that could be measured is not distinguishable from zero at 9 and 8 latents; class B at −4.0 "
        "points could be anything from −7.0 to −1.0. 1 class could not be seen in this corpus.",
    ),
    (
        [row("B", 0, "unclear")],
        (9, 8),
        "The one class shift that could be measured is not distinguishable from zero at 9 and 8 latents; class B is exactly 0.",
    ),
    (
        [row("A", 5, "up"), row("B", -2, "unclear")],
        (9, 8),
        "class A rises by 5.0 points (95 % +2.0 to +8.0, adjusted p 0.01); the other 1 class shift cannot be told from "
        "zero at 9 and 8 latents.",
    ),
    (
        [row("A", -5, "down"), row("B", -2, "not covered")],
        (9, 8),
        "class A falls by 5.0 points (95 % −8.0 to −2.0, adjusted p 0.01). 1 class could not be seen in this corpus.",
    ),
    (
        [row("A", None, "unclear")],
        (0, 0),
        "No latent is specific to either model, so no class shift can be measured.",
    ),
    (
        [row("A", None, "unclear")],
        (0, 3),
        "Only tuned has annotated specific latents (3); with none in base, shares cannot be compared.",
    ),
]


@pytest.mark.parametrize(("rows", "n", "expected"), HEADLINES)
def test_headline(rows: list[ClassRow], n: tuple[int, int], expected: str) -> None:
    assert headline(rows, latents(*n)) == expected


def test_not_significant_names_n_and_the_smallest_effect() -> None:
    texts = not_significant([row("A", 2, "unclear"), row("B", 9, "up")], [row("A.1", None, "unclear")], latents(9, 8))
    assert texts == [
        "A class A: +2.0 points (95 % −1.0 to +5.0), 9 and 8 latents; smallest detectable shift 4.0 points.",
        "A.1 class A.1: shares not defined at 9 and 8 latents.",
    ]


def test_share_only_needs_opposite_directions() -> None:
    assert share_only([row("A", 2, "unclear", (5, 6)), row("B", None, "unclear", (5, 1))]) == []
    (text,) = share_only([row("C", 1, "unclear", (19, 16))])
    assert "the share rises by 1.0 points while the count goes from 19 to 16" in text
