"""Run lm-eval benchmarks on one loaded model, task by task, with a cache of our own.

lm-eval's own caches are never used: their keys ignore the model (responses) and the metadata (requests). A run that was
stopped goes on with the task that it was at.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modeldiff_eval.backoff import is_out_of_memory, let_go
from modeldiff_eval.benchmark_guard import Progress, generators_kept, progress_bars, quiet, seed_everything
from modeldiff_eval.benchmark_lm_eval import task_samples
from modeldiff_eval.benchmark_logs import TaskLog, jsonable, write_results, write_samples
from modeldiff_eval.benchmark_samples import Samples
from modeldiff_eval.benchmark_tasks import first_line, load_tasks, set_fewshot, task_key
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.store import fingerprint, read_kept, write_kept

_log = logging.getLogger(__name__)

_FORMAT = 2


def run_benchmarks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    model_key: str,
    cache_dir: Path | None,
    log_dir: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    cluster_by: str | None = None,
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
        tasks: names of tasks, groups or tags (the packaged ones, or any of lm-eval's whose data is at hand), or paths of
            task files.
        model_key: what identifies the weights; results are cached under it.
        cache_dir: folder of the results, one file a task; ``None`` keeps none.
        log_dir: where the samples of every task are written when it is done, in lm-eval's layout.
        limit: only the first documents of each task.
        num_fewshot: examples before each question; ``None`` leaves it to the task.
        cluster_by: a field of the documents that those which belong together share.
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
    with quiet(verbose), generators_kept():
        loaded = load_tasks(tasks)
        caveats = set_fewshot(loaded, num_fewshot)
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
        done, total, lm, logs, fitting = 0, sum(sizes.values()), None, list[TaskLog](), batch_size
        for name, task in loaded:
            path = None
            if cache_dir is not None:
                path = cache_dir / f"{name}-{fingerprint({**shared, 'task': task_key(task)})}.json"
            log = _read_cache(path)
            if log is None:
                report = _scaled(on_progress, done, sizes[name], total)
                while log is None:
                    lm = lm or _wrap(model, tokenizer, fitting)
                    try:
                        log = _run_one(lm, name, task, limit=limit, seed=seed, chat=chat, on_progress=report)
                    except _TooLarge as error:
                        lm, fitting = None, _halved(fitting, name, str(error))
                if path is not None:
                    write_kept(path, log.model_dump(mode="json"))
            if log_dir is not None:
                write_samples(log_dir, log)
            logs.append(log)
            done += sizes[name]
            if on_progress is not None:
                on_progress(done, total)
    if log_dir is not None:
        write_results(log_dir, logs)
    scored = [
        task_samples(
            log.task, results=log.results, n=log.n, config=log.config, samples=log.samples, version=log.version,
            fewshot=log.fewshot, cluster_by=cluster_by,
        )
        for log in logs
    ]  # fmt: skip
    return Samples(source=f"lm-eval {version('lm_eval')}", tasks=scored, caveats=caveats)


def _run_one(
    lm: Any, name: str, task: Any, *, limit: int | None, seed: int, chat: bool, on_progress: Progress | None
) -> TaskLog:
    """Score one loaded task."""
    from lm_eval.evaluator import evaluate

    task.set_fewshot_seed(seed=seed)
    seed_everything(seed)
    with progress_bars(on_progress):
        try:
            results = evaluate(
                lm=lm,
                task_dict={"tasks": {name: task}},
                limit=limit,
                bootstrap_iters=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise _TooLarge(first_line(error)) from None
            raise EvidenceError(
                f"lm-eval failed on the task {name!r}: {first_line(error)}. Leave it out or fix it."
            ) from error
    asked = results["n-shot"].get(name)
    return TaskLog(
        task=name,
        results=jsonable(results["results"][name]),
        n=results["n-samples"][name]["effective"],
        config=jsonable(results["configs"][name]),
        version=str(results["versions"].get(name)),
        fewshot=asked if isinstance(asked, int) else None,
        samples=jsonable(results["samples"][name]),
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
    _log.warning("%s: out of memory with batches of %d (%s). Going on with %d.", task, batch, reason, batch // 2)
    let_go()
    return batch // 2


def _wrap(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The model as lm-eval wants it. The tokenizer is copied because a padding token may be added to it."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend="causal", batch_size=batch_size)


def _read_cache(path: Path | None) -> TaskLog | None:
    """A cached result; ``None`` when it is absent or broken (then it is made again)."""
    found = read_kept(path) if path else None
    try:
        return None if found is None else TaskLog.model_validate(found)
    except ValidationError:
        return None


def _scaled(on_progress: Progress | None, before: int, size: int, total: int) -> Progress | None:
    """Progress of one task's requests as documents of all tasks."""
    if on_progress is None:
        return None
    return lambda done, of: on_progress(before + (done * size) // max(of, 1), total)
