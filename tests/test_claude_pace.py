"""The pacer with a clock of its own: hand-worked slots, pauses, and no waiting while much is left."""

from __future__ import annotations

import pytest

from modeldiff_eval.claude_errors import StoppedError
from modeldiff_eval.claude_pace import LIMIT, LONGEST_WAIT, REMAINING, SHARE, Pacer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_waits_before_a_limit_is_known_or_while_much_is_left() -> None:
    pacer = Pacer(10, clock=Clock())
    assert [pacer.slot() for _ in range(50)] == [0.0] * 50
    pacer.observe(200, {LIMIT: "600", REMAINING: "400"})
    assert [pacer.slot() for _ in range(50)] == [0.0] * 50


def test_few_left_means_the_rate_of_filling() -> None:
    pacer = Pacer(10, clock=Clock())
    pacer.observe(200, {LIMIT: "600", REMAINING: "10"})  # 10 a second
    slots = [pacer.slot() for _ in range(4)]
    assert slots == pytest.approx([0, 0.1 / SHARE, 0.2 / SHARE, 0.3 / SHARE])
    pacer.observe(200, {LIMIT: "600", REMAINING: "300"})
    assert pacer.slot() == pacer.slot()


def test_a_refusal_holds_everything_back() -> None:
    clock = Clock()
    pacer = Pacer(10, clock=clock)
    pacer.observe(429, {"retry-after": "7"})
    assert pacer.held() == pytest.approx(7)
    assert pacer.slot() == pytest.approx(7)
    pacer.observe(429, {"retry-after": "2"})
    assert pacer.held() == pytest.approx(7)
    clock.now += 8
    assert pacer.slot() == 0.0
    pacer.observe(429, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})
    assert pacer.held() == pytest.approx(1)


def test_a_wait_of_hours_ends_the_run() -> None:
    with pytest.raises(StoppedError, match="asks to wait for"):
        Pacer(10, clock=Clock()).observe(429, {"retry-after": str(LONGEST_WAIT + 1)})
