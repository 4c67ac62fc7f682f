"""The latents of a card: by class, as one list, and their examples with the firing tokens marked."""

from __future__ import annotations

import math
from typing import NamedTuple

from markupsafe import Markup

from modeldiff_eval.records import Card, Example, TopLatent
from modeldiff_eval.render_scale import scale
from modeldiff_eval.render_text import compact, cut, visible_parts
from modeldiff_eval.render_view import Group

MAX_LATENTS = 60
"""Latents shown with examples; the table holds all."""
PAGED_LATENTS = 8
PAGED_EACH = 2
"""On paper only the first of every class are shown with an example."""
MAX_EXAMPLES = 5
BEFORE, AFTER = 60, 30
TOKEN_LIMIT = 80
LEVELS = 6


class Piece(NamedTuple):
    """A run of example text with one highlight level (0 = none, ``LEVELS`` = the strongest)."""

    text: str
    level: int
    value: str


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
    values = list(example.activations[: len(example.tokens)])
    if not values:
        return [Piece(example.text[: 8 * (BEFORE + AFTER)], 0, "")]
    top = max(values)
    peak = values.index(top)
    start, stop = max(0, peak - BEFORE), min(len(values), peak + AFTER + 1)
    tokens = [token if len(token) <= TOKEN_LIMIT else cut(token, TOKEN_LIMIT) for token in example.tokens[start:stop]]
    out: list[Piece] = [Piece("\u2026", 0, "")] if start else []
    done = 0
    for i, value in enumerate(values[start:stop]):
        if value <= 0 or (level := math.ceil(LEVELS * value / top - 0.5)) <= 0:
            continue
        if i > done:
            out.append(Piece("".join(tokens[done:i]), 0, ""))
        out.append(Piece(tokens[i], level, compact(value)))
        done = i + 1
    rest = "".join(tokens[done:]) + ("\u2026" if stop < len(values) else "")
    return [*out, Piece(rest, 0, "")] if rest else out


def marked(example: Example, tag: str = "span") -> Markup:
    """Escaped HTML of an example, its active tokens in elements ``tag``; by hand, since a large part of a card is this."""
    parts = [
        f'<{tag} class="t{level}" title="{value}">{visible_parts(text)}</{tag}>' if level else visible_parts(text)
        for text, level, value in pieces(example)
    ]
    return Markup("".join(parts))


def class_of(latent: TopLatent) -> str:
    """The class that a list is filtered by; ``-`` for none."""
    return cut((latent.category or "").split(".")[0], 12) or "-"


def strongest(groups: list[Group]) -> list[Group]:
    """The first latents of every class, at most ``PAGED_LATENTS`` in all: every class has one before any has two."""
    wanted = [0] * len(groups)
    for turn in range(PAGED_EACH):
        for i, group in enumerate(groups):
            if sum(wanted) < PAGED_LATENTS and len(group.rows) > turn:
                wanted[i] += 1
    return [
        Group(group.code, group.name, group.rows[:n], group.scale) for group, n in zip(groups, wanted, strict=True) if n
    ]
