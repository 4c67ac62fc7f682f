"""The card as PDF: complete, repeatable, closed to the machine it is made on, and optional."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import pytest
from pypdf import PdfReader
from sample_extremes import EXTREMES
from sample_pages import CARDS, Page

from modeldiff_eval.errors import MissingDependencyError, UsageError
from modeldiff_eval.records import Card
from modeldiff_eval.render import pdf_available, render, render_html, render_pdf

needs_pdf = pytest.mark.skipif(pdf_available() is not None, reason="WeasyPrint's system libraries are missing")


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> tuple[PdfReader, list[str]]:
    if pdf_available() is not None:
        pytest.skip("WeasyPrint's system libraries are missing")
    target = tmp_path_factory.mktemp("pdf") / "card.pdf"
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("modeldiff_eval.render")
    logger.addHandler(handler)
    try:
        card = CARDS["full"]
        render_pdf(render_html(card, paper="a4"), target, card.created, card_json=card.to_json())
    finally:
        logger.removeHandler(handler)
    return PdfReader(target), lines


def test_pdf_has_the_headline_the_pages_and_the_record(pdf: tuple[PdfReader, list[str]]) -> None:
    reader, _ = pdf
    # pypdf reads two-byte codes of fonts that also hold boxes for missing glyphs with their zero bytes.
    first, last = (reader.pages[i].extract_text().replace("\0", "") for i in (0, -1))
    assert 5 <= len(reader.pages) <= 12
    assert "[bold red]not markup[/]" in first
    assert "Largest" in first
    assert f"1 / {len(reader.pages)}" in first
    assert f"{len(reader.pages)} / {len(reader.pages)}" in last
    assert "modeldiff-eval 0.1.0" in last, "the running header"
    assert Card.model_validate_json(reader.attachments["card.json"][0]) == CARDS["full"]


def test_pdf_is_tagged_archivable_and_a4(pdf: tuple[PdfReader, list[str]]) -> None:
    reader, _ = pdf
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert "/StructTreeRoot" in root
    attached = [reference.get_object() for reference in root["/AF"]]
    assert {(file["/UF"], file["/AFRelationship"]) for file in attached} == {("card.json", "/Data")}
    metadata = root["/Metadata"].get_object().get_data().decode()
    assert re.search(r"pdfaid:part[>=\"]+3", metadata)
    assert re.search(r"pdfaid:conformance[>=\"]+U", metadata)
    assert [round(float(side)) for side in reader.pages[0].mediabox[2:]] == [595, 842]
    for heading in (
        "What changed",
        "not significant",
        "The categories",
        "The latents",
        "Can this",
        "Caveats",
        "Glossary",
    ):
        assert any(heading in page.extract_text().replace("\0", "") for page in reader.pages), heading


@needs_pdf
def test_letter_is_another_page(tmp_path: Path) -> None:
    written = render(CARDS["minimal"], tmp_path, formats=("pdf",), also_raw=False, paper="letter")
    assert set(written) == {"pdf"}
    reader = PdfReader(tmp_path / "card.pdf")
    assert [round(float(side)) for side in reader.pages[0].mediabox[2:]] == [612, 792]
    with pytest.raises(UsageError, match="Did you mean 'letter'"):
        render(CARDS["minimal"], tmp_path, paper="leter")


@needs_pdf
@pytest.mark.slow
@pytest.mark.parametrize("name", ["500 latents", "40 benchmarks", "long names", "other scripts", "maps"])
def test_pdf_of_too_much_has_no_surprises(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    with caplog.at_level(logging.WARNING, logger="modeldiff_eval.render"):
        render(EXTREMES[name](), tmp_path, formats=("pdf",), also_raw=False)
    assert all("no installed font has them" in line for line in caplog.messages), caplog.messages
    assert len(PdfReader(tmp_path / "card.pdf").pages) <= 20


def test_pdf_log_has_no_surprises(pdf: tuple[PdfReader, list[str]]) -> None:
    _, lines = pdf
    assert all("no installed font has them" in line for line in lines), lines
    assert len(lines) <= 1


@needs_pdf
@pytest.mark.parametrize("name", ["minimal", pytest.param("full", marks=pytest.mark.slow)])
def test_pdf_bytes_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    card = CARDS[name].model_copy(update={"created": "2026-01-15T10:30:00+01:00"})
    for folder in ("a", "b"):
        render(card, tmp_path / folder, formats=("pdf",), also_raw=False)
    first = (tmp_path / "a" / "card.pdf").read_bytes()
    assert first == (tmp_path / "b" / "card.pdf").read_bytes()
    assert b"20260115093000" in first
    assert "SOURCE_DATE_EPOCH" not in os.environ


@needs_pdf
def test_pdf_cannot_read_local_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the-secret")
    html = f'<!doctype html><link rel=attachment href="file://{secret}"><img src="file://{secret}"><p>page'
    render_pdf(html, tmp_path / "x.pdf", "2026-01-01")
    reader = PdfReader(tmp_path / "x.pdf")
    assert not reader.attachments
    assert b"the-secret" not in (tmp_path / "x.pdf").read_bytes()


def test_without_pango_the_html_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    reason = pdf_available()
    assert reason is not None
    assert "libpango" in reason
    with pytest.raises(MissingDependencyError, match="Install them with"):
        render_pdf("<p>x", tmp_path / "x.pdf", "2026-01-01")
    written = render(CARDS["plain"], tmp_path)
    assert written["pdf"] is None
    assert not (tmp_path / "card.pdf").exists()
    page = Page((tmp_path / "card.html").read_text("utf-8"))
    assert reason in page.text
    assert "card.pdf" not in [a.get("href") for a in page.all("a")]
    assert "libpango" in caplog.text
    informed = CARDS["plain"].model_copy(update={"caveats": [reason]})
    assert render_html(informed, notes=[reason]).count("libpango2") == render_html(informed).count("libpango2")
