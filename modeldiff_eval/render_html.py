"""The card as one HTML file: no external request, everything untrusted escaped, one script of ours that nothing depends on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.compiler import CodeGenerator
from jinja2.nodes import Node
from markupsafe import Markup

from modeldiff_eval import naming_words, render_cells, render_latents, render_maps, render_outside, render_svg
from modeldiff_eval import render_text as text
from modeldiff_eval import render_view as view
from modeldiff_eval.gate_words import notes_text, ordered, result, seen_text
from modeldiff_eval.records import Card, Gate
from modeldiff_eval.render_anchor import Anchors
from modeldiff_eval.render_causal import causal_view
from modeldiff_eval.render_curve import training
from modeldiff_eval.render_glossary import TERMS, in_plain_words
from modeldiff_eval.render_said import said
from modeldiff_eval.render_scale import scale
from modeldiff_eval.render_tiles import tiles
from modeldiff_eval.resources import resource

Paper = Literal["a4", "letter"]
PAPERS: tuple[Paper, ...] = ("a4", "letter")

GATE_WORDS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
NOT_GATED = "NOT GATED"


class _Lean(CodeGenerator):
    """Templates escape by :func:`~modeldiff_eval.render_text.escaped`: a page has thousands of values, and most need no escape.

    Should Jinja write its imports in another way some day, its own ``escape`` stays in place.
    """

    def writeline(self, x: str, node: Node | None = None, extra: int = 0) -> None:
        super().writeline(x, node, extra)
        if x.startswith("from jinja2.runtime import "):
            super().writeline("from modeldiff_eval.render_text import escaped as escape")


@cache
def environment() -> Environment:
    """The Jinja environment of the templates: escapes everything, refuses undefined names."""
    folder = resource("templates/card.html.j2").parent
    env = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.code_generator_class = _Lean
    env.filters |= {
        "visible": text.visible_html,
        "name": text.name_html,
        "when": when,
        "plain": text.visible,
        "short": lambda value: text.visible(value, limit=90),
        "number": text.number,
        "compact": text.compact,
        "percent": text.percent,
        "interval": text.interval,
        "p_value": text.p_value,
        "verdict": lambda verdict: text.VERDICT_TEXT[verdict],
        "digits": view.benchmark_digits,
        "tone": lambda verdict: text.TONE[verdict],
        "brief": lambda value: text.cut(value, 12),
        "chip": render_cells.chip,
        "cell": render_cells.cell,
        "marked": render_latents.marked,
        "class_of": render_latents.class_of,
        "graded_n": view.graded_n,
        "heat": view.heat,
        "agrees": render_outside.agrees,
        "benchmark_more": view.benchmark_more,
        "arena_more": view.arena_more,
    }
    env.tests["share_only"] = text.share_only
    env.globals |= {
        "absent": text.ABSENT,
        "undefined": text.UNDEFINED,
        "max_examples": render_latents.MAX_EXAMPLES,
        "max_latents": render_latents.MAX_LATENTS,
        "svg": render_svg,
        "fact": render_cells.fact,
        "terms": TERMS,
    }
    return env


def render_html(
    card: Card, *, links: Sequence[tuple[str, str]] = (), notes: Sequence[str] = (), paper: Paper | None = None
) -> str:
    """The card as a complete HTML document.

    Args:
        card: what to show.
        links: (name, relative address) of files beside the card.
        notes: sentences shown under the header, such as why there is no PDF.
        paper: for the page a PDF is made of: its size, a denser layout, and of the latents only the first of each class with an
            example, all of them in a table. None is the document for screens.
    """
    class_scale, activation_scale = view.class_scales(card.classes)
    arena_rows = card.arena.rows if card.arena else []
    latents = render_latents.latent_groups(card)
    shares = [row.diff for row in card.categories if row.verdict in ("up", "down")]
    snapshot_dates, snapshot_rows = render_outside.snapshot_rows(card.arena)
    context: dict[str, Any] = {
        "card": card,
        "snapshot_dates": snapshot_dates,
        "snapshot_rows": snapshot_rows,
        "fit_lines": render_outside.fit_lines(card.arena),
        "correlation_lines": render_outside.correlation_lines(card),
        "reversed_words": render_outside.REVERSED,
        "paged": paper is not None,
        "css": Markup(style(paper)),
        "script": Markup(script()),
        "script_hash": script_hash(),
        "ids": Anchors(card),
        "sentences": said(card),
        "plainly": in_plain_words(card),
        "links": links,
        "notes": [note for note in notes if note not in card.caveats],
        "created_w3c": _w3c(card.created),
        "gate_word": NOT_GATED if card.gate is None else GATE_WORDS[card.gate.verdict],
        "gate_class": "none" if card.gate is None else card.gate.verdict,
        "rules": _rules(card.gate),
        "tiles": tiles(card),
        "class_scale": class_scale,
        "activation_scale": activation_scale,
        "graded_scale": view.graded_scale(card.classes),
        "share_only_rows": [row.code for row in card.classes if text.share_only(row) and row.verdict != "not covered"],
        "arena_scale": scale([e for row in arena_rows for e in (row.delta, row.delta_style)], wanted=3),
        "benchmark_groups": view.benchmark_groups(card.benchmarks),
        "flips": view.benchmark_flips(card.benchmarks),
        "weak": view.weak_rows(card),
        "other_weak": view.other_weak(card),
        "weak_categories": [row for row in card.categories if text.judged(row.diff, row.verdict) == "unclear"],
        "category_groups": view.category_groups(card),
        "category_activation": any(row.activation is not None for row in card.categories),
        "has_null_change": any(r.change is None or r.change.high is None for r in card.categories),
        "category_names": {row.code: row.name for row in card.categories},
        "share_largest": view.largest_clear(shares),
        "activation_largest": view.largest_clear(r.activation.change for r in card.categories if r.activation),
        "parts_largest": view.largest_clear(e for part in card.activation_by or () for e in part.changes.values()),
        "latent_groups": render_latents.strongest(latents) if paper else latents,
        "latents_left": max(0, len(card.top_latents) - render_latents.MAX_LATENTS),
        "trainings": [training(crosscoder) for crosscoder in card.crosscoders],
        "causal": causal_view(card.causal),
        "histograms": render_maps.histograms(card),
        "nu_charts": render_maps.nu_charts(card),
        "languages": view.coverage_rows(card.coverage.languages) if card.coverage else [],
        "covered": view.coverage_rows(card.coverage.categories) if card.coverage else [],
        "naming_lines": naming_words.lines(card),
        "strong_rows": naming_words.strong_rows(card),
        "extras": _extras(card),
    }
    return environment().get_template("card.html.j2").render(context)


@cache
def style(paper: Paper | None = None) -> str:
    """The style sheet, ready to stand inside a ``<style>`` element."""
    sheets = [resource("templates/card.css")]
    if paper is not None:
        sheets.append(resource("templates/paged.css"))
    text = "\n".join(sheet.read_text("utf-8") for sheet in sheets).replace("</", "<\\/")
    return text.replace("size: A4;", f"size: {paper};") if paper else text


@cache
def script() -> str:
    """The script of the screen's document; it holds nothing of any card."""
    return resource("templates/card.js").read_text("utf-8")


@cache
def script_hash() -> str:
    """What the content security policy lets run: this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def _rules(gate: Gate | None) -> list[Any]:
    return [] if gate is None else [(rule, seen_text(rule), result(rule), notes_text(rule)) for rule in ordered(gate)]


def _extras(card: Card) -> list[tuple[str, str]]:
    """Reserved parts that are absent, and say so."""
    return [("Causal check", "not measured")] if card.causal is None else []


def moment(created: str) -> datetime:
    """``card.created`` as a time in UTC; the epoch when it is not an ISO 8601 time."""
    try:
        found = datetime.fromisoformat(created)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def when(created: str) -> str:
    """``card.created`` for people; as it stands when it is not an ISO 8601 time."""
    try:
        datetime.fromisoformat(created)
    except ValueError:
        return created
    return moment(created).strftime("%Y-%m-%d %H:%M UTC")


def _w3c(created: str) -> str:
    return moment(created).strftime("%Y-%m-%dT%H:%M:%SZ")
