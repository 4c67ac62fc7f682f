"""Who may read the weights that are written: safetensors opens its files to their owner alone, whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modeldiff_eval.store import PARTIAL


def follow_umask(files: Iterable[Path]) -> None:
    """Give each of ``files`` the mode of a new file beside it, so that whoever may read the others may read it too.

    A new file is asked, because to read the umask of a process is to change it for a moment, for all threads.
    """
    for file in files:
        new = file.with_name(f"{file.name}.mode.{os.getpid()}{PARTIAL}")
        with suppress(OSError):  # A file system without modes must not keep anybody from writing.
            try:
                new.touch()
                file.chmod(stat.S_IMODE(new.stat().st_mode))
            finally:
                new.unlink(missing_ok=True)
