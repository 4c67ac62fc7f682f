"""Replies are kept as they come, never asked for twice, and asked for again where they failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from asking import questions

from modeldiff_eval.ask import Question, Reply, ask_all, read_replies, reply_key
from modeldiff_eval.errors import AnnotationError, OutputError


class Echo:
    """Answers backwards; fails where it is told to, and stops after ``stop`` replies."""

    name = "echo"
    paid = False

    def __init__(self, version: str = "1", *, fail: tuple[str, ...] = (), stop: int | None = None) -> None:
        self.version, self.fail, self.stop = version, fail, stop
        self.asked: list[str] = []
        self.closed = False

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        try:
            for i, question in enumerate(reversed(questions)):
                if i == self.stop:
                    raise AnnotationError("no money")
                self.asked.append(question.digest)
                bad = question.digest in self.fail
                value = None if bad else {"text": question.text}
                yield Reply(question=question.digest, replier="echo", value=value, failure="broken" if bad else None)
        finally:
            self.closed = True


def test_replies_are_found_by_question_and_not_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "replies.jsonl", questions(5)
    first = ask_all(Echo(), asked, path=path)
    assert {digest: reply.value for digest, reply in first.items()} == {q.digest: {"text": q.text} for q in asked}
    again = Echo()
    assert ask_all(again, [*asked, *questions(7)[5:]], path=path).items() >= first.items()
    assert len(again.asked) == 2


def test_failures_and_other_versions_are_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "replies.jsonl", questions(4)
    bad = asked[1].digest
    assert ask_all(Echo(fail=(bad,)), asked, path=path)[bad].failure == "broken"
    again = Echo()
    assert ask_all(again, asked, path=path)[bad].failure is None
    assert again.asked == [bad]
    newer = Echo("2")
    ask_all(newer, asked, path=path)
    assert len(newer.asked) == 4


def test_a_replier_that_stops_keeps_what_it_answered(tmp_path: Path) -> None:
    path, asked = tmp_path / "replies.jsonl", questions(6)
    with pytest.raises(AnnotationError, match="no money"):
        ask_all(Echo(stop=4), asked, path=path)
    assert len(read_replies(path)) == 4
    again = Echo()
    assert len(ask_all(again, asked, path=path)) == 6
    assert len(again.asked) == 2


def test_a_torn_line_is_cut_off_and_asked_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "replies.jsonl", questions(3)
    ask_all(Echo(), asked, path=path)
    path.write_bytes(path.read_bytes()[:-20])
    again = Echo()
    ask_all(again, asked, path=path)
    assert len(again.asked) == 1
    assert len(read_replies(path)) == path.read_bytes().count(b"\n") == 3


def test_an_error_outside_closes_the_replier(tmp_path: Path) -> None:
    echo = Echo()

    def broken(done: int, total: int) -> None:
        assert done < 2, "the caller fails"

    with pytest.raises(AssertionError, match="the caller fails"):
        ask_all(echo, questions(5), on_progress=broken)
    assert echo.closed
    with pytest.raises(OutputError, match="Cannot"):
        ask_all(Echo(), questions(1), path=tmp_path)


def test_repeats_and_everything_that_is_said_count_but_not_what_it_is_about() -> None:
    question = questions(1)[0]
    same = question.model_copy(update={"about": "else"})
    assert Question(**same.model_dump()).digest == question.digest
    for change in ({"repeat": 1}, {"text": "x"}, {"system": "x"}, {"tool": "x"}, {"max_tokens": 1}, {"schema_": {}}):
        assert Question(**question.model_dump() | change).digest != question.digest
    assert reply_key(Echo("1"), question) != reply_key(Echo("2"), question)
