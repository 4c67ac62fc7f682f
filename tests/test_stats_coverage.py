"""Coverage and error rates of the class and category intervals, by simulation with a known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from modeldiff_eval.stats_shares import share_shifts

CLASSES = np.array([18, 7, 19, 16, 12, 7, 32, 1]) / 112
SHIFTED = np.array([19, 8, 16, 11, 10, 4, 20.5, 0.5]) / 89
CATEGORIES = np.array(
    [3, 4, 3, 5, 2, 1, 4, 2, 1, 3, 6, 2, 8, 10, 2, 2, 2, 8, 2, 2, 2, 4, 1, 7, 5, 4, 3, 3, 1, 9, 1], dtype=np.float64
)
CATEGORIES /= CATEGORIES.sum()


class Families(NamedTuple):
    """Latents come in families of geometric size (``stop`` = 1 / mean size); a member keeps the family's class with
    probability ``same``; a share ``matched`` of the base families appears in tuned as well."""

    stop: float = 1.0
    same: float = 1.0
    matched: float = 0.0


class Rates(NamedTuple):
    """Percent, per group or overall."""

    diff: np.ndarray
    joint: float
    change: float
    count: float
    false_verdict: float
    omnibus: float


def draw_side(n: int, shares: np.ndarray, kind: Families, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (-1 is none) and families of ``n`` latents."""
    sizes = rng.geometric(kind.stop, size=n)
    family = np.repeat(np.arange(n), sizes)[:n]
    label = rng.choice(len(shares), size=n, p=shares)[family]
    own = rng.choice(len(shares), size=n, p=shares)
    label = np.where(rng.random(n) < kind.same, label, own)
    return np.where(label == len(shares) - 1, -1, label), family


def simulate(
    base: np.ndarray, tuned: np.ndarray, n: tuple[int, int], *, reps: int, draws: int, seed: int, kind: Families
) -> Rates:
    """How often intervals hold the truth and verdicts appear, over ``reps`` made-up experiments."""
    rng = np.random.default_rng(seed)
    groups = [(str(g), str(g)) for g in range(len(base) - 1)]
    truth = 100 * (tuned - base)[:-1]
    ratio, counts = 100 * (tuned / base - 1)[:-1], (n[1] * tuned - n[0] * base)[:-1]
    hits = np.zeros(len(groups))
    joint = change_hits = change_n = count_hits = verdicts = omnibus = 0
    for _ in range(reps):
        label, family = draw_side(n[0], base, kind, rng)
        other, other_family = draw_side(n[1], tuned, kind, rng)
        other_family = other_family + n[0]
        if kind.matched:
            shared = np.isin(family, np.flatnonzero(rng.random(n[0]) < kind.matched))
            keep = max(0, n[1] - int(shared.sum()))
            other = np.concatenate([label[shared], other[:keep]])
            other_family = np.concatenate([family[shared], other_family[:keep]])
        result = share_shifts(label, other, family, other_family, groups=groups, covered=None, draws=draws, rng=rng)
        inside = [row.diff.low <= t <= row.diff.high for row, t in zip(result.rows, truth, strict=True)]
        hits += inside
        joint += all(
            row.diff_simultaneous.low <= t <= row.diff_simultaneous.high
            for row, t in zip(result.rows, truth, strict=True)
        )
        for row, t, c in zip(result.rows, ratio, counts, strict=True):
            count_hits += row.count_change.low <= c <= row.count_change.high
            if row.change is not None and row.change.high is not None:
                change_n += 1
                change_hits += row.change.low <= t <= row.change.high
        verdicts += any(row.verdict in ("up", "down") for row in result.rows)
        omnibus += result.omnibus_p < 0.05
    return Rates(
        diff=100 * hits / reps,
        joint=100 * joint / reps,
        change=100 * change_hits / max(change_n, 1),
        count=100 * count_hits / (reps * len(groups)),
        false_verdict=100 * verdicts / reps,
        omnibus=100 * omnibus / reps,
    )


def test_class_coverage_quick() -> None:
    """Pooled over 7 classes and 200 experiments (standard error about 0.6): within 93-97 %."""
    rates = simulate(CLASSES, SHIFTED, (112, 89), reps=200, draws=1000, seed=11, kind=Families())
    assert 93 <= rates.diff.mean() <= 97
    assert rates.joint >= 91


def test_false_verdicts_quick() -> None:
    """No true shift: a verdict in any class in at most 5 % (plus two standard errors) of experiments."""
    rates = simulate(CLASSES, CLASSES, (112, 89), reps=200, draws=500, seed=12, kind=Families(stop=0.5, same=0.9))
    assert rates.false_verdict <= 8
    assert rates.diff.mean() >= 93


@pytest.mark.slow(minutes=0.5)
@pytest.mark.parametrize(
    ("name", "tuned", "kind"),
    [
        ("independent, shifted", SHIFTED, Families()),
        ("independent, null", CLASSES, Families()),
        ("families of 2", CLASSES, Families(stop=0.5)),
        ("families of 2, mixed, shifted", SHIFTED, Families(stop=0.5, same=0.8)),
        ("families of 3.3, mixed", CLASSES, Families(stop=0.3, same=0.9)),
        ("matched families", CLASSES, Families(stop=0.5, matched=0.4)),
    ],
)
def test_class_coverage(name: str, tuned: np.ndarray, kind: Families) -> None:
    rates = simulate(CLASSES, tuned, (112, 89), reps=1000, draws=2000, seed=13, kind=kind)
    print(f"\n{name}: {rates}")
    assert 93 <= rates.diff.mean() <= 97
    assert rates.diff.min() >= 92
    assert rates.joint >= 93.5
    assert rates.change >= 93
    assert rates.count >= 93
    if tuned is CLASSES:
        assert rates.false_verdict <= 5.5


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("kind", [Families(), Families(stop=0.5, same=0.9)])
def test_category_coverage(kind: Families) -> None:
    rates = simulate(CATEGORIES, CATEGORIES, (112, 89), reps=750, draws=2000, seed=14, kind=kind)
    print(f"\n30 categories, {kind}: {rates}")
    assert rates.diff.min() >= 93
    assert rates.joint >= 93.5
    assert rates.false_verdict <= 5.5
