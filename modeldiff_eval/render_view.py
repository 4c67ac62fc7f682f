"""What the card's template shows, prepared from a :class:`Card`: rows, scales, tiles. Nothing is estimated here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modeldiff_eval.records import (
    ArenaRow,
    BenchmarkRow,
    Card,
    ClassRow,
    Estimate,
    Example,
    GradedShare,
    TopLatent,
    Verdict,
)
from modeldiff_eval.render_scale import Mark, Scale, plain_scale, scale
from modeldiff_eval.render_text import compact, cut, interval, number, p_value

OVERALL = {"overall", "full", "all", "text"}
MAX_LATENTS = 60
MAX_EXAMPLES = 5
BEFORE, AFTER = 60, 30
TOKEN_LIMIT = 80
LEVELS = 6


@dataclass(frozen=True)
class Tile:
    """One headline number; ``value`` is None when there is nothing to show, and ``name`` then says why."""

    label: str
    value: str | None
    unit: str
    name: str
    range: str
    verdict: Verdict | None
    second: str | None = None
    scale: Scale | None = None
    mark: Mark | None = None


@dataclass(frozen=True)
class Group:
    """Rows that share one axis, or one class."""

    code: str
    name: str
    rows: list[Any]
    scale: Scale


@dataclass(frozen=True)
class Piece:
    """A run of example text with one highlight level (0 = none, ``LEVELS`` = the strongest)."""

    text: str
    level: int
    value: str


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


def class_tile(card: Card, *, up: bool) -> Tile:
    """The class whose share rose (or fell) most; where no share is defined, the one whose activation did."""
    label = "Largest \u25b2 class" if up else "Largest \u25bc class"
    sign = 1 if up else -1
    if all(row.diff.value is None for row in card.classes) and any(row.activation for row in card.classes):
        return _activation_tile(card, label, sign)
    rows = [row for row in card.classes if row.verdict != "not covered" and (row.diff.value or 0.0) * sign > 0]
    if not rows:
        word = "rose" if up else "fell"
        return Tile(label, None, "", f"No class {word}" if card.classes else "not listed", "", None)
    row = max(rows, key=lambda r: (r.diff.value or 0.0) * sign)
    line = scale([r.diff for r in card.classes])
    return Tile(
        label,
        number(row.diff.value, signed=True),
        "points",
        f"{row.code} {row.name}",
        interval(row.diff),
        row.verdict,
        scale=line,
        mark=line.mark(row.diff, row.verdict),
    )


def _activation_tile(card: Card, label: str, sign: int) -> Tile:
    found = [
        (row, row.activation)
        for row in card.classes
        if row.activation is not None and (row.activation.change.value or 0.0) * sign > 0
    ]
    if not found:
        return Tile(label, None, "", f"No class's activation {'rose' if sign > 0 else 'fell'}", "", None)
    # A clear change comes before a larger one that numerical noise could make.
    row, best = max(found, key=lambda f: (f[1].verdict != "unclear", (f[1].change.value or 0.0) * sign))
    line = scale([change.change for _, change in found])
    return Tile(
        label,
        number(best.change.value, signed=True),
        "% activation",
        f"{row.code} {row.name}",
        interval(best.change),
        best.verdict,
        scale=line,
        mark=line.mark(best.change, best.verdict),
    )


def elo_row(card: Card) -> ArenaRow | None:
    """The overall arena row, or the first one."""
    rows = card.arena.rows if card.arena else []
    return next((r for r in rows if r.category.strip().lower() in OVERALL), rows[0] if rows else None)


def elo_tile(card: Card) -> Tile:
    """Elo difference in the overall category, raw and with style control."""
    row = elo_row(card)
    if row is None:
        return Tile("Arena Elo \u0394", None, "", "not listed", "", None)
    style = row.delta_style
    second = None if style is None else f"\u25c7 style {number(style.value, signed=True)} ({interval(style)})"
    line = scale([row.delta, style])
    return Tile(
        "Arena Elo \u0394",
        number(row.delta.value, signed=True),
        "raw",
        row.category,
        interval(row.delta),
        row.verdict,
        second=second or "\u25c7 style: not listed",
        scale=line,
        mark=line.mark(row.delta, row.verdict),
    )


LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier", "ter", "loss", "nll", "error")


def lower_is_better(metric: str) -> bool:
    """Whether a metric's name says that less of it is better."""
    return any(word in metric.lower().split(",")[0].split("_") for word in LOWER_IS_BETTER)


def benchmark_tile(card: Card) -> Tile:
    """The benchmark with the lowest delta, among metrics of which more is better."""
    known = [b for b in card.benchmarks if b.delta.value is not None]
    rows = [b for b in known if not lower_is_better(b.metric)]
    if not rows:
        return Tile("Worst benchmark \u0394", None, "", "not measured", "", None)
    row = min(rows, key=lambda b: b.delta.value or 0.0)
    line = scale([row.delta])
    return Tile(
        "Worst benchmark \u0394",
        benchmark_delta(row),
        "",
        f"{row.task} \u00b7 {row.metric}",
        benchmark_range(row),
        row.verdict,
        scale=line,
        mark=line.mark(row.delta, row.verdict),
    )


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


def latent_groups(card: Card) -> list[Group]:
    """The listed latents by class; those in none of the categories last. At most ``MAX_LATENTS`` in all."""
    names = {row.code: row.name for row in card.classes}
    groups: dict[str, list[TopLatent]] = {}
    for latent in card.top_latents[:MAX_LATENTS]:
        groups.setdefault((latent.category or "").split(".")[0], []).append(latent)
    line = scale([])
    return [
        Group(code, names.get(code, code) or "In none of the categories", groups[code], line)
        for code in sorted(groups, key=lambda c: (c == "", c))
    ]


def pieces(example: Example) -> list[Piece]:
    """Text runs of an example around its strongest token, quiet neighbours merged."""
    both = zip(example.tokens, example.activations, strict=False)
    pairs = [(cut(token, TOKEN_LIMIT), value if math.isfinite(value) else 0.0) for token, value in both]
    if not pairs:
        return [Piece(example.text[: 8 * (BEFORE + AFTER)], 0, "")]
    peak = max(range(len(pairs)), key=lambda i: pairs[i][1])
    top = pairs[peak][1]
    start, stop = max(0, peak - BEFORE), min(len(pairs), peak + AFTER + 1)
    out: list[Piece] = [Piece("\u2026", 0, "")] if start else []
    quiet: list[str] = []
    for token, value in pairs[start:stop]:
        level = math.ceil(LEVELS * value / top - 0.5) if top > 0 and value > 0 else 0
        if level <= 0:
            quiet.append(token)
            continue
        if quiet:
            out.append(Piece("".join(quiet), 0, ""))
            quiet = []
        out.append(Piece(token, level, compact(value)))
    if stop < len(pairs):
        quiet.append("\u2026")
    return [*out, Piece("".join(quiet), 0, "")] if quiet else out


def weak_rows(card: Card) -> list[Weak]:
    """Classes, arena rows and benchmarks whose verdict is unclear, with n and the smallest detectable effect."""
    out: list[Weak] = []
    n = f"{card.latents.base.annotated} \u2192 {card.latents.tuned.annotated} latents"
    for row in card.classes:
        if row.verdict == "unclear" and row.diff.value is not None:
            mde = "not listed" if row.mde is None else f"\u00b1{number(row.mde)} points"
            value = f"{number(row.diff.value, signed=True)} points"
            name = f"{row.code} {row.name}"
            out.append(Weak(name, "share", n, value, interval(row.diff), mde, _p(row.p_adjusted)))
    for row in card.classes:
        change = row.activation
        if change is not None and change.verdict == "unclear" and change.change.value is not None:
            n_seen = f"{number(change.n_latents, 0)} latents, {number(change.n_documents, 0)} documents"
            null = "not listed" if change.null_size is None else f"null \u00b1{number(change.null_size)} %"
            value = f"{number(change.change.value, signed=True)} %"
            name = f"{row.code} {row.name}"
            out.append(Weak(name, "activation", n_seen, value, interval(change.change), null, _p(change.p_adjusted)))
    for bench in card.benchmarks:
        if bench.verdict == "unclear":
            mde = "not listed" if bench.mde is None else f"\u00b1{number(bench.mde, benchmark_digits(bench))}"
            name = f"{bench.task} \u00b7 {bench.metric}"
            n_items, value, p = f"{number(bench.n, 0)} items", benchmark_delta(bench), _p(bench.p_adjusted)
            out.append(Weak(name, "benchmark", n_items, value, benchmark_range(bench), mde, p))
    for elo in card.arena.rows if card.arena else []:
        if elo.verdict == "unclear":
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


@dataclass(frozen=True)
class Dot:
    """A latent on the ν map, positions in percent."""

    x: float
    y: float
    model: str
    title: str


def nu_map(card: Card) -> tuple[list[Dot], Scale] | None:
    """ν^ε (x) against ν^r (y) of the latents listed in this card, or None when fewer than two have both."""
    found: list[tuple[TopLatent, float, float]] = []
    for latent in card.top_latents:
        error, reconstruction = _value(latent.nu_error), _value(latent.nu_reconstruction)
        if error is not None and reconstruction is not None:
            found.append((latent, error, reconstruction))
    if len(found) < 2:
        return None
    top = max(1.0, *(min(1.5, max(e, r)) for _, e, r in found))
    line = plain_scale(0.0, top * 1.04)
    dots = []
    for latent, error, reconstruction in found:
        label = latent.label or "not annotated"
        title = f"{latent.model} {latent.latent}: {label} ({number(error, 2)}, {number(reconstruction, 2)})"
        dots.append(Dot(line.at(error), round(100 - line.at(reconstruction), 2), latent.model, title))
    return dots, line


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None or estimate.value is None or not math.isfinite(estimate.value) else estimate.value


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
    tally = Counter(row.verdict for row in card.classes)
    words: list[tuple[Verdict, str]] = [
        ("up", "\u25b2 up"),
        ("down", "\u25bc down"),
        ("unclear", "n.s."),
        ("not covered", "not covered"),
    ]
    return ", ".join(f"{tally[key]} {word}" for key, word in words if tally[key])
