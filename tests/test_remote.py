"""Run folders on storage that fsspec reaches: memory and a local fake; whole or not there, and looked at first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from modeldiff_eval import remote
from modeldiff_eval.errors import MissingDependencyError, OutputError, UsageError
from modeldiff_eval.locks import alone_in


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/bucket", recursive=True) if fs.exists("/bucket") else None


def make_run(folder: Path, text: str = "1") -> Path:
    (folder / "crosscoders" / "base--tuned").mkdir(parents=True, exist_ok=True)
    for name in ("card.json", "latents.parquet", "crosscoders/base--tuned/cfg.json", "run.json"):
        (folder / name).write_text(f"{name} {text}")
    return folder


@pytest.mark.parametrize(
    ("out", "wanted"),
    [
        ("s3://bucket/x", True),
        ("memory://x", True),
        ("simplecache::s3://bucket/x", True),
        ("runs/x", False),
        ("/runs/x", False),
        ("C:/runs", False),
        (Path("runs"), False),
    ],
)
def test_what_is_a_url(out: Path | str, wanted: bool) -> None:
    assert remote.is_url(out) is wanted


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_run_is_uploaded_whole_and_comes_back(kind: str, memory: Any, tmp_path: Path) -> None:
    url = "memory://bucket/run" if kind == "memory" else f"file://{tmp_path}/store/run"
    with remote.working_folder(url, tmp_path / "work") as folder:
        make_run(folder)
        (folder / "half.parquet.partial").touch()
        (folder / "cache").mkdir()
        (folder / "cache" / "rows.bin").touch()
    fs, root = fsspec.url_to_fs(url)
    names = {path.removeprefix(f"{root}/") for path in fs.find(root)}
    assert names == {"card.json", "latents.parquet", "crosscoders/base--tuned/cfg.json", "run.json"}
    assert remote.fetch(url, tmp_path / "elsewhere")
    found = {str(p.relative_to(tmp_path / "elsewhere")) for p in (tmp_path / "elsewhere").rglob("*") if p.is_file()}
    assert found == {"card.json", "latents.parquet", "run.json"}
    assert (tmp_path / "elsewhere" / "card.json").read_text() == "card.json 1"


def test_the_marker_goes_first_and_comes_last(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run replaces another one nobody can take the mixture for a run, wherever the upload stops."""
    url, seen = "memory://bucket/run", list[tuple[str, bool]]()
    remote.upload(make_run(tmp_path / "old"), url)
    put = type(memory).put_file

    def watched(fs: Any, local: str, path: str, **options: Any) -> None:
        seen.append((path.removeprefix("/bucket/run/"), fs.exists("/bucket/run/run.json")))
        put(fs, local, path, **options)

    monkeypatch.setattr(type(memory), "put_file", watched)
    uploaded = remote.upload(make_run(tmp_path / "new", "2"), url)
    assert seen == [(name, False) for name in uploaded]
    assert uploaded[-1] == "run.json"
    assert remote.upload(tmp_path / "new", url) == []
    assert len(seen) == 4

    def torn(fs: Any, local: str, path: str, **options: Any) -> None:
        if path.endswith("latents.parquet"):
            raise ConnectionError("gone; key hf_abcdefghijkl")
        put(fs, local, path, **options)

    monkeypatch.setattr(type(memory), "put_file", torn)
    with pytest.raises(
        OutputError, match=r"Cannot write memory://bucket/run: ConnectionError: gone; key \[key hidden\]"
    ):
        remote.upload(make_run(tmp_path / "third", "3"), url)
    assert not memory.exists("/bucket/run/run.json")
    assert not remote.fetch(url, tmp_path / "elsewhere")


def test_a_truncated_upload_is_noticed(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(fs: Any, local: str, path: str, **_: Any) -> None:
        fs.pipe_file(path, Path(local).read_bytes()[:-1])

    monkeypatch.setattr(type(memory), "put_file", short)
    with pytest.raises(OutputError, match=r"bytes after the upload instead of"):
        remote.upload(make_run(tmp_path / "run"), "memory://bucket/run")


def test_an_error_uploads_nothing(memory: Any, tmp_path: Path) -> None:
    def stopped() -> None:
        with remote.working_folder("memory://bucket/run", tmp_path / "work") as folder:
            make_run(folder)
            raise OutputError("stopped")

    with pytest.raises(OutputError, match="stopped"):
        stopped()
    assert not memory.exists("/bucket/run")
    assert (tmp_path / "work" / "card.json").exists()


def test_names_that_lead_out_of_the_folder_are_refused(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe({"/bucket/run/run.json": b"{}", "/bucket/run/a": b""})
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: ["/bucket/run/../../etc/passwd"])
    with pytest.raises(OutputError, match=r"leads out of the folder"):
        remote.fetch("memory://bucket/run", tmp_path / "work")


def test_unknown_and_missing_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'memry' is no protocol that fsspec knows\. Did you mean 'memory'\?"):
        remote.fetch("memry://x/y", tmp_path)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match=r"--out s3://bucket/y: .*s3fs"):
        remote.fetch("s3://bucket/y", tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    match = r"Another run is writing to .*choose another folder"
    with alone_in(tmp_path / "out"), pytest.raises(OutputError, match=match), alone_in(tmp_path / "out"):
        pass
    with alone_in(tmp_path / "out"), alone_in(tmp_path / "other"):
        pass


def test_a_url_is_held_while_its_files_come_and_go(memory: Any, tmp_path: Path) -> None:
    url, folder = "memory://bucket/run", tmp_path / "work"
    with (
        remote.working_folder(url, folder),
        alone_in(folder),  # what the run in it holds
        pytest.raises(OutputError, match=r"Another run is writing to memory://bucket/run: process \d+"),
        remote.working_folder(url, folder),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
