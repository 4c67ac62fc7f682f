"""The lm-eval task ``modeldiff``: what the evaluated model changed against its base, in lm-eval's own table.

::

    lm-eval run --model hf --model_args pretrained=TUNED --tasks modeldiff,arc_easy \\
        --metadata base_model=BASE --include_path "$(modeldiff-eval tasks-dir)"

The evaluated model is the tuned one. One request is sent; it runs one comparison and answers with all metrics of
:mod:`modeldiff_eval.harness_metrics`. Metadata (:mod:`modeldiff_eval.harness_run`): ``base_model``, left out with ``peft=`` because
the model with its adapter off is the base; or ``card=PATH`` of a finished run; and settings of the comparison. This module
imports lm-eval, so import it only where lm-eval is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from modeldiff_eval import harness_run
from modeldiff_eval.benchmark_guard import generators_kept
from modeldiff_eval.benchmark_samples import COMPARISON
from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.harness_metrics import card_metrics

REQUEST = COMPARISON
"""lm-eval's evaluator answers an instance by calling the model's method of this name."""

_log = logging.getLogger("lm_eval.modeldiff")


def _answer(self: Any, requests: Sequence[Any]) -> list[dict[str, Any]]:
    """The method ``modeldiff`` of lm-eval's models: one comparison for all requests that ask for the same one."""
    answers: dict[str, dict[str, Any]] = {}
    for metadata in (request.args[1] for request in requests):
        key = harness_run.run_key(metadata)
        if key not in answers:
            with generators_kept():  # Benchmarks that sample must not notice.
                card, path = harness_run.compare(self, metadata)
            metrics = card_metrics(card)
            _log.info("modeldiff: %s The card: %s", card.headline, path.absolute())
            for line in metrics.missing():
                _log.warning("modeldiff: not in the table: %s.", line)
            answers[key] = {"metrics": metrics.values, "absent": metrics.absent, "card": str(path.absolute())}
    return [answers[harness_run.run_key(request.args[1])] for request in requests]


class ModelDiffTask(Task):  # type: ignore[misc]
    """One document, one request, many metrics. ``config`` is the YAML file with the metadata merged in."""

    VERSION = 2.0
    OUTPUT_TYPE = REQUEST

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        # Task.__init__ would put the whole config into its name and lose the rest.
        settings = {key: value for key, value in (config or {}).items() if key != "class"}
        self._metadata = dict(settings.get("metadata") or {})
        self._check()
        self._config = TaskConfig(**settings)
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._training_docs = self._fewshot_docs = self._instances = self.fewshot_rnd = None
        self._result: dict[str, Any] = {"metrics": {}}
        if not hasattr(LM, REQUEST):
            setattr(LM, REQUEST, _answer)

    def _check(self) -> None:
        """What can be known before any model is loaded or benchmark run."""
        for name in harness_run.check_names(self._metadata):
            _log.warning("modeldiff: the metadata %r means nothing to this task.", name)
        if self._metadata.get("card"):
            read_card(Path(str(self._metadata["card"])).expanduser())
        elif "pretrained" in self._metadata and not (self._metadata.get("base_model") or self._metadata.get("peft")):
            raise UsageError(harness_run.needs_base())

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
        other = self._metadata.get("card") or self._metadata.get("base_model") or "itself with the adapter off"
        return [{"pair": str(other)}]

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
        """As lm-eval, but never from its request cache, whose key ignores the metadata, and in one process."""
        harness_run.require_one_process(settings.get("world_size", 1))
        super().build_all_requests(**{**settings, "cache_requests": False, "rewrite_requests_cache": False})

    def construct_requests(self, doc: Mapping[str, str], ctx: str, **settings: Any) -> Any:
        """One request. lm-eval's --use_cache leaves request types it does not know alone."""
        return Instance(REQUEST, doc, (ctx, self._metadata), 0, settings.get("metadata", (None, None, None)))

    def process_results(self, doc: Mapping[str, str], results: Sequence[dict[str, Any]]) -> dict[str, float]:
        """The metrics. A ``*_stderr`` stands after its metric, so that it replaces lm-eval's "N/A"."""
        self._result = results[0]
        return dict(self._result["metrics"])

    def aggregation(self) -> dict[str, Callable[[Sequence[float]], float]]:
        """There is one document: its value is the aggregate."""
        return dict.fromkeys(self._result["metrics"], _only)

    def higher_is_better(self) -> dict[str, bool]:
        """A shift is neither good nor bad."""
        return {}

    def dump_config(self) -> dict[str, Any]:
        """As lm-eval; saved results say in the metadata where the card is and what is undefined, and why."""
        config: dict[str, Any] = super().dump_config()
        found = {name: self._result[name] for name in ("card", "absent") if name in self._result}
        return {**config, "output_type": REQUEST, "metadata": {**self._metadata, **found}}


def _only(items: Sequence[float]) -> float:
    return items[0]
