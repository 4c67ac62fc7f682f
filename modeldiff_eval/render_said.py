"""One plain sentence under every figure of a card: what it shows here, counted from the verdicts in the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from modeldiff_eval.records import ActivationSplit, Card, ClassRow, Verdict
from modeldiff_eval.render_text import UNDEFINED, cut, interval, judged, number
from modeldiff_eval.render_view import excludes_zero

_WORDS: tuple[tuple[Verdict | None, str], ...] = (
    ("up", "rose"),
    ("down", "fell"),
    ("unclear", "cannot be told from no change"),
    ("not covered", "not reached by the corpus"),
    (None, UNDEFINED),
)
_SHOWN = 4


def said(card: Card) -> dict[str, str]:
    """Figure → sentence; empty where the figure is not there."""
    rows = card.arena.rows if card.arena else []
    return {
        "classes": _moved(card.classes, "classes"),
        "categories": _moved(card.categories, "categories"),
        "graded": _graded(card.classes),
        "parts": _parts(card),
        "arena": _tally("arena categories", [judged(row.delta, row.verdict) for row in rows]) + _style(card),
        "benchmarks": _tally("benchmark figures", [judged(row.delta, row.verdict) for row in card.benchmarks]),
        "agreement": _agreement(card),
        "coverage": _coverage(card),
    }


def _tally(what: str, verdicts: Sequence[Verdict | None]) -> str:
    if not verdicts:
        return ""
    seen = Counter(verdicts)
    parts = [f"{seen[key]} {word}" for key, word in _WORDS if seen[key]]
    return f"Of {len(verdicts)} {what}, {_and(parts)}."


def _moved(rows: Sequence[ClassRow], what: str) -> str:
    """By share and, where measured, by activation: how many moved, and which."""
    if not rows:
        return ""
    views = [
        ("By the share of specific latents", [(row.name, row.verdict) for row in rows if row.diff.value is not None]),
        (
            "On the same tokens, by activation",
            [(r.name, r.activation.verdict) for r in rows if r.activation and r.activation.change.value is not None],
        ),
    ]
    out = []
    for view, found in views:
        if not found:
            continue
        moves = [
            f"{_names(name for name, verdict in found if verdict == key)} {word}"
            for key, word in _WORDS[:2]
            if any(verdict == key for _, verdict in found)
        ]
        rest = sum(verdict == "unclear" for _, verdict in found)
        all_of = f"{len(found)} {what}{' with a figure' if len(found) < len(rows) else ''}"
        told = _and(moves) if moves else f"none of the {all_of} can be told from no change"
        out.append(f"{view}, {told}" + (f"; {rest} of {all_of} cannot be told from no change." if moves else "."))
    return " ".join(out) or f"No share is defined for the {what}: a side has no annotated specific latent."


def _graded(rows: Sequence[ClassRow]) -> str:
    found = [row for row in rows if row.graded is not None]
    if not found:
        return ""
    clear = [row.name for row in found if row.graded and excludes_zero(row.graded.diff)]
    if not clear:
        return f"All {len(found)} intervals hold 0: counted by degree too, no class is shown to have grown or shrunk."
    return (
        f"Counted by degree, the interval excludes 0 for {_names(clear)}; the other {len(found) - len(clear)} hold 0."
    )


def _parts(card: Card) -> str:
    names = {row.code: row.name for row in card.classes}
    clear: list[tuple[float, ActivationSplit, str]] = []
    for part in card.activation_by or ():
        clear += [(abs(e.value or 0.0), part, code) for code, e in part.changes.items() if excludes_zero(e)]
    if not card.activation_by:
        return ""
    if not clear:
        return "Every interval holds 0: no kind of text shows a change by itself."
    _, part, code = max(clear, key=lambda found: found[0])
    change = part.changes[code]
    return (
        f"{len(clear)} intervals exclude 0; the largest of them is {cut(names.get(code, code), 120)} on {cut(part.part, 60)} ({part.split}), "
        f"{number(change.value, signed=True)}\u00a0% ({interval(change)})."
    )


def _style(card: Card) -> str:
    both = [(r.delta.value, r.delta_style.value) for r in (card.arena.rows if card.arena else []) if r.delta_style]
    known = [(raw, style) for raw, style in both if raw is not None and style is not None]
    if not known:
        return ""
    less = sum(abs(style) < abs(raw) for raw, style in known)
    turned = sum(raw * style < 0 for raw, style in known)
    flip = f" and points the other way in {turned}" if turned else ""
    return f" With answer length and formatting taken out of the ratings the difference is smaller in {less} of {len(known)}{flip}."


def _agreement(card: Card) -> str:
    seen = Counter(row.agrees for row in card.agreement)
    if not seen:
        return ""
    return f"Of {len(card.agreement)} pairs, {seen[True]} agree, {seen[False]} disagree, and {seen[None]} cannot be judged because a side is unclear."


def _coverage(card: Card) -> str:
    tokens = card.provenance.tokens
    missing = [row.name for row in card.classes if row.verdict == "not covered" or not row.covered]
    read = "" if tokens is None else f"The corpus holds {number(tokens, 0)} tokens. "
    if not card.classes:
        return read.strip()
    return read + (
        f"It does not reach {_names(missing)}: nothing is known about them." if missing else "It reaches every class."
    )


def _names(names: Iterable[str]) -> str:
    found = [cut(name, 120) for name in names]
    return _and(found) if len(found) <= _SHOWN else f"{', '.join(found[:_SHOWN])} and {len(found) - _SHOWN} more"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
