"""The outcome of the truth bench for a terminal or a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from modeldiff_eval.truth_report import Proportion, RuleRow, Selftest

_WIDTH = 210
"""A pipe has no width of its own; a table is not folded there."""


def console() -> Console:
    """Standard output: as wide as the terminal, or as the tables on a pipe."""
    made = Console()
    return made if made.is_terminal else Console(width=_WIDTH)


def percent(share: Proportion) -> str:
    """``"23.3 % (16.7–31.7)"``, or ``"–"`` where nothing can be said."""
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f}–{100 * share.high:.1f})"


def print_selftest(result: Selftest, console: Console) -> None:
    """What was planted, one row for each rule and side, ν by kind, and the laws."""
    planted = ", ".join(f"{number:,} {kind.replace('_', '-')}" for kind, number in result.planted.items())
    runs = [run for run in result.runs if run.pair == "planted"]
    fve = sum(run.fve_first + run.fve_second for run in runs) / (2 * len(runs))
    agreement = sum(run.seed_agreement for run in runs) / len(runs)
    last = result.seed + result.seeds - 1
    seeds = f"seed {result.seed}" if result.seeds == 1 else f"seeds {result.seed} to {last}"
    for line in (
        f"Truth bench, {result.scale} scale, method {result.method}, {seeds}",
        f"Planted: {planted}; {result.heldout_tokens:,} of {result.tokens:,} tokens held out; fve {fve:.3f}; "
        f"{100 * agreement:.0f} % of the latents found by a second seed",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_rules(result))
    console.print(_nu(result))
    for row in result.rules:
        if row.thresholds and row.side == "both":
            limits = ", ".join("none" if t is None else f"{t:.4f}" for t in row.thresholds)
            _line(console, f"{row.rule}: upper limit of ν^ε at most {limits} (false discovery rate {result.rate:g})")
    for law in result.laws:
        _line(console, f"{'holds ' if law.holds else 'BROKEN'}  {law.name}: {law.detail}")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _rules(result: Selftest) -> Table:
    caption = (
        "n: claims. Precision: exclusive of the claims, rotated ones set aside, and for shifted rules rescaled ones as well. "
        "Recall: exclusive claims of the planted exclusive latents. 95 % intervals (Wilson, latents of all seeds pooled)."
    )
    table = Table(
        title="Claims of model-specific latents", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD
    )
    for name in ("rule", "side"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "excl.", "resc.", "rot.", "shared", "none", "twice"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("precision", "recall", "false on null", "verdict"):
        table.add_column(name)
    for row in result.rules:
        table.add_row(*_cells(row), end_section=row.side == "both")
    return table


def _cells(row: RuleRow) -> list[str]:
    numbers = (row.claims, row.exclusive, row.rescaled, row.rotated, row.shared, row.unmatched, row.duplicates)
    return [
        row.rule, row.side, *(f"{number:,}" for number in numbers),
        f"{percent(row.precision)} n {row.precision.n:,}", f"{percent(row.recall)} n {row.recall.n:,}",
        f"{row.false_on_null.count} of {row.false_on_null.n:,}", f"{row.verdict}: {row.reason}",
    ]  # fmt: skip


def _nu(result: Selftest) -> Table:
    caption = "Latents by model they are in. Recovered: a dictionary latent has the direction. n: ν is defined. Covered: truth in the 95 % interval."
    table = Table(title="ν^ε against the truth", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for name in ("kind", "recovered", "n", "true ν", "mean ν", "mean error", "median |error|", "covered"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for row in result.nu:
        error = row.error
        interval = "–" if error.value is None else f"{error.value:+.3f} ({error.low:+.3f} … {error.high:+.3f})"
        numbers = ["–" if x is None else f"{x:.3f}" for x in (row.truth, row.value)]
        absolute = "–" if row.absolute is None else f"{row.absolute:.3f}"
        recovered = f"{percent(row.recovered)} n {row.recovered.n:,}"
        table.add_row(row.kind, recovered, f"{row.measured:,}", *numbers, interval, absolute, percent(row.covered))
    return table
