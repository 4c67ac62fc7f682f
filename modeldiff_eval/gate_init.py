"""A first policy from a card: every rule passes on that card, and its comment says what the card shows.

A threshold lies just outside the card's own interval, by a tenth of its width: what is only noise on this card does not fail the next, and at
most at 0: no rule asks for a gain. A threshold that no card can reach makes no rule, only a comment. It is where to start; which falls matter is
for people to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from modeldiff_eval.gate_decide import decide
from modeldiff_eval.gate_expression import Key, parse, path_text, shown
from modeldiff_eval.gate_target import look_up
from modeldiff_eval.records import BenchmarkRow, Card, Estimate
from modeldiff_eval.render_text import interval, number, visible
from modeldiff_eval.render_tiles import lower_is_better

MAX_ROWS = 60
"""Rows of one kind that get a rule of their own."""

_HEAD = """# Policy for: {title}
# Written from its card ({created}). Every rule below passes on that card; lines that begin with "# -" would not, or could never fail, and say why.
# A rule names a number (classes.A.diff_simultaneous.low > -5) or a whole estimate (classes.A.diff > -5: passes where all
# of its interval does, fails where none of it does, else inconclusive); * is every key; "and" joins comparisons. Beside numbers there are
# words (classes.A.verdict != down) and, with `baseline: CARD` or --baseline, the same place of an earlier card
# (benchmarks.gsm8k.delta.low >= baseline - 0.02). severity: fail or warn. A failing rule can be waived until a day:
#   waiver: {{reason: "known since June, ticket 12", until: 2027-01-31}}
version: 1
# baseline: last-release/card.json
rules:
"""


@dataclass(frozen=True)
class _Proposal:
    """A rule, what the card shows, and, where it holds on every card, why."""

    rule: str
    severity: str
    now: str
    always: str = ""


def policy_from_card(card: Card) -> str:
    """The text of a policy file (YAML)."""
    out = _HEAD.format(title=visible(card.title, limit=150), created=visible(card.created, limit=40))
    for title, proposals in _sections(card):
        out += f"\n  # {title}\n"
        for proposal in proposals:
            out += _written(card, proposal)
    return out


def _sections(card: Card) -> Iterator[tuple[str, list[_Proposal]]]:
    yield "Can the dictionaries be trusted?", list(_health(card))
    yield (
        "How much changed: latents that one model alone has (on this corpus, with these thresholds).",
        list(_counts(card)),
    )
    yield "Classes, percentage points of the specific latents, joint intervals. Less is not worse: decide.", list(_classes(card))  # fmt: skip
    if card.benchmarks:
        yield "Benchmarks, in the metric's own unit.", list(_benchmarks(card))
    if card.arena is not None and card.arena.rows:
        yield "Arena, Elo.", list(_arena(card))


def _health(card: Card) -> Iterator[_Proposal]:
    for coder in card.crosscoders:
        where = f"crosscoders.{coder.first}--{coder.second}"
        for side in ("first", "second"):
            value = float(getattr(coder, f"fve_{side}"))
            yield _Proposal(f"{where}.fve_{side} > {_below(value, 0.05)}", "fail", f"now {value:.3f}, held out")
        limit = min(_above(max(2 * coder.dead_share, 0.05), 0.01), 1.0)
        yield _Proposal(f"{where}.dead_share < {shown(limit)}", "fail", f"now {coder.dead_share:.4f}")
    rate = card.latents.null_rate
    limit = 0.01 if rate is None else min(_above(max(0.01, 2 * rate), 0.001), 1.0)
    yield _Proposal(f"latents.null_rate < {shown(limit)}", "fail", "" if rate is None else f"now {rate:.6f}")


def _counts(card: Card) -> Iterator[_Proposal]:
    size = max((coder.n_latents for coder in (*card.crosscoders, *(card.differences or ()))), default=None)
    for side in ("base", "tuned"):
        value = int(getattr(card.latents, side).specific)
        limit = 2 * value + 20
        if size is not None and value < size:
            limit = min(limit, size)
        always = "" if size is None or limit <= size else f"a dictionary has {size} latents"
        yield _Proposal(f"latents.{side}.specific < {limit}", "warn", f"now {value}", always)
        yield _Proposal(
            f"latents.{side}.failed <= {int(getattr(card.latents, side).failed)}",
            "warn",
            "annotations that failed, as now",
        )


def _classes(card: Card) -> Iterator[_Proposal]:
    for row in card.classes[:MAX_ROWS]:
        name = f"{visible(row.name, limit=80)}: "
        part = "diff" if row.diff_simultaneous is None else "diff_simultaneous"
        found = row.diff if row.diff_simultaneous is None else row.diff_simultaneous
        of = f", {row.base.count} and {row.tuned.count} latents"
        yield _falls(f"classes.{row.code}.{part}", found, "warn", name, of, most=100)
        if row.activation is not None:
            n = row.activation.n_latents
            of = f" percent of activation, {n} latent{'s' if n != 1 else ''}"
            yield _falls(f"classes.{row.code}.activation.change", row.activation.change, "warn", name, of, most=100)
    yield _Proposal("classes.*.verdict != down", "warn", "no class certainly down")
    yield _Proposal("categories.*.verdict != down", "warn", "no category certainly down")


def _benchmarks(card: Card) -> Iterator[_Proposal]:
    tasks = [row.task for row in card.benchmarks]
    for row in card.benchmarks[:MAX_ROWS]:
        keys = [Key("benchmarks"), Key(row.task, True), *([Key(row.metric, True)] if tasks.count(row.task) > 1 else [])]
        where = path_text((*keys, Key("delta")))
        name = f"{visible(row.metric, limit=60)}: "
        if lower_is_better(row):
            yield _rises(where, row.delta, "fail", name, f", n {row.n}; lower is better", most=_range(row))
        else:
            yield _falls(where, row.delta, "fail", name, f", n {row.n}", most=_range(row))


def _range(row: BenchmarkRow) -> float | None:
    """From the lowest score to the highest: of documents that are right or wrong and of accuracies; None where it is not known."""
    if row.p_mcnemar is not None:
        return 1.0
    if re.search(r"(?<![a-z_])(acc|acc_norm|accuracy|exact_match)(?![a-z_])", row.metric.lower()):
        low, high = sorted((row.base, row.tuned))
        widest = max(abs(bound) for bound in (row.delta.low or 0.0, row.delta.high or 0.0))
        if low >= 0 and high <= 1 and widest <= 1:
            return 1.0
        return 100.0 if low >= 0 else None
    return None


def _arena(card: Card) -> Iterator[_Proposal]:
    for row in (card.arena.rows if card.arena else [])[:MAX_ROWS]:
        styled = row.delta_style is not None
        where = path_text((Key("arena"), Key(row.category, True), Key("delta_style" if styled else "delta")))
        yield _falls(where, row.delta_style or row.delta, "fail", "", ", style-controlled" if styled else ", raw")


def _falls(where: str, found: Estimate, severity: str, name: str, of: str, *, most: float | None = None) -> _Proposal:
    """A rule that holds as long as the lower bound stays about where it is, or above 0. Nothing falls by more than ``most``."""
    low = -5.0 if found.low is None else _below(min(found.low, 0.0), _margin(found))
    always = "" if most is None or low >= -most else f"it does not fall by more than {shown(float(most))}"
    return _Proposal(f"{where}.low > {shown(low)}", severity, f"{name}{_now(found)}{of}", always)


def _rises(where: str, found: Estimate, severity: str, name: str, of: str, *, most: float | None = None) -> _Proposal:
    high = 5.0 if found.high is None else _above(max(found.high, 0.0), _margin(found))
    always = "" if most is None or high <= most else f"it does not rise by more than {shown(float(most))}"
    return _Proposal(f"{where}.high < {shown(high)}", severity, f"{name}{_now(found)}{of}", always)


def _now(found: Estimate) -> str:
    if found.value is None:
        return "not measured"
    digits = 1 if abs(found.value) >= 10 else 3
    return f"now {number(found.value, digits, signed=True)} (95 % {interval(found, digits)})"


def _margin(found: Estimate) -> float:
    if found.low is None or found.high is None:
        return 0.1 * max(abs(found.value or 0.0), 0.01)
    return max(0.1 * (found.high - found.low), 1e-6)


def _below(value: float, margin: float) -> float:
    """A round number at least ``margin`` below ``value``."""
    step = 10.0 ** math.floor(math.log10(margin))
    return round(math.floor((value - margin) / step) * step, 12)


def _above(value: float, margin: float) -> float:
    return -_below(-value, margin)


def _written(card: Card, proposal: _Proposal) -> str:
    """One rule as YAML, or as a comment where it would not pass on this very card, or would on every card."""
    try:
        made = parse(proposal.rule)
        places = [decide(term, seen) for term in made.terms for seen in look_up(card, term.path)]
    except ValueError:
        return ""
    bad = [place for place in places if place.verdict != "pass"]
    line = f"- {{rule: {_scalar(str(made))}, severity: {proposal.severity}}}"
    now = f" # {proposal.now}" if proposal.now else ""
    if not bad and proposal.always:
        return f"  # {line} # cannot fail, {proposal.always}: {proposal.now}\n"
    if not bad:
        return f"  {line}{now}\n"
    why = "; ".join(bad[0].notes) or f"{bad[0].seen.path} is {bad[0].seen.word or bad[0].seen.number}"
    return f"  # {line} # {bad[0].verdict} on this card: {visible(why, limit=200)}\n"


def _scalar(text: str) -> str:
    """A YAML scalar on one line that stands inside ``{…}``."""
    return str(yaml.safe_dump(text, default_style="'", width=10_000, allow_unicode=False)).strip()
