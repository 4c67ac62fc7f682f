"""``modeldiff-eval lm-eval`` and ``tasks-dir``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from modeldiff_eval.errors import ModelDiffError
from modeldiff_eval.resources import resource


def add_harness_commands(app: typer.Typer) -> None:
    """Put both commands into an application. lm-eval parses its own arguments, ``--help`` among them."""
    foreign = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("tasks-dir")(tasks_dir)
    app.command("lm-eval", context_settings=foreign)(lm_eval)


def tasks_dir() -> None:
    """Print the folder of our lm-eval tasks, for lm_eval --include_path."""
    print(resource("tasks"))


def lm_eval(context: typer.Context) -> None:
    """lm-eval with our tasks added; takes lm-eval's own arguments."""
    raise typer.Exit(evaluate(context.args))


def evaluate(argv: Sequence[str]) -> int:
    """``lm-eval`` with the packaged tasks added to those it finds; returns its exit code.

    lm-eval 0.4.13 takes only one --include_path and knows no entry points, so its task manager is given our folder beside the
    user's, which comes last and wins.
    """
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    from modeldiff_eval.benchmark_samples import COMPARISON

    ours = str(resource("tasks"))
    stock = lm_eval.tasks.TaskManager

    class WithPackagedTasks(stock):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, include_path: Any = None, **settings: Any) -> None:
            given = include_path if isinstance(include_path, list | tuple) else [include_path] if include_path else []
            others = [path for path in given if os.path.realpath(path) != os.path.realpath(ours)]
            super().__init__(*args, include_path=[ours, *others], **settings)

        def load(self, task_list: Any) -> Any:
            # A pair that cannot be compared is refused before the benchmarks run, not after.
            loaded = super().load(task_list)
            first = sorted(loaded["tasks"].items(), key=lambda item: item[1].OUTPUT_TYPE != COMPARISON)
            return {**loaded, "tasks": dict(first)}

    arguments = sys.argv
    lm_eval.tasks.TaskManager = WithPackagedTasks
    sys.argv = ["lm-eval", *argv]
    try:
        cli_evaluate()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ModelDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        sys.argv = arguments
        lm_eval.tasks.TaskManager = stock
    return 0
