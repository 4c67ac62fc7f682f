"""Kills a whole run at random moments and starts it again: ``python kill_driver.py FOLDER KILLS SEED``; prints JSON.

Everything is imported once; each run is a fork of this process, so that a kill falls into the run and not into imports.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import tiny_pair  # noqa: E402
from tiny_run import ByHash  # noqa: E402

from modeldiff_eval import activations, analysis, contrast, diff, train  # noqa: E402
from modeldiff_eval.cache_entries import entries, fault  # noqa: E402
from modeldiff_eval.errors import MissingDependencyError  # noqa: E402

PRELOADED = ("modeldiff_eval", "lm_eval", "pandas", "pyarrow", "scipy", "sklearn", "statsmodels", "jinja2", "datasets")
"""Not torch's own modules: some of them start its threads, and a fork of a process with threads cannot compute."""


def prepare(folder: Path) -> dict[str, Any]:
    """Two tiny models, text, and a run with everything in it but the sentence encoder and the PDF, which would take minutes."""
    base = tiny_pair.save_model(folder / "base", seed=0)
    tuned = tiny_pair.perturbed(base, folder / "tuned", seed=1)
    text = tiny_pair.save_corpus(folder / "text.jsonl", documents=90, seed=5)
    module = importlib.import_module("modeldiff_eval.diff")

    def no_encoder(max_tokens: int) -> Any:
        raise MissingDependencyError("Not here.")

    module.render = functools.partial(module.render, formats=("html", "md"))  # type: ignore[attr-defined]
    activations.BLOCK_BYTES = 1024 * 32 * 4
    analysis.get_annotator = lambda *_, **__: ByHash()  # type: ignore[attr-defined]
    contrast.SentenceEmbedder = no_encoder  # type: ignore[misc,assignment]
    return {
        "base": str(base), "tuned": str(tuned), "corpus": (str(text),), "rollouts": 0, "latents": 64, "k": 4, "steps": 80,
        "batch": 128, "draws": 100, "tasks": ("mdx_format",), "task_limit": 4, "null_tokens": 4000, "device": "cpu",
        "max_length": 128, "dtype": "float32", "layer": 1,
    }  # fmt: skip


def run(options: dict[str, Any], out: Path, cache: Path) -> int:
    """A fork that makes the whole run; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
            train.CHECKPOINT_MINUTES = 0.0  # As often as saving may cost.
            diff(**options, out=out, cache=cache)
        Path(f"{out}.modules").write_text("\n".join(sys.modules))
        code = 0
    except BaseException:
        Path(f"{out}.err").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def import_all(names: list[str]) -> None:
    """Import what a finished run had imported, so that the next forks need not."""
    for name in names:
        if name not in sys.modules and name.startswith(PRELOADED):
            with contextlib.suppress(BaseException):
                importlib.import_module(name)


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
    assert os.waitpid(run(options, folder / "first", folder / "first-cache"), 0)[1] == 0, "the first run failed"
    import_all((folder / "first.modules").read_text().split())
    began = time.monotonic()
    assert os.waitpid(run(options, folder / "whole", folder / "whole-cache"), 0)[1] == 0, "the whole run failed"
    seconds = time.monotonic() - began
    wanted = card(folder / "whole")
    assert wanted == card(folder / "first")
    rng, found = random.Random(seed), []
    for number in range(kills):
        out, cache = folder / f"out-{number}", folder / f"cache-{number}"
        at = rng.uniform(0, seconds)
        child = run(options, out, cache)
        time.sleep(at)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        met = moment(out, cache) if os.WIFSIGNALED(status) else "ended before the kill"
        again = os.waitpid(run(options, out, cache), 0)[1]
        left = [str(p) for p in [*out.rglob("*.partial"), *cache.rglob("*.partial")]] if again == 0 else []
        broken = [f"{e.kind}/{e.name}: {why}" for e in entries(cache) if e.state == "finished" and (why := fault(e))]
        found.append(
            {"seconds": round(at, 2), "met": met, "resumed": again == 0, "same": again == 0 and card(out) == wanted,
             "left": left, "broken": broken}
        )  # fmt: skip
    print(json.dumps({"whole_seconds": round(seconds, 2), "kills": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
