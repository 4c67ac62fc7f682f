"""The lm-eval task ``modeldiff``: what the evaluated model changed against its base, in lm-eval's own table.

::

    modeldiff-eval lm-eval --model hf --model_args pretrained=TUNED --metadata base_model=BASE --tasks modeldiff

The evaluated model is the tuned one. One request is sent; it runs one comparison and answers with the shifts of all
classes. Metadata: ``base_model`` (required unless ``card=PATH`` names a finished card.json), and optionally the
settings in :data:`SETTINGS`. This module imports lm-eval, so import it only where lm-eval is wanted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import EvidenceError, ModelDiffError, UsageError
from modeldiff_eval.records import Card, Estimate
from modeldiff_eval.resources import resource
from modeldiff_eval.settings import Settings, make_settings
from modeldiff_eval.stats import Z

REQUEST = "modeldiff"
"""lm-eval's evaluator answers an instance by calling the model's method of this name."""

_NOT_FOR_METADATA = frozenset(
    [
        "base",
        "tuned",
        "device",
        "dtype",
        "tasks",
        "task_limit",
        "benchmarks",
        "arena",
        "arena_style",
        "arena_snapshot",
        "arena_names",
        "thresholds",
        "title",
    ]
)
SETTINGS = frozenset(Settings.model_fields) - _NOT_FOR_METADATA
"""Metadata that is handed on to the comparison: ``layer``, ``tokens``, ``crosscoder``, ``preset`` and the like.

``out`` names the run's folder. Device and precision are those of the evaluated model.
"""

_log = logging.getLogger("lm_eval.modeldiff")


def run_pair(lm: Any, metadata: Mapping[str, Any]) -> Card:
    """Compare the model that lm-eval has loaded with ``metadata["base_model"]``.

    Args:
        lm: lm-eval's model, with the live ``model`` and ``tokenizer``.
        metadata: the task's metadata, which lm-eval merges with its model arguments.
    """
    from modeldiff_eval.diff import diff

    given = {name: value for name, value in metadata.items() if name in SETTINGS}
    for name in ("crosscoder", "corpus", "log_to"):
        if isinstance(given.get(name), str):
            given[name] = (given[name],)
    settings, _ = make_settings(
        {
            "base": str(metadata["base_model"]),
            "tuned": str(metadata.get("peft") or metadata.get("pretrained") or "tuned"),
            "device": lm.device.type,
            "dtype": str(lm.model.dtype).removeprefix("torch."),
            **given,
        },
        environ={},
    )
    settings = settings.model_copy(update={"tasks": ()})  # lm-eval runs the benchmarks, beside this task
    out = Path(str(metadata.get("out", "runs/lm-eval")))
    return diff(settings=settings, out=out, tuned_loaded=(lm.model, lm.tokenizer)).card


def class_shifts(card: Card) -> dict[str, float]:
    """Metrics of a card for lm-eval's table: ``A_diff`` and ``A_diff_stderr`` or ``A_activation``, for every class.

    ``A_diff`` is the class's share of annotated latents, tuned minus base, in percentage points. When one side has no
    annotated latent there is no share, and ``A_activation`` is the percent change of the class's activation mass
    instead. Standard errors are half the 95 % interval over 1.96. What is undefined is left out.

    Raises:
        EvidenceError: the card has neither.
    """
    counted = card.latents.base.annotated > 0 and card.latents.tuned.annotated > 0
    suffix = "diff" if counted else "activation"
    out: dict[str, float] = {}
    for row in card.classes:
        shift = row.diff if counted else row.activation.change if row.activation is not None else None
        if shift is None or shift.value is None or row.verdict == "not covered":
            continue
        name = f"{row.code}_{suffix}"
        out[name] = shift.value
        if (error := _standard_error(shift)) is not None:
            out[f"{name}_stderr"] = error
    if not out:
        raise EvidenceError("The card has no class shift to show: no annotated latents and no activation shifts.")
    return out


def _standard_error(shift: Estimate) -> float | None:
    """From the width of a 95 % interval."""
    if shift.low is None or shift.high is None:
        return None
    return (shift.high - shift.low) / (2 * Z)


def _answer(self: Any, requests: Sequence[Any]) -> list[dict[str, float]]:
    """The method ``modeldiff`` of lm-eval's models: one comparison, the same shifts for every request."""
    metadata = requests[0].args[1]
    if "card" in metadata:
        card = read_card(Path(str(metadata["card"])))
    else:
        if not hasattr(self, "model") or not hasattr(self, "tokenizer"):
            raise UsageError("The task modeldiff looks inside the model; run it with --model hf.")
        if self.world_size > 1:
            raise UsageError("The task modeldiff runs in one process; start lm_eval without accelerate or torchrun.")
        card = run_pair(self, metadata)
    shifts = class_shifts(card)
    kind = (
        "share of annotated latents, points" if any(n.endswith("_diff") for n in shifts) else "activation mass, percent"
    )
    _log.info("modeldiff: class shifts are the change of %s. %s", kind, card.headline)
    return [shifts for _ in requests]


class ModelDiffTask(Task):  # type: ignore[misc]
    """One document, one request, one metric per class. ``config`` is the YAML file with the metadata merged in."""

    VERSION = 1.0
    OUTPUT_TYPE = REQUEST

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        # Task.__init__ would put the whole config into its name and lose the rest.
        settings = {key: value for key, value in (config or {}).items() if key != "class"}
        self._metadata = dict(settings.get("metadata") or {})
        if not self._metadata.get("base_model") and not self._metadata.get("card"):
            raise UsageError(
                "The task modeldiff needs its base: --metadata base_model=ID (or card=PATH of a finished run)."
            )
        self._config = TaskConfig(**settings)
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._training_docs = self._fewshot_docs = self._instances = self.fewshot_rnd = None
        self._shown: list[str] = []
        if not hasattr(LM, REQUEST):
            setattr(LM, REQUEST, _answer)

    def has_training_docs(self) -> bool:
        """There is nothing to learn from."""
        return False

    def has_validation_docs(self) -> bool:
        """There is only a test split."""
        return False

    def has_test_docs(self) -> bool:
        """One document stands for the pair."""
        return True

    def test_docs(self) -> list[dict[str, str]]:
        """The pair, as the only document."""
        return [{"pair": str(self._metadata.get("card") or self._metadata["base_model"])}]

    def doc_to_text(self, doc: Mapping[str, str]) -> str:
        """Shown in lm-eval's logs."""
        return f"against {doc['pair']}"

    def doc_to_target(self, doc: Mapping[str, str]) -> str:
        """There is no right answer."""
        return ""

    def fewshot_context(self, doc: Mapping[str, str], *_: Any, **__: Any) -> str:
        """The document alone, whatever --num_fewshot or the chat template say."""
        return self.doc_to_text(doc)

    def build_all_requests(self, **settings: Any) -> None:
        """As lm-eval, but never from its request cache, whose key ignores the metadata."""
        super().build_all_requests(**{**settings, "cache_requests": False})

    def construct_requests(self, doc: Mapping[str, str], ctx: str, **settings: Any) -> Any:
        """One request. lm-eval's --use_cache leaves request types it does not know alone."""
        return Instance(REQUEST, doc, (ctx, self._metadata), 0, settings.get("metadata", (None, None, None)))

    def process_results(self, doc: Mapping[str, str], results: Sequence[dict[str, float]]) -> dict[str, float]:
        """The shifts. A ``*_stderr`` stands after its metric, so that it replaces lm-eval's "N/A"."""
        self._shown = list(results[0])
        return results[0]

    def aggregation(self) -> dict[str, Callable[[Sequence[float]], float]]:
        """There is one document: its value is the aggregate."""
        return dict.fromkeys(self._shown, _only)

    def higher_is_better(self) -> dict[str, bool]:
        """A shift is neither good nor bad."""
        return {}


def _only(items: Sequence[float]) -> float:
    return items[0]


def cli(argv: Sequence[str]) -> int:
    """``lm-eval`` with the packaged tasks added to those it finds; returns its exit code.

    lm-eval 0.4.13 takes only one --include_path and knows no entry points, so its task manager is given our folder.
    """
    from lm_eval.__main__ import cli_evaluate

    ours = str(resource("tasks"))
    stock = lm_eval.tasks.TaskManager

    class WithPackagedTasks(stock):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, include_path: Any = None, **settings: Any) -> None:
            given = include_path if isinstance(include_path, list | tuple) else [include_path] if include_path else []
            super().__init__(*args, include_path=[ours, *given], **settings)

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
