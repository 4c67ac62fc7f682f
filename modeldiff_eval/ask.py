"""Questions to a language model, and how no answer is lost or paid for twice.

A :class:`Question` is plain text and the shape of the wanted answer. A :class:`Replier` (Claude, a local chat model, a
mock) answers many of them, in any order. :func:`ask_all` writes every reply down as it comes and asks, when it runs
again, only what has no valid reply yet::

    replies = ask_all(replier, questions, path=Path("runs/x/replies.jsonl"))
    replies[questions[0].digest].value       # a dict that has the question's schema, or None with a failure
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict, ValidationError

from modeldiff_eval.errors import OutputError
from modeldiff_eval.records import Record
from modeldiff_eval.store import fingerprint

Progress = Callable[[int, int], None]
R = TypeVar("R", bound=Record)


class Question(Record):
    """One question.

    ``system`` is the part that many questions share (what a prompt cache keeps), ``text`` the rest. ``tool`` names the
    answer, ``schema_`` is its JSON schema. ``about`` says in a few words what is asked, for messages. ``repeat`` tells
    repeats of one question apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    about: str
    system: str
    text: str
    tool: str
    schema_: dict[str, Any]
    max_tokens: int = 1024
    repeat: int = 0

    @cached_property
    def digest(self) -> str:
        """Hash (16 hex digits) of everything but ``about``."""
        return fingerprint([self.system, self.text, self.tool, self.schema_, self.max_tokens, self.repeat])


class Usage(Record):
    """Tokens of one reply. ``input`` leaves out what was written to or read from a prompt cache."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0


class Reply(Record):
    """What came back for one question: ``value`` has its schema, or ``failure`` says why there is none.

    ``cost``: US dollars, None where no price is known.
    """

    question: str
    replier: str
    value: dict[str, Any] | None
    failure: str | None
    usage: Usage = Usage()
    cost: float | None = None


@runtime_checkable
class Replier(Protocol):
    """Anything that answers questions. ``version`` names the model and every setting that can change an answer."""

    name: str
    version: str
    paid: bool

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Yield one reply for every question, in any order, as soon as it is known.

        Raises:
            AnnotationError: nothing more can be asked (no key, no money, no such model); replies yielded before count.
        """
        ...


def reply_key(replier: Replier, question: Question) -> str:
    """What a reply is kept under."""
    return fingerprint([replier.name, replier.version, question.digest])


def ask_all(
    replier: Replier,
    questions: Sequence[Question],
    *,
    path: Path | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Reply]:
    """Every question's reply by its digest; those that lie in ``path`` already are not asked again, failed ones are.

    Args:
        path: JSON lines that replies are appended to; each line is on the disk before the next reply is taken.
        on_progress: called with (done, total).

    Raises:
        AnnotationError: from the replier; what was answered before lies in ``path``.
        OutputError: ``path`` cannot be read or written.
    """
    wanted = {question.digest: question for question in questions}
    keys = {reply_key(replier, question): digest for digest, question in wanted.items()}
    done: dict[str, Reply] = {}
    for key, reply in read_replies(path).items() if path else ():
        if (digest := keys.get(key)) and reply.failure is None:
            done[digest] = reply
    todo = [question for digest, question in wanted.items() if digest not in done]
    if on_progress:
        on_progress(len(done), len(wanted))
    if todo:
        with appending(path) as append, contextlib.closing(_generator(replier, todo)) as replies:
            for reply in replies:
                append(reply.model_copy(update={"question": reply_key(replier, wanted[reply.question])}))
                done[reply.question] = reply
                if on_progress:
                    on_progress(len(done), len(wanted))
    return {digest: reply.model_copy(update={"question": digest}) for digest, reply in done.items()}


def _generator(replier: Replier, questions: Sequence[Question]) -> Any:
    """The replier's answers as something that can be closed, so that nothing goes on being asked after an error."""
    yield from replier.ask(questions)


def read_replies(path: Path) -> dict[str, Reply]:
    """All whole replies of a file by key, as :func:`read_lines` reads them."""
    return {reply.question: reply for reply in read_lines(path, Reply)}


def read_lines(path: Path, kind: type[R]) -> list[R]:
    """Every whole record of a file of JSON lines, in order; broken lines are skipped, and a file that is not there has none.

    Raises:
        OutputError: the file is there and cannot be read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror or error}.") from error
    found = []
    for line in raw.split(b"\n"):
        with contextlib.suppress(ValidationError):
            found.append(kind.model_validate_json(line))
    return found


@contextlib.contextmanager
def appending(path: Path | None, *, sync_seconds: float = 0.0) -> Iterator[Callable[[Record], None]]:
    """A function that appends records to ``path``, one JSON line each, on the disk at most ``sync_seconds`` later.

    What stands after the last line break is the torn end of a crash and is cut off.

    Raises:
        OutputError: ``path`` cannot be written.
    """
    if path is None:
        yield lambda record: None
        return

    def complaint(error: OSError) -> OutputError:
        return OutputError(f"Cannot write {path}: {error.strerror or error}. Finished answers are kept.")

    last = time.monotonic()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        file.seek(0)
        raw = file.read()
        if (whole := raw.rfind(b"\n") + 1) < len(raw):
            file.truncate(whole)
    except OSError as error:
        raise complaint(error) from error

    def append(record: Record) -> None:
        nonlocal last
        try:
            file.write(record.model_dump_json().encode() + b"\n")
            if time.monotonic() - last >= sync_seconds:
                _sync(file)
                last = time.monotonic()
        except OSError as error:
            raise complaint(error) from error

    with file:
        try:
            yield append
        finally:
            _sync(file)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
