"""The causal panel in words and rows. Nothing is estimated here; names and answers are untrusted, callers escape them."""

from __future__ import annotations

from dataclasses import dataclass

from modeldiff_eval.records import CausalEffect, CausalMeasure, CausalPanel, CausalRow, CausalTask, Estimate, Verdict
from modeldiff_eval.render_text import ABSENT, compact, interval, number, percent

DIGITS = 4
_WAYS = {"out": "taken out", "into": "replaced"}


@dataclass(frozen=True)
class Line:
    """One row of the table: a set patched in one way; ``effect`` None where none of its latents is ever active."""

    row: CausalRow
    way: str
    effect: CausalEffect | None
    first: bool
    sentence: str


@dataclass(frozen=True)
class CausalView:
    """What the page shows: the panel, its sentences, and its rows in two ways each."""

    panel: CausalPanel
    lines: list[str]
    rows: list[Line]
    tasks: list[tuple[CausalTask, str]]


def causal_view(panel: CausalPanel | None) -> CausalView | None:
    """The panel ready for the page; None where there is none."""
    if panel is None:
        return None
    rows = [
        Line(row, word, getattr(row, way), way == "out", _sentence(panel, row, way))
        for row in panel.rows
        for way, word in _WAYS.items()
        if row.out is not None or way == "out"
    ]
    return CausalView(panel, causal_lines(panel), rows, [(task, _task(task)) for task in panel.tasks])


def movement(verdict: Verdict, other: str) -> str:
    """A verdict about the distance to the other model, in words."""
    return {"down": f"\u25bc towards {other}", "up": f"\u25b2 away from {other}"}.get(verdict, "n.s.")


def causal_lines(panel: CausalPanel, *, short: bool = False) -> list[str]:
    """The panel as sentences, the whole set first; ``short`` leaves single classes, latents and answers out."""
    what = (
        "tuned-specific latents" if panel.chosen == "specific" else "first candidates (no latent is specific to tuned)"
    )
    where = "tokens of the assistant" if panel.assistant_only else "tokens"
    lines = [
        f"Causes: {what} patched out of tuned at layer {panel.layer} over {number(panel.patched_tokens, 0)} {where} of "
        f"{number(panel.documents, 0)} held-out prompts, beside {panel.draws} matched random sets each. Before, tuned's next-token "
        f"distribution is {_nats(panel.kl, signed=False)} nats a token away from {panel.other} "
        f"(KL) and its loss on the text is {_nats(panel.nll, signed=False)}."
    ]
    for row in panel.rows:
        shown = not short or row.kind in ("set", "shifted")
        for way in _WAYS:
            effect: CausalEffect | None = getattr(row, way)
            clear = effect is not None and effect.kl.verdict != "unclear"
            if row is panel.rows[0] or (shown and (clear or row.kind == "shifted")):
                lines.append(_sentence(panel, row, way))
            if row.out is None:
                break
    kinds = {effect.kl.verdict for row in panel.rows for effect in (row.out, row.into) if effect}
    if not kinds & {"up", "down"}:
        lines.append(
            "No set moved tuned in a way that matched random latents did not: nothing here is shown to be a cause."
        )
    return [*lines, *(_task(task) for task in panel.tasks)]


def _nats(estimate: Estimate, *, signed: bool = True) -> str:
    shown = number(estimate.value, DIGITS if signed else 3, signed=signed)
    return f"{shown} (95 % {interval(estimate, DIGITS if signed else 3, signed=signed)})"


def _sentence(panel: CausalPanel, row: CausalRow, way: str) -> str:
    effect: CausalEffect | None = getattr(row, way)
    n = len(row.latents)
    who = f"{row.name} ({n} latent{'s' if n != 1 else ''})"
    if effect is None:
        return f"{who}: never active on the patched tokens, so there is nothing to take out."
    did = "Taken out of tuned" if way == "out" else f"Replaced by what {panel.other} has in their place"
    kl = effect.kl
    if kl.verdict == "down":
        said = f"This moves tuned towards {panel.other}, more than matched random latents do"
    elif kl.verdict == "up":
        said = f"This moves tuned away from {panel.other}, more than matched random latents do"
    else:
        said = "That is not told apart from matched random latents"
    return (
        f"{who}: {did.lower()}, the distance to {panel.other} changes by {_nats(kl.effect)} nats a token{_share(panel, kl)}, with random "
        f"latents{_active(row)} by {_random(kl)}. {said}: difference {_nats(kl.difference)}. The text's loss changes by {_nats(effect.nll.effect)}, "
        f"{_loss(effect.nll)}."
    )


def _share(panel: CausalPanel, measure: CausalMeasure) -> str:
    whole, value = panel.kl.value, measure.effect.value
    return f", {number(100 * value / whole, 1, signed=True)} % of it" if whole and value is not None else ""


def _active(row: CausalRow) -> str:
    return (
        ""
        if row.random_fires is None
        else f" (active on {percent(row.random_fires)} of the tokens, these on {percent(row.fires)})"
    )


def _random(measure: CausalMeasure) -> str:
    low, high = (number(bound, DIGITS, signed=True) for bound in (measure.random.low, measure.random.high))
    return f"{number(measure.random.value, DIGITS, signed=True)} (from {low} to {high})"


def _loss(measure: CausalMeasure) -> str:
    if measure.verdict == "unclear":
        return f"not told apart from random latents (difference {_nats(measure.difference)})"
    word = "more" if measure.verdict == "up" else "less"
    return f"{word} than with random latents (difference {_nats(measure.difference)})"


def _task(task: CausalTask) -> str:
    clear = task.verdict != "unclear"
    said = "which none of the random sets did" if clear else "which is not told apart from chance and random sets"
    low, high = (compact(bound, signed=True) for bound in (task.random.low, task.random.high))
    return (
        f"{task.task} {task.metric}, {number(task.n, 0)} documents: {compact(task.tuned)} with the set, {compact(task.patched)} with it taken "
        f"out, {compact(task.delta.value, signed=True)} (95 % {interval(task.delta, 3)}), {said} ({task.draws} sets: {low} to {high})."
    )


def causal_table(panel: CausalPanel) -> tuple[list[str], list[list[str]]]:
    """Header and plain cells of the table, a row for each set and way."""
    header = [
        "Set",
        "Way",
        "Fires on",
        "\u0394 KL (95 %)",
        "Random",
        "Difference (95 %)",
        "Verdict",
        "\u0394 loss, difference (95 %)",
    ]
    rows = []
    for row in panel.rows:
        for way, word in _WAYS.items():
            effect: CausalEffect | None = getattr(row, way)
            head = [f"{row.code or ''} {row.name} ({len(row.latents)})".strip(), word, percent(row.fires)]
            if effect is None:
                rows.append([head[0], ABSENT, head[2], *[ABSENT] * 3, "never active", ABSENT])
                break
            kl = effect.kl
            rows.append(
                [
                    *head, f"{number(kl.effect.value, DIGITS, signed=True)} ({interval(kl.effect, DIGITS)})",
                    f"{number(kl.random.value, DIGITS, signed=True)} ({interval(kl.random, DIGITS)})",
                    f"{number(kl.difference.value, DIGITS, signed=True)} ({interval(kl.difference, DIGITS)})",
                    movement(kl.verdict, panel.other),
                    f"{number(effect.nll.difference.value, DIGITS, signed=True)} ({interval(effect.nll.difference, DIGITS)})",
                ]
            )  # fmt: skip
    return header, rows
