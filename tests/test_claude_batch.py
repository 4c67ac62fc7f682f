"""Batches: partial failures, kills at the worst moments, money, and that nothing is submitted twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import counted_as, questions
from mock_messages import MockServer

from modeldiff_eval.ask import ask_all, read_replies
from modeldiff_eval.claude import ClaudeReplier
from modeldiff_eval.claude_batch import ClaudeBatchReplier
from modeldiff_eval.claude_batch_file import BatchFile
from modeldiff_eval.claude_errors import BudgetError, StoppedError
from modeldiff_eval.errors import AnnotationError, OutputError

MODEL = "claude-haiku-4-5"


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.005)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer() as running:
        yield running


def replier(server: MockServer, folder: Path, **more: Any) -> ClaudeBatchReplier:
    return ClaudeBatchReplier(MODEL, path=folder / "batches.jsonl", base_url=server.url, poll=0.01, **more)


def test_all_are_answered_at_half_the_price(server: MockServer, tmp_path: Path) -> None:
    asked = questions(25)
    said: list[str] = []
    claude = replier(server, tmp_path, most_requests=10, on_wait=said.append)
    replies = ask_all(claude, asked)
    assert all(reply.failure is None for reply in replies.values())
    assert [len(batch["requests"]) for batch in server.batches.values()] == [10, 10, 5]
    assert said[0].startswith("3 batches with 25 questions")
    live = ClaudeReplier(MODEL, base_url=server.url)
    assert (live.name, live.version) == (claude.name, claude.version)
    again = ask_all(live, asked)
    for digest, reply in replies.items():
        assert again[digest].value == reply.value
    tokens = next(r for r in replies.values() if r.usage.cache_read == again[r.question].usage.cache_read)
    assert tokens.cost == pytest.approx(again[tokens.question].cost / 2)  # type: ignore[operator]


def test_submissions_keep_to_a_size(server: MockServer, tmp_path: Path) -> None:
    ask_all(replier(server, tmp_path, most_bytes=5000), questions(20))
    sizes = [len(json.dumps([r["params"] for r in b["requests"]])) for b in server.batches.values()]
    assert len(sizes) > 3
    assert max(sizes) < 5500


def test_partial_failures_are_asked_again_and_only_they(server: MockServer, tmp_path: Path) -> None:
    asked = questions(12)
    kinds = ["errored", "expired", "canceled", "missing", "wrong", "refusal", "too_long", "no_tool"]
    spoil = {asked[i].digest: kind for i, kind in enumerate(kinds)}
    server.batch_fault = lambda name: spoil.get(name[:16])
    path = tmp_path / "replies.jsonl"
    replies = ask_all(replier(server, tmp_path), asked, path=path)
    failures = [str(replies[asked[i].digest].failure) for i in range(8)]
    for failure, words in zip(
        failures,
        (
            "(api_error: Internal",
            "(expired)",
            "(canceled)",
            "missing",
            "wrong reply: category",
            "refused",
            "cut off",
            "no call",
        ),
        strict=True,
    ):
        assert words in failure
    assert all(replies[question.digest].failure is None for question in asked[8:])
    server.batch_fault = None
    again = ask_all(replier(server, tmp_path), asked, path=path)
    assert all(reply.failure is None for reply in again.values())
    counts = [server.asked[counted_as(question)] for question in asked]
    assert counts == [2] * 8 + [1] * 4


@pytest.mark.parametrize("kept", [0, 4])
def test_a_run_that_is_killed_takes_its_batches_up_again(server: MockServer, tmp_path: Path, kept: int) -> None:
    """Killed while waiting, or in the middle of the results."""
    asked = questions(9)
    path = tmp_path / "replies.jsonl"
    server.batch_polls = 1

    def killed(*_: Any) -> None:
        raise Killed

    first = replier(server, tmp_path, on_wait=None if kept else killed)
    with pytest.raises(Killed):
        ask_all(first, asked, path=path, on_progress=lambda done, _: killed() if kept and done == kept else None)
    assert len(read_replies(path)) == kept
    replies = ask_all(replier(server, tmp_path), asked, path=path)
    assert len(replies) == 9
    assert len(server.batches) == 1
    with BatchFile(tmp_path / "batches.jsonl", first.version) as file:
        assert not file.open_batches()


def test_a_run_that_is_killed_before_it_knows_the_id_finds_its_batch(
    server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions(9)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BatchFile, "submitted", killed)
        with pytest.raises(Killed):
            ask_all(replier(server, tmp_path), asked)
    assert len(server.batches) == 1
    assert len(ask_all(replier(server, tmp_path), asked)) == 9
    assert len(server.batches) == 1


def test_a_run_that_is_killed_before_it_submits_submits_later(
    server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchFile(tmp_path / "batches.jsonl", replier(server, tmp_path).version) as file:
        file.intend([question.digest for question in questions(9)])
    assert len(ask_all(replier(server, tmp_path), questions(9))) == 9
    assert len(server.batches) == 1


@pytest.mark.parametrize("fault", ["drop", "error", "overloaded", "rate"])
def test_trouble_while_submitting_does_not_submit_twice(server: MockServer, tmp_path: Path, fault: str) -> None:
    server.script = [fault]
    replies = ask_all(replier(server, tmp_path), questions(9))
    assert all(reply.failure is None for reply in replies.values())
    assert len(server.batches) == 1


def test_another_batch_in_the_place_of_ours_answers_nothing(server: MockServer, tmp_path: Path) -> None:
    """Adopting goes by age and size; the names of the requests decide."""
    ask_all(ClaudeBatchReplier(MODEL, path=tmp_path / "other.jsonl", base_url=server.url, poll=0.01), questions(9))
    path = tmp_path / "replies.jsonl"
    with BatchFile(tmp_path / "batches.jsonl", replier(server, tmp_path).version) as file:
        file.intend([question.digest for question in questions(9, size=41)])
    replies = ask_all(replier(server, tmp_path), questions(9, size=41), path=path)
    assert {reply.failure for reply in replies.values()} == {"another batch was found in the place of this one"}
    replies = ask_all(replier(server, tmp_path), questions(9, size=41), path=path)
    assert all(reply.failure is None for reply in replies.values())


def test_max_cost_holds_for_batches(server: MockServer, tmp_path: Path) -> None:
    asked = questions(60)
    path = tmp_path / "replies.jsonl"
    claude = replier(server, tmp_path, max_cost=0.004)
    with pytest.raises(BudgetError) as caught:
        ask_all(claude, asked, path=path)
    assert 0 < caught.value.spent == claude.spent <= 0.004
    assert 0 < caught.value.done == len(read_replies(path)) < 60
    assert len(ask_all(replier(server, tmp_path, max_cost=1.0), asked, path=path)) == 60
    assert set(server.asked.values()) == {1}


def test_a_lost_batch_is_an_error_and_never_paid_for_again(server: MockServer, tmp_path: Path) -> None:
    with BatchFile(tmp_path / "batches.jsonl", replier(server, tmp_path).version) as file:
        file.submitted(file.intend([question.digest for question in questions(3)]), "msgbatch_gone")
    with pytest.raises(AnnotationError, match=r"does not have a batch of this run.*29 days.*delete .*batches\.jsonl"):
        ask_all(replier(server, tmp_path), questions(3))
    assert not server.batches


def test_errors_say_what_to_do(server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "right"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "wrong-key-0123456789")
    with pytest.raises(AnnotationError, match="refused the key") as caught:
        ask_all(replier(server, tmp_path), questions(3))
    assert "0123456789" not in str(caught.value) + (tmp_path / "batches.jsonl").read_text()
    server.key, server.script = None, ["error"] * 9
    with pytest.raises(StoppedError, match="500: Not now"):
        ask_all(replier(server, tmp_path, retries=2), questions(3))
    with pytest.raises(OutputError, match="Cannot"):
        ask_all(replier(server, tmp_path / "batches.jsonl"), questions(3))


def test_torn_lines_and_other_models_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    with BatchFile(path, "one") as file:
        batch = file.submitted(file.intend(["a", "b"]), "id-1")
    with path.open("a") as torn:
        torn.write('{"token": "x", "vers')
    with BatchFile(path, "two") as file:
        assert not file.open_batches()
        file.intend(["c"])
    with BatchFile(path, "one") as file:
        assert file.open_batches() == [batch.model_copy(update={"questions": ("a", "b")})]
        assert not file.intents()
