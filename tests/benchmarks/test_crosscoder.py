"""Training speed, memory and quality beside sae-lens and dictionary-learning, in one run on the same rows.

``pytest tests/benchmarks/test_crosscoder.py --benchmark-only -m "slow or not slow" -s`` prints the ratios. The rows are real
activations of the demo's pair where the embedded model is installed; that also is what the tool is for. ``unrelated``
pairs each row with another token's, so that the screening of close models cannot help.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
import torch
from torch import Tensor

from modeldiff_eval.train import normaliser

sys.path.insert(0, str(Path(__file__).parent))
BATCH, K = 2048, 64
FVE_STEPS = 160
SECONDS: dict[tuple[str, int], float] = {}


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    import os

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)
    for D in sorted({D for _, D in SECONDS}):
        own = SECONDS.get(("ours", D))
        if own:
            print(f"\nD = {D:,}: ours {own:.3f} s a step, {BATCH / own:,.0f} tokens/s")
            for (name, size), seconds in SECONDS.items():
                if size == D and name != "ours":
                    print(f"  {name:28} {seconds:.3f} s, {seconds / own:.2f} × ours")


@pytest.fixture(scope="module")
def split(embedded_model: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """Paired activations [tokens, 2, 576] of training and of held-out documents, the training ones shuffled."""
    from modeldiff_eval import activations as acts
    from modeldiff_eval import workspace as ws
    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.resources import resource
    from modeldiff_eval.settings import make_settings

    tuned = str(resource("demo/adapters/simpo"))
    flags = {"base": "embedded", "tuned": tuned, "tokens": 60_000, "rollouts": 0}
    settings, _ = make_settings(flags, environ={})
    work = ws.open_workspace(settings, cache=tmp_path_factory.mktemp("cache"), reporter=Reporter())
    corpus = ws.gather_text(work)
    both = [ws.harvest_role(work, corpus, role) for role in ("base", "tuned")]
    kept = acts.keep_tokens(corpus, [m.norms for m in both], bos=work.tokenizer.bos_token_id)
    train, heldout = acts.split_rows(corpus, kept)
    paired = acts.PairedRows(both)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return paired(train)[order], paired(heldout)


@pytest.fixture(scope="module")
def rows(split: tuple[Tensor, Tensor]) -> Tensor:
    """[8 · BATCH, 2, 576]: eight batches as training would draw them."""
    return split[0][: 8 * BATCH]


def _measure(benchmark: object, name: str, D: int, step: peers.Step, rows: Tensor) -> None:
    batches = rows.split(BATCH)  # type: ignore[no-untyped-call]
    turn = iter(range(1000))
    for _ in range(4):
        step(batches[next(turn) % len(batches)])
    benchmark.pedantic(lambda: step(batches[next(turn) % len(batches)]), rounds=8, iterations=1)  # type: ignore[attr-defined]
    SECONDS[name, D] = benchmark.stats.stats.median  # type: ignore[attr-defined]


@pytest.mark.parametrize("D", [8192, 32_768])
@pytest.mark.parametrize("name", list(peers.CONTENDERS))
def test_step(benchmark: object, name: str, D: int, rows: Tensor, request: pytest.FixtureRequest) -> None:
    if name != "ours" and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    benchmark.group = f"step D={D}"  # type: ignore[attr-defined]
    step = peers.CONTENDERS[name](D, K, *normaliser(rows), steps=10_000, lr=1e-3)
    _measure(benchmark, name, D, step, rows)


@pytest.mark.parametrize("D", [8192, 32_768])
def test_step_ours_unrelated(benchmark: object, D: int, rows: Tensor) -> None:
    benchmark.group = f"step D={D}"  # type: ignore[attr-defined]
    other = torch.stack([rows[:, 0], rows[torch.randperm(len(rows)), 1]], 1)
    _measure(benchmark, "ours, unrelated halves", D, peers.ours(D, K, *normaliser(other), steps=10_000, lr=1e-3), other)


@pytest.mark.parametrize("D", [8192, 32_768])
def test_encoder_product(benchmark: object, D: int, rows: Tensor) -> None:
    """The bf16 product of all inputs with all encoder weights: the yardstick of a step."""
    benchmark.group = f"step D={D}"  # type: ignore[attr-defined]
    x = rows[:BATCH].flatten(1).bfloat16()
    W = torch.randn(D, x.shape[1]).bfloat16()
    out = torch.empty(BATCH, D, dtype=torch.bfloat16)
    torch.mm(x, W.T, out=out)
    benchmark.pedantic(lambda: torch.mm(x, W.T, out=out), rounds=6)  # type: ignore[attr-defined]
    SECONDS["encoder product alone", D] = benchmark.stats.stats.median  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e-3, 2e-3, 4e-3])
@pytest.mark.parametrize("name", list(peers.CONTENDERS))
def test_fve_after_equal_tokens(benchmark: object, name: str, lr: float, split: tuple[Tensor, Tensor]) -> None:
    """Held-out fve of both models together after the same batches; a library's best learning rate is the one to compare."""
    if name != "ours" and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    benchmark.group = "fve after equal tokens"  # type: ignore[attr-defined]
    train, heldout = split
    mean, scale = normaliser(train)
    step = peers.CONTENDERS[name](4096, 32, mean, scale, steps=FVE_STEPS, lr=lr)
    batches = train.split(BATCH)[: len(train) // BATCH]  # type: ignore[no-untyped-call]

    def run() -> None:
        for number in range(FVE_STEPS):
            step(batches[number % len(batches)])

    benchmark.pedantic(run, rounds=1)  # type: ignore[attr-defined]
    fve = peers.heldout_fve(step, heldout, mean, scale)
    benchmark.extra_info.update(fve=fve, lr=lr, tokens=FVE_STEPS * BATCH)  # type: ignore[attr-defined]
    print(f"\nfve after {FVE_STEPS * BATCH:,} tokens, lr {lr:g}, {name}: {fve:.4f}")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(peers.CONTENDERS))
def test_peak_memory(benchmark: object, name: str) -> None:
    """Peak memory of a process that takes three steps at D = 32,768, less that of one that only makes the rows."""
    benchmark.group = "peak memory D=32768"  # type: ignore[attr-defined]

    def peak(*args: str) -> float:
        out = subprocess.run([sys.executable, __file__, *args], check=True, capture_output=True, text=True)
        return float(json.loads(out.stdout.splitlines()[-1]))

    megabytes = benchmark.pedantic(lambda: peak(name) - peak("nothing"), rounds=1)  # type: ignore[attr-defined]
    benchmark.extra_info["megabytes"] = megabytes  # type: ignore[attr-defined]
    print(f"\npeak memory, {name}: {megabytes:,.0f} MB")


def main(name: str) -> None:
    """The subprocess of :func:`test_peak_memory`: prints its peak memory in MB."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(BATCH, 576, generator=g)
    rows = torch.stack([first, first + 0.1 * torch.randn(BATCH, 576, generator=g)], 1)
    for module in ("sae_lens", "modeldiff_eval.train_step"):
        __import__(module)
    if name != "nothing":
        step = peers.CONTENDERS[name](32_768, K, *normaliser(rows), steps=10_000, lr=1e-3)
        for _ in range(3):
            step(rows)
    # Not getrusage: a process inherits that figure from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps(int(status["VmHWM"].split()[0]) / 1024))


if __name__ == "__main__":
    main(sys.argv[1])
