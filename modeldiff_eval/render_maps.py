"""The histogram of Δ_norm and the ν maps, placed in percent of their charts. Nothing is estimated here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modeldiff_eval.records import Card, DeltaNormHistogram, Estimate, NuMap
from modeldiff_eval.render_scale import Scale, Tick, plain_scale
from modeldiff_eval.render_text import number

SHADES = 6
_ROOM = 1.04


@dataclass(frozen=True)
class Bar:
    """One bin: left edge, width and height in percent."""

    x: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """Δ_norm of one crosscoder; counts grow by powers of ten up the chart."""

    name: str
    bars: list[Bar]
    up: tuple[Tick, ...]
    across: Scale
    said: str


def histograms(card: Card) -> list[Histogram]:
    """One for each crosscoder whose record has it."""
    return [_histogram(found) for found in card.delta_norm_histogram or ()]


def _histogram(found: DeltaNormHistogram) -> Histogram:
    n, top = len(found.counts), max(found.counts)
    reach = math.log10(1 + max(top, 1)) * _ROOM
    bars = [
        Bar(
            round(100 * i / n, 2),
            round(100 / n, 2),
            round(100 * math.log10(1 + count) / reach, 2),
            f"{i / n:.3g} to {(i + 1) / n:.3g}: {count}",
        )
        for i, count in enumerate(found.counts)
        if count > 0
    ]
    ticks = [10**power for power in range(1 + int(math.log10(max(top, 1))))]
    up = tuple(Tick(round(100 * math.log10(1 + t) / reach, 2), number(t, 0), zero=False) for t in ticks)
    return Histogram(
        f"{found.first} / {found.second}", bars, up, plain_scale(0.0, 1.0, wanted=5), _histogram_said(found)
    )


def _histogram_said(found: DeltaNormHistogram) -> str:
    total, n = sum(found.counts), len(found.counts)
    dead = f" {number(found.dead, 0)} more never fire here." if found.dead else ""
    if not total:
        return f"No latent fires on the measured tokens.{dead}"

    def share(low: float, high: float) -> int:
        return sum(c for i, c in enumerate(found.counts) if low <= (i + 0.5) / n < high)

    return (
        f"Of {number(total, 0)} live latents {number(share(0.4, 0.6), 0)} lie near the middle (0.4 to 0.6: both models use them alike), "
        f"{number(share(0.0, 0.1), 0)} below 0.1 (only {found.first} writes them) and {number(share(0.9, 1.1), 0)} above 0.9 "
        f"(only {found.second} does).{dead}"
    )


@dataclass(frozen=True)
class Cell:
    """A square of a ν map, left and top edge in percent; ``shade`` from 1 to ``SHADES``."""

    x: float
    y: float
    shade: int
    title: str


@dataclass(frozen=True)
class Dot:
    """A latent on the ν map, positions in percent."""

    x: float
    y: float
    model: str
    title: str


@dataclass(frozen=True)
class NuChart:
    """One map: all latents as shaded squares where the record has them, the listed ones as points."""

    heading: str
    cells: list[Cell]
    size: float
    dots: list[Dot]
    across: Scale
    said: str


def nu_charts(card: Card) -> list[NuChart]:
    """A map for each side from the record, or one of the listed latents alone where at least two have both figures."""
    if card.nu_maps:
        return [_nu_chart(card, found) for found in card.nu_maps]
    known = [max(abs(v) for v in pair) for pair in _pairs(card, None)]
    if len(known) < 2:
        return []
    line = plain_scale(0.0, max(1.0, *(min(1.5, value) for value in known)) * _ROOM)
    said = (
        f"Only the {len(known)} latents listed in this card; those at the lower left are absent from the other model."
    )
    return [NuChart("What the other model has of them", [], 0.0, _dots(card, None, line), line, said)]


def _nu_chart(card: Card, found: NuMap) -> NuChart:
    n, line = len(found.counts), plain_scale(found.low, found.high)
    width = (found.high - found.low) / n
    top = max(map(max, found.counts))
    cells = [
        Cell(
            round(100 * column / n, 2),
            round(100 * (n - 1 - row) / n, 2),
            min(SHADES, max(1, math.ceil(SHADES * math.log1p(count) / math.log1p(top)))),
            f"{count} latents: \u03bd\u1d4b {found.low + column * width:.2g} to {found.low + (column + 1) * width:.2g}, "
            f"\u03bd\u02b3 {found.low + row * width:.2g} to {found.low + (row + 1) * width:.2g}",
        )
        for row, counts in enumerate(found.counts)
        for column, count in enumerate(counts)
        if count > 0
    ]
    total = sum(map(sum, found.counts))
    half = [found.low + (i + 0.5) * width < 0.5 for i in range(n)]
    near = sum(c for r, row in enumerate(found.counts) for e, c in enumerate(row) if half[r] and half[e])
    said = (
        f"{number(total + found.outside, 0)} latents have both figures; {number(near, 0)} lie below one half on both axes, that is mostly "
        f"absent from the other model. {number(found.outside, 0)} lie beyond the chart; {number(found.undefined, 0)} have no reliable figure."
    )
    other = "base" if found.side == "tuned" else "tuned"
    return NuChart(
        f"What {other} has of {found.side}'s latents",
        cells,
        round(100 / n, 2),
        _dots(card, found.side, line),
        line,
        said,
    )


def _pairs(card: Card, side: str | None) -> list[tuple[float, float]]:
    return [(error, reconstruction) for _, error, reconstruction in _known(card, side)]


def _known(card: Card, side: str | None) -> list[tuple[int, float, float]]:
    out = []
    for i, latent in enumerate(card.top_latents):
        error, reconstruction = _value(latent.nu_error), _value(latent.nu_reconstruction)
        if error is not None and reconstruction is not None and side in (None, latent.model):
            out.append((i, error, reconstruction))
    return out


def _dots(card: Card, side: str | None, line: Scale) -> list[Dot]:
    out = []
    for i, error, reconstruction in _known(card, side):
        latent = card.top_latents[i]
        label = latent.label or "not annotated"
        title = f"{latent.model} {latent.latent}: {label} ({number(error, 2)}, {number(reconstruction, 2)})"
        out.append(Dot(line.at(error), round(100 - line.at(reconstruction), 2), latent.model, title))
    return out


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None or estimate.value is None or not math.isfinite(estimate.value) else estimate.value
