"""The wheel holds all that the command needs: it is built, put elsewhere, and run outside of the repository."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed on its own; its dependencies stay where they are."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"),
            *("--disable-pip-version-check", "--target", str(folder), str(wheel)),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


def command(site: Path, cwd: Path, *words: object) -> str:
    """Standard output of the installed command; the repository is on no path."""
    script = (
        f"import sys; sys.path[:] = [{str(site)!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        "import modeldiff_eval\n"
        f"assert modeldiff_eval.__file__.startswith({str(site)!r}), modeldiff_eval.__file__\n"
        "from modeldiff_eval.cli import main; main()"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MODELDIFF_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=cwd,
        env=environ | {"MODELDIFF_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_resource(wheel: Path) -> None:
    held = files_of(wheel)
    tracked = [
        *((ROOT / "modeldiff_eval").rglob("*")),
        *(ROOT / "tasks").rglob("*"),
        *(ROOT / "templates").rglob("*"),
    ]
    wanted = set()
    for path in tracked:
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            name = str(path.relative_to(ROOT))
            wanted.add(name if name.startswith("modeldiff_eval/") else f"modeldiff_eval/{name}")
    assert {n for n in wanted if n.endswith(".py")} <= held
    assert wanted <= held
    for part in ("tasks/modeldiff_smoke.yaml", "templates/card.html.j2", "data/taxonomy.yaml", "demo/corpus.jsonl.gz"):
        assert f"modeldiff_eval/{part}" in held
    assert any(name.endswith("dist-info/entry_points.txt") for name in held)
    assert any("dist-info/licenses/LICENSE" in name for name in held)
    assert not [name for name in held if name.startswith(("tests/", "runs/", "tasks/", "templates/"))]


def test_the_demo_adapters_are_in_the_wheel(wheel: Path) -> None:
    held = files_of(wheel)
    for name in ("simpo", "dpo"):
        assert f"modeldiff_eval/demo/adapters/{name}/adapter_model.safetensors" in held


def test_tasks_and_templates_are_found_outside_the_repository(site: Path, tmp_path: Path) -> None:
    folder = Path(command(site, tmp_path, "tasks-dir").strip())
    assert folder == site / "modeldiff_eval" / "tasks"
    assert len(list(folder.glob("*.yaml"))) >= 5
    assert (site / "modeldiff_eval" / "templates" / "card.html.j2").is_file()


def test_a_card_from_counts_outside_the_repository(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "counts.yaml"
    source.write_bytes((ROOT / "reports" / "paper_simpo.yaml").read_bytes())
    printed = json.loads(command(site, tmp_path, "card", source, "--out", "made", "--json"))
    made = tmp_path / "made"
    assert json.loads((made / "card.json").read_text()) == printed
    assert printed["latents"]["base"]["specific"] == 113
    assert html.escape(printed["title"]).replace("&#x27;", "&#39;") in (made / "card.html").read_text()
    assert {"card.html", "card.md", "card.json", "card.csv"} <= {p.name for p in made.iterdir()}


def test_a_plan_of_the_packaged_corpus_outside_the_repository(site: Path, tmp_path: Path) -> None:
    out = command(site, tmp_path, "--base", "embedded", "--tuned", "org/tuned", "--dry-run")
    assert "packaged" in out
    assert command(site, tmp_path, "--version").strip() == printed_version()


def test_two_builds_have_the_same_bytes(tmp_path: Path) -> None:
    """From two copies of the source with other times, in two folders: only the source and SOURCE_DATE_EPOCH count."""
    import hashlib
    import shutil

    hashes = set()
    for number, epoch in enumerate((1_700_000_000, 1_700_000_000, 1_800_000_000)):
        source = tmp_path / f"copy-{number}"
        for name in ("modeldiff_eval", "tasks", "templates"):
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
            )
        for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
            shutil.copy(ROOT / name, source / name)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)],
            env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        (made,) = (tmp_path / "dist").glob("*.whl")
        hashes.add(hashlib.sha256(made.read_bytes()).hexdigest())
        made.unlink()
        assert len(hashes) == (
            1 if number < 2 else 2
        )  # The date is in the bytes, so the first two could have differed.


def printed_version() -> str:
    from modeldiff_eval import __version__

    return __version__


def test_the_source_distribution_can_be_built(tmp_path: Path) -> None:
    """And it holds no run, no virtual environment and no cache."""
    import tarfile

    subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"pyproject.toml", "README.md", "LICENSE", "tasks/modeldiff_smoke.yaml", "templates/card.html.j2"} <= set(
        names
    )
    assert not [n for n in names if n.startswith(("runs/", ".venv", ".git/"))]
