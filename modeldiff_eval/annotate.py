"""Annotation: what a latent's top examples are shown to, what comes back, and how no answer is ever lost.

An :class:`Annotator` reads :class:`Evidence` and yields one :class:`Annotation` for each, in order.
:func:`annotate_all` runs any of them: each answer is appended to ``annotations.jsonl`` as it comes, and a second run
asks only for what is missing or has changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.annotation import Annotation, Annotator, Evidence, Excerpt, annotation_key, context_span
from modeldiff_eval.ask import appending, read_lines
from modeldiff_eval.errors import AnnotationError, UsageError, did_you_mean
from modeldiff_eval.taxonomy import Taxonomy

ANNOTATORS = ("offline", "claude", "local:MODEL", "human:FILE")
__all__ = [
    "Annotation",
    "Annotator",
    "Evidence",
    "Excerpt",
    "annotate_all",
    "annotation_key",
    "context_span",
    "get_annotator",
    "read_annotations",
]

Progress = Callable[[int, int], None]


def annotate_all(
    annotator: Annotator,
    evidence: Sequence[Evidence],
    *,
    path: Path | None = None,
    on_progress: Progress | None = None,
) -> list[Annotation]:
    """Annotate every latent, taking from ``path`` what is already there.

    Each new answer is appended to ``path`` (JSON lines) and flushed: at once for a paid annotator, at least each second
    for a free one. A last line torn by a crash is cut off; lines with another key are left alone and not used; failed
    annotations are asked again. Interrupting loses nothing that was written.

    Args:
        path: ``annotations.jsonl`` of the run, or None to keep nothing.
        on_progress: called with (done, total).

    Returns:
        One annotation for each item of ``evidence``, in its order.

    Raises:
        AnnotationError: the annotator answered out of turn, too often or too rarely.
        OutputError: ``path`` cannot be read or written.
    """
    keys = [annotation_key(annotator, item) for item in evidence]
    known = read_annotations(path) if path is not None else {}
    done: dict[int, Annotation] = {}
    for i, (key, item) in enumerate(zip(keys, evidence, strict=True)):
        old = known.get(key)
        if old is not None and old.failure is None:
            done[i] = old.model_copy(update={"latent": item.latent})
    todo = [i for i in range(len(keys)) if i not in done]
    if on_progress is not None:
        on_progress(len(done), len(keys))
    if todo:
        with appending(path, sync_seconds=0.0 if annotator.paid else 1.0) as append:
            answers = annotator.annotate([evidence[i] for i in todo])
            count = 0
            for annotation in answers:
                if count == len(todo):
                    raise AnnotationError(f"The annotator {annotator.name!r} answered more often than it was asked.")
                i = todo[count]
                if annotation.latent != evidence[i].latent:
                    raise AnnotationError(
                        f"The annotator {annotator.name!r} answered for latent {annotation.latent} "
                        f"when latent {evidence[i].latent} was next; answers must come in order."
                    )
                done[i] = annotation.model_copy(update={"key": keys[i]})
                append(done[i])
                count += 1
                if on_progress is not None:
                    on_progress(len(done), len(keys))
        if count < len(todo):
            raise AnnotationError(f"The annotator {annotator.name!r} answered for {count} of {len(todo)} latents.")
    return [done[i] for i in range(len(keys))]


def read_annotations(path: Path) -> dict[str, Annotation]:
    """All whole annotations of a file by key; the last line of a key counts. Broken lines are skipped.

    Raises:
        OutputError: the file is there and cannot be read.
    """
    return {annotation.key: annotation for annotation in read_lines(path, Annotation)}


def get_annotator(name: str, taxonomy: Taxonomy, **options: Any) -> Annotator:
    """An annotator by name.

    ``"offline"`` has the options of ``annotate_offline.OfflineAnnotator``. ``"claude"`` and ``"local:MODEL"`` have those of
    ``annotate_model.ModelAnnotator`` (``path``, ``repeats``, ``limits``, ``chunk``, ``on_progress``) and of their replier
    (``claude.ClaudeReplier`` or ``local_chat.LocalReplier``; ``batch=True`` takes ``claude_batch.ClaudeBatchReplier``).
    ``"human:FILE"`` has ``fallback``, an annotator for what was not reviewed or None; without it that is the offline
    annotator, with its options.

    Raises:
        UsageError: unknown name or option; a review that cannot be used.
        AnnotationError: no key for Claude.
        ModelError: the local model cannot be loaded.
        MissingDependencyError: the annotator's weights are not installed.
    """
    kind, separator, rest = name.partition(":")
    if name == "offline":
        return _offline(taxonomy, options)
    if name == "claude":
        return _asking(name, taxonomy, _claude(options), options)
    if kind == "local" and separator:
        from modeldiff_eval.local_chat import LocalReplier

        return _asking(name, taxonomy, functools.partial(LocalReplier, rest), options)
    if kind == "human" and separator:
        from modeldiff_eval.annotate_human import HumanAnnotator

        if not rest:
            raise UsageError("No file is named. Write --annotator human:FILE, with the CSV that was reviewed.")
        fallback = options.pop("fallback") if "fallback" in options else _offline(taxonomy, options)
        return HumanAnnotator(taxonomy, Path(rest).expanduser(), fallback=fallback)
    hint = did_you_mean(name, ANNOTATORS) or did_you_mean(kind, ("offline", "claude", "local", "human"))
    raise UsageError(f"Unknown annotator {name!r}.{hint} Use one of: {', '.join(ANNOTATORS)}.")


def require_annotator(
    name: str, taxonomy: Taxonomy, *, model: str | None = None, max_cost: float | None = None
) -> None:
    """Refuse an annotator that cannot work, before any long work starts.

    Raises:
        UsageError: unknown name; a review that cannot be used; a limit for a model without a price.
        AnnotationError: no key for Claude. ModelError: the local model cannot be found or is no chat model.
    """
    kind, separator, rest = name.partition(":")
    if name == "claude":
        from modeldiff_eval.claude import checked_limit
        from modeldiff_eval.claude_endpoint import DEFAULT_MODEL, find_endpoint

        find_endpoint()
        checked_limit(max_cost, model or DEFAULT_MODEL)
    elif kind == "human" and separator and rest:
        from modeldiff_eval.annotate_human import read_review

        read_review(Path(rest).expanduser(), taxonomy)
    elif kind == "local" and separator and rest:
        from modeldiff_eval.local_chat import require_chat

        require_chat(rest)
    elif name != "offline":
        get_annotator(name, taxonomy)


def _offline(taxonomy: Taxonomy, options: dict[str, Any]) -> Annotator:
    from modeldiff_eval.annotate_offline import OfflineAnnotator

    _only_known("offline", options, ("background", "embedder", "max_tokens", "on_progress"))
    return OfflineAnnotator(taxonomy, **options)


def _claude(options: dict[str, Any]) -> Callable[..., Any]:
    """What makes the replier that ``batch`` asks for; its modules are loaded for nothing else.

    Batches are written down in ``batches.jsonl`` beside the replies.
    """
    if not options.pop("batch", False):
        from modeldiff_eval.claude import ClaudeReplier

        return ClaudeReplier
    if (replies := options.get("path")) is None:
        raise UsageError("Batches of Claude need a folder to be written down in; give path, the file of the replies.")
    from modeldiff_eval.claude_batch import ClaudeBatchReplier

    return functools.partial(ClaudeBatchReplier, path=Path(replies).with_name("batches.jsonl"))


def _asking(name: str, taxonomy: Taxonomy, make: Callable[..., Any], options: dict[str, Any]) -> Annotator:
    """An annotator that asks the replier which ``make`` makes."""
    from modeldiff_eval.annotate_model import ModelAnnotator

    asking = set(inspect.signature(ModelAnnotator).parameters) - {"taxonomy", "replier"}
    replying = set(inspect.signature(make).parameters) - asking
    _only_known(name, options, sorted(asking | replying))
    replier = make(**{key: value for key, value in options.items() if key in replying})
    return ModelAnnotator(taxonomy, replier, **{key: value for key, value in options.items() if key in asking})


def _only_known(name: str, options: dict[str, Any], known: Sequence[str]) -> None:
    for option in options:
        if option not in known:
            raise UsageError(
                f"The annotator {name} has no option {option!r}.{did_you_mean(option, known)} "
                f"Its options: {', '.join(known)}."
            )
