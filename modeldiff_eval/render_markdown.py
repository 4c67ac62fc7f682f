"""The card as compact GitHub-flavoured Markdown that fits a pull-request comment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modeldiff_eval import naming_words, render_outside
from modeldiff_eval.gate_words import ordered, result, seen_text
from modeldiff_eval.records import Card, ClassRow, CrosscoderInfo, DifferenceInfo, Estimate, ModelInfo
from modeldiff_eval.render_causal import causal_lines, causal_table
from modeldiff_eval.render_html import GATE_WORDS, NOT_GATED
from modeldiff_eval.render_panels import simpler
from modeldiff_eval.render_text import (
    VERDICT_TEXT,
    arrow,
    interval,
    markdown,
    number,
    p_value,
    percent,
    verdict_text,
)
from modeldiff_eval.render_view import benchmark_delta, benchmark_range, graded_n

LIMIT = 65_536
"""Characters GitHub accepts in one comment."""


def render_markdown(card: Card) -> str:
    """The card as Markdown of at most :data:`LIMIT` characters; the least important parts give way first."""
    parts = [
        (0, _head(card)),
        (0, _classes(card)),
        (1, _outside(card)),
        (4, _parts_of_text(card)),
        (3, _snapshots(card)),
        (3, _agreement(card)),
        (4, _categories(card)),
        (2, _weak(card)),
        (5, _latents(card)),
        (2, _causal(card)),
        (4, simpler(card)),
        (3, _trust(card)),
        (1, _bullets("Caveats", card.caveats)),
        (3, _reproduce(card)),
    ]
    dropped = False
    while len(text := _join(parts, dropped=dropped)) > LIMIT and any(rank for rank, _ in parts):
        parts.remove(max(parts, key=lambda part: part[0]))
        dropped = True
    return text if len(text) <= LIMIT else text[: LIMIT - 40].rsplit("\n", 1)[0] + "\n\nCut; see card.html.\n"


def _join(parts: Iterable[tuple[int, str]], *, dropped: bool) -> str:
    blocks = [block for _, block in parts if block]
    if dropped:
        blocks.append("Parts that did not fit here are in card.html and card.json.")
    return "\n\n".join(blocks) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    sides = [" --- ", *[" ---: "] * (len(header) - 1)]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(sides) + "|"]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(lines)


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _model(info: ModelInfo) -> str:
    words = [f"**{markdown(info.id, limit=160)}**"]
    if info.adapter is not None:
        words.append(f"with adapter {markdown(info.adapter, limit=160)}")
    if info.revision is not None:
        words.append(f"(revision {markdown(info.revision, limit=40)})")
    return " ".join(words)


def _head(card: Card) -> str:
    gate = NOT_GATED if card.gate is None else GATE_WORDS[card.gate.verdict]
    lines = [f"### modeldiff: {gate}", "", f"**{markdown(card.title, limit=200)}**", ""]
    lines += [markdown(card.headline, limit=1000), ""]
    lines.append(f"- Base: {_model(card.models.base)}")
    lines.append(f"- Tuned: {_model(card.models.tuned)}")
    if card.models.anchor is not None:
        lines.append(f"- Anchor: {_model(card.models.anchor)}")
    if card.gate is not None and card.gate.rules:
        rows = [(markdown(r.rule, limit=200), markdown(seen_text(r), limit=300), result(r)) for r in ordered(card.gate)]
        lines += ["", _table(("Rule", "Value", "Result"), rows[:10])]
        if rows[10:]:
            lines += ["", _details(f"{len(rows) - 10} more rules", _table(("Rule", "Value", "Result"), rows[10:]))]
    return "\n".join(lines)


def _with_range(estimate: Estimate | None, digits: int = 1) -> str:
    if estimate is None:
        return "not measured"
    shown = f"{arrow(estimate.value)} {number(estimate.value, digits, signed=True)}".strip()
    return f"{shown} ({interval(estimate, digits)})"


def _row(row: ClassRow, *, graded: bool, activation: bool) -> list[str]:
    cells = [
        f"{row.code} {markdown(row.name, limit=100)}",
        f"{row.base.count} \u2192 {row.tuned.count}",
        _with_range(row.diff),
        p_value(row.p_adjusted),
        verdict_text(row.diff, row.verdict),
    ]
    if graded:
        cells.append(
            "not measured" if row.graded is None else f"{_with_range(row.graded.diff)}, {graded_n(row.graded)}"
        )
    if activation:
        change = row.activation
        shown = (
            "not measured"
            if change is None
            else f"{_with_range(change.change)} {verdict_text(change.change, change.verdict)}"
        )
        cells.append(shown)
    return cells


def _class_table(rows: Sequence[ClassRow], first: str) -> str:
    activation = any(row.activation is not None for row in rows)
    graded = any(row.graded is not None for row in rows)
    header = [first, "Latents", "\u0394 points (95 %)", "p adj.", "Verdict"]
    if graded:
        header.append("Graded \u0394 points (95 %)")
    if activation:
        header.append("Activation \u0394 % (95 %)")
    return _table(header, (_row(row, graded=graded, activation=activation) for row in rows))


def _classes(card: Card) -> str:
    return _class_table(card.classes, "Class") if card.classes else "Classes: not listed"


def _parts_of_text(card: Card) -> str:
    if not card.activation_by:
        return ""
    codes = [row.code for row in card.classes]
    header = ["Tokens", "n", "Documents", *(markdown(code, limit=20) for code in codes)]
    rows = (
        [
            markdown(f"{row.split}: {row.part}", limit=80),
            number(row.tokens, 0),
            number(row.documents, 0),
            *("not listed" if code not in row.changes else _with_range(row.changes[code], 0) for code in codes),
        ]
        for row in card.activation_by
    )
    return _details("Activation Δ % of the classes by kind of token and by whose text (95 %)", _table(header, rows))


def _categories(card: Card) -> str:
    if not card.categories:
        return "Categories: not listed"
    return _details(f"The {len(card.categories)} categories", _class_table(card.categories, "Category"))


def _outside(card: Card) -> str:
    blocks = []
    if card.arena is None or not card.arena.rows:
        blocks.append("Arena: not listed")
    else:
        rows = [
            (
                markdown(row.category, limit=80),
                _with_range(row.delta),
                "not listed" if row.delta_style is None else _with_range(row.delta_style),
                verdict_text(row.delta, row.verdict),
            )
            for row in card.arena.rows[:40]
        ]
        blocks.append(_table(("Arena", "\u0394 Elo raw (95 %)", "\u0394 Elo style-controlled (95 %)", "Verdict"), rows))
    if not card.benchmarks:
        blocks.append("Benchmarks: not measured")
    else:
        bench = [
            (
                f"{markdown(row.task, limit=80)} {markdown(row.metric, limit=40)}",
                number(row.n, 0),
                f"{benchmark_delta(row)} ({benchmark_range(row)}"
                + (")" if row.delta.level == 0.95 else f", {percent(row.delta.level, 0)})"),
                "not listed"
                if row.wins is None or row.losses is None
                else " / ".join(
                    "\u2013" if count is None else number(count, 0) for count in (row.wins, row.losses, row.ties)
                ),
                p_value(row.p_adjusted),
                verdict_text(row.delta, row.verdict),
            )
            for row in card.benchmarks[:100]
        ]
        header = ("Benchmark", "n", "\u0394 (95 %)", "Tuned higher / lower / equal", "p adj.", "Verdict")
        blocks.append(_table(header, bench))
    return "\n\n".join(blocks)


def _snapshots(card: Card) -> str:
    dates, rows = render_outside.snapshot_rows(card.arena)
    blocks = [markdown(line, limit=600) for line in render_outside.fit_lines(card.arena)]
    if dates:
        header = ["Raw \u0394 Elo (95 %)", *(markdown(date, limit=60) for date in dates)]
        table = _table(header, ([markdown(cell, limit=80) for cell in row] for row in rows[:40]))
        blocks.append(_details("The arena on each day (the days share battles)", table))
    return "\n\n".join(blocks)


def _agreement(card: Card) -> str:
    rows = [
        (
            markdown(row.class_, limit=120),
            VERDICT_TEXT[row.latent_verdict],
            markdown(row.category_or_task, limit=120) + (f" ({render_outside.REVERSED})" if row.reversed else ""),
            VERDICT_TEXT[row.outside_verdict],
            render_outside.agrees(row),
        )
        for row in card.agreement[:100]
    ]
    if not rows:
        return ""
    header = ("Class", "Latents say", "Outside measure", "It says", "Agree?")
    lines = "\n".join(f"- {markdown(line, limit=600)}" for line in render_outside.correlation_lines(card))
    return _details("Do inside and outside agree?", f"{_table(header, rows)}\n\n{lines}".rstrip())


def _bullets(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"**{title}**\n\n" + "\n".join(f"- {markdown(line, limit=600)}" for line in lines)


def _weak(card: Card) -> str:
    return _bullets("Not significant", card.not_significant)


def _latents(card: Card) -> str:
    if not card.top_latents:
        return "Latents: not listed"
    rows = []
    for latent in card.top_latents[:20]:
        label = "not annotated" if latent.label is None else markdown(latent.label, limit=100)
        error = latent.nu_error
        rows.append(
            (
                label,
                f"{latent.model} {latent.latent}",
                "none" if latent.category is None else markdown(latent.category, limit=12),
                "not measured" if error is None else f"{number(error.value, 2)} ({interval(error, 2, signed=False)})",
                _with_range(latent.activation_shift, 0),
            )
        )
    header = ("Latent", "Model", "Category", "\u03bd\u1d4b (95 %)", "Activation shift % (95 %)")
    return _details("Latents", _table(header, rows))


def _causal(card: Card) -> str:
    if card.causal is None:
        return ""
    header, rows = causal_table(card.causal)
    table = _table(header, ([markdown(cell, limit=100) for cell in row] for row in rows))
    return f"{_bullets('Causes', causal_lines(card.causal))}\n\n{_details('Every set', table)}"


def _trust(card: Card) -> str:
    rows = [
        (
            f"{markdown(c.first, limit=80)} / {markdown(c.second, limit=80)}",
            f"{number(c.fve_first, 3)} / {number(c.fve_second, 3)}",
            number(c.l0, 1),
            percent(c.dead_share),
            number(c.tokens, 0),
            "not measured" if c.seed_agreement is None else number(c.seed_agreement, 2),
        )
        for c in card.crosscoders
    ]
    if not rows:
        return "Crosscoder: not listed"
    table = _table(("Crosscoder", "fve first / second", "L0", "Dead", "Tokens", "Seed agreement"), rows)
    found = [_latent_counts(card), *map(_difference, card.differences or ()), *map(_training, card.crosscoders)]
    return "\n".join([table, "", *found, naming_words.markdown_lines(card)])


def _latent_counts(card: Card) -> str:
    sides = []
    for name, side in (("base", card.latents.base), ("tuned", card.latents.tuned)):
        shifted = "shifted not measured" if side.shifted is None else f"{number(side.shifted, 0)} shifted"
        sides.append(f"{number(side.specific, 0)} specific and {shifted} in {name}")
    rate = "not measured" if card.latents.null_rate is None else percent(card.latents.null_rate, 2)
    return f"- Latents: {'; '.join(sides)}; null rate {rate}."


def _difference(found: DifferenceInfo) -> str:
    name = f"{markdown(found.first, limit=80)} / {markdown(found.second, limit=80)}"
    if found.fve is None:
        return f"- Dictionary of differences {name}: nothing differs on the held-out tokens, or the same vector on all of them."
    said = (
        f"- Dictionary of differences {name}: the difference is {percent(found.energy_share, 2)} of all energy, and "
        f"{number(found.n_latents, 0)} latents explain {percent(found.fve)} of it"
    )
    if found.measured is None or found.changed is None or found.rewritten is None or found.null_rate is None:
        return f"{said}."
    return (
        f"{said}; {number(found.changed, 0)} of {number(found.measured, 0)} measured latents are beyond noise at a false discovery rate of "
        f"{percent(found.false_discovery_rate, 0)} ({number(found.rewritten, 0)} rewritten: in both models, in other directions); with "
        f"the models exchanged in half of the documents at random {percent(found.null_rate, 2)} are found.{_too_rare(found)}"
    )


def _too_rare(found: DifferenceInfo) -> str:
    if found.prompts is None or found.prompts_needed is None or found.unjudged is None:
        return ""
    return (
        f" A latent must respond in at least {number(found.prompts_needed, 0)} of the {number(found.prompts, 0)} held-out prompts to be told "
        f"from noise; {number(found.unjudged, 0)} of those measured respond in fewer, so that only more text like that could say."
    )


def _training(crosscoder: CrosscoderInfo) -> str:
    name = f"{markdown(crosscoder.first, limit=80)} / {markdown(crosscoder.second, limit=80)}"
    curve = crosscoder.training
    if curve is None:
        return f"- Training of {name}: no log came with this crosscoder."
    return (
        f"- Training of {name}: {number(curve.rows[-1], 0)} rows presented; fve {number(curve.fve_first[-1], 3)} / "
        f"{number(curve.fve_second[-1], 3)} on the last training batch, {number(crosscoder.fve_first, 3)} / "
        f"{number(crosscoder.fve_second, 3)} held out."
    )


def _reproduce(card: Card) -> str:
    made = card.provenance
    command = markdown(made.command, limit=2000)
    return f"Made {markdown(card.created)} by {markdown(made.package, limit=80)}: {command}"
