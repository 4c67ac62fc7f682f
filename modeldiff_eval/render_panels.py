"""The panels of simpler methods (lens, probing) as Markdown and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from modeldiff_eval.records import Card, LensScope, LensToken
from modeldiff_eval.render_text import interval, markdown, number, p_value, verdict_text, visible

_TERMINAL_TOKENS = 6


def simpler(card: Card) -> str:
    """Both panels, folded, as GitHub-flavoured Markdown; a line each where they were not measured."""
    return "\n\n".join((_lens(card), _probing(card)))


def _folded(title: str, lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _lens(card: Card) -> str:
    if card.lens is None:
        return "Activation-difference lens: not measured"
    lines = [
        "Mean of tuned \u2212 base inside answers, read as tokens (logits above the average token, 95 %, adjusted p):"
    ]
    for scope in card.lens.scopes:
        length = f"{number(scope.share.value, 2)} % ({interval(scope.share, 2, signed=False)}) of base's residual"
        n = f"{number(scope.tokens, 0)} tokens, {number(scope.prompts, 0)} prompts"
        lines.append(f"- {_where(scope)}: length {length}, p {p_value(scope.p)}; {n}")
        lines += [f"  - {name}: {_tokens(tokens)}" for name, tokens in (("up", scope.up), ("down", scope.down))]
    return _folded("Activation-difference lens", lines)


def _where(scope: LensScope) -> str:
    return "all tokens of the answers" if scope.positions is None else f"first {scope.positions} tokens of each answer"


def _tokens(tokens: Sequence[LensToken]) -> str:
    return (
        ", ".join(
            f"\u201c{markdown(t.token, limit=40)}\u201d {number(t.score.value, 2, signed=True)} ({interval(t.score, 2)}; p {p_value(t.p_adjusted)})"
            for t in tokens
        )
        or "none"
    )


def _probing(card: Card) -> str:
    if card.probing is None:
        return "Probing: not measured"
    lines = [markdown(card.probing.said), "", "| Class | n | AUC base | AUC tuned | \u0394 (95 %) | p adj. | Verdict |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in card.probing.classes:
        cells = (
            f"{row.code} {markdown(row.name, limit=100)}",
            f"{row.positives} of {row.n}",
            *(f"{number(e.value, 3)} ({interval(e, 3, signed=False)})" for e in (row.base, row.tuned)),
            f"{number(row.diff.value, 3, signed=True)} ({interval(row.diff, 3)})",
            p_value(row.p_adjusted),
            verdict_text(row.diff, row.verdict),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return _folded("What probing would have said", lines)


def terminal_lines(card: Card) -> list[str]:
    """One line for each panel that was measured."""
    out = []
    if card.lens is not None:
        scope = card.lens.scopes[0]
        words = [
            " ".join(f"\u201c{visible(t.token, limit=20)}\u201d" for t in side[:_TERMINAL_TOKENS])
            for side in (scope.up, scope.down)
        ]
        out.append(
            f"Lens, {_where(scope)}: mean difference {number(scope.share.value)} % ({interval(scope.share, signed=False)}) of the residual; "
            f"up {words[0] or 'none'}; down {words[1] or 'none'}"
        )
    if card.probing is not None:
        out.append(visible(card.probing.said, limit=600))
    return out
