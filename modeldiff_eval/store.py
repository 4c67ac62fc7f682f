"""Files that are whole or absent: atomic writes, fingerprints, and the shared cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import OutputError

PARTIAL = ".partial"
_WHOLE_FILE_LIMIT = 2 << 30
_EDGE = 1 << 20


def cache_dir() -> Path:
    """The cache shared by all runs: ``MODELDIFF_CACHE``, else the platform's cache folder."""
    if custom := os.environ.get("MODELDIFF_CACHE"):
        return Path(custom).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("modeldiff-eval"))


def fingerprint(value: Any) -> str:
    """A 16-digit hash of anything JSON can hold; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Content hash of one file: the whole of it up to 2 GiB, else its size, time and both ends."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_LIMIT:
            while block := file.read(_EDGE):
                digest.update(block)
        else:
            digest.update(f"{size}:{path.stat().st_mtime_ns}".encode())
            digest.update(file.read(_EDGE))
            file.seek(-_EDGE, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()[:16]


def write_bytes(path: Path, data: bytes) -> Path:
    """Write ``data`` under a partial name, flush it to the disk, then rename it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Choose a writable folder with --out."
        ) from error
    return path


def write_text(path: Path, text: str) -> Path:
    """:func:`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """:func:`write_bytes` for indented JSON; NaN and infinity are refused."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require_writable(folder: Path) -> Path:
    """Create ``folder`` and prove that a file can be written there, before any long work starts.

    Raises:
        OutputError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"Cannot write to {folder}: {error.strerror or error}. Choose another folder with --out."
        ) from error
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock beside ``folder``, so that two runs never write the same entry."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def partial_of(folder: Path) -> Path:
    """Where ``folder`` is while it is made."""
    return folder.with_name(folder.name + PARTIAL)


@contextmanager
def making(folder: Path) -> Iterator[Path | None]:
    """The partial folder to fill, under the lock; renamed to ``folder`` when the block ends without an error.

    None where the finished folder is there. A partial folder left by an interrupted run is given again.
    """
    if folder.is_dir():
        yield None
        return
    with locked(folder):
        if folder.is_dir():
            yield None
            return
        partial = partial_of(folder)
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.rename(folder)


def once(folder: Path, make: Callable[[Path], None]) -> bool:
    """Make ``folder`` if it is not there: ``make`` fills a partial folder, which is renamed when whole.

    A partial folder left by an interrupted run is handed to ``make`` again, so that it can resume.

    Returns:
        True when ``make`` ran, False when the finished folder was already there.
    """
    with making(folder) as partial:
        if partial is not None:
            make(partial)
    return partial is not None


def copy_folder(source: Path, target: Path) -> None:
    """Copy a finished folder into a run: links where the file system allows it, else copies."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not file.is_file():
            continue
        partial = target / f"{file.name}{PARTIAL}"
        partial.unlink(missing_ok=True)
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)
        partial.replace(target / file.name)
        # Renaming a link onto another link of the same file does nothing and leaves the first one.
        partial.unlink(missing_ok=True)
