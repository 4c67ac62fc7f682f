"""A run's folder wherever fsspec can write: ``s3://…``, ``gs://…``, ``file://…``.

The work is done in a folder of this machine; when it is whole its files are uploaded, ``run.json`` last. So a folder with
a ``run.json`` is whole, and one without is not. What is there already is looked at first, so that a finished run is not
made again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from modeldiff_eval.errors import MissingDependencyError, OutputError, UsageError, did_you_mean
from modeldiff_eval.locks import IN_USE, RUNNING, alone_in
from modeldiff_eval.redact import redact
from modeldiff_eval.store import PARTIAL, fingerprint, require_writable

MARKER = "run.json"
_URL = re.compile(r"[A-Za-z][\w+.-]*(::[A-Za-z][\w+.-]*)*://")
_BULKY = ("crosscoders", "differences")
"""Not fetched again: a run takes them from the cache, or trains them."""


def is_url(out: Path | str) -> bool:
    """Whether ``out`` is for fsspec. (A ``Path`` never is: it has lost a slash.)"""
    return isinstance(out, str) and _URL.match(out) is not None


def local_folder(out: Path | str, cache: Path) -> Path:
    """Where the work for ``out`` is done: ``out`` itself, or of a URL a folder of the cache."""
    return cache / "remote" / fingerprint(str(out).rstrip("/")) if is_url(out) else Path(out).expanduser()


@contextmanager
def working_folder(url: str, folder: Path) -> Iterator[Path]:
    """``folder`` to work in, holding what is at ``url`` already; what the block leaves there is uploaded at its end.

    An error in the block uploads nothing; ``folder`` stays, and the next try goes on from it.

    Raises:
        UsageError: fsspec knows no such protocol.
        MissingDependencyError: the protocol's library is not installed.
        OutputError: nothing can be read or written there, or another process of this machine is at work on it.
    """
    with alone_in(require_writable(folder), url=redact(url)):
        fetch(url, folder)
        yield folder
        upload(folder, url)


def fetch(url: str, folder: Path) -> bool:
    """Bring a finished run to ``folder`` unless it is there; the crosscoders stay where they are.

    Returns:
        Whether there is a finished run at ``url``.
    """
    with _errors(url, "read"):
        fs, root = _open(url)
        if not fs.exists(f"{root}/{MARKER}"):
            return False
        marker = fs.cat_file(f"{root}/{MARKER}")
        if (folder / MARKER).exists() and (folder / MARKER).read_bytes() == marker:
            return True
        names = [PurePosixPath(path).relative_to(root) for path in fs.find(root)]
        for name in names:
            if ".." in name.parts:
                raise OutputError(f"{redact(url)} holds a file named {str(name)!r}, which leads out of the folder.")
            if name.parts[0] in _BULKY or str(name) == MARKER:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + PARTIAL)
            fs.get_file(f"{root}/{name}", str(partial))
            partial.replace(target)
        partial = folder / f"{MARKER}{PARTIAL}"
        partial.write_bytes(marker)
        partial.replace(folder / MARKER)
    return True


def upload(folder: Path, url: str, *, marker: str = MARKER, leave: Collection[str] = ()) -> list[str]:
    """Write the files of ``folder`` to ``url``, ``marker`` last; nothing when the same marker is there.

    Args:
        leave: names in ``folder`` that stay here.

    Returns:
        Names of the uploaded files.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    chosen = [file for file in files if _belongs(file, leave)]
    chosen.sort(key=lambda file: str(file) == marker)
    with _errors(url, "write"):
        fs, root = _open(url)
        there = f"{root}/{marker}"
        if fs.exists(there):
            if (folder / marker).exists() and fs.cat_file(there) == (folder / marker).read_bytes():
                return []
            fs.rm_file(there)  # From here on, and until the new one is there, nobody takes this for whole.
        for file in chosen:
            target = f"{root}/{file.as_posix()}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(folder / file), target)
            size, own = fs.info(target)["size"], (folder / file).stat().st_size
            if size != own:
                raise OutputError(
                    f"{redact(url)}/{file} has {size} bytes after the upload instead of {own}. Try again."
                )
        fs.invalidate_cache()
    return [file.as_posix() for file in chosen]


def _belongs(file: Path, leave: Collection[str]) -> bool:
    """No locks, no unfinished files, and no cache that a run keeps inside its folder."""
    unfinished = any(part.endswith((PARTIAL, ".lock", RUNNING)) for part in file.parts)
    return not unfinished and file.name != IN_USE and file.parts[0] not in {"cache", *leave}


def _open(url: str) -> tuple[Any, str]:
    """The file system of ``url`` and the path in it."""
    import fsspec
    from fsspec.core import url_to_fs

    known = fsspec.available_protocols()
    for protocol in url.partition("://")[0].split("::"):
        if protocol not in known:
            raise UsageError(
                f"--out {redact(url)}: {protocol!r} is no protocol that fsspec knows.{did_you_mean(protocol, known)}"
            )
    try:
        fs, root = url_to_fs(url.rstrip("/"))
    except ImportError as error:
        raise MissingDependencyError(f"--out {redact(url)}: {error}. Install the library that it names.") from error
    return fs, str(root).rstrip("/")


@contextmanager
def _errors(url: str, verb: str) -> Iterator[None]:
    """What a storage raises, whatever its library calls it, as an error of ours; without keys."""
    from modeldiff_eval.errors import ModelDiffError

    try:
        yield
    except ModelDiffError:
        raise
    except Exception as error:
        what = redact(str(error).strip().partition("\n")[0])
        raise OutputError(
            f"Cannot {verb} {redact(url)}: {type(error).__name__}: {what}. What was computed stays on this machine; run the same command again."
        ) from error
