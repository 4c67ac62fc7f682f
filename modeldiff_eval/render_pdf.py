"""The card's HTML as PDF by WeasyPrint: PDF/A-3u, tagged, no network, no files, equal bytes for equal cards."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import MissingDependencyError
from modeldiff_eval.render_html import moment
from modeldiff_eval.store import write_bytes

log = logging.getLogger("modeldiff_eval.render")

_INSTALL = {
    "darwin": "brew install pango",
    "win32": "install the GTK 3 runtime (it carries Pango), then run again",
}
_DEBIAN = "sudo apt-get install -y libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
INSTALL_LINE = _INSTALL.get(sys.platform, _DEBIAN)
"""What a reader types to make PDFs possible on this platform."""


def pdf_available() -> str | None:
    """None when PDFs can be written, else one sentence with the reason and the line that installs what is missing."""
    try:
        _weasyprint()
    except MissingDependencyError as error:
        return str(error)
    return None


def render_pdf(html: str, target: Path, created: str, *, card_json: str | None = None) -> None:
    """Write ``html`` to ``target`` as PDF.

    Args:
        html: a document of :func:`modeldiff_eval.render_html.render_html`; only ``data:`` addresses are fetched.
        target: the file, replaced as a whole or left alone.
        created: the card's time stamp, which is the only time in the PDF, so that bytes repeat.
        card_json: embedded as the attachment ``card.json`` when given.

    Raises:
        MissingDependencyError: WeasyPrint or its system libraries are absent.
        OutputError: ``target`` cannot be written.
    """
    weasyprint = _weasyprint()
    from weasyprint.urls import URLFetcher

    when = moment(created)
    fetcher = URLFetcher(allowed_protocols=("data",))
    attachments = []
    if card_json is not None:
        record = card_json.encode(errors="backslashreplace")
        attachments.append(
            weasyprint.Attachment(string=record, name="card.json", created=when, modified=when, relationship="Data")
        )
    with _source_date(int(when.timestamp())), _collected_log() as lines, _no_collector():
        document = weasyprint.HTML(string=html, url_fetcher=fetcher)
        content = document.write_pdf(attachments=attachments, pdf_variant="pdf/a-3u", pdf_tags=True)
    _report(lines)
    write_bytes(target, content)


def _weasyprint() -> Any:
    try:
        import weasyprint
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise MissingDependencyError(
            f"No PDF: WeasyPrint cannot load its system libraries ({reason[0] if reason else type(error).__name__}). "
            f"Install them with: {INSTALL_LINE}"
        ) from error
    return weasyprint


@contextmanager
def _source_date(epoch: int) -> Iterator[None]:
    """``SOURCE_DATE_EPOCH`` for the libraries below, put back afterwards."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


@contextmanager
def _no_collector() -> Iterator[None]:
    """The search for reference cycles held off: a document's boxes all live to its end, and going over them again and again
    costs a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _collected_log() -> Iterator[list[str]]:
    """Warnings of WeasyPrint as a list instead of on stderr."""
    logger = logging.getLogger("weasyprint")
    handler, others, passes = _Collect(), logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield handler.lines
    finally:
        logger.handlers, logger.propagate = others, passes


def _report(lines: list[str]) -> None:
    """Say in one line which characters no installed font has; pass every other warning on."""
    missing = [line for line in lines if line.startswith(".notdef glyph")]
    for line in lines:
        if line not in missing:
            log.warning("WeasyPrint: %s", line)
    if missing:
        shown = ", ".join(dict.fromkeys(line.rsplit("(", 1)[-1].rstrip(")") for line in missing[:5]))
        log.warning(
            "The PDF shows %d characters as boxes because no installed font has them (%s%s). "
            "The HTML is complete. Fonts: sudo apt-get install -y fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji",
            len(missing),
            shown,
            ", and more" if len(missing) > 5 else "",
        )
