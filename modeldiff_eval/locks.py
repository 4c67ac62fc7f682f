"""Locks between processes: by the kernel (flock), so that a dead process holds none.

Two runs share one cache: the second waits for an entry that the first is making, and says for whom. Two runs never share
one output folder: the second is refused. On NFS the Linux client passes flock on to the server (version 4, or 3 with its
lock daemon), so runs on several machines exclude each other unless the share is mounted with ``local_lock``; a file
system without locks is refused by name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from modeldiff_eval.errors import OutputError

log = logging.getLogger(__name__)

RUNNING = ".running"
IN_USE = ".in-use"
_HELD = (errno.EWOULDBLOCK, errno.EACCES)

KINDS = (
    *("activations", "benchmarks", "causal", "crosscoders", "divergence", "models", "organisms", "remote", "rollouts"),
    "tokens",
)
"""The folders that runs make in a cache."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside ``path``, waiting for whoever holds it, so that two runs never write the same entry.

    Raises:
        OutputError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".lock")
    with _opened(beside) as file:
        if not _take(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            log.warning("Waiting for %s, which is making %s.", _holder(file), path)
            _take(file, fcntl.LOCK_EX)
        _sign(file)
        yield


@contextmanager
def alone_in(folder: Path, *, url: str | None = None) -> Iterator[None]:
    """Hold ``folder``, which is made if it is not there, for this run, or refuse.

    Args:
        url: the address, without keys, whose files are brought to ``folder`` and taken from it. It is held beside what a run
            in ``folder`` holds, against other processes of this machine alone.

    Raises:
        OutputError: another run is at work there, or the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = folder.with_name(folder.name + RUNNING) if url else folder / RUNNING
    place = (url or str(folder)).replace("{", "{{").replace("}", "}}")
    refusal = f"Another run is writing to {place}: {{}}. Wait for it, or choose another folder with --out."
    with _or_refuse(held, refusal):
        yield


@contextmanager
def clearing(cache: Path) -> Iterator[None]:
    """Hold ``cache`` against all runs, to remove entries.

    Raises:
        OutputError: a run uses it.
    """
    refusal = (
        f"A run is using the cache {cache} (the last to begin: {{}}); what it reads must not go. Wait for it to end."
    )
    with _or_refuse(cache / IN_USE, refusal):
        yield


@contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Say that a run uses ``cache``: nothing is removed from it meanwhile. A cache that is read-only needs no saying."""
    while True:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            file = _opened(cache / IN_USE)
        except OSError:
            yield
            return
        with file:
            if not _take(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
                log.warning("Waiting for %s, which is clearing %s.", _holder(file), cache)
                _take(file, fcntl.LOCK_SH)
            if _same(cache / IN_USE, file):
                _sign(file)
                yield
                return


@contextmanager
def _or_refuse(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file ``path``, which goes away afterwards, or raise OutputError with the holder in ``refusal``."""
    while True:
        with _opened(path) as file:
            if not _take(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise OutputError(refusal.format(_holder(file)))
            if not _same(path, file):
                continue  # Its last holder took the file away between our open and our lock.
            _sign(file)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+", encoding="utf-8")


def _take(file: IO[str], how: int) -> bool:
    """Whether the lock was taken; False when somebody else has it."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise OutputError(
            f"The file system of {file.name} has no locks ({error.strerror or error}), and without them two runs could spoil each "
            "other's files. Put MODELDIFF_CACHE and --out on a local disk."
        ) from error
    return True


def _same(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sign(file: IO[str]) -> None:
    """Write who holds the lock, for those who wait."""
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    with suppress(OSError):  # A full disk must not keep anybody from locking.
        file.seek(0)
        file.truncate()
        file.write(json.dumps(about))
        file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        about = json.loads(file.read(1000))
        return f"process {int(about['pid'])} on {about['host']}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
