"""Small pieces of HTML that a card repeats for every class and every latent. Only numbers and words of ours are in them."""

from __future__ import annotations

from markupsafe import Markup

from modeldiff_eval.records import Estimate, Verdict
from modeldiff_eval.render_text import ABSENT, TONE, UNDEFINED, VERDICT_TEXT, escaped, interval, judged, number

_CHIPS: dict[Verdict | None, Markup] = {
    **{verdict: Markup(f'<span class="chip {TONE[verdict]}">{text}</span>') for verdict, text in VERDICT_TEXT.items()},
    None: Markup(f'<span class="absent">{UNDEFINED}</span>'),
}


def chip(verdict: Verdict, of: Estimate | None = None) -> Markup:
    """A verdict as a small label; that on an estimate without a number says so."""
    return _CHIPS[verdict if of is None else judged(of, verdict)]


def cell(estimate: Estimate | None, digits: int, *, signed: bool = False, paged: bool = False) -> Markup:
    """An estimate with its interval as a table cell; on paper without an element for the interval."""
    if estimate is None or estimate.value is None:
        return Markup(f'<td class="num">{ABSENT}</td>')
    value, reach = number(estimate.value, digits, signed=signed), interval(estimate, digits, signed=signed)
    more = f"({reach})" if paged else f'<span class="range">{reach}</span>'
    return Markup(f'<td class="num">{value} {more}</td>')


def fact(name: str, estimate: Estimate | None, digits: int, unit: str = "") -> Markup:
    """An estimate with its interval in a list of facts; one with a unit is a change and has a sign."""
    shown, signed = "not measured", unit != ""
    if estimate is not None and estimate.value is not None:
        reach = interval(estimate, digits, signed=signed)
        shown = f'{number(estimate.value, digits, signed=signed)}{unit} <span class="range">{reach}</span>'
    return Markup(f"<div><dt>{escaped(name)}</dt><dd>{shown}</dd></div>")
