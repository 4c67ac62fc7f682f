"""The small file that remembers which batches were submitted, so that nothing is paid for twice."""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from modeldiff_eval.ask import appending
from modeldiff_eval.errors import OutputError
from modeldiff_eval.records import Record

CLOCKS_APART = datetime.timedelta(minutes=5)
"""How far the server's clock may lag behind this machine's."""


class Batch(Record):
    """One submission. ``token`` marks its requests; ``id`` is the server's, once it is known."""

    token: str
    id: str = ""
    version: str
    questions: tuple[str, ...] = ()
    at: datetime.datetime
    state: Literal["intended", "submitted", "ended", "forgotten"]

    def custom_id(self, digest: str) -> str:
        """The name of one request."""
        return f"{digest}-{self.token}"

    def owns(self, custom_id: str) -> bool:
        """Whether a request is one of this submission."""
        return custom_id.endswith(f"-{self.token}")

    def before(self, time: datetime.datetime) -> bool:
        """Whether a batch made at ``time`` can be this one."""
        return time >= self.at - CLOCKS_APART


class BatchFile:
    """JSON lines of :class:`Batch`; the last line of a token counts, each is on the disk when a method returns.

    ``version`` is the replier's; batches of others are left alone.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self._batches: dict[str, Batch] = {}
        self._stack = contextlib.ExitStack()
        self._append: Callable[[Record], None] = lambda record: None

    def __enter__(self) -> BatchFile:
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        except OSError as error:
            raise OutputError(f"Cannot read {self.path}: {error.strerror or error}.") from error
        for line in lines:
            with contextlib.suppress(ValidationError):
                self._keep(Batch.model_validate_json(line))
        self._append = self._stack.enter_context(appending(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _keep(self, batch: Batch) -> None:
        """The latest state of a submission; its questions stand in its first line only."""
        known = self._batches.get(batch.token)
        self._batches[batch.token] = batch if known is None else batch.model_copy(update={"questions": known.questions})

    def _write(self, batch: Batch, state: Literal["intended", "submitted", "ended", "forgotten"], name: str) -> Batch:
        changed = batch.model_copy(update={"state": state, "id": name})
        self._append(changed if state == "intended" else changed.model_copy(update={"questions": ()}))
        self._keep(changed)
        return changed

    def _in_state(self, state: str) -> list[Batch]:
        return [b for b in self._batches.values() if b.state == state and b.version == self.version]

    def intend(self, questions: list[str]) -> Batch:
        """Write down that these questions are about to be submitted."""
        now = datetime.datetime.now(datetime.UTC)
        batch = Batch(
            token=secrets.token_hex(8), version=self.version, questions=tuple(questions), at=now, state="intended"
        )
        return self._write(batch, "intended", "")

    def submitted(self, batch: Batch, name: str) -> Batch:
        """Write down the id that the server gave."""
        return self._write(batch, "submitted", name)

    def close_batch(self, batch: Batch) -> None:
        """Write down that all replies of a batch are kept."""
        self._write(batch, "ended", batch.id)

    def forget(self, batch: Batch) -> None:
        """Write down that a submission never reached the server."""
        self._write(batch, "forgotten", "")

    def open_batches(self) -> list[Batch]:
        """Batches whose replies are not all kept yet."""
        return self._in_state("submitted")

    def intents(self) -> list[Batch]:
        """Submissions of which it is not known whether they reached the server."""
        return self._in_state("intended")

    def known_ids(self) -> set[str]:
        """The ids of all batches in the file."""
        return {batch.id for batch in self._batches.values() if batch.id}
