"""``modeldiff-eval selftest``: the truth bench on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from modeldiff_eval.errors import SelftestError, UsageError, did_you_mean


def selftest(
    method: Annotated[str, typer.Option("--method", help="difference, batchtopk, dedicated or delta.")] = "difference",
    full: Annotated[
        bool, typer.Option("--full", help="2,000 latents instead of 320: about ten minutes a seed.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Planted pairs, each with a seed of its own.", show_default="3; 1 with --full")
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    organisms: Annotated[
        bool, typer.Option("--organisms", help="The bench of trained organisms instead: minutes for each.")
    ] = False,
    organism: Annotated[list[str] | None, typer.Option(help="With --organisms, only this one. Repeatable.")] = None,
    rank: Annotated[
        str, typer.Option(help="With --organisms, the column of latents.parquet to rank by, small first.")
    ] = "rank_key",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --organisms, say how long it takes, then stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON on standard output.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the record to this file (JSON); with --organisms a folder.")
    ] = None,
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
      modeldiff-eval selftest --organisms --organism pirate --out runs/organisms
    """
    from modeldiff_eval.settings import Method

    if method not in get_args(Method):
        known = get_args(Method)
        raise UsageError(f"--method {method!r} is unknown.{did_you_mean(method, known)} Use one of {', '.join(known)}.")
    if organisms:
        if full or seeds is not None:
            raise UsageError("--full and --seeds belong to the planted dictionaries; leave them out with --organisms.")
        _organisms(tuple(organism or ()), method, rank, seed, dry_run, as_json, out, quiet)
        return
    if organism or dry_run or rank != "rank_key":
        raise UsageError("--organism, --rank and --dry-run go with --organisms. Add it, or leave them out.")
    from rich.console import Console

    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.store import require_writable, write_text
    from modeldiff_eval.terminal import TerminalReporter
    from modeldiff_eval.truth import selftest as run
    from modeldiff_eval.truth_methods import Dictionary
    from modeldiff_eval.truth_table import console, print_selftest

    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it, or name a file elsewhere.")
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder. Name a file in it.")
    if out is not None:
        require_writable(out.absolute().parent)
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


def _organisms(
    names: tuple[str, ...],
    method: str,
    rank: str,
    seed: int,
    dry_run: bool,
    as_json: bool,
    out: Path | None,
    quiet: bool,
) -> None:
    """The bench of organisms. What broke on one of them is told at the end, with exit code 3."""
    from rich.console import Console

    from modeldiff_eval.organism_bench import organism_bench
    from modeldiff_eval.organism_files import choose
    from modeldiff_eval.organism_plan import plan_lines
    from modeldiff_eval.organism_score import require_rank
    from modeldiff_eval.organism_table import print_organisms
    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.store import cache_dir, require_writable
    from modeldiff_eval.terminal import TerminalReporter
    from modeldiff_eval.truth_table import console

    chosen, out = choose(names), out or Path("runs/organisms")
    require_rank(rank)
    if dry_run:
        require_writable(next(place for place in (out.absolute(), *out.absolute().parents) if place.exists()))
        for line in plan_lines(chosen, base="embedded", method=method, cache=cache_dir()):
            print(line)
        return
    reporter = Reporter() if quiet else TerminalReporter(Console(stderr=True))
    result = organism_bench(chosen, out=out, method=method, rank=rank, seed=seed, reporter=reporter)
    if as_json:
        print(result.model_dump_json(indent=2))
    elif not quiet:
        print_organisms(result, console())
    if result.failures:
        raise SelftestError("; ".join(f"organism {row.name}: {row.failure}" for row in result.failures))
