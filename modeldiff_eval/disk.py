"""What a disk can do to a write: be full, read-only or gone. Said as one sentence with what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modeldiff_eval.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
KEPT = "What was finished is kept: run the same command again to go on."


def output_error(error: BaseException, place: Path) -> OutputError | None:
    """``error`` as an OutputError where the disk of ``place`` is to blame, else None.

    Libraries wrap the system's error in their own types (safetensors, pyarrow), so their words count as well.
    """
    number = error.errno if isinstance(error, OSError) else None
    said = next((word for word in _WORDS if word in str(error)), None)
    if number in _FULL or said in _WORDS[:3]:
        reason = os.strerror(number) if number else said
        return OutputError(f"Cannot write {place}: {reason}. Free some space (`modeldiff-eval cache ls`). {KEPT}")
    if said or (number in _CLOSED and not _elsewhere(error, place)):
        reason = os.strerror(number) if number else said
        return OutputError(
            f"Cannot write {place}: {reason}. Choose a writable folder: --out for the run, MODELDIFF_CACHE for the cache. {KEPT}"
        )
    return None


def explained(error: OSError) -> str | None:
    """What to say of an error that no command has put into words; it does not tell reading from writing."""
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None:
        return f"Cannot open {error.filename}: {os.strerror(error.errno)}. Check who may read and write it."
    found = output_error(error, Path(str(error.filename or "the output")))
    return str(found) if found else None


def _elsewhere(error: BaseException, place: Path) -> bool:
    """Whether the error names a file that is not beside or below ``place``: an input that may not be read, for example."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and not Path(name).absolute().is_relative_to(place.absolute().parent)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into an OutputError that names ``place``."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if translated := output_error(error, place):
            raise translated from error
        raise


def reserve(path: Path) -> None:
    """Take the blocks of a file that will be written through a map.

    A map into a hole of a full disk kills the process (SIGBUS); this raises OSError instead, before any work is done.
    """
    if hasattr(os, "posix_fallocate") and (size := path.stat().st_size):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems have nothing to flush for a folder.
            raise
    finally:
        os.close(descriptor)
