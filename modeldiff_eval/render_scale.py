"""Where a number sits on a chart: domains, round ticks and the marks of a forest plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from modeldiff_eval.records import Estimate, Verdict


@dataclass(frozen=True)
class Tick:
    """A labelled position, ``x`` in percent of the chart's width."""

    x: float
    label: str
    zero: bool


@dataclass(frozen=True)
class Mark:
    """One estimate placed on a scale, all positions in percent of the width.

    ``x1`` and ``x2`` are None when the estimate has no such bound. ``cut_left`` and ``cut_right`` say that the
    interval goes on beyond the chart.
    """

    x: float | None
    x1: float | None
    x2: float | None
    cut_left: bool
    cut_right: bool
    verdict: Verdict


@dataclass(frozen=True)
class Scale:
    """A linear scale from ``low`` to ``high`` in the unit of the data."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Position of ``value`` in percent of the width, clamped to the chart."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)

    def mark(self, estimate: Estimate | None, verdict: Verdict) -> Mark:
        """Place ``estimate``; what is undefined is not drawn."""
        if estimate is None or not _finite(estimate.value):
            return Mark(None, None, None, False, False, verdict)
        assert estimate.value is not None
        low, high = estimate.low, estimate.high
        return Mark(
            x=self.at(estimate.value),
            x1=self.at(low) if low is not None else None,
            x2=self.at(high) if high is not None else None,
            cut_left=low is not None and low < self.low,
            cut_right=high is not None and high > self.high,
            verdict=verdict,
        )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _step(span: float, wanted: int) -> float:
    """The round step (1, 2 or 5 times a power of ten) that gives about ``wanted`` ticks over ``span``."""
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw))


def scale(estimates: Iterable[Estimate | None], *, wanted: int = 4, zero: bool = True) -> Scale:
    """A scale that holds every value, zero, and every interval but the absurdly wide ones (those are cut)."""
    known = [e for e in estimates if e is not None and _finite(e.value)]
    values = [e.value for e in known if e.value is not None]
    reach = [max(abs(b) for b in (e.low, e.high, e.value) if b is not None) for e in known]
    cap = max(2.2 * max(map(abs, values), default=0.0), 1.6 * median(reach)) if reach else 1.0
    bounds = [b for e in known for b in (e.low, e.high) if b is not None]
    points = [*values, *(min(cap, max(-cap, b)) for b in bounds), *([0.0] if zero else [])]
    return _nice(points, wanted)


def plain_scale(low: float, high: float, *, wanted: int = 4) -> Scale:
    """A scale over a known range, such as 0 to 1."""
    return _nice([low, high], wanted, pad=0.0)


def _nice(points: Sequence[float], wanted: int, *, pad: float = 0.05) -> Scale:
    low, high = (min(points), max(points)) if points else (-1.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 1.0, high + 1.0
    low, high = low - pad * (high - low), high + pad * (high - low)
    step = _step(high - low, wanted)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = []
    for index in range(first, last + 1):
        value = index * step
        label = f"{abs(value):.{digits}f}"
        sign = "" if index == 0 else "\u2212" if index < 0 else "+" if low < 0 else ""
        x = round(100 * (value - low) / (high - low), 2)
        ticks.append(Tick(x, sign + label, index == 0))
    return Scale(low, high, tuple(ticks))
