"""A batch on a local Ray of two workers: the same cards, and a worker killed in mid-stage costs nothing but its time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_pair import perturbed

from modeldiff_eval import batch_run
from modeldiff_eval.batch import named_pairs
from modeldiff_eval.batch_ray import RETRIES, OnRay, on_ray
from modeldiff_eval.batch_run import run_batch
from modeldiff_eval.errors import MissingDependencyError, WorkerError


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'modeldiff-eval\[ray\]'"), on_ray():
        pass


def test_the_core_does_not_import_ray() -> None:
    import subprocess

    code = "import sys, modeldiff_eval.batch_run, modeldiff_eval.compare_cli, modeldiff_eval.batch_ray; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def engine() -> Iterator[OnRay]:
    pytest.importorskip("ray")
    with on_ray(workers=2) as found:
        yield found


@pytest.mark.slow
def test_stages_wait_for_each_other_and_a_lost_worker_is_replaced(engine: OnRay, tmp_path: Path) -> None:
    # Functions within this one travel by value: the workers do not know this file.
    def first() -> int:
        return 20

    def dies_once(number: int, marker: Path) -> int:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number + 1

    def dies(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fails(_: int) -> None:
        raise ZeroDivisionError("by hand")

    number = engine.submit("first", first)
    tasks = {
        "once": engine.submit("once", dies_once, number, tmp_path / "marker"),
        "always": engine.submit("always", dies, number),
        "fails": engine.submit("fails", fails, number),
    }
    found = dict(engine.finished(tasks))
    assert found["once"] == 21
    assert isinstance(found["fails"], ZeroDivisionError)
    assert isinstance(found["always"], WorkerError)
    assert f"died {RETRIES + 1} times" in str(found["always"])


def test_no_ray_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(**options: Any) -> None:
        raise ConnectionError(f"nothing listens at {options['address']}.")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(WorkerError, match=r"Cannot start with Ray at 127\.0\.0\.1:1: nothing listens"),
        on_ray("127.0.0.1:1"),
    ):
        pass


def children() -> dict[int, int]:
    """Every process of this machine with its parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    return found


def is_ours(pid: int, parents: dict[int, int]) -> bool:
    """Whether this very test started ``pid``, directly or not."""
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = parents.get(pid, 0)
    return False


def holder(cache: Path, name: str) -> int | None:
    """Our process that makes the crosscoder of ``name`` in the cache: the one that holds its lock."""
    parents = children()
    for pid in parents:
        try:
            open_files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if any(file == str(cache / "crosscoders" / f"{name}.lock") for file in open_files) and is_ours(pid, parents):
            return pid
    return None


class Killer(threading.Thread):
    """Kills the worker that trains the first crosscoder, once it has trained for a moment."""

    def __init__(self, cache: Path) -> None:
        super().__init__(daemon=True)
        self.cache, self.killed = cache, dict[str, Any]()

    def run(self) -> None:
        until = time.monotonic() + 900
        while time.monotonic() < until and not self.killed:
            for log in (self.cache / "crosscoders").glob("*.partial/training.jsonl"):
                pid = holder(self.cache, log.parent.name.removesuffix(".partial"))
                if pid is not None and log.stat().st_size:
                    harvests = {p.name: p.stat().st_mtime_ns for p in (self.cache / "activations").glob("*/meta.json")}
                    os.kill(pid, signal.SIGKILL)
                    self.killed = {"pid": pid, "folder": log.parent.name, "harvests": harvests}
                    return
            time.sleep(0.05)


@pytest.mark.slow(minutes=4)
def test_a_worker_killed_in_mid_stage_is_replaced_and_goes_on_from_the_cache(
    base_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_local: Callable[..., Any]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(batch_run, "finish", lambda done, root: ({}, []))
    tuned = [f"{name}={perturbed(base_model, tmp_path / name, seed=seed)}" for name, seed in (("one", 3), ("two", 4))]
    flags = {
        "base": str(base_model), "corpus": (str(text),), "rollouts": 0, "tasks": ("none",), "method": "batchtopk", "latents": 64, "k": 4,
        "steps": 150, "batch": 256, "null_tokens": 0, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "device": "cpu",
    }  # fmt: skip
    pairs = named_pairs([*tuned, f"absent={tmp_path}/absent"], flags)
    cache = tmp_path / "cache"
    killer = Killer(cache)
    killer.start()
    with on_ray(workers=2) as engine:
        report = run_batch(pairs, str(tmp_path / "out"), cache=cache, executor=engine)
    assert killer.killed, "no worker was killed: this test has proved nothing"
    assert [(p.name, p.state, p.error) for p in report.pairs[:2]] == [("one", "done", None), ("two", "done", None)]
    assert report.pairs[2].state == "failed"
    assert "There is no model at" in str(report.pairs[2].error)
    later = {path.name: path.stat().st_mtime_ns for path in (cache / "activations").glob("*/meta.json")}
    assert (
        killer.killed["harvests"].items() <= later.items()
    )  # What was harvested before the kill was not harvested again.
    assert not (cache / "crosscoders" / killer.killed["folder"]).exists()
    alone = run_local(pairs[:1], tmp_path / "alone", tmp_path / "own-cache")
    assert alone.pairs[0].headline == report.pairs[0].headline


@pytest.fixture
def run_local() -> Callable[..., Any]:
    from modeldiff_eval.executor import Local
    from modeldiff_eval.progress import Reporter

    return lambda pairs, out, cache: run_batch(pairs, str(out), cache=cache, executor=Local(Reporter()))
