"""Weights may be read by whoever may read the files beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sample_crosscoders import make

from modeldiff_eval.crosscoder import save_jumprelu, save_native
from modeldiff_eval.crosscoder_files import write_tensors
from modeldiff_eval.umask import follow_umask


@pytest.fixture(params=[0o022, 0o007, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_gets_the_mode_of_a_new_one(umask: int, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.touch(mode=0o600)
    follow_umask([private])
    assert mode(private) == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [private]


def test_weights_follow_the_umask(umask: int, tmp_path: Path) -> None:
    write_tensors(tmp_path / "checkpoint.safetensors", {"x": torch.zeros(2)})
    save_native(make(), tmp_path / "native", {})
    save_jumprelu(make(), tmp_path / "jumprelu", {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert {mode(path) for path in files} == {0o666 & ~umask}


def test_a_file_system_without_modes_keeps_nobody_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
