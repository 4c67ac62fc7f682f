"""TensorBoard and Weights & Biases beside a training, by their own libraries.

A tracker gets the lines of ``training.jsonl`` as they are written and decides nothing: results, cache keys and cards are
the same with and without it, and one that fails is warned about once and left.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from modeldiff_eval.errors import MissingDependencyError, SettingsError, UsageError, did_you_mean
from modeldiff_eval.settings import TrackerName
from modeldiff_eval.store import fingerprint

PROJECT = "modeldiff-eval"


@runtime_checkable
class Tracker(Protocol):
    """Something that shows a training while it runs."""

    def start(self, done: int, config: Mapping[str, Any]) -> None:
        """Begin, or go on after ``done`` steps; ``config`` is what the training was asked for."""
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Show the figures of one step."""
        ...

    def stop(self, *, failed: bool) -> None:
        """Close; ``failed`` when the training did not come to its end."""
        ...


def require(names: Iterable[str]) -> None:
    """Prove that the trackers can work, before any long work starts.

    Raises:
        SettingsError: an unknown name.
        MissingDependencyError: the library of one is not installed.
        UsageError: W&B has no account to write to.
    """
    known = get_args(TrackerName)
    for name in names:
        if name not in known:
            raise SettingsError(
                f"There is no tracker {name!r}.{did_you_mean(name, known)} --log-to takes {' or '.join(known)}."
            )
        try:
            module = import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except ImportError as error:
            raise MissingDependencyError(
                f"--log-to {name} needs the library {name} ({error}). Install it: pip install {name}"
            ) from error
        if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
            _log_in(module)


def _log_in(wandb: Any) -> None:
    try:
        wandb.login(verify=False)
    except Exception as error:  # its errors are many; all mean that a run could not be written
        raise UsageError(
            f"--log-to wandb: W&B is not logged in ({str(error).rstrip('.')}). Run wandb login, or set WANDB_MODE=offline."
        ) from error


def trackers(names: Iterable[str], folder: Path, *, key: str, title: str | None = None) -> Tracker:
    """The trackers called ``names``, as one.

    Args:
        names: of :data:`modeldiff_eval.settings.TrackerName`; none is allowed.
        folder: TensorBoard writes to ``tensorboard/<title>`` below it, W&B to ``wandb``.
        key: says which training this is; a resumed one has the same, and its W&B run goes on.
        title: tells several trainings of one folder apart.
    """
    made: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            made["TensorBoard"] = _TensorBoard(folder / name / (title or ""))
        else:
            shown = f"{folder.resolve().name}/{title}" if title else folder.resolve().name
            made["W&B"] = _WandB(folder, shown, fingerprint([key, str(folder.resolve())]))
    return _Guarded(made)


class _Guarded:
    """Several trackers as one that cannot fail."""

    def __init__(self, made: dict[str, Tracker]) -> None:
        self._trackers = made

    def start(self, done: int, config: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.start(done, config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(step, figures))

    def stop(self, *, failed: bool) -> None:
        self._each(lambda tracker: tracker.stop(failed=failed))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever the library raises: it must not cost the training
                del self._trackers[name]
                warnings.warn(
                    f"{name} stopped ({type(error).__name__}: {error}). Training goes on; training.jsonl has all of it.",
                    RuntimeWarning,
                    stacklevel=2,
                )


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, done: int, config: Mapping[str, Any]) -> None:
        # What an earlier process logged after the checkpoint, or another training in this folder, is purged.
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(self._folder), purge_step=done + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def stop(self, *, failed: bool) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, title: str, run_id: str) -> None:
        # What the environment says wins; wandb would let these arguments win.
        ours = {
            "WANDB_PROJECT": ("project", PROJECT), "WANDB_DIR": ("dir", str(folder)), "WANDB_NAME": ("name", title),
            "WANDB_RUN_ID": ("id", run_id), "WANDB_RESUME": ("resume", "allow"),
        }  # fmt: skip
        self._options = {option: value for variable, (option, value) in ours.items() if variable not in os.environ}

    def start(self, done: int, config: Mapping[str, Any]) -> None:
        # A run of the caller's own stays as it is.
        self._run = import_module("wandb").init(config=dict(config), reinit="create_new", **self._options)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def stop(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
