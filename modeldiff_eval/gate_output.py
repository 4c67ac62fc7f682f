"""A gate's verdict as text, JSON, JUnit XML, GitHub annotations or Markdown. Nothing is decided here.

Names of benchmarks, titles and notes are foreign text: control characters become visible symbols, every format escapes what
it must, and no line of the text can be taken for a command by a build's runner.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as xml

from modeldiff_eval.gate_words import ci_safe, counts, headline, notes_text, ordered, result, rule_text, said, seen_text
from modeldiff_eval.records import Gate
from modeldiff_eval.render_text import markdown, visible

LIMIT = 65_536
"""Characters GitHub accepts in one comment."""
MARKER = "<!-- modeldiff-eval:gate -->"
"""Begins the Markdown, so that a comment can be found again and updated."""
ANNOTATIONS = 50
_SHOWN = 10
_SYMBOL = {"fail": "\u274c", "pass": "\u2705", "inconclusive": "\u2754"}


@dataclass(frozen=True)
class Report:
    """A verdict and what belongs beside it."""

    gate: Gate
    title: str
    policy_file: str
    exit_code: int
    created: str = ""
    strict: bool = False


def text(report: Report) -> str:
    """For people and build logs."""
    gate = report.gate
    lines = [f"{headline(gate)}  {visible(report.title, limit=200)}", f"{counts(gate)}; {_sources(gate)}", ""]
    wide = max(len(result(rule)) for rule in gate.rules)
    for rule in ordered(gate):
        lines.append(f"{result(rule):{wide}}  {rule_text(rule)}")
        lines.append(f"{'':{wide}}    {said(rule)}")
    lines += [f"note: {visible(note, limit=600)}" for note in gate.notes]
    return ci_safe("\n".join(lines)) + "\n"


def as_json(report: Report) -> str:
    """The verdict object and the exit code; ASCII only."""
    found = {"card": report.title, "exit_code": report.exit_code, **report.gate.model_dump()}
    # In a build log "##[" begins a command wherever it stands; its escape is the same JSON.
    return json.dumps(found, indent=2, allow_nan=False).replace("##[", "##\\u005b") + "\n"


def junit(report: Report) -> str:
    """JUnit XML as CI systems read it: one test case a rule; inconclusive is skipped, with ``--strict`` an error."""
    gate = report.gate
    words = [result(rule) for rule in gate.rules]
    errors = words.count("INCONCLUSIVE") if report.strict else 0
    skipped = words.count("WAIVED") + words.count("UNDECIDED") + words.count("INCONCLUSIVE") - errors
    shape = {"tests": str(len(words)), "failures": str(words.count("FAIL")), "errors": str(errors)}
    root = xml.Element("testsuites", {"name": "modeldiff-eval", **shape, "time": "0"})
    suite = xml.SubElement(root, "testsuite", {"name": _xml(report.title), **shape, "skipped": str(skipped), "time": "0"})  # fmt: skip
    if report.created:
        suite.set("timestamp", _xml(report.created)[:19])
    for rule, word in zip(gate.rules, words, strict=True):
        case = xml.SubElement(suite, "testcase", {"classname": "modeldiff.gate", "name": _xml(rule_text(rule)), "time": "0"})  # fmt: skip
        if word == "FAIL":
            xml.SubElement(case, "failure", {"message": _xml(said(rule)), "type": "rule"}).text = _xml(rule_text(rule))
        elif word == "INCONCLUSIVE" and report.strict:
            xml.SubElement(case, "error", {"message": _xml(said(rule)), "type": "inconclusive"})
        elif word in ("WAIVED", "UNDECIDED", "INCONCLUSIVE"):
            xml.SubElement(case, "skipped", {"message": _xml(f"{word.lower()}: {said(rule)}")})
        xml.SubElement(case, "system-out").text = _xml(f"{word}: {said(rule)}")
    xml.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + xml.tostring(root, encoding="unicode").replace("##[", "##&#91;")
        + "\n"
    )


def github(report: Report) -> str:
    """Workflow commands that GitHub shows beside the policy's lines."""
    level = {"FAIL": "error", "INCONCLUSIVE": "error" if report.strict else "warning"}
    lines = []
    for rule in [rule for rule in ordered(report.gate) if rule.verdict != "pass"][:ANNOTATIONS]:
        word = result(rule)
        place = {"file": report.policy_file, "line": str(rule.line or 1), "title": f"modeldiff: {word}"}
        command = level.get(word, "warning" if word == "WARNING" else "notice")
        lines.append(_command(command, place, f"{rule_text(rule)}\n{said(rule)}"))
    lines.append(_command("notice", {"title": "modeldiff"}, f"{headline(report.gate)}: {counts(report.gate)}"))
    return "\n".join(lines) + "\n"


def as_markdown(report: Report) -> str:
    """For a step summary or a pull request: the failing rules first, ten in the table, the others folded."""
    gate = report.gate
    head = [
        MARKER, f"### {_SYMBOL[gate.verdict]} modeldiff: {headline(gate)}", "",
        f"**{markdown(report.title, limit=200)}**: {counts(gate)}; {markdown(_sources(gate), limit=400)}.", "",
    ]  # fmt: skip
    rows = [
        f"| {markdown(rule_text(rule), limit=500)} | {markdown(seen_text(rule), limit=500)} | {result(rule)} | "
        f"{markdown(notes_text(rule), limit=500)} |"
        for rule in ordered(gate)
    ]
    tail = ["", *(f"- {markdown(note, limit=600)}" for note in gate.notes)] if gate.notes else []
    table = ["| Rule | Seen (95 %) | Result | Notes |", "| --- | ---: | --- | --- |"]
    lines = [*head, *table, *rows[:_SHOWN]]
    room = LIMIT - sum(len(line) + 1 for line in [*lines, *tail]) - 400
    kept: list[str] = []
    for row in rows[_SHOWN:]:
        room -= len(row) + 1
        if room < 0:
            break
        kept.append(row)
    if more := len(rows) - _SHOWN - len(kept) if len(rows) > _SHOWN else 0:
        tail.append(f"\n{more} more rules did not fit here; the JSON has them all.")
    if kept:
        lines += ["", f"<details><summary>{len(kept)} more rules</summary>", "", *table, *kept, "", "</details>"]
    return "\n".join([*lines, *tail]) + "\n"


FORMATS: dict[str, Callable[[Report], str]] = {
    "text": text, "json": as_json, "junit": junit, "github": github, "markdown": as_markdown,
}  # fmt: skip


def _sources(gate: Gate) -> str:
    parts = [f"policy {visible(gate.policy or '', limit=200)}"]
    if gate.baseline:
        parts.append(f"baseline {visible(gate.baseline, limit=200)}")
    return ", ".join([*parts, *(["a small budget"] if gate.fast else []), f"checked {gate.checked}"])


def _xml(value: str) -> str:
    """Text without what XML 1.0 forbids; the rest is escaped when it is written."""
    return visible(value)


def _command(name: str, properties: dict[str, str], message: str) -> str:
    said = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {said}::{_data(message)}"


def _data(value: str) -> str:
    clean = "\n".join(visible(line) for line in value.split("\n"))
    return clean.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace("##[", "##\u200b[")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
