"""The card as one HTML file: no script, no external request, everything untrusted escaped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from modeldiff_eval import naming_words
from modeldiff_eval import render_text as text
from modeldiff_eval import render_view as view
from modeldiff_eval.gate_words import notes_text, ordered, result, seen_text
from modeldiff_eval.records import Card, Gate, Verdict
from modeldiff_eval.render_causal import causal_view
from modeldiff_eval.render_curve import training
from modeldiff_eval.render_scale import scale
from modeldiff_eval.resources import resource

GATE_WORDS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
NOT_GATED = "NOT GATED"
_TONE: dict[Verdict | None, str] = {"up": "up", "down": "down", "unclear": "ns", "not covered": "off", None: ""}


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
    env.filters |= {
        "visible": text.visible_html,
        "parts": text.visible_parts,
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
        "tone": lambda verdict: _TONE[verdict],
        "pieces": view.pieces,
        "graded_n": view.graded_n,
    }
    env.tests["share_only"] = text.share_only
    env.globals |= {"absent": text.ABSENT, "max_examples": view.MAX_EXAMPLES}
    return env


def render_html(card: Card, *, links: Sequence[tuple[str, str]] = (), notes: Sequence[str] = ()) -> str:
    """The card as a complete HTML document.

    Args:
        card: what to show.
        links: (name, relative address) of files beside the card.
        notes: sentences shown under the header, such as why there is no PDF.
    """
    class_scale, activation_scale = view.class_scales(card.classes)
    arena_rows = card.arena.rows if card.arena else []
    nu = view.nu_map(card)
    context: dict[str, Any] = {
        "card": card,
        "css": Markup(style()),
        "links": links,
        "notes": [note for note in notes if note not in card.caveats],
        "created_w3c": _w3c(card.created),
        "gate_word": NOT_GATED if card.gate is None else GATE_WORDS[card.gate.verdict],
        "gate_class": "none" if card.gate is None else card.gate.verdict,
        "rules": _rules(card.gate),
        "tiles": [
            view.class_tile(card, up=True),
            view.class_tile(card, up=False),
            view.elo_tile(card),
            view.benchmark_tile(card),
        ],
        "class_scale": class_scale,
        "activation_scale": activation_scale,
        "graded_scale": view.graded_scale(card.classes),
        "share_only_rows": [row.code for row in card.classes if text.share_only(row) and row.verdict != "not covered"],
        "arena_scale": scale([e for row in arena_rows for e in (row.delta, row.delta_style)], wanted=3),
        "benchmark_groups": view.benchmark_groups(card.benchmarks),
        "weak": view.weak_rows(card),
        "other_weak": view.other_weak(card),
        "weak_categories": [row for row in card.categories if row.verdict == "unclear"],
        "category_groups": view.category_groups(card),
        "category_activation": any(row.activation is not None for row in card.categories),
        "has_null_change": any(r.change is None or r.change.high is None for r in card.categories),
        "category_names": {row.code: row.name for row in card.categories},
        "latent_groups": view.latent_groups(card),
        "latents_left": max(0, len(card.top_latents) - view.MAX_LATENTS),
        "trainings": [training(crosscoder) for crosscoder in card.crosscoders],
        "causal": causal_view(card.causal),
        "nu": nu,
        "languages": view.coverage_rows(card.coverage.languages) if card.coverage else [],
        "covered": view.coverage_rows(card.coverage.categories) if card.coverage else [],
        "naming_lines": naming_words.lines(card),
        "strong_rows": naming_words.strong_rows(card),
        "extras": _extras(card),
    }
    return environment().get_template("card.html.j2").render(context)


@cache
def style() -> str:
    """The style sheet, ready to stand inside a ``<style>`` element."""
    return resource("templates/card.css").read_text("utf-8").replace("</", "<\\/")


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
