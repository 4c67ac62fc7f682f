"""Forest plot rows, axes and maps as inline SVG. Only numbers and words of ours are in them; no text of a card.

Positions are percentages, so a chart takes the width of its cell without scaling its marks or text. Colours are presentation
attributes (print and PDF); the screen style sheet overrides them by class, which gives dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from modeldiff_eval.records import Verdict
from modeldiff_eval.render_maps import SHADES, Cell
from modeldiff_eval.render_scale import Mark, Scale, Tick
from modeldiff_eval.render_text import TONE

INK: dict[Verdict, str] = {"up": "#2166ac", "down": "#b35806", "unclear": "#595959", "not covered": "#8c8c8c"}
DARK = "#2b3138"
GRID, ZERO, PAPER = "#e4e6ea", "#9aa1ab", "#ffffff"
FONT = "&#39;Liberation Sans&#39;, Arial, Helvetica, &#39;DejaVu Sans&#39;, sans-serif"
_DIAMOND = "M-5.5 0L0 -5.5L5.5 0L0 5.5Z"
_LEFT, _RIGHT = "M5 -4L0 0L5 4", "M-5 -4L0 0L-5 4"


def strip(scale: Scale, mark: Mark, height: int = 34, band: float | None = None, grid: bool = True) -> Markup:
    """A row of a forest plot. Filled is significant, hollow and dashed is not. ``band``: the size that a null control reached."""
    null = ""
    if band is not None:
        left, right = scale.at(-band), scale.at(band)
        null = (
            f'<rect class="f-band" x="{left}%" width="{round(right - left, 2)}%" y="0" height="100%" fill="#eef0f3"/>'
        )
    return _row("strip", height, null + _lines(scale.ticks, grid) + _whisker(mark))


def spark(scale: Scale, mark: Mark) -> Markup:
    """The interval of a tile against zero, nothing else."""
    return _row("spark", 18, "\n" + _upright(scale.at(0), True) + _whisker(mark))


def dumbbell(scale: Scale, raw: Mark, style: Mark | None, height: int = 44) -> Markup:
    """A row of the Elo dumbbell: raw dot above, style-controlled diamond below, joined."""
    top, low = 50 if style is None else 32, 68
    parts = _lines(scale.ticks, True)
    if style is not None and raw.x is not None and style.x is not None:
        ends = f'x1="{raw.x}%" x2="{style.x}%" y1="{top}%" y2="{low}%"'
        parts += f'<line class="s-zero" {ends} stroke="{ZERO}" stroke-width="1.2"/>'
    parts += _whisker(raw, top, hollow=False)
    if style is not None:
        parts += _whisker(style, low, diamond=True, hollow=True)
    return _row("strip", height, parts)


def axis(scale: Scale, width: str | int = "100%") -> Markup:
    """The axis under a column of strips."""
    parts = [f'<svg class="axis" width="{width}" height="18" aria-hidden="true">']
    for tick in scale.ticks:
        anchor = "start" if tick.x < 4 else "end" if tick.x > 96 else "middle"
        parts.append(_upright(tick.x, tick.zero, "4"))
        parts.append(
            f'\n<text class="f-muted" x="{tick.x}%" y="15" text-anchor="{anchor}" font-size="10.5" font-family="{FONT}" '
            f'fill="#5b6470">{tick.label}</text>'
        )
    return Markup("".join([*parts, "</svg>"]))


def lines(scale: Scale) -> Markup:
    """The upright lines behind a forest plot."""
    return Markup(_lines(scale.ticks, True))


def whisker(mark: Mark) -> Markup:
    """One interval and its point in the middle of the height."""
    return Markup(_whisker(mark))


def squares(cells: Sequence[Cell], size: float) -> Markup:
    """The squares of a map, darker where more latents are."""
    return Markup(
        "".join(
            f'<rect class="f-ink" x="{cell.x}%" y="{cell.y}%" width="{size}%" height="{size}%" fill="{DARK}" '
            f'fill-opacity="{round(0.08 + 0.62 * cell.shade / SHADES, 2)}"><title>{cell.title}</title></rect>'
            for cell in cells
        )
    )


def segments(points: Sequence[tuple[float, float]]) -> Markup:
    """A curve whose width is not known, as line segments."""
    pairs = pairwise(points)
    return Markup("".join(f'<line x1="{x}%" y1="{y}%" x2="{to_x}%" y2="{to_y}%"/>' for (x, y), (to_x, to_y) in pairs))


def _row(kind: str, height: int, inside: str) -> Markup:
    return Markup(f'<svg class="{kind}" width="100%" height="{height}" aria-hidden="true">{inside}</svg>')


def _lines(ticks: Sequence[Tick], every: bool) -> str:
    return "".join([_upright(tick.x, tick.zero) for tick in ticks if every or tick.zero])


def _upright(x: float, zero: bool, to: str = "100%") -> str:
    kind, colour = ("s-zero", ZERO) if zero else ("s-grid", GRID)
    return f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="0" y2="{to}" stroke="{colour}" stroke-width="1"/>'


def _whisker(mark: Mark, y: int = 50, *, diamond: bool = False, hollow: bool | None = None) -> str:
    """One interval and its point on line ``y`` (percent of the height); hollow where the sign is open, unless told."""
    c, colour, out = TONE[mark.verdict], INK[mark.verdict], ""
    open_sign = mark.verdict not in ("up", "down")
    if mark.x1 is not None and mark.x2 is not None:
        width, dashes = (1.5, ' stroke-dasharray="4 3"') if open_sign else (2.2, "")
        ends = f'x1="{mark.x1}%" x2="{mark.x2}%" y1="{y}%" y2="{y}%"'
        out = f'<line class="s-{c}" {ends} stroke="{colour}" stroke-width="{width}"{dashes}/>'
    out += _end(mark.x1, y, _LEFT if mark.cut_left else "", c, colour)
    out += _end(mark.x2, y, _RIGHT if mark.cut_right else "", c, colour)
    if mark.x is None:
        return out
    empty = open_sign if hollow is None else hollow
    looks = (
        f'class="s-{c} {"f-paper" if empty else f"f-{c}"}"',
        f'fill="{PAPER if empty else colour}" stroke="{colour}" stroke-width="1.8"',
    )
    if diamond:
        return f'{out}<svg x="{mark.x}%" y="{y}%" overflow="visible"><path {looks[0]} d="{_DIAMOND}" {looks[1]}/></svg>'
    return f'{out}<circle {looks[0]} cx="{mark.x}%" cy="{y}%" r="4.6" {looks[1]}/>'


def _end(x: float | None, y: int, arrow: str, c: str, colour: str) -> str:
    """Where an interval ends, or the arrow head that says it goes on."""
    if x is None:
        return ""
    if arrow:
        path = f'<path class="s-{c}" d="{arrow}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        return f'<svg x="{x}%" y="{y}%" overflow="visible">{path}</svg>'
    ends = f'x1="{x}%" x2="{x}%" y1="{y - 12}%" y2="{y + 12}%"'
    return f'<line class="s-{c}" {ends} stroke="{colour}" stroke-width="1.5"/>'
