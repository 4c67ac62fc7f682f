"""Two Ray workers beside one, on four pairs that keep one thread busy for at least 20 seconds each; start-up not counted.

Run it alone: ``pytest tests/benchmarks/test_ray.py -o addopts= -s``. It needs two cores that nobody else uses.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tiny_pair import perturbed, save_corpus

from modeldiff_eval.batch import Pair, named_pairs
from modeldiff_eval.batch_ray import on_ray
from modeldiff_eval.batch_stages import Outcome, Text, run_pair

SECONDS = 20.0
FASTER = 1.6


def pairs_of(base: Path, corpus: Path, folder: Path, *, steps: int, n: int) -> list[Pair]:
    flags = {
        "base": str(base), "corpus": (str(corpus),), "rollouts": 0, "tasks": ("none",), "method": "batchtopk", "latents": 2048, "k": 16,
        "steps": steps, "batch": 1024, "null_tokens": 0, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1,
        "device": "cpu", "annotator": "offline",
    }  # fmt: skip
    return named_pairs([f"t{i}={perturbed(base, folder / f't{i}', seed=20 + i)}" for i in range(n)], flags)


def seconds_of(pairs: list[Pair], folder: Path, workers: int) -> tuple[float, list[float]]:
    """Wall seconds of all stages, once every worker has loaded its libraries; and each stage's own."""
    with on_ray(workers=workers) as engine:

        def warm(number: int) -> int:
            import time

            from modeldiff_eval import batch_stages

            time.sleep(2)  # So that each worker gets one.
            return number + bool(batch_stages)

        list(engine.finished({str(i): engine.submit("warm", warm, i) for i in range(workers)}))
        start = time.monotonic()
        tasks = {
            pair.name: engine.submit(
                pair.name, run_pair, pair, Text(), None, str(folder / pair.name), folder / pair.name, folder / "cache"
            )
            for pair in pairs
        }
        ended: list[Outcome] = [outcome for _, outcome in engine.finished(tasks)]
        wall = time.monotonic() - start
    assert [outcome.error for outcome in ended] == [None] * len(pairs)
    return wall, [outcome.seconds for outcome in ended]


@pytest.mark.slow
def test_two_workers_are_faster_than_one(base_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    corpus = save_corpus(tmp_path / "text.jsonl", documents=90, seed=5)
    steps, n = 400, 4
    one, own = seconds_of(pairs_of(base_model, corpus, tmp_path, steps=steps, n=n), tmp_path / "one", 1)
    two, both = seconds_of(pairs_of(base_model, corpus, tmp_path, steps=steps, n=n), tmp_path / "two", 2)
    print(
        f"\none worker {one:.1f} s (stages {own}), two workers {two:.1f} s (stages {both}): {one / two:.2f} times as fast"
    )
    assert min(own) >= SECONDS
    assert one / two >= FASTER
