"""Pages that are made from the code when the site is built: the commands, the notebook, the list of decisions."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in the marked place of a page."""
    makers = {"<!-- commands -->": commands, "<!-- notebook -->": notebook, "<!-- decisions -->": decisions}
    for mark, make in makers.items():
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(make()))
    return markdown


def commands() -> Iterator[str]:
    """Every command with its help and options."""
    import typer

    from modeldiff_eval.commands import app

    root = typer.main.get_command(app)
    pending = [("modeldiff-eval", root)]
    while pending:
        name, command = pending.pop(0)
        yield f"## `{name}`\n"
        for part in re.split(r"\n\s*\n", command.help or ""):
            as_it_stands = part.startswith("\b")
            text = part.removeprefix("\b").strip("\n")
            yield f"\n```text\n{text}\n```\n" if as_it_stands else f"{html.escape(text, quote=False)}\n"
        options = [p for p in command.params if not getattr(p, "hidden", False)]
        if options:
            yield "\n| option | |\n| --- | --- |"
            for option in options:
                names = ", ".join(
                    f"`{n}`"
                    for n in (
                        option.opts if option.param_type_name == "option" else [option.metavar or option.name.upper()]
                    )
                )
                said = html.escape(
                    (getattr(option, "help", None) or "").replace("|", "/").replace("\n", " "), quote=False
                )
                yield f"| {names} | {said.replace('[', '&#91;')} |"
        yield ""
        pending = [(f"{name} {sub}", inner) for sub, inner in getattr(command, "commands", {}).items()] + pending


def notebook() -> Iterator[str]:
    """The worked notebook, code and what it printed; the tests execute it."""
    for cell in json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source + "\n"
            continue
        yield f"```python\n{source}\n```\n"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if svg := "".join(data.get("image/svg+xml", [])):
                yield re.sub(r"\n\s*", "", svg) + "\n"
            elif text := "".join(output.get("text", [])) or "".join(data.get("text/plain", [])):
                yield f"```text\n{text.rstrip()}\n```\n"


def decisions() -> Iterator[str]:
    """Every decision by its title."""
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        yield f"- [{title}]({path.name})"
