"""The curves of a crosscoder's training, placed on two panels: loss and fve. Nothing is estimated here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modeldiff_eval.records import CrosscoderInfo, TrainingCurve
from modeldiff_eval.render_scale import Scale, plain_scale

Points = list[tuple[float, float]]
_UNITS = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
_ROOM = 1.05
"""A little more than the largest value, so that nothing touches the frame."""
_FULL = 1.04


@dataclass(frozen=True)
class Curve:
    """One line of a panel; ``points`` in percent of its width and, from the top, of its height."""

    points: Points
    second: bool
    heldout: float | None = None
    """Height of the held-out value, drawn as a reference."""


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    aloud: str
    across: Scale
    up: Scale
    curves: list[Curve]


@dataclass(frozen=True)
class Training:
    """A crosscoder with the panels of its training, none where it came without a log."""

    crosscoder: CrosscoderInfo
    curve: TrainingCurve | None
    panels: list[Panel]
    unit: str
    cut: bool
    """Whether some fve lies below 0, where the chart ends."""


def training(crosscoder: CrosscoderInfo) -> Training:
    """What the card shows of one crosscoder's training."""
    curve = crosscoder.training
    if curve is None:
        return Training(crosscoder, None, [], "", False)
    factor, unit = next(((f, u) for f, u in _UNITS if curve.rows[-1] >= f), (1.0, ""))
    rows = [n / factor for n in curve.rows]
    across = plain_scale(0.0, rows[-1] * _ROOM)
    loss, fve = plain_scale(0.0, max(curve.loss) * _ROOM, wanted=6), plain_scale(0.0, _FULL, wanted=6)

    def points(values: Sequence[float], up: Scale) -> Points:
        return [(across.at(x), _height(y, up)) for x, y in zip(rows, values, strict=True)]

    return Training(
        crosscoder,
        curve,
        [
            Panel(
                "Loss: squared error of a normalised coordinate",
                f"Loss from {curve.loss[0]:.3g} to {curve.loss[-1]:.3g}",
                across,
                loss,
                [Curve(points(curve.loss, loss), second=True)],
            ),
            Panel(
                "fve: fraction of variance explained, on the training batch",
                f"fve on the training batch, from {curve.fve_first[0]:.3f} and {curve.fve_second[0]:.3f} "
                f"to {curve.fve_first[-1]:.3f} and {curve.fve_second[-1]:.3f}",
                across,
                fve,
                [
                    Curve(points(curve.fve_first, fve), second=False, heldout=_height(crosscoder.fve_first, fve)),
                    Curve(points(curve.fve_second, fve), second=True, heldout=_height(crosscoder.fve_second, fve)),
                ],
            ),
        ],
        unit,
        min(*curve.fve_first, *curve.fve_second) < 0,
    )


def _height(value: float, up: Scale) -> float:
    return round(100 - up.at(value), 2)
