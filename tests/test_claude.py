"""The Claude replier against a real server on this machine, with every fault that it can meet."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import SCHEMA, counted_as, questions
from mock_messages import PASSING, MockServer, conforming

from modeldiff_eval.ask import Reply, ask_all, read_replies
from modeldiff_eval.claude import STOP_AFTER, ClaudeReplier
from modeldiff_eval.claude_errors import BudgetError, StoppedError, model_note
from modeldiff_eval.claude_prices import cost
from modeldiff_eval.claude_request import Wire, most_usage, read_message, request
from modeldiff_eval.errors import AnnotationError, UsageError

MODEL = "claude-haiku-4-5"
KEY = "sk-ant-api03-a-key-of-the-tests-0123456789"


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own back-off, a hundred times faster; no key unless a test sets one."""
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("anthropic._base_client.MAX_RETRY_DELAY", 0.05)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer() as running:
        yield running


def replier(server: MockServer, model: str = MODEL, **more: Any) -> ClaudeReplier:
    return ClaudeReplier(model, base_url=server.url, **more)


def only(replies: dict[str, Reply]) -> Reply:
    (reply,) = replies.values()
    return reply


def test_every_question_gets_the_answer_to_its_own_text(server: MockServer) -> None:
    asked = questions(40)
    claude = replier(server, concurrency=8)
    replies = ask_all(claude, asked)
    by_text = {counted_as(q): q.digest for q in asked}
    for params in server.params:
        digest = by_text[counted_as(asked[0].model_copy(update={"text": params["messages"][0]["content"][0]["text"]}))]
        assert replies[digest].value == conforming(params)
    assert set(server.asked.values()) == {1}
    costs = [reply.cost for reply in replies.values()]
    assert sum(c for c in costs if c) == pytest.approx(claude.spent)
    assert all(reply.usage.output > 0 for reply in replies.values())


def test_the_shared_prefix_is_cached_from_the_second_question_on(server: MockServer) -> None:
    replies = ask_all(replier(server), questions(12))
    written = [reply.usage.cache_write for reply in replies.values()]
    assert sum(w > 0 for w in written) == 1
    assert sum(reply.usage.cache_read > 0 for reply in replies.values()) == 11
    sent = server.params[0]
    assert sent["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert sent["tool_choice"]["name"] == sent["tools"][0]["name"] == "categorise"


@pytest.mark.parametrize("fault", [f for f in PASSING if f != "slow"])
def test_what_may_pass_is_tried_again(server: MockServer, fault: str) -> None:
    server.script = [fault, fault, "ok"]
    reply = only(ask_all(replier(server), questions(1)))
    assert reply.failure is None
    assert len(server.requests) == 3


def test_a_slow_reply_is_given_up_and_asked_again(server: MockServer) -> None:
    server.script, server.slow_seconds = ["ok", "slow"], 1.0
    replies = ask_all(replier(server, timeout=0.2), questions(2))
    assert all(reply.failure is None for reply in replies.values())
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "failure", "times"),
    [
        ("refusal", "the model refused to answer (general_harms)", 1),
        ("too_long", "the reply was cut off at max_tokens (300)", 1),
        ("wrong", 'wrong reply: category: must be one of the 3 allowed values, not "Z.99" (asked twice)', 2),
        ("no_tool", "no call of the tool 'categorise' in the reply: 'I would rather talk about it.' (asked twice)", 2),
        ("invalid", "unreadable reply (JSONDecodeError", 2),
        ("error", "the server refused or failed (500: Not now.)", 3),
        ("overloaded", "the server refused or failed (529: Not now.)", 3),
        ("truncated", "the connection broke", 3),
        ("slow", "the server did not reply in time", 3),
    ],
)
def test_what_does_not_pass_is_a_failure_that_says_what_was_wrong(
    server: MockServer, tmp_path: Path, fault: str, failure: str, times: int
) -> None:
    good, bad = questions(2)
    server.script = lambda params, _: fault if bad.text in json.dumps(params) else None
    server.slow_seconds = 0.5
    path = tmp_path / "replies.jsonl"
    claude = replier(server, retries=2, timeout=0.15 if fault == "slow" else 5)
    replies = ask_all(claude, [good, bad], path=path)
    assert replies[good.digest].failure is None
    assert str(replies[bad.digest].failure).startswith(failure)
    assert replies[bad.digest].value is None
    assert server.asked[counted_as(bad)] == times
    server.script = None
    again = ask_all(replier(server), [good, bad], path=path)
    assert all(reply.failure is None for reply in again.values())
    assert server.asked[counted_as(good)] == 1


def test_asking_again_says_what_was_wrong_but_not_what_was_said(server: MockServer) -> None:
    server.script = ["wrong", "ok"]
    reply = only(ask_all(replier(server), questions(1)))
    assert reply.failure is None
    hint = server.params[1]["messages"][0]["content"][1]["text"]
    assert "category: must be one of the 3 allowed values" in hint
    assert "Z.99" not in hint
    # Both askings were paid for.
    first, second = (server.message(params, None)["usage"] for params in server.params)
    assert reply.usage.input == first["input_tokens"] + second["input_tokens"]


def test_a_wrong_key_stops_at_the_first_question(server: MockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "another"
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    claude = replier(server)
    with pytest.raises(AnnotationError, match=r"refused the key .*Check ANTHROPIC_API_KEY.*are kept") as caught:
        ask_all(claude, questions(20))
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in repr(claude.endpoint)


def test_an_unknown_model_is_named_with_a_near_one(server: MockServer) -> None:
    server.models = {MODEL}
    with pytest.raises(AnnotationError, match=r"has no model 'claude-hiku-4-5'.*Did you mean 'claude-haiku-4-5'"):
        ask_all(replier(server, "claude-hiku-4-5"), questions(20))
    assert len(server.requests) == 1


def test_a_spent_account_stops_and_keeps_what_is_answered(server: MockServer, tmp_path: Path) -> None:
    server.credit = 10
    path = tmp_path / "replies.jsonl"
    asked = questions(40)
    with pytest.raises(AnnotationError, match=r"no money left.*Add credit"):
        ask_all(replier(server, concurrency=4), asked, path=path)
    kept = read_replies(path)
    assert 10 <= len(kept) <= 14
    server.credit = None
    assert len(ask_all(replier(server), asked, path=path)) == 40
    assert server.answered.total() == 40


def test_no_network_stops() -> None:
    with MockServer() as gone:
        url = gone.url
    with pytest.raises(StoppedError, match=r"127\.0\.0\.1.*the connection broke.*reachable"):
        ask_all(ClaudeReplier(MODEL, base_url=url), questions(20))


def test_a_network_that_goes_keeps_what_is_answered(server: MockServer, tmp_path: Path) -> None:
    server.script = lambda params, _: "drop" if len(server.answered) >= 15 else None
    path = tmp_path / "replies.jsonl"
    with pytest.raises(StoppedError, match=rf"no answer {STOP_AFTER} times in a row|no answer \d+ times in a row"):
        ask_all(replier(server, concurrency=4, retries=1), questions(60), path=path)
    assert sum(reply.failure is None for reply in read_replies(path).values()) >= 15


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnnotationError, match=r"no key for Claude.*ANTHROPIC_BASE_URL.*--annotator offline"):
        ClaudeReplier()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "localhost:8080")
    with pytest.raises(UsageError, match="is no address of a server"):
        ClaudeReplier()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://localhost:8080")
    local = ClaudeReplier("qwen3")
    assert local.version == "qwen3@localhost:8080"
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert ClaudeReplier().version == ClaudeReplier().model


def test_a_key_in_a_servers_words_is_hidden(
    server: MockServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "local-secret-0123456789")
    server.key = "x"
    with pytest.raises(AnnotationError) as caught:
        ask_all(replier(server), questions(1), path=tmp_path / "replies.jsonl")
    assert "0123456789" not in str(caught.value)
    assert "0123456789" not in (tmp_path / "replies.jsonl").read_text()


def test_max_cost_is_never_passed_and_the_next_run_goes_on(server: MockServer, tmp_path: Path) -> None:
    asked = questions(60)
    path = tmp_path / "replies.jsonl"
    claude = replier(server, concurrency=16, max_cost=0.01)
    with pytest.raises(BudgetError, match=r"--max-cost 0\.01.*larger --max-cost: nothing is asked twice") as caught:
        ask_all(claude, asked, path=path)
    error = caught.value
    assert error.spent == claude.spent <= 0.01
    left = cost(most_usage(asked[0], Wire()), MODEL)
    assert error.spent > 0.01 - 1.1 * left  # what is left would not pay for one more at its dearest
    assert error.done == len(read_replies(path)) < error.total == 60
    assert len(ask_all(replier(server, max_cost=5.0), asked, path=path)) == 60
    assert set(server.asked.values()) == {1}


def test_max_cost_needs_a_price_and_must_be_above_zero(server: MockServer) -> None:
    with pytest.raises(UsageError, match=r"needs a known price, and none is known for 'qwen3'"):
        replier(server, "qwen3", max_cost=1.0)
    with pytest.raises(UsageError, match="above 0"):
        replier(server, max_cost=0.0)
    with pytest.raises(UsageError, match="concurrency"):
        replier(server, concurrency=0)


def test_the_most_that_a_question_can_cost_is_more_than_it_costs(server: MockServer) -> None:
    for question in (
        questions(1)[0],
        questions(1, size=2000)[0],
        questions(1)[0].model_copy(update={"text": "漢字" * 900}),
    ):
        most = most_usage(question, Wire())
        used = only(ask_all(replier(server), [question])).usage
        assert most.cache_write >= used.input + used.cache_write
        assert most.output >= used.output


def test_a_model_without_forced_tools_is_told_to_use_one(server: MockServer) -> None:
    server.forced_tool = False
    replies = ask_all(replier(server, "some-model"), questions(5))
    assert all(reply.failure is None for reply in replies.values())
    assert all(reply.cost is None for reply in replies.values())
    assert len(server.requests) == 6  # one refusal, learned for all
    assert "categorise" in server.params[0]["system"][-1]["text"]
    known = ask_all(replier(server, "claude-sonnet-5-5"), questions(5))
    assert len(known) == 5
    assert len(server.requests) == 11


def test_what_is_learned_from_a_refusal() -> None:
    wire = Wire(thinking="disabled", effort="low")
    assert wire.adapted("thinking.type.disabled is not supported").thinking is None  # type: ignore[union-attr]
    assert wire.adapted("output_config.effort: no").effort is None  # type: ignore[union-attr]
    assert wire.adapted("messages: too long") is None
    sent = request(questions(1)[0], "m", Wire(thinking="between_tools", extra_tokens=7))
    assert (sent["thinking"], sent["max_tokens"]) == ({"type": "between_tools"}, 307)


def test_odd_replies_of_other_servers_are_read() -> None:
    question = questions(1)[0]
    value = {"category": "A.01", "reason": "r", "confidence": 0.5}

    def read(block: dict[str, Any]) -> Any:
        return read_message({"content": [{"type": "thinking"}, block], "stop_reason": "end_turn"}, question)

    assert read({"type": "tool_use", "name": "categorise", "input": json.dumps(value)}).value == value
    assert read({"type": "text", "text": json.dumps(value)}).value == value
    assert read({"type": "tool_use", "name": "other", "input": value}).value is None
    assert read({"type": "tool_use", "name": "categorise", "input": [1]}).value is None
    assert "unreadable" in read_message("<html>", question).failure


def test_closing_early_stops_asking(server: MockServer) -> None:
    server.latency = 0.05
    replies = replier(server, concurrency=2).ask(questions(100))
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    count = len(server.requests)
    time.sleep(0.2)
    assert len(server.requests) <= count + 2
    assert not any(thread.name == "questions" for thread in threading.enumerate())


def test_it_works_inside_a_running_loop(server: MockServer) -> None:
    import asyncio

    async def notebook() -> int:
        return len(ask_all(replier(server), questions(3)))

    assert asyncio.run(notebook()) == 3


def test_a_schema_that_cannot_be_checked_is_refused_before_anything_is_paid(server: MockServer) -> None:
    bad = questions(1)[0].model_copy(update={"schema_": SCHEMA | {"dependencies": {}}})
    with pytest.raises(ValueError, match="dependencies"):
        ask_all(replier(server), [bad])
    assert not server.requests


def test_notes_about_models() -> None:
    assert model_note(MODEL) is None
    assert "ends on" in str(model_note("claude-sonnet-4-5"))
    assert "Did you mean 'claude-opus-4-8'?" in str(model_note("claude-opus-48"))


def test_importing_the_replier_does_not_import_the_sdk() -> None:
    code = "import sys, modeldiff_eval.claude, modeldiff_eval.claude_batch; sys.exit('anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_replies_come_while_others_are_still_under_way(server: MockServer) -> None:
    server.latency = 0.03
    asked = [len(server.requests) for _ in replier(server, concurrency=2).ask(questions(20))]
    assert asked[0] < 20
    assert asked[-1] == 20


@pytest.mark.parametrize("headers", [True, False])
def test_the_rate_limit_is_kept_to(server: MockServer, headers: bool) -> None:
    server.rate, server.burst, server.headers, server.latency = 60.0, 20, headers, 0.02
    replies = ask_all(replier(server), questions(120 if headers else 50))
    assert all(reply.failure is None for reply in replies.values())
    if headers:
        refused = sum(r["status"] == 429 for r in server.requests)
        assert refused <= 40  # one burst before the limit was known to bite
