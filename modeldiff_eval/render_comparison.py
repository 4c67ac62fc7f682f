"""A comparison as one HTML file without any request, as JSON and as Markdown. Formatting only."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modeldiff_eval.comparison_records import ComparedClass, Comparison, PairDifference
from modeldiff_eval.records import Estimate
from modeldiff_eval.render_html import environment, style
from modeldiff_eval.render_scale import scale
from modeldiff_eval.render_text import UNDEFINED, VERDICT_TEXT, interval, markdown, number, p_value, visible
from modeldiff_eval.render_view import benchmark_digits
from modeldiff_eval.resources import resource
from modeldiff_eval.store import write_text

WHAT = {
    "tuned": "specific to the tuned model", "base": "specific to base, gone from the tuned model",
    "changed": "changed in activation on the same tokens",
}  # fmt: skip


def render_comparison(comparison: Comparison, out: Path) -> dict[str, Path]:
    """Write ``comparison.html``, ``comparison.json`` and ``comparison.md`` to ``out``, each whole or not at all.

    Returns:
        ``html``, ``json`` and ``md``.

    Raises:
        OutputError: a file cannot be written.
    """
    return {
        "json": write_text(out / "comparison.json", comparison.to_json()),
        "md": write_text(out / "comparison.md", comparison_markdown(comparison)),
        "html": write_text(out / "comparison.html", comparison_html(comparison)),
    }


def headline(comparison: Comparison) -> str:
    """One sentence for each pair: which classes one tuned model moved otherwise than the other."""
    out = []
    for number_of, (first, second) in enumerate(comparison.pairs):
        parts = []
        for view, rows in (
            ("share of latents", [(c, c.shares[number_of]) for c in comparison.classes]),
            ("activation", [(c, c.activation[number_of]) for c in comparison.classes if c.activation]),
        ):
            defined = [(c, d) for c, d in rows if d.value.value is not None]
            moved = [(c, d) for c, d in defined if d.verdict in ("up", "down")]
            unit = "points" if view == "share of latents" else "% points"
            if moved:
                said = "; ".join(
                    f"{c.name} {number(d.value.value, signed=True)} {unit} ({interval(d.value)})" for c, d in moved
                )
                parts.append(f"by {view}: {said}")
            elif defined:
                parts.append(f"by {view}, no class can be told apart ({len(defined)} compared)")
        out.append(f"{first} against {second}: " + ("; ".join(parts) if parts else "nothing could be compared") + ".")
    return " ".join(out)


def comparison_html(comparison: Comparison) -> str:
    """The page: everything untrusted escaped, no script."""
    css = style() + resource("templates/comparison.css").read_text("utf-8")
    rows, pairs = comparison.classes, comparison.pairs
    context: dict[str, Any] = {
        "c": comparison,
        "css": Markup(css),
        "policy": f"default-src 'none'; style-src 'sha256-{b64encode(sha256(css.encode()).digest()).decode()}'; img-src data:; base-uri 'none'; "
        "form-action 'none'",
        "headline": headline(comparison),
        "names": [run.name for run in comparison.runs],
        "pairs": pairs,
        "run_scale": scale(_all(row.diff for r in rows for row in r.runs.values())),
        "run_activation_scale": scale(_all(row.activation.change for r in rows for row in r.runs.values() if row.activation)),
        "share_scale": scale(_all(d.value for r in rows for d in r.shares)),
        "activation_scale": scale(_all(d.value for r in rows for d in r.activation)),
        "category_scale": scale(_all(d.value for r in comparison.categories for d in r.shares)),
        "elo_scale": scale(_all(d.value for row in comparison.arena for d in (*row.raw, *row.style))),
        "has_activation": _defined(rows, "activation"),
        "has_categories": _defined(comparison.categories, "shares") or _defined(comparison.categories, "activation"),
        "reasons": _reasons(comparison),
        "what": WHAT,
    }  # fmt: skip
    return environment().get_template("comparison.html.j2").render(context)


def comparison_markdown(comparison: Comparison) -> str:
    """The same in short, for a pull request."""
    lines = [f"# {markdown(comparison.title, limit=200)}", "", markdown(headline(comparison)), ""]
    for number_of, (first, second) in enumerate(comparison.pairs):
        lines += [f"## {markdown(first)} − {markdown(second)}", ""]
        lines += _table(
            ["Class", *(f"{markdown(n)} Δ share" for n in (first, second)), "Difference, points", "p adj.", "Activation, % points", "p adj."],
            [
                [
                    f"{markdown(row.code)} {markdown(row.name, limit=80)}",
                    *(f"{number(row.runs[n].diff.value, signed=True)} ({interval(row.runs[n].diff)})" for n in (first, second)),
                    _said(row.shares[number_of]), p_value(row.shares[number_of].p_adjusted),
                    *((_said(row.activation[number_of]), p_value(row.activation[number_of].p_adjusted)) if row.activation else ("—", "—")),
                ]
                for row in comparison.classes
            ],
        )  # fmt: skip
        found = [
            [markdown(f"{b.task} {b.metric}"), _said(d, benchmark_digits(next(iter(b.runs.values())))), p_value(d.p_adjusted), number(d.n, 0)]
            for b in comparison.benchmarks
            for d in b.differences
            if (d.first, d.second) == (first, second)
        ]  # fmt: skip
        if found:
            lines += _table(["Benchmark", "Difference", "p adj.", "n"], found)
        elo = [
            [markdown(row.category), _said(raw), _said(controlled)]
            for row in comparison.arena
            for raw, controlled in zip(row.raw, row.style, strict=True)
            if (raw.first, raw.second) == (first, second)
        ]
        if elo:
            lines += _table(["Arena", "Elo difference, raw", "style-controlled"], elo)
        own = [o for o in comparison.overlaps if (o.first, o.second) == (first, second) and o.both is not None]
        if own:
            counts = [[WHAT[o.what], *(number(n, 0) for n in (o.both, o.only_first, o.only_second))] for o in own]
            lines += _table(["Latents", "in both", f"only {markdown(first)}", f"only {markdown(second)}"], counts)
    lines += ["Intervals are 95 %. " + " ".join(markdown(rule) for rule in comparison.rules), ""]
    lines += [*(f"- {markdown(caveat)}" for caveat in comparison.caveats), ""] if comparison.caveats else []
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    out = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*out, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _said(difference: PairDifference, digits: int = 1) -> str:
    """``+5.3 (−4.0 … +17.7) n.s.``, or why there is none."""
    if difference.value.value is None:
        return UNDEFINED
    if difference.value.low is None and difference.value.high is None:
        return f"{number(difference.value.value, digits, signed=True)} (no interval)"
    return f"{number(difference.value.value, digits, signed=True)} ({interval(difference.value, digits)}) {VERDICT_TEXT[difference.verdict]}"


def _all(estimates: Iterable[Estimate]) -> list[Estimate]:
    return list(estimates)


def _defined(rows: Sequence[ComparedClass], view: str) -> bool:
    return any(d.value.value is not None for row in rows for d in getattr(row, view))


def _reasons(comparison: Comparison) -> list[str]:
    """Why figures are missing, each said once."""
    found = [d.missing for row in (*comparison.classes, *comparison.categories) for d in (*row.shares, *row.activation)]
    found += [d.missing for b in comparison.benchmarks for d in b.differences]
    found += [d.missing for a in comparison.arena for d in (*a.raw, *a.style)]
    found += [o.missing for o in comparison.overlaps]
    return list(dict.fromkeys(visible(reason) for reason in found if reason))
