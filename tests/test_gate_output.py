"""One verdict in five formats: the same result, and no foreign text that can act in any of them."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_cards import BIDI, HOSTILE, MARKUP, full_card

from modeldiff_eval.gate import check_card, exit_code
from modeldiff_eval.gate_output import FORMATS, LIMIT, MARKER, Report, as_json, as_markdown, github, junit, text
from modeldiff_eval.gate_policy import read_policy
from modeldiff_eval.records import Estimate, Gate, Rule

COMMANDS = (
    "\n::set-output name=x::1\r\n::add-mask::a\n##[error]x ##vso[task.complete]\n::stop-commands::t %0A::error::x"
)
BAD = f"{HOSTILE} {BIDI} {MARKUP} {COMMANDS} \x1b]0;title\x07\x1b[31m ]]> --> <!-- | </details> \ud800 \ufffe"


def rule(number: int, verdict: str = "pass", **more: object) -> Rule:
    fields = {"rule": f"classes.A.diff.low > {number}", "value": 1.5, "verdict": verdict, "line": number + 2}
    return Rule.model_validate(fields | {"at": "classes.A.diff.low", "bound": f"> {number}"} | more)


def hostile_rule(verdict: str, foreign: str, severity: str = "fail") -> Rule:
    estimate = Estimate(value=1.0, low=-2.0, high=None)
    words = {"name": foreign, "at": f"benchmarks[{foreign}]", "notes": [foreign], "bound": foreign}
    return rule(1, verdict, rule=f"a > {foreign}", interval=estimate, severity=severity, **words)


def report(
    *rules: Rule, verdict: str = "fail", title: str = "base → tuned", notes: tuple[str, ...] = (), strict: bool = False
) -> Report:
    gate = Gate.model_validate(
        {"verdict": verdict, "rules": rules, "policy": "policy.yaml", "checked": "2026-06-15", "notes": notes}
    )
    return Report(gate, title, "ci/policy.yaml", exit_code(gate, strict=strict), "2026-06-15T10:00:00+00:00", strict)


MIXED = (
    rule(1),
    rule(2, "fail", severity="warn"),
    rule(3, "inconclusive"),
    rule(4, "fail"),
    rule(5, "fail", waived=True, notes=["waived until 2027-01-01: known"]),
    rule(6, "inconclusive", severity="warn"),
)


def test_text_puts_what_fails_first() -> None:
    lines = text(report(*MIXED)).splitlines()
    assert lines[0] == "FAIL (1 of 6 rules)  base → tuned"
    assert (
        lines[1]
        == "1 fail, 1 inconclusive, 1 warning, 1 waived, 1 undecided, 1 pass; policy policy.yaml, checked 2026-06-15"
    )
    assert [line.split()[0] for line in lines[3::2]] == [
        "FAIL",
        "INCONCLUSIVE",
        "WARNING",
        "WAIVED",
        "UNDECIDED",
        "PASS",
    ]
    assert "saw 1.500, wanted > 5; waived until 2027-01-01: known" in text(report(*MIXED))


def test_json_is_the_verdict_object() -> None:
    found = json.loads(as_json(report(*MIXED)))
    assert (found["card"], found["exit_code"], found["verdict"]) == ("base → tuned", 1, "fail")
    fields = {name: found[name] for name in Gate.model_fields}
    assert Gate.model_validate(fields) == report(*MIXED).gate


_ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {
        "name",
        "tests",
        "failures",
        "errors",
        "time",
        "disabled",
        "skipped",
        "timestamp",
        "hostname",
        "id",
        "package",
    },
    "testcase": {"name", "assertions", "time", "classname", "status"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
_CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["testcase"],
    "testcase": ["skipped", "error", "failure", "system-out"],
}


def check_junit(source: str) -> ElementTree.Element:
    """The elements, attributes and order that Jenkins' schema of JUnit XML allows, and counts that are true."""
    root = ElementTree.fromstring(source.encode())
    for element in root.iter():
        assert set(element.attrib) <= _ATTRIBUTES[element.tag]
        places = [_CHILDREN.get(element.tag, []).index(child.tag) for child in element]
        assert places == sorted(places)
    for suite in (root, *root.iter("testsuite")):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(suite.attrib[name]) == len(list(suite.iter(tag)))
    suite = root[0]
    assert int(suite.attrib["skipped"]) == len(list(suite.iter("skipped")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    assert all(case.attrib["name"] and case.attrib["classname"] for case in suite)
    return root


def test_junit_is_what_ci_systems_read() -> None:
    root = check_junit(junit(report(*MIXED)))
    assert {root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]} == {"6", "1", "0"}
    assert [[child.tag for child in case][:-1] for case in root[0]] == [
        [],
        [],
        ["skipped"],
        ["failure"],
        ["skipped"],
        ["skipped"],
    ]
    strict = check_junit(junit(report(*MIXED, strict=True)))
    assert strict.attrib["errors"] == "1"


def test_annotations_stand_at_the_rules_line() -> None:
    lines = github(report(*MIXED)).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::warning",
        "::warning",
        "::notice",
        "::notice",
        "::notice",
    ]
    assert lines[0] == (
        "::error file=ci/policy.yaml,line=6,title=modeldiff%3A FAIL::classes.A.diff.low > 4%0Asaw 1.500, wanted > 4"
    )
    assert github(report(*MIXED, strict=True)).splitlines()[1].startswith("::error ")
    assert "95 %25" not in lines[0]
    odd = Report(report(rule(1, "fail")).gate, "t", "a,b:c%\n.yaml", 1)
    assert github(odd).startswith("::error file=a%2Cb%3Ac%25%0A.yaml,line=3,")


def test_markdown_has_ten_rows_and_folds_the_rest() -> None:
    made = as_markdown(report(*(rule(n) for n in range(1, 15)), rule(15, "fail")))
    assert made.startswith(f"{MARKER}\n### ❌ modeldiff: FAIL (1 of 15 rules)\n")
    table, folded = made.split("<details>")
    rows = [line for line in table.splitlines() if line.startswith("| classes")]
    assert len(rows) == 10
    assert "| FAIL |" in rows[0]
    assert folded.count("| classes") == 5
    assert "### ✅" in as_markdown(report(rule(1), verdict="pass"))


def test_markdown_fits_a_comment_whatever_the_policy() -> None:
    long = [hostile_rule("fail", BAD * 20) for _ in range(1500)]
    made = as_markdown(report(*long, title=BAD, notes=(BAD * 9,) * 3))
    assert len(made) <= LIMIT
    assert "more rules did not fit here" in made


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("severity", ["fail", "warn"])
def test_foreign_text_cannot_act(name: str, severity: str) -> None:
    rules = [hostile_rule(verdict, BAD, severity) for verdict in ("fail", "inconclusive", "pass")]
    check_harmless(name, FORMATS[name](report(*rules, title=BAD, notes=(BAD,))))


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=150)
def test_no_text_can_act(foreign: str) -> None:
    for name, form in FORMATS.items():
        check_harmless(name, form(report(hostile_rule("fail", foreign), title=foreign, notes=(foreign,))))


def check_harmless(name: str, made: str) -> None:
    """Nothing in ``made`` is a command, a control character, markup or broken."""
    made.encode()  # no lone surrogate
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", made)
    for line in made.splitlines():
        assert "##[" not in line
        if name == "github":
            assert re.match(r"::(error|warning|notice) (file=ci/policy\.yaml,line=\d+,)?title=", line)
        else:
            assert not line.lstrip().startswith("::")
    if name == "json":
        json.loads(made)
    if name == "junit":
        check_junit(made)
    if name == "markdown":
        body = made.replace(MARKER, "")
        assert set(re.findall(r"<[^>]*>", body)) <= {"<details>", "</details>", "<summary>", "</summary>"}
        assert not re.search(r"(?<!\\)[`\[]|https?://|(?<!\u200b)@(?!\u200b)", body)
        cells = [re.sub(r"\\.", "", line).count("|") for line in body.splitlines() if line.startswith("| ")]
        assert set(cells) == {5}


def test_a_hostile_card_under_a_policy(tmp_path: Path) -> None:
    card = full_card()
    file = tmp_path / "policy.yaml"
    file.write_text(
        "rules:\n  - benchmarks.*.delta.low > 0\n  - arena.*.delta > -999\n  - classes.*.diff.low > -5\n  - title == x\n"
        "  - provenance.command == y\n"
    )
    gate = check_card(card, read_policy(file), today=date(2026, 6, 15))
    for name, form in FORMATS.items():
        check_harmless(name, form(Report(gate, card.title, "ci/policy.yaml", 1, card.created)))
