"""The cache's checksums: damage is met, said, set aside and repaired; what is whole is left alone."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modeldiff_eval import cache_entries, cli, manifest, store
from modeldiff_eval.errors import OutputError, SettingsError
from modeldiff_eval.locks import KINDS, in_use

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["cache", *words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def make(folder: Path) -> Path:
    def fill(partial: Path) -> None:
        (partial / "native").mkdir(exist_ok=True)
        (partial / "native" / "cfg.json").write_text('{"k": 8}')
        (partial / "rows.bin").write_bytes(bytes(range(256)) * 40)

    store.once(folder, fill)
    return folder


def test_a_finished_folder_carries_the_sums_of_its_files_as_other_tools_compute_them(cache: Path) -> None:
    folder = make(cache / "activations" / "a")
    files = json.loads((folder / manifest.NAME).read_text())["files"]
    assert set(files) == {"native/cfg.json", "rows.bin"}
    # printf '{"k": 8}' | sha256sum
    assert files["native/cfg.json"] == {
        "size": 8, "sha256": "e112e31f0bf006271c9ef363b334224d47383737340b59882d32224d8324105c",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "rows.bin").write_bytes(b"short"), r"rows\.bin has 5 bytes, not 10,240"),
        (lambda f: (f / "native" / "cfg.json").unlink(), r"native/cfg\.json is gone"),
        (lambda f: (f / manifest.NAME).write_text('{"format": 1, "fil'), r"its \.manifest\.json cannot be read"),
        (lambda f: (f / manifest.NAME).write_bytes(b"\xff\xfe\x00"), r"its \.manifest\.json cannot be read"),
        (lambda f: (f / manifest.NAME).write_text('{"format": 1, "files": {"a": -1}}'), r"cannot be read"),
    ],
)
def test_a_damaged_folder_is_set_aside_with_a_note_and_made_again(
    cache: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object], words: str
) -> None:
    folder = make(cache / "crosscoders" / "a")
    spoil(folder)
    assert not store.ready(folder)
    with caplog.at_level(logging.WARNING):
        make(folder)
    assert re.search(words, caplog.text)
    assert "set aside as a.damaged and is made again" in caplog.text
    assert store.ready(folder)
    assert (folder / "rows.bin").stat().st_size == 10240
    assert (cache / "crosscoders" / "a.damaged").is_dir()


def test_verify_finds_a_flipped_bit_that_use_does_not(cache: Path, command: Command) -> None:
    folder, other = make(cache / "activations" / "a"), make(cache / "activations" / "b")
    rows = bytearray((folder / "rows.bin").read_bytes())
    rows[5000] ^= 1
    (folder / "rows.bin").write_bytes(rows)
    assert store.ready(folder)
    code, out, _ = command("verify")
    assert code == 3
    assert "activations/a: rows.bin holds other bytes than were written" in out
    assert "1 entries are whole, 0 carry no checksums, 1 are damaged" in out
    code, out, _ = command("verify", "--json")
    assert code == 3
    assert [row["fault"] is None for row in json.loads(out)["entries"]] == [False, True]
    code, out, _ = command("verify", "--repair")
    assert code == 0
    assert not folder.exists()
    assert other.is_dir()
    assert command("verify")[0] == 0


def test_verify_says_what_is_unfinished_set_aside_or_without_sums(cache: Path, command: Command) -> None:
    make(cache / "tokens" / "old")
    (cache / "tokens" / "old" / manifest.NAME).unlink()
    (cache / "tokens" / "half.partial").mkdir()
    code, out, _ = command("verify")
    assert code == 0  # Nothing is damaged: another run may be making the half.
    assert "tokens/half.partial: unfinished" in out
    assert "0 entries are whole, 1 carry no checksums, 1 are damaged or unfinished" in out
    (cache / "tokens" / "bad.damaged").mkdir()
    assert command("verify")[0] == 3
    assert command("verify", "--repair")[0] == 0
    assert sorted(p.name for p in (cache / "tokens").iterdir()) == ["old", "old.lock"]


@pytest.mark.parametrize("spoilt", ['{"a": 2}', '{"a": 1', "", "\udcff"])
def test_a_single_file_is_checked_by_its_last_line(
    cache: Path, caplog: pytest.LogCaptureFixture, command: Command, spoilt: str
) -> None:
    path = store.write_kept(cache / "benchmarks" / "task.json", {"a": 1, "β": None})
    assert store.read_kept(path) == {"a": 1, "β": None}
    assert command("verify")[0] == 0
    last = path.read_text().splitlines()[-1]
    path.write_bytes(f"{spoilt}\n{last}\n".encode(errors="surrogateescape"))
    assert store.read_kept(path) is None
    assert "is damaged and is made again" in caplog.text
    code, out, _ = command("verify")
    assert code == 3
    assert "benchmarks/task.json: it holds other bytes" in out


def test_a_file_of_an_earlier_version_is_read_as_it_is(cache: Path) -> None:
    cache.mkdir()
    (cache / "old.json").write_text('{"a": 1}\n')
    assert store.read_kept(cache / "old.json") == {"a": 1}
    assert store.read_kept(cache / "absent.json") is None


def test_ls_tells_sizes_and_last_use(cache: Path, command: Command) -> None:
    folder = make(cache / "activations" / "a")
    long_ago = datetime(2020, 1, 2, tzinfo=UTC).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    (entry,) = json.loads(command("ls", "--json")[1])["entries"]
    assert (entry["kind"], entry["name"], entry["state"], entry["checksums"]) == ("activations", "a", "finished", True)
    assert entry["bytes"] == 10248 + (folder / manifest.NAME).stat().st_size
    assert entry["last_used"].startswith("2020-01-02")
    assert "used 2020-01-02" in command("ls")[1]
    assert re.search(r"a +0\.0 MB  used 2020-01-02", command("ls", "activations")[1])
    make(folder)  # Found: that is use.
    assert "used 2020" not in command("ls")[1]
    assert command("ls", "activation")[0] == 2


def test_rm_by_age_keeps_what_was_used(cache: Path, command: Command) -> None:
    old, new = make(cache / "tokens" / "old"), make(cache / "tokens" / "new")
    past = (datetime.now(UTC) - timedelta(days=31)).timestamp()
    for path in old.rglob("*"):
        os.utime(path, (past, past))
    code, out, _ = command("rm", "all", "--older-than", "30d", "-y")
    assert code == 0
    assert "Removed 1 entries of all" in out
    assert not old.exists()
    assert new.is_dir()
    assert command("rm", "tokens", "-y")[0] == 0
    assert not (cache / "tokens").exists()
    assert command("rm", "all", "-y")[0] == 0


@pytest.mark.parametrize("age", ["", "30", "d", "-3d", "30 years", "9" * 30 + "d"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    with pytest.raises(SettingsError, match="Write 30d, 12h or 90m"):
        cache_entries.older_than([], age)


def test_nothing_is_removed_under_a_run(cache: Path, command: Command) -> None:
    folder = make(cache / "tokens" / "a")
    with in_use(cache):
        code, _, err = command("rm", "all", "-y")
        assert code == OutputError.exit_code
        assert f"process {os.getpid()}" in err
        assert folder.is_dir()
        assert command("verify")[0] == 0
    assert command("rm", "all", "-y")[0] == 0


def test_exports_carry_no_manifest(tmp_path: Path) -> None:
    store.once(tmp_path / "export", lambda partial: (partial / "x").touch(), sealed=False)
    assert [p.name for p in (tmp_path / "export").iterdir()] == ["x"]
    store.copy_folder(make(tmp_path / "entry"), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["rows.bin"]


def test_what_is_not_the_caches_is_never_listed_judged_or_removed(cache: Path, command: Command) -> None:
    """Somebody who sets MODELDIFF_CACHE to a folder with other things in it keeps them, empty folders too."""
    make(cache / "tokens" / "one")
    (cache / "photos").mkdir()
    (cache / "photos" / "a.jpg").write_bytes(b"mine")
    (cache / "downloads").mkdir()
    (cache / "downloads" / "big.iso.partial").write_bytes(b"half")
    (cache / "empty").mkdir()
    (cache / "tokens" / "dangling").symlink_to(cache / "nowhere")
    assert [entry.name for entry in cache_entries.entries(cache)] == ["one"]
    assert "photos" not in command("ls")[1] + command("verify", "--repair")[1]
    assert command("rm", "all", "-y")[0] == 0
    assert not (cache / "tokens" / "one").exists()
    assert (cache / "photos" / "a.jpg").read_bytes() == b"mine"
    assert (cache / "downloads" / "big.iso.partial").exists()
    assert (cache / "empty").is_dir()
    assert command("rm", "photos", "-y")[0] == 2


def test_a_kind_that_is_not_there_yet_has_no_entries(cache: Path, command: Command) -> None:
    assert command("ls", "activations")[0] == 0
    code, _, err = command("ls", "activation")
    assert code == 2
    assert "Did you mean 'activations'" in err


def test_a_no_removes_nothing_and_is_no_error(cache: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make(cache / "tokens" / "one")
    monkeypatch.setattr("typer.confirm", lambda question: False)
    code, out, err = command("rm", "all")
    assert (code, out, err) == (0, "Nothing was removed.\n", "")
    assert kept.is_dir()


def test_every_folder_that_the_package_makes_in_a_cache_is_known() -> None:
    """One that is not listed could neither be seen nor removed."""
    package = Path(cache_entries.__file__).parent
    made = {
        kind
        for file in package.rglob("*.py")
        for kind in re.findall(r"\bcache(?:_dir\(\))? / \"(\w+)\"", file.read_text(encoding="utf-8"))
    }
    assert made == set(KINDS)
