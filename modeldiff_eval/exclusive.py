"""One process at a time in one folder; a second one is told so at once instead of waiting for hours."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modeldiff_eval.errors import OutputError
from modeldiff_eval.store import require_writable


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process. The lock goes with the process, however it ends.

    Raises:
        OutputError: the folder cannot be written, or another process holds it.
    """
    require_writable(folder)
    with (folder / ".running.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"Another run works in {folder}. Wait until it is done, or choose another folder with --out."
            ) from error
        yield
