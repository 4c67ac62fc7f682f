"""What two tuned models of one base cost beside one, in the anchored design, on the demo's models: processor seconds of one thread.

Run it alone: ``pytest tests/benchmarks/test_compare.py -o addopts= -s``; ten minutes on an idle core.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeldiff_eval import batch_run
from modeldiff_eval.batch import named_pairs
from modeldiff_eval.executor import Local
from modeldiff_eval.progress import Reporter
from modeldiff_eval.resources import resource

MOST = 1.6


@pytest.fixture
def tuned(tmp_path: Path) -> dict[str, Path]:
    """The demo's SimPO adapter, and the same at half its strength."""
    simpo, half = Path(resource("demo/adapters/simpo")), tmp_path / "half"
    half.mkdir()
    shutil.copy(simpo / "adapter_config.json", half)
    weights = load_file(simpo / "adapter_model.safetensors")
    weaker = {name: (weight / 2 if "lora_B" in name else weight) for name, weight in weights.items()}
    save_file(weaker, half / "adapter_model.safetensors", metadata={"format": "pt"})
    return {"simpo": simpo, "half": half}


def processor_seconds(tuned: dict[str, Path], folder: Path) -> float:
    """A batch of these models in a cache of its own."""
    flags = {
        "anchor": "embedded", "base": str(resource("demo/adapters/dpo")), "tokens": 8000, "rollouts": 8, "latents": 768, "steps": 80,
        "tasks": ("none",), "null_tokens": 4000,
    }  # fmt: skip
    pairs = named_pairs([f"{name}={path}" for name, path in tuned.items()], flags)
    start = time.process_time()
    report = batch_run.run_batch(pairs, str(folder / "out"), cache=folder / "cache", executor=Local(Reporter()))
    taken = time.process_time() - start
    assert [pair.error for pair in report.pairs] == [None] * len(tuned)
    return taken


@pytest.mark.slow
@pytest.mark.usefixtures("embedded_model")
def test_two_tuned_models_cost_little_more_than_one(
    tuned: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "finish", lambda done, root: ({}, []))
    torch.set_num_threads(1)
    one = processor_seconds({"simpo": tuned["simpo"]}, tmp_path / "one")
    two = processor_seconds(tuned, tmp_path / "two")
    print(f"\none pair {one:.0f} s, two {two:.0f} s: {two / one:.2f} times as much")
    assert two <= MOST * one
