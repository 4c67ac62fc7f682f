"""lm-eval's tasks: found by name, tag, group or YAML file, with the few-shot count that is asked for."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import EvidenceError, did_you_mean
from modeldiff_eval.resources import resource
from modeldiff_eval.store import file_hash

SMOKE = "modeldiff_smoke"
"""The group of all packaged benchmarks."""


def tasks_dir() -> Path:
    """The folder of the packaged lm-eval tasks, for ``lm_eval --include_path``."""
    return resource("tasks")


def load_tasks(names: Sequence[str], *, data: bool = True) -> list[tuple[str, Any]]:
    """Loaded lm-eval tasks, groups and tags expanded, sorted by name, each once.

    Args:
        names: tasks, groups or tags by name, or paths of task files (``mine/task.yaml``). A task file may run code.
        data: load them with their documents; otherwise only the names are looked at, and nothing is returned.

    Raises:
        EvidenceError: a name is unknown, is our own ``modeldiff``, or its data cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    folder = str(tasks_dir())
    manager = TaskManager(include_path=folder, include_defaults=False)
    files = {name for name in names if is_task_file(name)}
    if any(name not in manager.all_tasks for name in names if name not in files):
        manager = TaskManager(include_path=folder)
    found: dict[str, Any] = {}
    for name in names:
        if name == "modeldiff":
            raise EvidenceError("modeldiff compares two models and is no benchmark; leave it out of the tasks.")
        if name in files and not Path(name).expanduser().is_file():
            raise EvidenceError(
                f"There is no task file {name}. Pass the path of an lm-eval task's YAML, or a task's name."
            )
        if name not in files and name not in manager.task_index:
            hint = did_you_mean(name, manager.all_tasks)
            raise EvidenceError(f"lm-eval knows no task {name!r}.{hint} `modeldiff-eval lm-eval ls tasks` lists them.")
        if not data:
            continue
        try:
            found.update(manager.load([str(Path(name).expanduser().resolve()) if name in files else name])["tasks"])
        except Exception as error:
            what = "task file" if name in files else "data of the task"
            raise EvidenceError(
                f"The {what} {name!r} cannot be loaded: {first_line(error)}. It may need a network; "
                f"{SMOKE} is packaged and needs none."
            ) from error
    return sorted(found.items())


def is_task_file(name: str) -> bool:
    """Whether a task is named by its file."""
    return name.endswith((".yaml", ".yml"))


def set_fewshot(tasks: Sequence[tuple[str, Any]], num_fewshot: int | None) -> list[str]:
    """Give every task its few-shot count: ``num_fewshot``, else its own, else 0. As in lm-eval, a task that says 0 stays at 0.

    Returns:
        Caveats about tasks that did not get what was asked for.
    """
    fixed = []
    for name, task in tasks:
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own == 0 and num_fewshot != 0:
            fixed.append(name)
        elif num_fewshot is not None or own is None:
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
    if not fixed:
        return []
    return [f"{num_fewshot} few-shot examples were asked for; these tasks allow none: {', '.join(fixed)}."]


def task_key(task: Any) -> dict[str, Any]:
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


def first_line(error: Exception) -> str:
    """What kind of error it was, and how its message begins."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
