"""Three hundred questions, a fifth of the replies broken, and a run that is killed three times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from asking import counted_as, questions
from mock_messages import MockServer

from modeldiff_eval.ask import read_replies

TESTS = Path(__file__).parent
COUNT = 300
CHILD = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from asking import questions
from modeldiff_eval.ask import ask_all
from modeldiff_eval.claude import ClaudeReplier
from modeldiff_eval.claude_batch import ClaudeBatchReplier
kind, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
if kind == "live":
    replier = ClaudeReplier("claude-haiku-4-5", base_url=url, timeout=1.0, concurrency=8)
else:
    replier = ClaudeBatchReplier(
        "claude-haiku-4-5", base_url=url, path=folder / "batches.jsonl", poll=0.05, most_requests=40
    )
ask_all(replier, questions({COUNT}), path=folder / "replies.jsonl")
"""


def start(kind: str, server: MockServer, folder: Path) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return subprocess.Popen([sys.executable, "-c", CHILD, kind, server.url, str(folder)], env=env)


def answered(path: Path) -> set[str]:
    """Questions (as the server counts them) with a good reply on the disk."""
    good = {reply.question for reply in read_replies(path).values() if reply.failure is None}
    return {counted_as(q) for q, key in zip(questions(COUNT), keys(path.parent), strict=True) if key in good}


def keys(folder: Path) -> list[str]:
    from modeldiff_eval.ask import reply_key
    from modeldiff_eval.claude import ClaudeReplier

    url = (folder / "url").read_text()
    replier = ClaudeReplier("claude-haiku-4-5", base_url=url)
    return [reply_key(replier, question) for question in questions(COUNT)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "batch"])
def test_nothing_finished_is_asked_twice(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "replies.jsonl"
    spoil = ["errored", "expired", "missing", "wrong", "refusal", "too_long", "no_tool", "canceled"]
    with MockServer(
        faults=0.2 if kind == "live" else 0.0,
        seed=5,
        latency=0.03,
        slow_seconds=1.5,
        batch_polls=4,
        batch_fault=lambda name: spoil[int(name[:4], 16) % 8] if int(name[4:8], 16) % 5 == 0 else None,
    ) as server:
        (tmp_path / "url").write_text(server.url)
        finished: list[tuple[int, set[str]]] = []
        for stop_at in (40, 120, 200):
            run = start(kind, server, tmp_path)
            deadline = time.monotonic() + 120
            while len(read_replies(path)) < stop_at and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert run.poll() is None, "the run ended before it was killed"
            run.send_signal(signal.SIGKILL)
            run.wait()
            finished.append((len(server.requests), answered(path)))
        last = start(kind, server, tmp_path)
        assert last.wait(timeout=240) == 0

        # Every question ends answered or named as failed.
        kept = read_replies(path)
        assert len(kept) == COUNT
        good = answered(path)
        failures = [reply.failure for reply in kept.values() if reply.failure is not None]
        assert len(good) + len(failures) == COUNT
        assert all(failures)
        # What lay on the disk at a kill was never asked for again.
        for index, done in finished:
            later = {request["digest"] for request in server.requests[index:]}
            assert not later & done
        assert [len(done) > 0 for _, done in finished] == [True] * 3
        # And on the whole: a question is asked again only where it was under way, or its answer was broken.
        asked = Counter(request["digest"] for request in server.requests if request["digest"])
        faults = Counter(r["digest"] for r in server.requests if r["digest"] and r["fault"])
        under_way = 3 * 8 if kind == "live" else 0
        twice = [digest for digest, count in asked.items() if count > 1 + faults[digest]]
        if kind == "live":
            assert len(twice) <= under_way
        print(
            f"\n{kind}: {len(good)} answered, {len(failures)} failed, {sum(asked.values())} requests, {len(twice)} twice"
        )
