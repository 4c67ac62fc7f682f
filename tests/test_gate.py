"""A policy over a card: what decides, what is inconclusive, what is refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sample_cards import full_card

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.gate import check_card, exit_code, places_of
from modeldiff_eval.gate_policy import Policy, read_policy
from modeldiff_eval.records import ArenaSnapshot, Card, Estimate, Gate, RankCorrelation, Rule

ROOT = Path(__file__).resolve().parents[1]
TODAY = date(2026, 6, 15)
CARD = full_card(hostile=False)


def policy(tmp_path: Path, *rules: str, top: str = "") -> Policy:
    """A policy of ``rules``, each the YAML of one list item."""
    file = tmp_path / "policy.yaml"
    file.write_text(top + "rules:\n" + "".join(f"  - {rule}\n" for rule in rules), encoding="utf-8")
    return read_policy(file)


def changed(card: Card, code: str, **fields: Any) -> Card:
    """The card with fields of one class changed."""
    rows = [row.model_copy(update=fields) if row.code == code else row for row in card.classes]
    return card.model_copy(update={"classes": rows})


def with_diff(value: float | None, low: float | None, high: float | None) -> Card:
    """A card in which class A shifts by so much."""
    diff = CARD.classes[0].diff.model_copy(update={"value": value, "low": low, "high": high})
    return changed(CARD, "A", diff=diff)


def one(tmp_path: Path, rule: str, card: Card = CARD, **more: Any) -> Rule:
    """What one rule says."""
    return check_card(card, policy(tmp_path, rule), today=TODAY, **more).rules[0]


def test_a_verdict_on_no_number_is_missing(tmp_path: Path) -> None:
    """A class without latents has not been shown not to fall."""
    nothing = Estimate(value=None, low=None, high=None)
    row = CARD.classes[2]
    assert row.activation is not None
    empty = changed(
        CARD,
        row.code,
        diff=nothing,
        verdict="unclear",
        activation=row.activation.model_copy(update={"change": nothing, "verdict": "unclear"}),
    )
    for place in ("verdict", "activation.verdict"):
        rule = f"classes.{row.code}.{place} != down"
        assert one(tmp_path, rule).verdict == "pass"
        found = one(tmp_path, rule, empty)
        assert found.verdict == "inconclusive"
        assert "no number to judge" in str(found)


@pytest.mark.parametrize(
    ("interval", "rule", "verdict"),
    [
        ((1, -2, 4), "classes.A.diff > -3", "pass"),  # all of it
        ((1, -2, 4), "classes.A.diff > 5", "fail"),  # none of it
        ((1, -2, 4), "classes.A.diff > 0", "inconclusive"),  # on both sides
        ((1, -2, 4), "classes.A.diff > 4", "fail"),  # no number of it is above 4
        ((1, -2, 4), "classes.A.diff >= 4", "inconclusive"),  # its end is
        ((1, -2, 4), "classes.A.diff > -2", "inconclusive"),
        ((1, -2, 4), "classes.A.diff >= -2", "pass"),
        ((1, -2, 4), "classes.A.diff < 5", "pass"),
        ((1, -2, 4), "classes.A.diff < -2", "fail"),
        ((1, -2, 4), "classes.A.diff < 0", "inconclusive"),
        ((1, None, 4), "classes.A.diff > -3", "inconclusive"),
        ((1, None, 4), "classes.A.diff > 5", "fail"),
        ((None, None, None), "classes.A.diff > -3", "inconclusive"),
        ((1, -2, 4), "classes.A.diff.low > -3", "pass"),  # a bound decides alone
        ((1, -2, 4), "classes.A.diff.low > 0", "fail"),
        ((1, -2, 4), "classes.A.diff.high > 0", "pass"),
        ((1, -2, 4), "classes.A.diff.value > 0", "pass"),
        ((1, None, 4), "classes.A.diff.low > 0", "inconclusive"),
        ((float("nan"), -2, 4), "classes.A.diff.value > 0", "inconclusive"),
    ],
)
def test_intervals_and_bounds(tmp_path: Path, interval: Any, rule: str, verdict: str) -> None:
    found = one(tmp_path, rule, with_diff(*interval))
    assert found.verdict == verdict
    assert found.interval is not None or found.value is None
    assert (verdict != "inconclusive") or found.notes


def test_the_value_alone_is_said_to_ignore_the_interval(tmp_path: Path) -> None:
    assert "without its interval" in one(tmp_path, "classes.A.diff.value > -9").notes[0]
    assert one(tmp_path, "classes.A.diff.low > -9").notes == []


def test_what_is_seen_comes_with_interval_and_n(tmp_path: Path) -> None:
    found = one(tmp_path, "benchmarks.gsm8k.delta.low > -0.02")
    assert (found.verdict, found.n, found.at, found.line) == ("fail", 1319, "benchmarks.gsm8k.delta.low", 2)
    assert found.interval == CARD.benchmarks[0].delta
    assert found.value == CARD.benchmarks[0].delta.low


@pytest.mark.parametrize(
    ("rule", "verdict", "said"),
    [
        ("latents.tuned.specific < 500", "pass", ""),
        ("latents.tuned.specific == 93", "fail", ""),
        ("latents.tuned.shifted > 3", "inconclusive", "not measured"),
        ("categories.A.1.diff.low > -50", "pass", ""),
        ("crosscoders.anchor--base.fve_second > 0.8", "pass", ""),
        ("crosscoders.base--tuned.fve_second > 0.8", "inconclusive", "no crosscoder of base--tuned"),
        ("arena.math.delta.low > -50", "pass", ""),
        ("arena.rows.math.delta_style.low > -50", "pass", ""),
        ("arena.maths.delta > -50", "inconclusive", "Did you mean 'math'"),
        ("benchmarks.gsm8.delta > -50", "inconclusive", "Did you mean 'gsm8k'"),
        ("benchmarks.gsm8k.exact_match.delta.low > -1", "pass", ""),
        ("benchmarks.gsm8k.acc.delta.low > -1", "inconclusive", "no benchmark 'gsm8k.acc'"),
        ("classes.A.verdict == up", "pass", ""),
        ("classes.A.verdict != up", "fail", ""),
        ("classes.A.covered == true", "pass", ""),
        ("classes.B.covered == true", "fail", ""),
        ("classes.B.diff.low > -99", "inconclusive", "corpus does not reach B"),
        ("annotation_quality.detection.low > 0.6", "pass", ""),
        ("annotation_quality.without_weak.A.diff.low > -99", "pass", ""),
        ("differences.*.null_rate < 0.01", "inconclusive", "no such rows"),
        ("probing.classes.A.diff.low > -99", "pass", ""),
        ("provenance.seeds.bootstrap == 0", "pass", ""),
        ("latents.null_rate < 0.01 and latents.tuned.specific < 50", "fail", ""),
        ("latents.null_rate < 0.01 and latents.tuned.shifted < 50", "inconclusive", ""),
    ],
)
def test_targets(tmp_path: Path, rule: str, verdict: str, said: str) -> None:
    found = one(tmp_path, rule)
    assert found.verdict == verdict
    assert said in "; ".join(found.notes)


def test_a_star_is_as_good_as_its_worst_row(tmp_path: Path) -> None:
    card = full_card(hostile=False)
    rows = [row for row in card.classes if row.covered]
    lowest = min(rows, key=lambda row: row.diff.low or 0)
    card = card.model_copy(update={"classes": rows})
    found = one(tmp_path, "classes.*.diff.low > -100", card)
    assert (found.verdict, found.at, found.value) == ("pass", f"classes.{lowest.code}.diff.low", lowest.diff.low)
    found = one(tmp_path, f"classes.*.diff.low > {lowest.diff.low}", card)
    assert (found.verdict, found.at) == ("fail", f"classes.{lowest.code}.diff.low")


@pytest.mark.parametrize(
    ("rule", "verdict", "said"),
    [
        ("arena.other_snapshots.2025-03-07.rows.math.delta.low > -50", "pass", ""),
        ("arena.other_snapshots.2025-05-27.rows.math.delta < 0", "pass", ""),
        ("arena.other_snapshots.*.rows.math.delta.high < 0", "fail", ""),
        ("arena.other_snapshots.*.rows.maths.delta.high < 0", "inconclusive", "Did you mean 'math'"),
        (
            "arena.other_snapshots.2025-03-08.rows.math.delta.low > -50",
            "inconclusive",
            "no other snapshot '2025-03-08'",
        ),
        ("rank_correlations.arena.value > -1", "pass", ""),
        ("rank_correlations.arena.n >= 9", "pass", ""),
        ("rank_correlations.benchmarks.value > 0", "inconclusive", "not measured"),
    ],
)
def test_other_snapshots_and_rank_correlations(tmp_path: Path, rule: str, verdict: str, said: str) -> None:
    assert CARD.arena is not None
    math = next(row for row in CARD.arena.rows if row.category == "math")
    days = [
        ArenaSnapshot(snapshot=day, rows=[math.model_copy(update={"delta": Estimate(value=value, low=low, high=high)})])
        for day, value, low, high in (("2025-03-07", -9.0, -28.0, 9.0), ("2025-05-27", -9.0, -12.0, -5.0))
    ]
    nothing = Estimate(value=None, low=None, high=None)
    found = [
        RankCorrelation(of="arena", n=9, classes=3, value=Estimate(value=0.35, low=-0.48, high=0.87)),
        RankCorrelation(of="benchmarks", n=1, classes=1, value=nothing, note="1 pairs are fewer than 6"),
    ]
    arena = CARD.arena.model_copy(update={"other_snapshots": days})
    card = CARD.model_copy(update={"arena": arena, "rank_correlations": found})
    seen = one(tmp_path, rule, card)
    assert (seen.verdict, said in "; ".join(seen.notes)) == (verdict, True)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("classes.A.dif.low > -5", "has no 'dif'. Did you mean 'diff'"),
        ("class.A.diff.low > -5", "Did you mean 'classes'"),
        ("classes.H.diff.low > -5", "no class 'H'"),
        ("categories.A.99.diff.low > -5", "no category 'A.99'"),
        ("crosscoders.base-tuned.l0 > 5", "Did you mean 'base--tuned'"),
        ("benchmarks.gsm8.detla.low > -5", "benchmarks.gsm8 has no 'detla'. Did you mean 'delta'"),
        ("rank_correlations.arenas.n > 5", "Did you mean 'arena'"),
        ("arena.overall.elo > 5", "arena.overall has no 'elo'"),
        ("classes.A > -5", "is no number. Name one in it"),
        ("classes > -5", "is a list"),
        ("classes.A.*.low > -5", "stands for a key of a list"),
        ("latents.tuned.specific.low > 5", "single value"),
        ("top_latents.x > 5", "neither a number nor a word"),
        ("title > 5", "is a word"),
        ("classes.A.verdict == better", "is never 'better'. It is up, down"),
        ("classes.A.diff.low == down", "is a number"),
        ("classes.A.diff == 3", "cannot be decided"),
    ],
)
def test_a_path_that_no_card_has_is_a_usage_error(tmp_path: Path, rule: str, said: str) -> None:
    with pytest.raises(UsageError) as found:
        check_card(CARD, policy(tmp_path, rule), today=TODAY)
    assert said in str(found.value)
    assert str(found.value).startswith("policy.yaml, line 2: ")


def test_several_metrics_need_a_name(tmp_path: Path) -> None:
    card = read_card(ROOT / "reports/demo")
    with pytest.raises(UsageError, match=r"name one: mdx_answer_harmless\.acc, mdx_answer_harmless\.margin"):
        one(tmp_path, "benchmarks.mdx_answer_harmless.delta.low > -1", card)
    assert one(tmp_path, "benchmarks.mdx_answer_harmless.acc.delta.low > -1", card).verdict == "pass"
    assert (
        one(tmp_path, "benchmarks.*.margin.delta.low > -100", card).at
        == "benchmarks.mdx_answer_harmless.margin.delta.low"
    )


# Severity, waivers, exit codes -----------------------------------------------------------------------

FAILS = "latents.tuned.specific > 999"
OPEN = "latents.tuned.shifted > 3"


@pytest.mark.parametrize(
    ("rules", "verdict", "code", "strict"),
    [
        (["latents.tuned.specific < 999"], "pass", 0, 0),
        ([FAILS, OPEN], "fail", 1, 1),
        ([OPEN], "inconclusive", 0, 4),
        ([f"{{rule: {FAILS}, severity: warn}}"], "pass", 0, 0),
        ([f"{{rule: {OPEN}, severity: warn}}"], "pass", 0, 0),
        ([f"{{rule: {FAILS}, waiver: {{reason: known, until: 2026-06-15}}}}"], "pass", 0, 0),
        ([f"{{rule: {FAILS}, waiver: {{reason: known, until: 2026-06-14}}}}"], "fail", 1, 1),
        ([f"{{rule: {OPEN}, waiver: {{reason: known, until: 2026-06-15}}}}"], "pass", 0, 0),
    ],
)
def test_verdict_and_exit_code(tmp_path: Path, rules: list[str], verdict: str, code: int, strict: int) -> None:
    gate = check_card(CARD, policy(tmp_path, *rules), today=TODAY)
    assert gate.verdict == verdict
    assert (exit_code(gate, strict=False), exit_code(gate, strict=True)) == (code, strict)


def test_waivers_are_spoken_of(tmp_path: Path) -> None:
    waived = "{{rule: {}, waiver: {{reason: ticket 12, until: {}}}}}"
    until = one(tmp_path, waived.format(FAILS, "2026-07-01"))
    assert (until.waived, until.verdict, until.notes) == (True, "fail", ["waived until 2026-07-01: ticket 12"])
    over = one(tmp_path, waived.format(FAILS, "2026-06-01"))
    assert (over.waived, over.notes) == (False, ["the waiver expired on 2026-06-01, so the rule counts (ticket 12)"])
    assert "not needed" in one(tmp_path, waived.format("latents.tuned.specific > 9", "2026-07-01")).notes[-1]


# A baseline ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("classes.A.diff.value >= baseline", "fail"),
        ("classes.A.diff.value >= baseline - 2", "pass"),
        ("classes.A.diff.low >= baseline - 1", "pass"),
        ("classes.A.diff.high >= baseline * 2", "fail"),
        ("classes.A.diff >= baseline", "inconclusive"),  # the intervals overlap
        ("classes.A.diff >= baseline - 8", "pass"),  # apart
        ("classes.A.diff >= baseline + 8", "fail"),
        ("classes.A.verdict == baseline", "pass"),
        ("classes.*.diff.value >= baseline - 2", "pass"),
        ("latents.tuned.specific <= baseline * 1.2", "pass"),
        ("latents.tuned.shifted >= baseline", "inconclusive"),
    ],
)
def test_no_worse_than_before(tmp_path: Path, rule: str, verdict: str) -> None:
    card = CARD.model_copy(update={"classes": [row.model_copy(update={"covered": True}) for row in CARD.classes]})
    a = card.classes[0].diff.model_copy(update={"value": 1.0, "low": -2.0, "high": 4.0})
    now = changed(card, "A", diff=a.model_copy(update={"value": 0.0, "low": -3.0, "high": 3.0}))
    found = one(tmp_path, rule, now, baseline=changed(card, "A", diff=a), baseline_name="last")
    assert found.verdict == verdict


def test_a_row_that_one_card_lacks_is_inconclusive(tmp_path: Path) -> None:
    fewer = CARD.model_copy(update={"benchmarks": CARD.benchmarks[1:]})
    rule = "benchmarks.*.delta.value >= baseline - 9"
    assert one(tmp_path, rule, CARD, baseline=CARD).verdict == "pass"
    for card, baseline in ((fewer, CARD), (CARD, fewer)):
        found = one(tmp_path, rule, card, baseline=baseline)
        assert (found.verdict, found.at) == ("inconclusive", "benchmarks.gsm8k.exact_match.delta.value")


def test_a_baseline_of_another_kind_is_refused(tmp_path: Path) -> None:
    rules = policy(tmp_path, "classes.A.diff.value >= baseline - 2")
    with pytest.raises(UsageError, match=r"line 2: .*there is none"):
        check_card(CARD, rules, today=TODAY)
    coder = CARD.crosscoders[0].model_copy(update={"layer": 3})
    other_base = CARD.models.model_copy(update={"base": CARD.models.tuned})
    names = [row.model_copy(update={"name": f"{row.name}!"}) for row in CARD.classes]
    for update, said in (
        ({"method": "another"}, "another method"),
        ({"mode": "direct"}, "another design"),
        ({"models": other_base}, "another base"),
        ({"classes": names}, "another taxonomy"),
        ({"classes": CARD.classes[:6]}, "another taxonomy"),
        ({"crosscoders": [coder]}, "another layer"),
    ):
        with pytest.raises(UsageError, match=said):
            check_card(CARD, rules, baseline=CARD.model_copy(update=update), today=TODAY)
    made = CARD.provenance.model_copy(update={"corpus": "another text"})
    gate = check_card(CARD, rules, baseline=CARD.model_copy(update={"provenance": made}), today=TODAY)
    assert "another corpus (another text" in gate.notes[0]


# A small budget --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("classes.A.diff.low > 0", "inconclusive"),  # fails on a full budget
        ("classes.A.diff.low > -3", "pass"),
        ("classes.A.diff.low > 5", "fail"),
        ("classes.A.diff.value > 0", "inconclusive"),
        ("latents.tuned.specific < 500", "inconclusive"),
        ("latents.null_rate < 0.01", "pass"),
        ("crosscoders.*.fve_second > 0.99", "fail"),
    ],
)
def test_a_small_budget_fails_only_what_is_certain(tmp_path: Path, rule: str, verdict: str) -> None:
    assert one(tmp_path, rule, with_diff(1, -2, 4), fast=True).verdict == verdict


# The policy file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("classes.A.diff.low > 5", "classes.A.diff.low < 5"),
        ("classes.A.diff.low > 5", "classes.A.diff.high < 3"),  # low is never above high
        ("classes.A.diff.low >= 5", "classes.A.diff.value < 5"),
        ("classes.A.diff > 5", "classes.A.diff.high <= 5"),
        ("classes.A.diff > 5", "classes.A.diff < 4"),
        ("latents.tuned.failed == 0", "latents.tuned.failed > 0"),
        ("classes.*.diff.low > 0", "classes.A.diff.high < -1"),
        ("classes.A.verdict == up", "classes.A.verdict == down"),
    ],
)
def test_rules_that_exclude_each_other_are_named(tmp_path: Path, first: str, second: str) -> None:
    for rules in ((first, second), (second, f"latents.null_rate < 1 and {first}")):
        with pytest.raises(UsageError, match="cannot both pass") as found:
            policy(tmp_path, *rules)
        assert "line 2: " in str(found.value)
        assert "line 3: " in str(found.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("classes.A.diff.low > -5", "classes.A.diff.high < 5"),
        ("classes.A.diff.high > 5", "classes.A.diff.low < 3"),
        ("classes.A.diff.low >= 5", "classes.A.diff.value <= 5"),
        ("classes.A.diff.low > 5", "classes.B.diff.low < 5"),
        ("classes.A.diff.low > 5", "classes.A.diff.low < baseline"),
        ("classes.A.diff.low > 5", "classes.A.diff.low > 7"),
        ("classes.A.verdict == up", "classes.A.verdict != down"),
        ("latents.tuned.failed == 0", "latents.tuned.failed != 1"),
    ],
)
def test_rules_that_go_together_are_read(tmp_path: Path, first: str, second: str) -> None:
    assert len(policy(tmp_path, first, second).rules) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping with the key 'rules'"),
        ("- a > 1", "a mapping with the key 'rules'"),
        ("rules: []", "nothing would be checked"),
        ("rule:\n  - a > 1", "unknown key 'rule'. Did you mean 'rules'"),
        ("rules:\n  - {rule: a > 1, severty: warn}", "line 2: unknown key 'rules.1.severty'. Did you mean 'severity'"),
        ("rules:\n  - {rule: a > 1, waiver: {reason: x, till: 2026-01-01}}", "'rules.1.waiver.till'"),
        ("rules:\n  - a > 1\n  - {rule: a > 1, severity: error}", "line 3: rules.2.severity"),
        ("rules:\n  - {rule: a > 1, waiver: {until: 2026-01-01}}", "rules.1.waiver.reason is missing"),
        ("rules:\n  - {rule: a > 1, waiver: {reason: x, until: soon}}", "rules.1.waiver.until"),
        ("rules:\n  - {rule: a > 1, waiver: {reason: x, until: 2026-02-30}}", "not valid YAML"),
        ("rules:\n  - a > 1\n  - a >", "line 3: 'a >', column"),
        ("rules: a > 1", "rules"),
        ("rules:\n  - 5", "line 2"),
        ("rules:\n  - a > 1\nrules:\n  - a > 1", "given twice"),
        ("rules: [", "not valid YAML"),
        ("rules: " + "[" * 3000, "policy"),
        ("version: 2\nrules: [a > 1]", "version"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as found:
        read_policy(file)
    assert said in str(found.value)
    assert "policy.yaml" in str(found.value)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="rulesbaseline: -{}[]>&*!|'\"#\n\t5.,?%@", max_size=120).map(str.encode),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("a > 1")),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["rules", "rule", "waiver", "until", "reason", "severity", "x"]), inner
                ),
            ),
            max_leaves=8,
        ).map(lambda found: yaml.safe_dump(found).encode()),
    )
)
@hypothesis.settings(
    deadline=None, max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_file_is_a_policy_or_a_usage_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "policy.yaml"
    file.write_bytes(content)
    try:
        assert read_policy(file).rules
    except UsageError as error:
        said = str(error)
        assert "policy.yaml" in said


def test_no_policy_and_its_baseline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read the policy"):
        read_policy(tmp_path / "none.yaml")
    assert policy(tmp_path, "a > 1", top="baseline: last/card.json\n").baseline == tmp_path / "last/card.json"


def test_a_policy_can_be_looked_up_in_a_card(tmp_path: Path) -> None:
    rules = policy(tmp_path, "classes.*.diff.low > -5", OPEN)
    assert [len(places_of(CARD, rule, rules)) for rule in rules.rules] == [7, 1]
    with pytest.raises(UsageError, match="line 2"):
        places_of(CARD, policy(tmp_path, "classes.H.diff > 1").rules[0], rules)


def test_the_verdict_fits_into_the_card_and_old_verdicts_still_load(tmp_path: Path) -> None:
    gate = check_card(CARD, policy(tmp_path, FAILS, OPEN), today=TODAY)
    card = CARD.model_copy(update={"gate": gate})
    assert Card.model_validate_json(card.to_json()).gate == gate
    old = {"verdict": "fail", "rules": [{"rule": "a > 1", "value": None, "verdict": "fail"}]}
    assert Gate.model_validate(old).rules[0].counts
