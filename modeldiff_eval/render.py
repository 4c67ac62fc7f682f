"""A finished card as files and on the terminal. Formatting only: no number is computed here.

``card.json`` is the record; ``card.html``, ``card.pdf``, ``card.md`` and ``card.csv`` can be made again from it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from modeldiff_eval.errors import MissingDependencyError, UsageError, did_you_mean
from modeldiff_eval.records import Card, ClassRow
from modeldiff_eval.render_html import PAPERS, render_html
from modeldiff_eval.render_markdown import render_markdown
from modeldiff_eval.render_pdf import INSTALL_LINE, log, pdf_available, render_pdf
from modeldiff_eval.render_terminal import print_terminal
from modeldiff_eval.render_text import visible
from modeldiff_eval.spreadsheet import escape_cell
from modeldiff_eval.store import write_text

__all__ = [
    "FORMATS",
    "INSTALL_LINE",
    "pdf_available",
    "print_terminal",
    "render",
    "render_csv",
    "render_html",
    "render_markdown",
    "render_pdf",
]

FORMATS = ("html", "pdf", "md")
LARGE = 2_000_000
"""Bytes of HTML above which a warning is logged."""


def render(
    card: Card, out: Path, *, formats: Collection[str] = FORMATS, also_raw: bool = True, paper: str = "a4"
) -> dict[str, Path | None]:
    """Write the card to ``out``, each file whole or not at all.

    Args:
        card: the finished record.
        out: the folder, made if it is not there.
        formats: any of ``html``, ``pdf`` and ``md``.
        also_raw: write ``card.json`` (the record) and ``card.csv`` (its classes and categories) too.
        paper: the PDF's page, ``a4`` or ``letter``.

    Returns:
        The path of every file asked for; ``pdf`` is None when the system libraries for it are missing, in which case
        the HTML says so and the line that installs them is logged.

    Raises:
        UsageError: an unknown format or paper.
        OutputError: a file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UsageError(f"Unknown card format {name!r}; choose from {known}.{did_you_mean(name, FORMATS)}")
    page = next((known for known in PAPERS if known == paper), None)
    if page is None:
        raise UsageError(f"Unknown paper {paper!r}; choose from {', '.join(PAPERS)}.{did_you_mean(paper, PAPERS)}")
    written: dict[str, Path | None] = {}
    if also_raw:
        written["json"] = write_text(out / "card.json", card.to_json())
        written["csv"] = write_text(out / "card.csv", render_csv(card))
    reason = pdf_available() if "pdf" in formats else None
    links = [(name.upper(), f"card.{name}") for name in written]
    if "pdf" in formats and reason is None:
        links.append(("PDF", "card.pdf"))
    if "html" in formats:
        html = render_html(card, links=links, notes=[reason] if reason else [])
        written["html"] = write_text(out / "card.html", html)
        if len(html.encode()) > LARGE:
            log.warning("card.html is %.1f MB; fewer examples a latent make it smaller.", len(html.encode()) / 1e6)
    if "pdf" in formats:
        written["pdf"] = None
        try:
            render_pdf(render_html(card, paper=page), out / "card.pdf", card.created, card_json=card.to_json())
            written["pdf"] = out / "card.pdf"
        except MissingDependencyError as error:
            log.warning("%s", error)
    if "md" in formats:
        written["md"] = write_text(out / "card.md", render_markdown(card))
    return written


def render_csv(card: Card) -> str:
    """Classes and categories as CSV, one row each; undefined numbers are empty cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for level, rows in (("class", card.classes), ("category", card.categories)):
        for row in rows:
            writer.writerow([level, *_cells(row)])
    return buffer.getvalue()


_COLUMNS = (
    *("level", "code", "name", "covered", "base_count", "base_share", "tuned_count", "tuned_share", "count_change"),
    *("diff", "diff_low", "diff_high", "diff_simultaneous_low", "diff_simultaneous_high"),
    *("change", "change_low", "change_high", "mde", "p", "p_adjusted", "verdict"),
    *("activation_change", "activation_low", "activation_high", "activation_p_adjusted", "activation_verdict"),
)


def _cells(row: ClassRow) -> list[object]:
    joint, change, activation = row.diff_simultaneous, row.change, row.activation
    shift = activation.change if activation else None
    return [
        _text_cell(row.code),
        _text_cell(row.name),
        row.covered,
        row.base.count,
        row.base.share,
        row.tuned.count,
        row.tuned.share,
        row.count_change.value,
        row.diff.value,
        row.diff.low,
        row.diff.high,
        *((joint.low, joint.high) if joint else (None, None)),
        *((change.value, change.low, change.high) if change else (None, None, None)),
        row.mde,
        row.p,
        row.p_adjusted,
        row.verdict,
        *((shift.value, shift.low, shift.high) if shift else (None, None, None)),
        *((activation.p_adjusted, activation.verdict) if activation else (None, None)),
    ]


def _text_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return escape_cell(visible(text))
