"""Full and read-only disks: an error that names the file and what to do, nothing finished lost, and a run that goes on."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import models, store
from modeldiff_eval.corpus import tokenise
from modeldiff_eval.disk import output_error, reserve, writing
from modeldiff_eval.errors import OutputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB, where this may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True, capture_output=True)


def test_what_a_disk_is_to_blame_for(tmp_path: Path) -> None:
    full = output_error(OSError(errno.ENOSPC, "x"), tmp_path)
    assert "No space left on device. Free some space" in str(full)
    assert "Read-only file system" in str(output_error(OSError(errno.EROFS, "x"), tmp_path))
    wrapped = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "No space left on device" in str(output_error(wrapped, tmp_path))
    assert output_error(FileNotFoundError(errno.ENOENT, "x", "y"), tmp_path) is None
    assert output_error(ValueError("x"), tmp_path) is None
    # An input that may not be read is not the output's fault.
    assert output_error(PermissionError(errno.EACCES, "x", "/somewhere/corpus.jsonl"), tmp_path / "run") is None
    with pytest.raises(OutputError), writing(tmp_path):
        raise PermissionError(errno.EACCES, "x", str(tmp_path / "y"))


@pytest.mark.parametrize("seal", [True, False])
def test_a_full_disk_keeps_what_is_finished_and_the_next_run_goes_on(small_disk: Path, seal: bool) -> None:
    store.once(small_disk / "kind" / "first", lambda partial: (partial / "x").write_bytes(b"x" * 1000))

    def much(partial: Path) -> None:
        with (partial / "part").open("ab") as file:
            if file.tell() < 600_000:
                file.write(b"y" * 600_000)
        (partial / "rest").write_bytes(b"z" * 600_000)

    with pytest.raises(OutputError, match=r"No space left on device.*What was finished is kept"):
        store.once(small_disk / "kind" / "second", much, sealed=seal)
    assert store.ready(small_disk / "kind" / "first")
    assert not (small_disk / "kind" / "second").exists()
    remount(small_disk, "size=4m")
    assert store.once(small_disk / "kind" / "second", much, sealed=seal)
    assert (small_disk / "kind" / "second" / "part").stat().st_size == 600_000


def test_a_harvest_on_a_full_disk_is_an_error_and_not_a_killed_process(
    base_model: Path, small_corpus: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.resolve(str(base_model))
    loaded = models.load(source, device=torch.device("cpu"), dtype=torch.float32, cache=tmp_path)
    corpus = tokenise([str(small_corpus)], loaded.tokenizer, template=None, cache=tmp_path)
    monkeypatch.setattr(acts, "BLOCK_BYTES", 1024 * 32 * 4)
    filler = small_disk / "filler"
    filler.write_bytes(b"f" * (700 << 10))
    with pytest.raises(OutputError, match="No space left on device"):
        acts.harvest(loaded, corpus, layer=1, cache=small_disk, batch_tokens=512)
    filler.unlink()
    remount(small_disk, "size=8m")
    resumed = acts.harvest(loaded, corpus, layer=1, cache=small_disk, batch_tokens=512)
    whole = acts.harvest(loaded, corpus, layer=1, cache=tmp_path / "other", batch_tokens=512)
    for name in ("rows.bin", "norms.npy"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_map_into_a_full_disk_is_refused_before_it_kills(small_disk: Path) -> None:
    path = small_disk / "map"
    with path.open("wb") as file:
        file.truncate(8 << 20)  # A hole: it takes no room until it is written to.
    with pytest.raises(OSError, match="No space left"):
        reserve(path)


def test_a_cache_that_is_read_only_is_read_and_an_entry_it_lacks_is_an_error(small_disk: Path) -> None:
    store.once(small_disk / "kind" / "there", lambda partial: (partial / "x").touch())
    remount(small_disk, "ro")
    assert not store.once(small_disk / "kind" / "there", lambda partial: pytest.fail("made again"))
    with pytest.raises(OutputError, match=r"Read-only file system.*MODELDIFF_CACHE"):
        store.once(small_disk / "kind" / "absent", lambda partial: None)
    remount(small_disk, "rw")


def test_a_limit_on_file_sizes_is_an_error_as_well(tmp_path: Path) -> None:
    """Without root: the kernel refuses a file beyond the limit as a disk does that is full."""
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom modeldiff_eval import store\n"
        "from modeldiff_eval.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    store.once(Path(sys.argv[1]), lambda partial: (partial / 'x').write_bytes(b'x' * 200_000))\n"
        "except OutputError as error:\n    print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "entry")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "File too large" in done.stdout, done.stderr
    assert "What was finished is kept" in done.stdout
    assert not (tmp_path / "entry").exists()
