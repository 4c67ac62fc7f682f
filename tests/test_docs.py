"""The documentation is built without a warning, its notebook runs, and no page names a command that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from modeldiff_eval import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts)


def known() -> set[str]:
    """Every command as it is typed after ``modeldiff-eval``, and every long option."""
    found, pending = set(), [("", typer.main.get_command(commands.app))]
    while pending:
        name, command = pending.pop()
        found |= {name.strip()} | {option for parameter in command.params for option in parameter.opts}
        pending += [(f"{name} {sub}", inner) for sub, inner in getattr(command, "commands", {}).items()]
    return found | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_a_page_names_only_what_there_is(page: Path) -> None:
    there = known()
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            shown = line.partition("#")[0]
            match = re.search(r"modeldiff-eval((?: [a-z][a-z-]*)*)(.*)", shown)
            if match is None or "lm-eval run" in shown:
                continue
            words = match[1].split()
            assert any(" ".join(words[:n]) in there for n in range(len(words), 0, -1)) or not words, line
            assert set(re.findall(r"(?<=\s)--[a-z][a-z-]+", match[2])) <= there, line


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert all(f"modeldiff-eval {name}" in page for name in ("explore", "taxonomy induce", "crosscoder train"))
    assert "method of Latent Scaling" not in page
    assert "<svg" in (tmp_path / "site" / "notebook" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow(minutes=2)
@pytest.mark.usefixtures("embedded_model")
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    text = (ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8")
    text = text.replace("../reports/", f"{ROOT.as_posix()}/reports/").replace("../runs/", f"{tmp_path.as_posix()}/")
    book = nbformat.reads(text, as_version=4)
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(ROOT / "docs")}}).execute()
    last = "".join(book.cells[-1]["outputs"][0]["data"]["text/plain"])
    assert last == "True", "a run that is read again has the same card"
