"""Run lm-eval benchmarks on one loaded model, task by task, with a cache of our own.

lm-eval's own caches are never used: their keys ignore the model (responses) and the metadata (requests).
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from modeldiff_eval.backoff import is_out_of_memory, let_go
from modeldiff_eval.benchmark_samples import Samples, TaskSamples, task_samples
from modeldiff_eval.errors import EvidenceError, did_you_mean
from modeldiff_eval.resources import resource
from modeldiff_eval.store import file_hash, fingerprint, read_kept, write_kept

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

SMOKE = "modeldiff_smoke"
"""The group of all packaged benchmarks."""
_FORMAT = 1


def tasks_dir() -> Path:
    """The folder of the packaged lm-eval tasks, for ``lm_eval --include_path``."""
    return resource("tasks")


def run_benchmarks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    model_key: str,
    cache_dir: Path | None,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    apply_chat_template: bool = True,
    on_progress: Progress | None = None,
    verbose: bool = False,
) -> Samples:
    """Score one model on lm-eval tasks.

    Args:
        model: a loaded transformers (or PEFT) causal model, on its device.
        tokenizer: its tokenizer; it is copied, never changed.
        tasks: names of tasks, groups or tags: the packaged ones, or any of lm-eval's whose data is at hand.
        model_key: what identifies the weights; results are cached under it.
        cache_dir: folder of the results, one file a task; ``None`` keeps none.
        limit: only the first documents of each task.
        batch_size: documents a batch; halved where memory runs out, which changes results by rounding at most.
        seed: for lm-eval's few-shot sampling; the global generators are restored afterwards.
        apply_chat_template: ask through the tokenizer's chat template, if it has one.
        on_progress: called with (documents done, documents in all), cached ones included.
        verbose: let lm-eval talk.

    Returns:
        The samples of every task, sorted by name.

    Raises:
        EvidenceError: a task is unknown, its data cannot be loaded, or lm-eval failed on it.
    """
    with _quiet(verbose), _generators_kept():
        loaded = load_tasks(tasks)
        caveats = []
        chat = apply_chat_template and getattr(tokenizer, "chat_template", None) is not None
        if apply_chat_template and not chat:
            caveats.append("The tokenizer has no chat template; the benchmarks were asked as plain text.")
        shared = {
            "format": _FORMAT,
            "model": model_key,
            "template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest() if chat else None,
            "lm_eval": version("lm_eval"),
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
        }
        sizes = {
            name: len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs)) for name, task in loaded
        }
        done, total, lm, out, fitting = 0, sum(sizes.values()), None, list[TaskSamples](), batch_size
        for name, task in loaded:
            path = None
            if cache_dir is not None:
                path = cache_dir / f"{name}-{fingerprint({**shared, 'task': _task_key(task)})}.json"
            scored = _read_cache(path)
            if scored is None:
                report = _scaled(on_progress, done, sizes[name], total)
                while scored is None:
                    lm = lm or _wrap(model, tokenizer, fitting)
                    try:
                        scored = _run_one(lm, name, task, limit=limit, seed=seed, chat=chat, on_progress=report)
                    except _TooLarge as error:
                        lm, fitting = None, _halved(fitting, name, str(error))
                if path is not None:
                    write_kept(path, scored.model_dump(mode="json"))
            out.append(scored)
            done += sizes[name]
            if on_progress is not None:
                on_progress(done, total)
    return Samples(source=f"lm-eval {version('lm_eval')}", tasks=out, caveats=caveats)


def load_tasks(names: Sequence[str]) -> list[tuple[str, Any]]:
    """Loaded lm-eval tasks by name, groups and tags expanded, sorted, each once.

    Raises:
        EvidenceError: a name is unknown, is our own ``modeldiff``, or its data cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    folder = str(tasks_dir())
    manager = TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=folder)
    found: dict[str, Any] = {}
    for name in names:
        if name == "modeldiff":
            raise EvidenceError("modeldiff compares two models and is no benchmark; leave it out of the tasks.")
        if name not in manager.task_index:
            hint = did_you_mean(name, manager.all_tasks)
            raise EvidenceError(f"lm-eval knows no task {name!r}.{hint} `modeldiff-eval lm-eval ls tasks` lists them.")
        try:
            found.update(manager.load([name])["tasks"])
        except Exception as error:
            raise EvidenceError(
                f"The data of the task {name!r} cannot be loaded: {_first_line(error)}. It may need a network; "
                f"{SMOKE} is packaged and needs none."
            ) from error
    return sorted(found.items())


def _run_one(
    lm: Any, name: str, task: Any, *, limit: int | None, seed: int, chat: bool, on_progress: Progress | None
) -> TaskSamples:
    """Score one loaded task."""
    from lm_eval.evaluator import evaluate

    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)
    _seed(seed)
    with _progress(on_progress):
        try:
            results = evaluate(
                lm=lm, task_dict={"tasks": {name: task}}, limit=limit, bootstrap_iters=0, apply_chat_template=chat
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise _TooLarge(_first_line(error)) from None
            raise EvidenceError(
                f"lm-eval failed on the task {name!r}: {_first_line(error)}. Leave it out or fix it."
            ) from error
    return task_samples(
        name,
        results=results["results"][name],
        n=results["n-samples"][name]["effective"],
        config=results["configs"][name],
        samples=results["samples"][name],
    )


class _TooLarge(Exception):
    """A batch of documents did not fit in memory."""


def _halved(batch: int, task: str, reason: str) -> int:
    """Half a batch, for which the task is asked again.

    Raises:
        EvidenceError: it was a single document.
    """
    if batch == 1:
        raise EvidenceError(
            f"The task {task!r} runs out of memory with one document at a time ({reason}). Leave it out, or use --device cpu."
        )
    log.warning("%s: out of memory with batches of %d (%s). Going on with %d.", task, batch, reason, batch // 2)
    let_go()
    return batch // 2


def _wrap(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The model as lm-eval wants it. The tokenizer is copied because a padding token may be added to it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch_size)


def _task_key(task: Any) -> dict[str, Any]:
    """What a task's result depends on: its settings, the code they name, and the documents."""
    config = copy.deepcopy(task.dump_config())
    if isinstance(config.get("metadata"), dict):
        config["metadata"].pop("config_source", None)
    code = sorted({file_hash(Path(file)) for value in vars(task.config).values() if (file := _source_file(value))})
    documents = hashlib.sha256()
    for document in task.eval_docs:
        documents.update(json.dumps(document, sort_keys=True, default=str).encode())
    settings = re.sub(r" at 0x[0-9a-f]+", "", json.dumps(config, sort_keys=True, default=str))
    return {"settings": settings, "code": code, "documents": documents.hexdigest()}


def _source_file(value: Any) -> str | None:
    """The file that defines a function, for functions."""
    return inspect.getsourcefile(value) if inspect.isfunction(value) else None


def _read_cache(path: Path | None) -> TaskSamples | None:
    """A cached result; ``None`` when it is absent or broken (then it is made again)."""
    found = read_kept(path) if path else None
    try:
        return None if found is None else TaskSamples.model_validate(found)
    except ValidationError:
        return None


def _scaled(on_progress: Progress | None, before: int, size: int, total: int) -> Progress | None:
    """Progress of one task's requests as documents of all tasks."""
    if on_progress is None:
        return None
    return lambda done, of: on_progress(before + (done * size) // max(of, 1), total)


class _Bar:
    """Stands in for lm-eval's progress bars: silent, and tells ``on_progress`` of those that count requests."""

    def __init__(self, on_progress: Progress | None, items: Any = None, *, total: int | None = None, **_: Any) -> None:
        self._items, self._total, self._done = items, total, 0
        self._tell = on_progress if items is None else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items or ())

    def update(self, n: int = 1) -> None:
        self._done += n
        if self._tell is not None and self._total:
            self._tell(self._done, self._total)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def _progress(on_progress: Progress | None) -> Iterator[None]:
    """Replace lm-eval's progress bars."""

    def bar(items: Any = None, **settings: Any) -> _Bar:
        return _Bar(on_progress, items, **settings)

    bars = [module for name, module in sys.modules.items() if name.startswith("lm_eval.") and hasattr(module, "tqdm")]
    modules: list[Any] = [module for module in bars if inspect.isclass(module.tqdm)]
    before = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = bar
    try:
        yield
    finally:
        for module, original in zip(modules, before, strict=True):
            module.tqdm = original


def _seed(seed: int) -> None:
    """Seed the global generators that lm-eval's tasks may use."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Put the global generators back afterwards, whatever lm-eval does with them."""
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Only errors from lm-eval and its libraries, unless ``verbose``."""
    names = () if verbose else ("lm_eval", "transformers", "datasets")
    with ExitStack() as stack:
        for name in names:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
