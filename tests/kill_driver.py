"""Kills a whole run at random moments and starts it again: ``python kill_driver.py FOLDER KILLS SEED``; prints JSON.

Each run is a process of its own (a fork of one with PyTorch's threads cannot compute). It says when its imports are done, and
the moment counts from there, so that a kill falls into the run and not into imports.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import tiny_pair  # noqa: E402
from tiny_run import ByHash  # noqa: E402

from modeldiff_eval import activations, analysis, contrast, diff, train  # noqa: E402
from modeldiff_eval.cache_entries import entries, fault  # noqa: E402
from modeldiff_eval.errors import MissingDependencyError  # noqa: E402


def prepare(folder: Path) -> dict[str, Any]:
    """Two tiny models, text, and the options of a run with everything in it."""
    base = tiny_pair.save_model(folder / "base", seed=0)
    tuned = tiny_pair.perturbed(base, folder / "tuned", seed=1)
    text = tiny_pair.save_corpus(folder / "text.jsonl", documents=90, seed=5)
    return {
        "base": str(base), "tuned": str(tuned), "corpus": [str(text)], "rollouts": 0, "latents": 64, "k": 4, "steps": 80,
        "batch": 128, "draws": 100, "tasks": ["mdx_format"], "task_limit": 4, "null_tokens": 4000, "device": "cpu",
        "max_length": 128, "dtype": "float32", "layer": 1,
    }  # fmt: skip


def one(options: dict[str, Any], out: Path, cache: Path) -> None:
    """The whole run, without the sentence encoder and the PDF, which would take minutes."""
    module = importlib.import_module("modeldiff_eval.diff")

    def no_encoder(max_tokens: int) -> Any:
        raise MissingDependencyError("Not here.")

    module.render = functools.partial(module.render, formats=("html", "md"))  # type: ignore[attr-defined]
    activations.BLOCK_BYTES = 1024 * 32 * 4
    analysis.get_annotator = lambda *_, **__: ByHash()  # type: ignore[attr-defined]
    contrast.SentenceEmbedder = no_encoder  # type: ignore[misc,assignment]
    train.CHECKPOINT_MINUTES = 0.0  # As often as saving may cost.
    for name in ("lm_eval", "pandas", "sklearn", "statsmodels.api", "datasets"):
        importlib.import_module(name)
    Path(f"{out}.began").touch()
    diff(**{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}, out=out, cache=cache)


def start(options: dict[str, Any], out: Path, cache: Path) -> subprocess.Popen[bytes]:
    """A process that makes the whole run, its imports done."""
    began = Path(f"{out}.began")
    began.unlink(missing_ok=True)
    with Path(f"{out}.err").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, __file__, "--one", json.dumps(options), str(out), str(cache)], stdout=log, stderr=log
        )
    while not began.exists() and child.poll() is None:
        time.sleep(0.01)
    return child


def card(out: Path) -> dict[str, Any]:
    found = json.loads((out / "card.json").read_text())
    found.pop("created")
    return found


def moment(out: Path, cache: Path) -> str:
    """What the kill met: the newest thing that a run was making."""
    partial = sorted(str(p.relative_to(cache)) for p in cache.rglob("*.partial")) if cache.exists() else []
    done = sorted({e.kind for e in entries(cache) if e.state == "finished"}) if cache.exists() else []
    if (out / "card.json").exists():
        return "card written"
    return f"making {partial[0].split('/')[0]}" if partial else f"after {', '.join(done) or 'nothing'}"


def main(folder: Path, kills: int, seed: int) -> None:
    options = prepare(folder)
    child = start(options, folder / "whole", folder / "whole-cache")
    began = time.monotonic()
    assert child.wait() == 0, (folder / "whole.err").read_text()[-2000:]
    seconds = time.monotonic() - began
    wanted = card(folder / "whole")
    rng, found, numbers = random.Random(seed), [], itertools.count()
    while len(found) < kills:
        number = next(numbers)
        out, cache = folder / f"out-{number}", folder / f"cache-{number}"
        at = rng.uniform(0, seconds)
        child = start(options, out, cache)
        time.sleep(at)
        child.kill()
        if child.wait() != -signal.SIGKILL:  # It had ended: no kill, and none is counted.
            continue
        met = moment(out, cache)
        again = start(options, out, cache).wait()
        left = [str(p) for p in [*out.rglob("*.partial"), *cache.rglob("*.partial")]] if again == 0 else []
        broken = [f"{e.kind}/{e.name}: {why}" for e in entries(cache) if e.state == "finished" and (why := fault(e))]
        found.append(
            {"seconds": round(at, 2), "met": met, "resumed": again == 0, "same": again == 0 and card(out) == wanted,
             "left": left, "broken": broken}
        )  # fmt: skip
    print(json.dumps({"whole_seconds": round(seconds, 2), "kills": found}))


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
