"""``modeldiff-eval compare``: many tuned models of one base, or a matrix of pairs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeldiff_eval.cli_options import LogJson, go_offline, speak
from modeldiff_eval.errors import ModelDiffError, UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from modeldiff_eval.batch import Pair
    from modeldiff_eval.batch_run import Report
    from modeldiff_eval.executor import Executor
    from modeldiff_eval.progress import Reporter

EXECUTORS = ("local", "ray")


def compare(
    flags: dict[str, Any],
    tuned: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL", help="A model after tuning and its name; repeatable.")
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="YAML: 'settings' of all pairs, 'pairs' by name, each with its own settings.")
    ] = None,
    out: Annotated[
        str, typer.Option("--out", help="Folder of the batch, or a URL such as s3://bucket/path.")
    ] = "runs/compare",
    config: Annotated[Path | None, typer.Option(help="Settings of all pairs as YAML.")] = None,
    executor: Annotated[str, typer.Option(help="local: one after the other; ray: on Ray.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="auto, or ray://HOST:PORT.", show_default="a Ray of this machine's own")
    ] = None,
    ray_cpus: Annotated[float, typer.Option(help="CPUs that each stage asks of Ray.")] = 1.0,
    ray_gpus: Annotated[
        float | None,
        typer.Option(help="GPUs that each stage asks of Ray.", show_default="1 where this machine has one"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print pairs and shared stages, look at every input, then stop.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Start although memory or disk will not do, or a folder holds other models' card."
        ),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask a hub.")] = False,
    log_json: LogJson = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print compare.json, or the plan, on standard output.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing but errors and the report's path.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the libraries' own messages.")] = False,
) -> None:
    """Many tuned models at once: shared work once, a failed pair stops no other, one comparison at the end.

    \b
    Examples:
      modeldiff-eval compare --base X --tuned simpo=Y1 --tuned dpo=Y2 --anchor P --out runs/simpo-dpo
      modeldiff-eval compare --matrix pairs.yaml --executor ray --out s3://bucket/runs

    Takes the settings' flags of the main command, which hold for every pair (--max-cost too). Exit code 3 when a
    pair failed; the others are done, and the same command tries it again.
    """
    from modeldiff_eval.batch import matrix_pairs, named_pairs

    if executor not in EXECUTORS:
        raise UsageError(f"There is no executor {executor!r}.{did_you_mean(executor, EXECUTORS)} Use local or ray.")
    if executor != "ray" and (ray_address or ray_gpus is not None or ray_cpus != 1):
        raise UsageError("--ray-address, --ray-cpus and --ray-gpus have no effect without --executor ray. Add it.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "A batch runs in one process. Train over several ones with `torchrun … crosscoder train`, then give the result with --crosscoder."
        )
    if matrix and (tuned or config):
        raise UsageError("--matrix has the pairs and their settings: leave --tuned and --config out.")
    pairs = matrix_pairs(matrix, flags) if matrix else named_pairs(tuned or (), flags, config=config)
    out = out.rstrip("/") or "/"
    if not (force or "://" in out):
        from modeldiff_eval.dry_run import FORCE
        from modeldiff_eval.held import require_own

        for pair in pairs:
            require_own(Path(out).expanduser() / pair.name, pair.settings, otherwise=FORCE)
    if dry_run:
        _show_plan(pairs, out, as_json=as_json)
        raise typer.Exit
    if offline:
        go_offline()
    reporter = speak(f"{len(pairs)} pairs", quiet=quiet, verbose=verbose, log_json=log_json)
    report = _run(pairs, out, (executor, ray_address, ray_cpus, ray_gpus), reporter, force=force)
    _show(report, out, as_json=as_json, quiet=quiet)
    raise typer.Exit(report.exit_code)


def _show_plan(pairs: Sequence[Pair], out: str, *, as_json: bool) -> None:
    """Print what a batch will do, and look at every pair's inputs and at ``out``."""
    from modeldiff_eval.dry_run import require_possible
    from modeldiff_eval.inputs import require_inputs
    from modeldiff_eval.redact import redacted
    from modeldiff_eval.remote import is_url

    if as_json:
        planned = [
            {
                "name": pair.name,
                "out": f"{out}/{pair.name}",
                "settings": redacted(pair.settings.model_dump(mode="json")),
            }
            for pair in pairs
        ]
        print(json.dumps({"out": out, "pairs": planned}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(plan_lines(pairs, out)), flush=True)
    for pair in pairs:
        try:
            require_inputs(pair.settings, fetch=False)
        except ModelDiffError as error:
            raise type(error)(f"{pair.name}: {error}") from error
    if not is_url(out):
        require_possible(Path(out).expanduser())


def plan_lines(pairs: Sequence[Pair], out: str) -> list[str]:
    """What a batch will do, for ``--dry-run``."""
    from modeldiff_eval.batch import grouped

    lines = [f"{len(pairs)} pairs"]
    for pair in pairs:
        own = pair.settings
        anchored = f", anchored in {own.anchor}" if own.anchor else ""
        lines.append(f"  {pair.name:16} {own.base} → {own.tuned}{anchored}; writes {out}/{pair.name}")
    for group in grouped(pairs, "text_key"):
        asked = group[0].settings.rollouts
        if asked:
            names = ", ".join(pair.name for pair in group)
            lines.append(f"Text          {asked} prompts answered by base and the tuned models of {names}: one text")
    for group in grouped(pairs, "shared_key"):
        if len(group) > 1:
            what = "activations of base" + (
                " and anchor, crosscoder of (anchor, base)" if group[0].settings.anchor else ""
            )
            lines.append(f"Once for {len(group):2}   {what}")
    return lines


def _run(
    pairs: Sequence[Pair],
    out: str,
    engine: tuple[str, str | None, float, float | None],
    reporter: Reporter,
    *,
    force: bool,
) -> Report:
    from modeldiff_eval.batch_run import run_batch
    from modeldiff_eval.store import cache_dir

    with _engine(engine, reporter) as chosen:
        return run_batch(pairs, out, cache=cache_dir(), executor=chosen, reporter=reporter, force=force)


@contextmanager
def _engine(engine: tuple[str, str | None, float, float | None], reporter: Reporter) -> Iterator[Executor]:
    name, address, cpus, gpus = engine
    if name == "ray":
        import torch

        from modeldiff_eval.batch_ray import on_ray

        reporter.note("All stages were handed to Ray; a line comes as each pair ends.")
        gpus = float(torch.cuda.is_available()) if gpus is None else gpus
        with on_ray(address, cpus=cpus, gpus=gpus) as ray:
            yield ray
        return
    from modeldiff_eval.executor import Local

    yield Local(reporter)


def _show(report: Report, out: str, *, as_json: bool, quiet: bool) -> None:
    from modeldiff_eval.batch_run import REPORT

    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    elif quiet:
        print(f"{out}/{REPORT}")
    else:
        from rich.console import Console

        _table(report, out, Console())


def _table(report: Report, out: str, console: Console) -> None:
    """Every pair with how it ended; names, headlines and errors are text, never markup."""
    from rich.table import Table
    from rich.text import Text

    from modeldiff_eval.render_text import visible

    words: Mapping[str, str] = {"done": "done", "kept": "done before", "failed": "FAILED"}
    table = Table(box=None, pad_edge=False)
    for title, justify in (("pair", "left"), ("", "left"), ("time", "right"), ("finding, or what went wrong", "left")):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for pair in report.pairs:
        text = Text(visible(pair.error or pair.headline or "", limit=400))
        table.add_row(Text(pair.name), words[pair.state], f"{pair.seconds:.0f} s", text)
    console.print(table, highlight=False)
    for note in report.notes:
        console.print(Text(visible(note, limit=600)), highlight=False)
    failed = [pair.name for pair in report.pairs if pair.state == "failed"]
    console.print(
        f"{len(report.pairs) - len(failed)} of {len(report.pairs)} pairs done.", highlight=False, markup=False
    )
    for name, file in report.files.items():
        console.print(f"  {name:18} {out}/{file}", highlight=False, markup=False, soft_wrap=True)
    if failed:
        console.print("next: repair what failed and run the same command again; the rest stays.", highlight=False)
