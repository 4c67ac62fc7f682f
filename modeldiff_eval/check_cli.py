"""``modeldiff-eval check``: a card, or a fresh pair, against a policy."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeldiff_eval.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from modeldiff_eval.card_file import CardFile
    from modeldiff_eval.gate_output import Report


def check(
    source: Annotated[Path | None, typer.Argument(metavar="CARD", help="card.json, or a run's folder.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy (YAML).", show_default="the only one that must be given")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="CARD", help="A card that rules compare with.", show_default="the policy's")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME[=FILE]",
            help="text, json, junit, github or markdown; to a file with =FILE; repeatable. Only text and github share standard output.",
            show_default="text",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the one --format goes.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 4 where the verdict is inconclusive.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Add Markdown to GITHUB_STEP_SUMMARY.")] = False,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Write the verdict into the card and its pages.")
    ] = False,
    allow_edited: Annotated[bool, typer.Option("--allow-edited", help="Take a card that was edited by hand.")] = False,
    base: Annotated[str | None, typer.Option(help="Instead of CARD: the model before tuning.")] = None,
    tuned: Annotated[str | None, typer.Option(help="Instead of CARD: the model after tuning.")] = None,
    anchor: Annotated[
        str | None, typer.Option(help="A model both come from; its crosscoder with base is made once, then reused.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="A small budget; what it cannot decide is inconclusive.")
    ] = False,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the corpus to use.")] = None,
    crosscoder: Annotated[list[str] | None, typer.Option(help="Trained crosscoder; twice with --anchor.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Text, as in a run.")] = None,
    benchmarks: Annotated[str | None, typer.Option(help="Saved lm-eval results of both models.")] = None,
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks to run, comma-separated.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings of the run as YAML.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/<tuned>")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress of a fresh pair.")] = False,
) -> None:
    """A card against a policy. Exit code 0 pass, 1 fail, 2 usage, 3 run-time failure, 4 inconclusive with --strict.

    \b
    Examples:
      modeldiff-eval policy init runs/mine --out policy.yaml
      modeldiff-eval check runs/mine --policy policy.yaml
      modeldiff-eval check runs/mine --policy policy.yaml --baseline releases/last --format text --format junit=gate.xml
      modeldiff-eval check --base X --tuned Y --anchor P --policy policy.yaml --fast --strict
    """
    pair = {
        "base": base, "tuned": tuned, "anchor": anchor, "tokens": tokens, "corpus": tuple(corpus or ()) or None,
        "crosscoder": tuple(crosscoder or ()) or None, "benchmarks": benchmarks,
        "tasks": tuple(tasks.split(",")) if tasks else None, "preset": "fast" if fast else None,
    }  # fmt: skip
    wanted = _formats(formats, output)
    if policy is None:
        raise UsageError("--policy is missing. `modeldiff-eval policy init CARD --out policy.yaml` writes one to start from.")  # fmt: skip
    _one_source(source, pair, config, out)
    with _no_collection() if source is not None else nullcontext():
        from modeldiff_eval.gate import check_card, exit_code
        from modeldiff_eval.gate_output import FORMATS, Report
        from modeldiff_eval.gate_pair import finished_card, is_fast
        from modeldiff_eval.gate_policy import read_policy
        from modeldiff_eval.store import write_text

        rules = read_policy(policy)
        before, notes = None, list[str]()
        baseline = baseline or rules.baseline
        if baseline is not None:
            before, notes = finished_card(baseline, "baseline", allow_edited=allow_edited)
        if source is not None:
            found, said = finished_card(source, "card", allow_edited=allow_edited)
            notes += said
        else:
            found = _made(pair, config, out, quiet=quiet)
        gate = check_card(
            found.card,
            rules,
            baseline=before.card if before else None,
            baseline_name=str(baseline) if before else None,
            fast=is_fast(found.card),
            notes=tuple(notes),
        )
        code = exit_code(gate, strict=strict)
        report = Report(gate, found.card.title, _relative(policy), code, found.card.created, strict)
        if update_card or source is None:
            _update(found, gate)
        # Standard output comes last: whoever reads it may stop, and neither the files nor the verdict hang on that.
        for name, file in wanted:
            if file is not None:
                write_text(file, FORMATS[name](report))
        if summary:
            _summarise(report)
        for name, file in wanted:
            if file is None:
                _show(FORMATS[name](report))
    raise typer.Exit(code)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in a process of half a second: looking for cycles is a tenth of its imports."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _formats(given: list[str] | None, output: Path | None) -> list[tuple[str, Path | None]]:
    """(format, file) for every ``--format``; no file is standard output, where what a program reads must stand alone."""
    known = ("text", "json", "junit", "github", "markdown")
    wanted = list[tuple[str, Path | None]]()
    for item in given or ["text"]:
        name, equals, file = item.partition("=")
        if name not in known or (equals and not file):
            raise UsageError(
                f"--format {item!r} is unknown.{did_you_mean(name, known)} Use {', '.join(known)}, or NAME=FILE."
            )
        wanted.append((name, Path(file) if equals else None))
    if output is not None:
        if len(wanted) > 1 or wanted[0][1] is not None:
            raise UsageError("--output goes with one --format; with several write --format NAME=FILE.")
        wanted = [(wanted[0][0], output)]
    shown = [name for name, file in wanted if file is None]
    alone = [name for name in shown if name in ("json", "junit", "markdown")]
    if alone and len(shown) > 1:
        moved = " ".join(f"--format {name}=FILE" for name in alone)
        raise UsageError(f"--format {' and '.join(shown)} would be mixed on standard output. Write {moved}.")
    for place, count in Counter(os.path.realpath(file) for _, file in wanted if file is not None).items():
        if count > 1:
            raise UsageError(f"{count} formats would be written to {place}. Give each a file of its own.")
    return wanted


def _one_source(source: Path | None, pair: dict[str, Any], config: Path | None, out: Path | None) -> None:
    flags = [f"--{name}" for name, value in pair.items() if value is not None and name != "preset"]
    flags += ["--fast"] if pair["preset"] else []
    flags += [name for name, value in (("--config", config), ("--out", out)) if value is not None]
    if source is not None and flags:
        raise UsageError(
            f"{', '.join(flags)} belong to a fresh pair (--base X --tuned Y), but the finished card {source} was given: leave one of the two out."
        )
    if source is None and config is None and not (pair["base"] and pair["tuned"]):
        raise UsageError("Give a finished card (`check CARD`), or a pair to compare (`check --base X --tuned Y`).")


def _made(pair: dict[str, Any], config: Path | None, out: Path | None, *, quiet: bool) -> CardFile:
    from modeldiff_eval.gate_pair import card_of_pair
    from modeldiff_eval.settings import default_out, make_settings

    settings, _ = make_settings(pair, config=config)
    return card_of_pair(settings, out or default_out(settings), quiet=quiet)


def _update(found: CardFile, gate: Any) -> None:
    """The card with the verdict, and again those of its pages that stand beside it."""
    from modeldiff_eval.card_digest import seal
    from modeldiff_eval.render import render

    folder, card = found.file.parent, found.card.model_copy(update={"gate": gate})
    if found.seal == "whole":  # written by this version, with its fields: the checksum of an older one would not fit
        card = seal(card)
    pages = [name for name in ("html", "pdf", "md") if (folder / f"card.{name}").exists()]
    if found.file.name == "card.json":
        render(card, folder, formats=pages)
    else:
        from modeldiff_eval.store import write_text

        write_text(found.file, card.to_json())


def _show(text: str) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    with suppress(BrokenPipeError):
        print(text, end="", flush=True)  # which passes over a closed standard output; the exit code has the verdict


def _summarise(report: Report) -> None:
    """Add the Markdown to the step summary that GitHub shows."""
    from modeldiff_eval.errors import OutputError
    from modeldiff_eval.gate_output import as_markdown

    if not (place := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    try:
        with open(place, "a", encoding="utf-8") as file:
            file.write(as_markdown(report))
    except OSError as error:
        raise OutputError(f"Cannot write the step summary {place}: {error.strerror or error}.") from error


def _relative(path: Path) -> str:
    """As the repository knows the file: relative to the working folder where it lies in it."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        return path.name
