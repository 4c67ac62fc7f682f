"""Whole files or none, resumable cache entries, hashes that mean content."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from modeldiff_eval import store
from modeldiff_eval.errors import OutputError


def test_fingerprint_ignores_key_order_and_sees_values() -> None:
    assert store.fingerprint({"a": 1, "b": [2, None]}) == store.fingerprint({"b": [2, None], "a": 1})
    assert store.fingerprint({"a": 1}) != store.fingerprint({"a": 2})
    assert store.fingerprint([1, 2]) != store.fingerprint([2, 1])


def test_file_hash_is_the_content_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    assert store.file_hash(tmp_path / "a") == store.file_hash(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"x" * 2_999_999 + b"y")
    assert store.file_hash(tmp_path / "a") != store.file_hash(tmp_path / "b")


def test_file_hash_of_a_huge_file_reads_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WHOLE_FILE_LIMIT", 1 << 20)
    path = tmp_path / "big"
    path.write_bytes(b"a" * (3 << 20))
    os.utime(path, ns=(0, 5))
    before = store.file_hash(path)
    path.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    os.utime(path, ns=(0, 5))
    assert store.file_hash(path) != before


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.write_text(tmp_path / "card.json", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        store.write_text(path, "new")
    assert path.read_text() == "old"


def test_a_stop_while_progress_is_noted_leaves_the_note_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "progress.txt"
    assert store.read_progress(note) == 0
    store.write_progress(note, 3)

    def stopped(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        store.write_progress(note, 4)
    assert store.read_progress(note) == 3


def test_write_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_write_into_a_file_as_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--out"):
        store.write_text(tmp_path / "file" / "x", "")
    with pytest.raises(OutputError, match="--out"):
        store.require_writable(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="--out"):
        store.require_writable(tmp_path / "file")


def test_a_read_only_folder_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)  # root may write anywhere, so a mode would prove nothing
    with pytest.raises(OutputError, match=r"Permission denied\. Choose another folder with --out"):
        store.require_writable(tmp_path)


def test_require_writable_leaves_nothing_behind(tmp_path: Path) -> None:
    assert store.require_writable(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_once_makes_a_folder_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(partial: Path) -> None:
        made.append(partial)
        (partial / "x").write_text("1")

    assert store.once(tmp_path / "entry", make)
    assert not store.once(tmp_path / "entry", make)
    assert len(made) == 1
    assert (tmp_path / "entry" / "x").read_text() == "1"


def test_once_hands_an_interrupted_folder_back(tmp_path: Path) -> None:
    def interrupted(partial: Path) -> None:
        (partial / "half").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.once(tmp_path / "entry", interrupted)
    assert not (tmp_path / "entry").exists()
    seen: list[str] = []
    store.once(tmp_path / "entry", lambda partial: seen.append((partial / "half").read_text()))
    assert seen == ["kept"]
    assert not (tmp_path / "entry.partial").exists()


def test_two_threads_make_one_entry(tmp_path: Path) -> None:
    made: list[int] = []

    def make(partial: Path) -> None:
        made.append(1)
        time.sleep(0.1)

    threads = [threading.Thread(target=store.once, args=(tmp_path / "entry", make)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_copy_folder_survives_removal_of_the_source(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    store.write_json(source / "cfg.json", {"a": 1})
    store.copy_folder(source, target)
    store.copy_folder(source, target)
    (source / "cfg.json").unlink()
    assert json.loads((target / "cfg.json").read_text()) == {"a": 1}
    assert [p.name for p in target.iterdir()] == ["cfg.json"]


def test_cache_dir_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path))
    assert store.cache_dir() == tmp_path
    monkeypatch.delenv("MODELDIFF_CACHE")
    assert store.cache_dir().name == "modeldiff-eval"


def test_an_interrupt_while_a_file_is_written_leaves_the_old_one_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.write_text(tmp_path / "card.json", "old")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_text(file, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("card.json", "old")]
