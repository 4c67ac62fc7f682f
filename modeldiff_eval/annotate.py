"""Annotation: what a latent's top examples are shown to, what comes back, and how no answer is ever lost.

An :class:`Annotator` reads :class:`Evidence` and yields one :class:`Annotation` for each, in order.
:func:`annotate_all` runs any of them: each answer is appended to ``annotations.jsonl`` as it comes, and a second run
asks only for what is missing or has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from modeldiff_eval.annotation import Annotation, Annotator, Evidence, Excerpt, annotation_key, context_span
from modeldiff_eval.errors import AnnotationError, OutputError, UsageError, did_you_mean
from modeldiff_eval.taxonomy import Taxonomy

ANNOTATORS = ("offline", "claude")
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
        with _appender(path, sync_seconds=0.0 if annotator.paid else 1.0) as append:
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
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror or error}.") from error
    found: dict[str, Annotation] = {}
    for line in raw.split(b"\n"):
        with contextlib.suppress(ValidationError):
            annotation = Annotation.model_validate_json(line)
            found[annotation.key] = annotation
    return found


def get_annotator(name: str, taxonomy: Taxonomy, **options: Any) -> Annotator:
    """An annotator by name: ``"offline"``, with the options of ``annotate_offline.OfflineAnnotator``.

    Raises:
        UsageError: unknown name or option, or an annotator that this release does not have.
        MissingDependencyError: the annotator's weights are not installed.
    """
    if name == "offline":
        from modeldiff_eval.annotate_offline import OfflineAnnotator

        known = ("background", "embedder", "max_tokens", "on_progress")
        for option in options:
            if option not in known:
                raise UsageError(
                    f"The offline annotator has no option {option!r}.{did_you_mean(option, known)} "
                    f"Its options: {', '.join(known)}."
                )
        return OfflineAnnotator(taxonomy, **options)
    if name == "claude":
        raise UsageError(
            "The Claude annotator is not part of this release; it comes later. "
            "Use --annotator offline, which needs no key and no network."
        )
    raise UsageError(f"Unknown annotator {name!r}.{did_you_mean(name, ANNOTATORS)} Use --annotator offline.")


@contextlib.contextmanager
def _appender(path: Path | None, *, sync_seconds: float) -> Iterator[Callable[[Annotation], None]]:
    """A function that appends annotations to ``path`` and flushes them to the disk at least each ``sync_seconds``."""
    if path is None:
        yield lambda annotation: None
        return
    file = _open_after_last_line(path)
    last = time.monotonic()

    def append(annotation: Annotation) -> None:
        nonlocal last
        try:
            file.write(json.dumps(annotation.model_dump(), ensure_ascii=False, allow_nan=False).encode() + b"\n")
            if time.monotonic() - last >= sync_seconds:
                _sync(file)
                last = time.monotonic()
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}. Finished answers are kept.") from error

    try:
        yield append
    finally:
        try:
            _sync(file)
        finally:
            file.close()


def _open_after_last_line(path: Path) -> IO[bytes]:
    """Open for appending; what stands after the last line break is the torn end of a crash and is cut off."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        file.seek(0)
        raw = file.read()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            file.truncate(whole)
        return file
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"Cannot write {path}: {why}. Choose a writable folder with --out.") from error


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
