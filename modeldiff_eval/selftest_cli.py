"""``modeldiff-eval selftest``: the truth bench on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from modeldiff_eval.errors import SelftestError, UsageError


def selftest(
    method: Annotated[str, typer.Option("--method", help="difference, batchtopk, dedicated or delta.")] = "difference",
    full: Annotated[
        bool, typer.Option("--full", help="2,000 latents instead of 320: about ten minutes a seed.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Planted pairs, each with a seed of its own.", show_default="3; 1 with --full")
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the record to this file (JSON).")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress; print only what does not hold.")] = False,
) -> None:
    """The truth bench: which planted model-specific latents are found, and what is claimed that is not there.

    Trains the method on synthetic pairs whose latents are known, and compares its claims with the truth. Low precision or
    recall is a finding, not a failure. Exit code 3 when a law is broken, such as "base against itself has ν = 1".

    \b
    Examples:
      modeldiff-eval selftest
      modeldiff-eval selftest --method batchtopk
      modeldiff-eval selftest --full --seeds 1 --out selftest.json
    """
    from rich.console import Console

    from modeldiff_eval.errors import did_you_mean
    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.settings import Method
    from modeldiff_eval.store import write_text
    from modeldiff_eval.terminal import TerminalReporter
    from modeldiff_eval.truth import selftest as run
    from modeldiff_eval.truth_methods import Dictionary
    from modeldiff_eval.truth_table import console, print_selftest

    if method not in get_args(Method):
        raise UsageError(
            f"--method {method}: use one of {', '.join(get_args(Method))}.{did_you_mean(method, get_args(Method))}"
        )
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it, or name a file elsewhere.")
    reporter = Reporter() if quiet else TerminalReporter(Console(stderr=True))
    result = run(
        "full" if full else "quick", seed=seed, seeds=seeds, method=Dictionary(cast(Method, method)), reporter=reporter
    )
    text = result.model_dump_json(indent=2) + "\n"
    if out is not None:
        write_text(out, text)
    if as_json:
        print(text, end="")
    elif not quiet:
        print_selftest(result, console())
    if result.broken:
        raise SelftestError(
            "; ".join(f"the law “{law.name}” is broken ({law.detail})" for law in result.broken)
            + ". Report this: the numbers of this installation cannot be trusted."
        )
