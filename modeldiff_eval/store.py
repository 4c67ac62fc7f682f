"""Files that are whole or absent: atomic writes, fingerprints, and the shared cache.

A folder of the cache gets its name when it is whole and carries its checksums (:mod:`modeldiff_eval.manifest`). One that
was damaged since is set aside when it is met, and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modeldiff_eval import manifest
from modeldiff_eval.disk import KEPT, flush_to_disk, writing
from modeldiff_eval.errors import OutputError
from modeldiff_eval.locks import locked

log = logging.getLogger(__name__)

PARTIAL = ".partial"
DAMAGED = ".damaged"
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
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


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
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # An interrupt too must not leave half a file behind.
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Choose a writable folder with room, by --out. {KEPT}"
        ) from error
    return path


def write_text(path: Path, text: str) -> Path:
    """:func:`write_bytes` for UTF-8 text; half a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> Path:
    """:func:`write_bytes` for indented JSON; NaN and infinity are refused."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_kept(path: Path, value: Any) -> Path:
    """A single file of the cache: JSON, with its hash in the last line."""
    return write_text(path, manifest.sealed(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def read_kept(path: Path) -> Any | None:
    """What :func:`write_kept` wrote; None when it is absent, or damaged, of which a note says that it is made again."""
    if not path.is_file():
        return None
    try:
        text = manifest.unsealed(path.read_text(encoding="utf-8"))
        if text is not None:
            return json.loads(text)
    except (OSError, ValueError):
        pass
    log.warning("%s is damaged and is made again.", path)
    return None


def write_progress(path: Path, done: int) -> None:
    """How many blocks of a partial folder are on the disk; written whole, since a kill can come in the middle of it."""
    write_text(path, f"{done}\n")


def read_progress(path: Path) -> int:
    """What :func:`write_progress` wrote; 0 when there is none, or it cannot be read."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


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
def tidied(folder: Path) -> Iterator[None]:
    """Remove what the block made of ``folder`` and its parents when it fails, as far as nothing is in there."""
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
    except OSError:  # It cannot even be looked for; the block says so.
        made = []
    try:
        yield
    except BaseException:
        for place in made:
            with suppress(OSError):
                place.rmdir()
        raise


def partial_of(folder: Path) -> Path:
    """Where ``folder`` is while it is made."""
    return folder.with_name(folder.name + PARTIAL)


def ready(folder: Path) -> bool:
    """Whether a finished folder is there and its files have the sizes that they were written with."""
    if not folder.is_dir() or manifest.damage(folder, every_byte=False) is not None:
        return False
    with suppress(OSError):  # The time of last use; a read-only cache has none.
        os.utime(folder / manifest.NAME)
    return True


@contextmanager
def making(folder: Path, *, sealed: bool = True) -> Iterator[Path | None]:
    """The partial folder to fill, under the lock; renamed to ``folder`` when the block ends without an error.

    None where the finished folder is there. A partial folder left by an interrupted run is given again. A finished folder
    that is damaged is renamed to ``<folder>.damaged`` and made again.

    Args:
        sealed: write its checksums into it; off for folders that leave the cache's care, such as exports.

    Raises:
        OutputError: the disk is full or read-only.
    """
    if ready(folder):
        yield None
        return
    with writing(folder), locked(folder):
        if ready(folder):
            yield None
            return
        if folder.is_dir():
            set_aside(folder)
        partial = partial_of(folder)
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        clear_partial(partial)
        if sealed:
            manifest.write(partial)
        partial.rename(folder)
        flush_to_disk(folder.parent)


def clear_partial(folder: Path) -> None:
    """Remove the half-written files that killed runs left below ``folder``, which nobody else is writing to."""
    for path in list(folder.rglob(f"*{PARTIAL}")):
        if path.is_file():
            path.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path:
    """Rename a damaged folder out of the way, with a note; an older one that was set aside goes."""
    what = manifest.damage(folder, every_byte=False)
    aside = folder.with_name(folder.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    log.warning("%s is damaged (%s). It was set aside as %s and is made again.", folder, what, aside.name)
    return aside


def once(folder: Path, make: Callable[[Path], None], *, sealed: bool = True) -> bool:
    """Make ``folder`` if it is not there: ``make`` fills a partial folder, which is renamed when whole.

    A partial folder left by an interrupted run is handed to ``make`` again, so that it can resume.

    Returns:
        True when ``make`` ran, False when the finished folder was already there.
    """
    with making(folder, sealed=sealed) as partial:
        if partial is not None:
            make(partial)
    return partial is not None


def copy_folder(source: Path, target: Path) -> None:
    """Copy a finished folder into a run: links where the file system allows it, else copies."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not file.is_file() or file.name == manifest.NAME:
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
