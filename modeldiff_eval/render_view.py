"""What the card's template shows, prepared from a :class:`Card`: rows and scales. Nothing is estimated here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modeldiff_eval.records import (
    ArenaRow,
    BenchmarkRow,
    Card,
    ClassRow,
    Estimate,
    GradedShare,
)
from modeldiff_eval.render_scale import Scale, scale
from modeldiff_eval.render_text import UNDEFINED, VERDICT_TEXT, interval, judged, number, p_value, verdict_text


@dataclass(frozen=True)
class Group:
    """Rows that share one axis, or one class."""

    code: str
    name: str
    rows: list[Any]
    scale: Scale


@dataclass(frozen=True)
class Weak:
    """One finding that is not significant."""

    name: str
    view: str
    n: str
    value: str
    range: str
    mde: str
    p: str


def class_scales(rows: Sequence[ClassRow]) -> tuple[Scale, Scale | None]:
    """Scales of the share differences and, when any row has one, of the activation changes."""
    shifts = [row.activation.change for row in rows if row.activation is not None]
    return scale([row.diff for row in rows]), scale(shifts) if shifts else None


def graded_n(share: GradedShare) -> str:
    """``12 → 30 latents``: how many latents of the class carry weight on each side."""
    if share.n_base is None or share.n_tuned is None:
        return "n not listed"
    return f"{number(share.n_base, 0)} \u2192 {number(share.n_tuned, 0)} latents"


def graded_scale(rows: Sequence[ClassRow]) -> Scale | None:
    """Scale of the differences by graded weight, None where no row has one."""
    found = [row.graded.diff for row in rows if row.graded is not None]
    return scale(found) if found else None


def excludes_zero(estimate: Estimate | None) -> bool:
    """Whether both bounds are known and on one side of 0."""
    return (
        estimate is not None
        and estimate.low is not None
        and estimate.high is not None
        and (estimate.low > 0 or estimate.high < 0)
    )


HEAT = 4


def heat(estimate: Estimate | None, largest: float) -> str:
    """Style class of a heat table's cell: tinted only where the interval excludes 0, in ``HEAT`` steps of size."""
    if estimate is None or not estimate.value or not excludes_zero(estimate) or largest <= 0:
        return ""
    step = min(HEAT, 1 + int(HEAT * abs(estimate.value) / largest))
    return f"tint {'hu' if estimate.value > 0 else 'hd'}{step}"


def largest_clear(estimates: Iterable[Estimate | None]) -> float:
    """Size of the largest value whose interval excludes 0; 0.0 where there is none."""
    return max((abs(e.value or 0.0) for e in estimates if e is not None and excludes_zero(e)), default=0.0)


def benchmark_digits(row: BenchmarkRow) -> int:
    """Decimals that suit a metric: 3 for shares in [0, 1], fewer for percentages and larger units."""
    size = max(abs(row.base), abs(row.tuned))
    return 3 if size <= 1 else 2 if size < 20 else 1


def benchmark_range(row: BenchmarkRow) -> str:
    """The interval of a benchmark delta in the metric's own unit."""
    return interval(row.delta, benchmark_digits(row))


def benchmark_delta(row: BenchmarkRow) -> str:
    """A benchmark delta in the metric's own unit."""
    return number(row.delta.value, benchmark_digits(row), signed=True)


def benchmark_more(row: BenchmarkRow) -> list[str]:
    """Lines under a benchmark for what a paired comparison also knows, as far as the record has it."""
    wins, ties, losses, clusters = (getattr(row, name, None) for name in ("wins", "ties", "losses", "clusters"))
    p = getattr(row, "p_mcnemar", None)
    lines = []
    if getattr(row, "higher_is_better", None) is False:
        lines.append("less is better")
    if wins is not None and losses is not None:
        drawn = "" if ties is None else f", equal on {number(ties, 0)}"
        lines.append(f"tuned higher on {number(wins, 0)}, lower on {number(losses, 0)}{drawn}")
    if p is not None:
        lines.append(f"exact McNemar p {p_value(p)}")
    if clusters is not None:
        lines.append(f"{number(clusters, 0)} clusters resampled")
    return lines


def benchmark_flips(rows: Sequence[BenchmarkRow]) -> list[tuple[str, list[Any]]]:
    """Benchmark → its first documents that one model gets right and the other wrong, where the record has them."""
    found = [(f"{row.task} \u00b7 {row.metric}", getattr(row, "flips", [])) for row in rows]
    return [(name, flips) for name, flips in found if flips]


def arena_more(row: ArenaRow) -> list[str]:
    """Lines under an arena row for what battles also say, as far as the record has it (win rates are in percent)."""
    rate, plain = getattr(row, "win_rate", None), getattr(row, "delta_style_unpenalised", None)
    sides = [getattr(row, name, None) for name in ("base_battles", "tuned_battles")]
    lines = []
    if rate is not None and rate.value is not None:
        lines.append(f"tuned wins {number(rate.value)} % ({interval(rate, signed=False)})")
    if plain is not None and plain.value is not None:
        lines.append(f"style-controlled without penalty {number(plain.value, signed=True)} ({interval(plain)})")
    if sides[0] is not None and sides[1] is not None:
        lines.append(f"{number(sides[0], 0)} and {number(sides[1], 0)} battles")
    return lines


def benchmark_groups(rows: Sequence[BenchmarkRow]) -> list[Group]:
    """Benchmarks by unit: everything in [0, 1] shares an axis, any other metric has its own."""
    groups: dict[str, list[BenchmarkRow]] = {}
    for row in rows:
        unit = "" if 0 <= row.base <= 1 and 0 <= row.tuned <= 1 else row.metric
        groups.setdefault(unit, []).append(row)
    return [Group("", unit, found, scale([r.delta for r in found])) for unit, found in groups.items()]


def category_groups(card: Card) -> list[Group]:
    """Categories by class, in the order of the card, on one common scale."""
    names = {row.code: row.name for row in card.classes}
    line = scale([row.diff for row in card.categories], wanted=5)
    groups: dict[str, list[ClassRow]] = {}
    for row in card.categories:
        groups.setdefault(row.code.split(".")[0], []).append(row)
    return [Group(code, names.get(code, ""), rows, line) for code, rows in groups.items()]


def weak_rows(card: Card) -> list[Weak]:
    """Classes, arena rows and benchmarks whose verdict is unclear, with n and the smallest detectable effect."""
    out: list[Weak] = []
    n = f"{card.latents.base.annotated} \u2192 {card.latents.tuned.annotated} latents"
    for row in card.classes:
        if judged(row.diff, row.verdict) == "unclear":
            mde = "not listed" if row.mde is None else f"\u00b1{number(row.mde)} points"
            value = f"{number(row.diff.value, signed=True)} points"
            name = f"{row.code} {row.name}"
            out.append(Weak(name, "share", n, value, interval(row.diff), mde, _p(row.p_adjusted)))
    for row in card.classes:
        change = row.activation
        if change is not None and judged(change.change, change.verdict) == "unclear":
            n_seen = f"{number(change.n_latents, 0)} latents, {number(change.n_documents, 0)} documents"
            null = "not listed" if change.null_size is None else f"null \u00b1{number(change.null_size)} %"
            value = f"{number(change.change.value, signed=True)} %"
            name = f"{row.code} {row.name}"
            out.append(Weak(name, "activation", n_seen, value, interval(change.change), null, _p(change.p_adjusted)))
    for bench in card.benchmarks:
        if judged(bench.delta, bench.verdict) == "unclear":
            mde = "not listed" if bench.mde is None else f"\u00b1{number(bench.mde, benchmark_digits(bench))}"
            name = f"{bench.task} \u00b7 {bench.metric}"
            n_items, value, p = f"{number(bench.n, 0)} items", benchmark_delta(bench), _p(bench.p_adjusted)
            out.append(Weak(name, "benchmark", n_items, value, benchmark_range(bench), mde, p))
    for elo in card.arena.rows if card.arena else []:
        if judged(elo.delta, elo.verdict) == "unclear":
            value = f"{number(elo.delta.value, signed=True)} Elo"
            absent = "not listed"
            out.append(Weak(elo.category, "arena", absent, value, interval(elo.delta), absent, absent))
    return out


def other_weak(card: Card) -> list[str]:
    """Sentences of ``card.not_significant`` about something that no table of the card shows."""
    shown = [row.name for row in (*card.classes, *card.categories)]
    shown += [f"{row.task} {row.metric}" for row in card.benchmarks]
    shown += [f"Arena {row.category}" for row in card.arena.rows] if card.arena else []
    return [line for line in card.not_significant if not any(name in line for name in shown)]


def _p(value: float | None) -> str:
    return "not listed" if value is None else p_value(value)


def coverage_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """(name, tokens, percent of the largest) of a coverage list, whatever its name key is called."""
    out = []
    for row in rows:
        tokens = next((v for k, v in row.items() if k == "tokens" and isinstance(v, int | float)), None)
        words = [str(v) for k, v in row.items() if isinstance(v, str) and v]
        out.append((" ".join(words) or "unnamed", tokens))
    largest = max((tokens for _, tokens in out if tokens is not None), default=0) or 1
    return [
        (name, "not listed" if tokens is None else number(tokens, 0), 100 * (tokens or 0) / largest)
        for name, tokens in out
    ]


def verdict_line(card: Card) -> str:
    """How many classes moved, in words: ``2 ▲ up, 1 ▼ down, 4 n.s.``"""
    tally = Counter(verdict_text(row.diff, row.verdict) for row in card.classes)
    return ", ".join(f"{tally[word]} {word}" for word in (*VERDICT_TEXT.values(), UNDEFINED) if tally[word])
