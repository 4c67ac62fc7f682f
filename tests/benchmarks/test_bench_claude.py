"""The Claude replier's speed and memory against a server on this machine: ``pytest tests/benchmarks --benchmark-only``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from asking import questions  # noqa: E402
from mock_messages import MockServer  # noqa: E402

from modeldiff_eval.ask import ask_all  # noqa: E402
from modeldiff_eval.claude import ClaudeReplier  # noqa: E402

MODEL = "claude-haiku-4-5"
RATE = 50.0


def test_share_of_the_rate_limit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """500 latents, two questions each, at a limit of 50 requests a second and 0.2 s for a reply."""
    asked = questions(1000)
    with MockServer(rate=RATE, burst=50, latency=0.2) as server:
        replier = ClaudeReplier(MODEL, base_url=server.url)
        ask_all(replier, questions(1, size=5))  # imports the SDK, which takes seconds the first time

        def run() -> float:
            began = time.monotonic()
            replies = ask_all(replier, asked, path=tmp_path / "replies.jsonl")
            assert all(reply.failure is None for reply in replies.values())
            # The bucket was full at the start; only what flowed in since then counts as the limit.
            return (len(asked) - server.burst) / (time.monotonic() - began) / RATE

        runner: Any = benchmark
        share = runner.pedantic(run, rounds=1, iterations=1)
        benchmark.extra_info["share"] = round(share, 3)
        benchmark.extra_info["refused"] = sum(r["status"] == 429 for r in server.requests)
    assert share >= 0.9


def test_overhead_per_question(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Processor time of this process per question, the server (another process) not counted, replies kept with fsync."""
    asked = questions(1000, size=400)
    server = subprocess.Popen([sys.executable, str(TESTS / "mock_messages.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        replier = ClaudeReplier(MODEL, base_url=server.stdout.readline().strip())
        ask_all(replier, questions(3, size=5))

        def run() -> float:
            began = time.process_time()
            replies = ask_all(replier, asked, path=tmp_path / "replies.jsonl")
            assert all(reply.failure is None for reply in replies.values())
            return (time.process_time() - began) / len(asked)

        runner: Any = benchmark
        seconds = runner.pedantic(run, rounds=1, iterations=1)
        benchmark.extra_info["ms_per_question"] = round(1000 * seconds, 2)
    finally:
        server.terminate()
        server.wait()
    assert seconds <= 0.005


BATCH = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from asking import questions
from modeldiff_eval.ask import ask_all
from modeldiff_eval.claude_batch import ClaudeBatchReplier
replier = ClaudeBatchReplier("claude-haiku-4-5", path=Path(sys.argv[3]) / "b.jsonl", base_url=sys.argv[2], poll=0.05)
replies = ask_all(replier, questions(10_000, size=1000, system="You sort texts. " * 500))
assert len(replies) == 10_000 and all(r.failure is None for r in replies.values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_of_ten_thousand_batch_requests(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Peak memory of a process that builds, submits and reads 10,000 requests of about 16 kB each."""
    with MockServer() as server:
        command = [sys.executable, "-c", BATCH, str(TESTS), server.url, str(tmp_path)]
        runner: Any = benchmark
        made = runner.pedantic(
            lambda: subprocess.run(command, capture_output=True, text=True, check=True), rounds=1, iterations=1
        )
    peak = int(made.stdout)
    benchmark.extra_info["peak_mb"] = round(peak / 1e6)
    assert peak <= 2**30
