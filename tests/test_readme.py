"""The README names what there is, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from modeldiff_eval.commands import app
from modeldiff_eval.settings import Settings, presets

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every command of the application, groups with their own commands."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]
    return found


def flags() -> set[str]:
    """Every long option of every command."""
    found = set()
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        found |= {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        pending += getattr(command, "commands", {}).values()
    return found | {"--help"}


def test_there_are_commands_to_name() -> None:
    assert {"demo", "card", "render", "tasks-dir", "lm-eval", "cache ls", "cache rm", "doctor"} <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"(modeldiff-eval |`){re.escape(name)}\b", README), (
        f"README.md does not show `modeldiff-eval {name}`"
    )


def test_the_main_settings_and_the_help_are_in_the_readme() -> None:
    assert "--help" in README
    for name in ("base", "tuned", "anchor", "corpus"):
        assert name in Settings.model_fields
        assert f"--{name}" in README


def test_no_flag_in_the_readme_is_invented() -> None:
    shown = "\n".join(
        line for line in re.findall(r"modeldiff-eval[^\n`]*(?:\\\n[^\n`]*)*", README) if "lm-eval --" not in line
    )
    assert set(re.findall(r"(?<=\s)--[a-z][a-z-]+", shown)) <= flags()


def test_presets_and_exit_codes_are_named() -> None:
    for name in presets():
        assert name in README
    for code in ("2", "3", "130"):
        assert re.search(rf"\b{code}\b", README)


def test_links_to_files_lead_somewhere() -> None:
    targets = [
        t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", README) if not t.startswith(("http", "mailto", "#"))
    ]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_nothing_of_one_machine_is_in_the_readme() -> None:
    assert not re.search(r"/work/|/tmp/w|/root/|\.\./shared", README)
