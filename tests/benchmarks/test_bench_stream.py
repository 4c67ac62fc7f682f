"""Harvest and training side by side against the slower of the two alone (pytest tests/benchmarks --benchmark-only).

A round is three blocks in the steady state of a long run, with the embedded model and its packaged fine-tune. "Alone"
means with the threads that each has when they run side by side; ``in_turn`` is the alternative without a background
thread: harvest a block with all threads, then train on it with all threads.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from modeldiff_eval import corpus as corpora
from modeldiff_eval import models
from modeldiff_eval.resources import resource
from modeldiff_eval.stream import StreamedSource
from modeldiff_eval.train import normaliser
from modeldiff_eval.train_step import Trainer, TrainSettings

pytestmark = pytest.mark.usefixtures("embedded_model")

LAYER = 14
BATCH = 2048
BLOCK = 1
"""Batches in a block: one, so that a round has whole blocks and stays short."""
BLOCKS = 3
ROUNDS = 3
LATENTS = 32_768
"""Large, so that a step is not negligible beside the harvest of its rows."""

Setting = tuple[list[models.Loaded], corpora.TokenCorpus]


@pytest.fixture(autouse=True)
def _all_processors() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    cache = tmp_path_factory.mktemp("cache")
    device = models.pick_device(None)
    dtype = models.pick_dtype(None, device)
    sources = models.resolve_all(models.EMBEDDED, str(resource("demo/adapters/simpo")), None)
    pair = [models.load(sources[role], device=device, dtype=dtype, cache=cache) for role in ("base", "tuned")]
    return pair, corpora.tokenise(["packaged"], pair[0].tokenizer, template=None, cache=cache, tokens=60_000)


class Run:
    """One trainer and one source, which go on from round to round."""

    def __init__(self, setting: Setting, threads: int | None = None) -> None:
        pair, corpus = setting
        bos = pair[0].tokenizer.bos_token_id
        self.source = StreamedSource(
            pair,
            corpus,
            layer=LAYER,
            batch=BATCH,
            seed=0,
            bos=bos,
            block_tokens=BLOCK * BATCH,
            harvest_threads=threads,
            train_threads=threads,
        )
        settings = TrainSettings(n_latents=LATENTS, k=64, steps=10_000, batch=BATCH, k_start=1)
        mean, scale = normaliser(self.source.normaliser_sample(BATCH))
        self.trainer = Trainer(settings, mean, scale, device=pair[0].device)
        self.batches: Iterator[torch.Tensor] = self.source.batches(0, 10**9)  # from here on each has its own threads
        self.held = list(itertools.islice(self.batches, 4 * BLOCK))
        self.train(4)
        self.both(1)

    def harvest(self, blocks: int) -> None:
        for _ in itertools.islice(self.batches, blocks * BLOCK):
            pass

    def train(self, blocks: int) -> None:
        for rows in itertools.islice(itertools.cycle(self.held), blocks * BLOCK):
            self.trainer.step(rows)

    def both(self, blocks: int) -> None:
        for rows in itertools.islice(self.batches, blocks * BLOCK):
            self.trainer.step(rows)


def seconds(work: Callable[[int], None]) -> float:
    start = time.perf_counter()
    work(BLOCKS)
    return time.perf_counter() - start


@pytest.mark.benchmark(group="stream")
@pytest.mark.parametrize("threads", ["half", "all"])
def test_side_by_side(benchmark: Any, setting: Setting, threads: str) -> None:
    run = Run(setting, torch.get_num_threads() if threads == "all" else None)
    alone: dict[str, list[float]] = {"harvest": [], "train": []}

    def setup() -> None:
        run.harvest(1)  # ends as the next block is begun
        alone["harvest"].append(seconds(run.harvest))
        time.sleep(alone["harvest"][-1] / BLOCKS)  # by then that block is there, and training is really alone
        alone["train"].append(seconds(run.train))
        run.both(2)  # ends as in the middle of a long run

    benchmark.pedantic(run.both, args=(BLOCKS,), setup=setup, rounds=ROUNDS)
    run.batches.close()  # type: ignore[attr-defined]
    slower = max(min(times) for times in alone.values())
    ratio = benchmark.stats.stats.min / slower
    figures = {name: min(times) for name, times in alone.items()} | {"side_by_side_over_slower": ratio}
    benchmark.extra_info.update(figures, tokens=BLOCKS * BLOCK * BATCH, threads=torch.get_num_threads())
    print("\n" + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))


@pytest.mark.benchmark(group="stream")
def test_in_turn(benchmark: Any, setting: Setting) -> None:
    run = Run(setting)
    run.batches.close()  # type: ignore[attr-defined]  # all threads are back
    places = itertools.cycle(list(run.source._plan.one_pass(0))[:-1])

    def work() -> None:
        for _ in range(BLOCKS):
            block = run.source._harvest(next(places), threading.Event())
            for start in range(0, BLOCK * BATCH, BATCH):
                run.trainer.step(block.take(start, start + BATCH))

    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info.update(tokens=BLOCKS * BLOCK * BATCH, threads=torch.get_num_threads())
