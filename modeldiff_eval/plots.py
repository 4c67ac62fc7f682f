"""Charts of a card for notebooks and papers: forest plots as SVG, drawn by the card's own marks, without a plotting library.

::

    run.plot.classes()                 # shown where a notebook shows values
    run.plot.classes().save("classes.svg")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeldiff_eval.records import Card, ClassRow, Estimate, Verdict
from modeldiff_eval.render_html import environment
from modeldiff_eval.render_scale import Mark, scale
from modeldiff_eval.render_text import interval, number
from modeldiff_eval.store import write_text


@dataclass(frozen=True)
class Row:
    """One line of a forest plot; ``text`` is its number with interval."""

    name: str
    mark: Mark
    text: str


@dataclass(frozen=True)
class Figure:
    """An SVG that a notebook shows. ``title`` and ``unit`` say what is drawn."""

    svg: str
    title: str
    unit: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: Path | str) -> Path:
        """Write the SVG file.

        Raises:
            OutputError: it cannot be written.
        """
        return write_text(Path(path), self.svg)


class Plots:
    """The charts of one card."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def classes(self, *, view: str = "auto") -> Figure:
        """Shifts of the seven classes with 95 % intervals.

        Args:
            view: "shares" (points of the annotated latents), "activation" (percent of the class's activation mass), or
                "auto": shares where they are defined, else activation.
        """
        return _groups("Classes", self._card.classes, view)

    def categories(self, *, view: str = "auto") -> Figure:
        """The same for the thirty categories."""
        return _groups("Categories", self._card.categories, view)

    def benchmarks(self) -> Figure:
        """Benchmark deltas, tuned minus base, each in its own unit."""
        rows = [(f"{row.task} · {row.metric} (n {row.n:,})", row.delta, row.verdict) for row in self._card.benchmarks]
        return _figure("Benchmarks", "tuned minus base, the metric's own unit", rows, digits=3)

    def arena(self) -> Figure:
        """Elo deltas without style control, tuned minus base; empty where the models are not listed."""
        found = self._card.arena.rows if self._card.arena else []
        return _figure("LMArena", "Elo points", [(row.category, row.delta, row.verdict) for row in found], digits=1)


def _groups(title: str, rows: Sequence[ClassRow], view: str) -> Figure:
    if view not in ("auto", "shares", "activation"):
        raise ValueError(f"view {view!r}: use 'auto', 'shares' or 'activation'.")
    named = [(f"{row.code} {row.name}", row) for row in rows]
    if view == "shares" or (view == "auto" and any(row.diff.value is not None for row in rows)):
        return _figure(title, "share of annotated latents, points", [(n, r.diff, r.verdict) for n, r in named], 1)
    moved = [(n, r.activation.change, r.activation.verdict) for n, r in named if r.activation]
    return _figure(title, "activation mass, percent", moved, 1)


def _figure(title: str, unit: str, rows: Sequence[tuple[str, Estimate, Verdict]], digits: int) -> Figure:
    known = [(name, estimate, verdict) for name, estimate, verdict in rows if estimate.value is not None]
    own = scale([estimate for _, estimate, _ in known])
    drawn = [
        Row(
            name, own.mark(estimate, verdict),
            f"{number(estimate.value, digits, signed=True)} ({interval(estimate, digits)}){'' if verdict in ('up', 'down') else ' n.s.'}",
        )
        for name, estimate, verdict in known
    ]  # fmt: skip
    left_out = len(rows) - len(known)
    svg = environment().get_template("forest.svg.j2").render(
        title=title, unit=unit, rows=drawn, scale=own, left_out=left_out, empty=not rows
    )  # fmt: skip
    return Figure(svg, title, unit)
