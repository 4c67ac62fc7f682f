"""The checksums of a finished folder, written into it before it gets its name.

``.manifest.json``: ``{"format": 1, "files": {"native/cfg.json": {"size": 512, "sha256": "…"}}}``. Using an entry compares
sizes, which costs nothing; ``cache verify`` reads every byte. A single file carries its own hash in its last line.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modeldiff_eval.disk import flush_to_disk

NAME = ".manifest.json"
_SKIPPED = (".lock", ".partial")


class FileSum(BaseModel):
    """One file: bytes, and the SHA-256 of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The files of a folder by their path in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int = Field(1, ge=1, le=1)
    files: dict[str, FileSum]


def write(folder: Path) -> None:
    """Flush every file of ``folder`` to the disk and note its size and hash.

    Raises:
        OSError: the disk is full or gone.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != NAME and not path.name.endswith(_SKIPPED):
            flush_to_disk(path)
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    target = folder / NAME
    with target.open("w", encoding="utf-8") as file:
        json.dump({"format": 1, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, *, every_byte: bool) -> str | None:
    """What is wrong with a finished folder, in a few words; None when it is whole, or has no manifest.

    Args:
        every_byte: compare hashes as well as sizes.
    """
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
        held = Manifest.model_validate_json(text)
    except FileNotFoundError:
        return None  # Made before there were manifests.
    except (OSError, UnicodeDecodeError, ValidationError):
        return f"its {NAME} cannot be read"
    for name, stated in held.files.items():
        try:
            size = (folder / name).stat().st_size
            if size != stated.size:
                return f"{name} has {size:,} bytes, not {stated.size:,}"
            if every_byte and sha256(folder / name) != stated.sha256:
                return f"{name} holds other bytes than were written"
        except FileNotFoundError:
            return f"{name} is gone"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def sealed(text: str) -> str:
    """``text`` with its hash as one more line."""
    return f"{text}\nsha256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def unsealed(content: str) -> str | None:
    """The text that :func:`sealed` was given; None where it was damaged. Content without a hash is returned as it is."""
    text, _, last = content.removesuffix("\n").rpartition("\n")
    if not last.startswith("sha256 "):
        return content
    return text if last == f"sha256 {hashlib.sha256(text.encode()).hexdigest()}" else None
