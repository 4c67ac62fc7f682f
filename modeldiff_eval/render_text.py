"""Text for people: numbers with real signs, and foreign text that cannot hide anything.

Model output, labels, paths and headlines are all untrusted. :func:`visible` replaces control, bidi and other
invisible characters by symbols a reader can see; :func:`visible_html` does the same, escapes the rest and isolates
it in ``<bdi>``; :func:`markdown` escapes for GitHub-flavoured Markdown.
"""

from __future__ import annotations

import math
import re
import unicodedata

from markupsafe import Markup, escape

from modeldiff_eval.records import ClassRow, Estimate, Verdict

MINUS = "\u2212"
ABSENT = "\u2014"
"""Printed for an undefined number (JSON ``null``), never 0."""

UP, DOWN = "\u25b2", "\u25bc"
TONE: dict[Verdict | None, str] = {"up": "up", "down": "down", "unclear": "ns", "not covered": "off", None: ""}
"""The class of a verdict's colours in the style sheets."""
VERDICT_TEXT: dict[Verdict, str] = {
    "up": f"{UP} up",
    "down": f"{DOWN} down",
    "unclear": "n.s.",
    "not covered": "not covered",
}

UNDEFINED = "undefined"
"""In place of a verdict where there is no number, such as the share of a side without latents."""

_NAMED = {
    0x09: "\u21e5",
    0x0A: "\u21b5",
    0x7F: "DEL",
    0xAD: "SHY",
    0x061C: "ALM",
    0x200B: "ZWSP",
    0x200E: "LRM",
    0x200F: "RLM",
    0x2028: "LSEP",
    0x2029: "PSEP",
    0x202A: "LRE",
    0x202B: "RLE",
    0x202C: "PDF",
    0x202D: "LRO",
    0x202E: "RLO",
    0x2060: "WJ",
    0x2066: "LRI",
    0x2067: "RLI",
    0x2068: "FSI",
    0x2069: "PDI",
    0xFEFF: "BOM",
}
_C0 = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI"),
    *("DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"),
)
_PERHAPS_INVISIBLE = re.compile("[^ -~]")
_SPECIAL = re.compile("[&<>'\"]")
_JOINERS = {0x200C, 0x200D}  # part of ordinary Persian, Hindi and emoji text


def _symbol(char: str) -> str | None:
    """What to show for ``char``, or None when it is shown as itself."""
    code = ord(char)
    if code in _NAMED:
        return _NAMED[code]
    if code < 0x20:
        return _C0[code]
    if code in _JOINERS:
        return None
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return f"U+{code:04X}"
    return None


def _bracketed(symbol: str) -> str:
    return symbol if len(symbol) == 1 else f"\u2039{symbol}\u203a"


def cut(text: str, limit: int | None) -> str:
    """``text`` shortened to ``limit`` characters with an ellipsis."""
    return text if limit is None or len(text) <= limit else text[: limit - 1].rstrip() + "\u2026"


def visible(text: str, *, limit: int | None = None) -> str:
    """``text`` with every control, bidi or otherwise invisible character replaced by a visible symbol."""
    text = cut(text, limit)
    if text.isprintable():
        return text
    return "".join(char if (symbol := _symbol(char)) is None else _bracketed(symbol) for char in text)


def judged(estimate: Estimate, verdict: Verdict) -> Verdict | None:
    """The verdict on ``estimate``; None where there is no number, and so nothing was judged."""
    return None if estimate.value is None and verdict == "unclear" else verdict


def verdict_text(estimate: Estimate, verdict: Verdict) -> str:
    """The verdict on ``estimate`` in words."""
    return UNDEFINED if judged(estimate, verdict) is None else VERDICT_TEXT[verdict]


def escaped(value: object) -> str:
    """What markupsafe's ``escape`` makes of ``value``, in a quarter of its time: what needs no escape is left as it is."""
    kind = type(value)
    if kind is str:
        return str(escape(value)) if _SPECIAL.search(value) else value  # type: ignore[call-overload, return-value]
    return value if kind is Markup else escape(value)  # type: ignore[return-value]


def visible_parts(text: str) -> str:
    """Escaped HTML of ``text`` in which invisible characters are marked symbols; no ``<bdi>`` around it."""
    if text.isprintable():
        return escaped(text)
    out: list[str] = []
    start = 0
    for found in _PERHAPS_INVISIBLE.finditer(text):
        # Whatever is printable is shown as itself, so runs of it are escaped at once.
        at, char = found.start(), found[0]
        if not char.isprintable() and (symbol := _symbol(char)) is not None:
            out += [escaped(text[start:at]), f'<span class="ctl">{escaped(symbol)}</span>']
            start = at + 1
    return "".join([*out, escaped(text[start:])])


def visible_html(text: str, limit: int | None = None) -> Markup:
    """Escaped HTML of untrusted ``text``, isolated from the direction of the text around it (ASCII cannot turn it)."""
    shown = visible_parts(cut(text, limit))
    return Markup(shown if text.isascii() else f"<bdi>{shown}</bdi>")


def name_html(text: str, limit: int | None = None) -> Markup:
    """:func:`visible_html` for names such as ``instruction_following``, which may break after an underscore."""
    return Markup(str(visible_html(text, limit)).replace("_", "_<wbr>"))


def number(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """``value`` with ``digits`` decimals, a real minus sign and thin groups; an undefined one is a dash."""
    if value is None or not math.isfinite(value):
        return ABSENT
    size = abs(value)
    text = f"{size:.{digits}f}" if size < 10_000 else f"{size:,.{digits}f}".replace(",", "\u202f")
    if size < 1 and not text.strip("0."):  # Nothing is left of it but noughts, and nought has no sign.
        return text
    sign = MINUS if value < 0 else "+" if signed else ""
    return sign + text


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as percent."""
    return ABSENT if value is None else f"{number(100 * value, digits)}\u00a0%"


def compact(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """``value`` in its own unit: ``digits`` decimals below 10, one above."""
    return number(value, digits if value is None or abs(value) < 10 else 1, signed=signed)


def p_value(value: float | None) -> str:
    """A p-value: ``0.032`` or ``< 0.001``."""
    if value is None:
        return ABSENT
    return "<\u20090.001" if value < 0.001 else number(value, 3)


def interval(estimate: Estimate | None, digits: int = 1, *, signed: bool = True) -> str:
    """``−5.5 … +16.3``; an undefined bound is a dash, and so is an interval without bounds."""
    if estimate is None or (estimate.low is None and estimate.high is None):
        return ABSENT
    return f"{number(estimate.low, digits, signed=signed)} \u2026 {number(estimate.high, digits, signed=signed)}"


def arrow(value: float | None) -> str:
    """▲, ▼ or nothing: the direction of a number, whatever its verdict."""
    if value is None or value == 0:
        return ""
    return UP if value > 0 else DOWN


def share_only(row: ClassRow) -> bool:
    """True when the share moves one way and the count of latents the other."""
    share, number_of = row.diff.value, row.count_change.value
    return bool(share and number_of is not None and share * number_of < 0)


_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#!|~$])")
_LIST_START = re.compile(r"^(\s*)([-+]|\d+(?=[.)]))")


def markdown(text: str, *, limit: int | None = None) -> str:
    """Untrusted ``text`` as one line of literal Markdown: no markup, table cell breaks, links or mentions."""
    line = _MARKDOWN.sub(r"\\\1", visible(text, limit=limit))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _LIST_START.sub("\\1\u200b\\2", line)
    return line.replace("@", "@\u200b").replace("://", ":\u200b//").replace("www.", "www\u200b.")
