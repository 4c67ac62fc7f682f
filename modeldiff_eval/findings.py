"""What a card says in words: the headline, what is not significant, and where inside and outside agree.

Pure functions from records to text, shared by every maker of a card. Words follow the verdicts; a number never appears
without its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modeldiff_eval.records import Arena, BenchmarkRow, ClassRow, Estimate, Latents
from modeldiff_eval.stats_shares import SMOOTHING


def signed(value: float | None, digits: int = 1) -> str:
    """``+5.3`` or ``−5.3`` with a real minus sign; "not defined" for ``None``; no sign on what rounds to 0."""
    if value is None:
        return "not defined"
    text = f"{abs(value):.{digits}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return ("−" if value < 0 else "+") + text


def interval(value: Estimate, digits: int = 1) -> str:
    """``−5.3 to +16.5``; a missing bound is called open."""
    low, high = (signed(bound, digits) if bound is not None else "open" for bound in (value.low, value.high))
    return f"{low} to {high}"


def headline(classes: Sequence[ClassRow], latents: Latents) -> str:
    """One sentence a person would say about the class shifts."""
    n_base, n_tuned = latents.base.annotated, latents.tuned.annotated
    tested = [row for row in classes if row.verdict != "not covered"]
    skipped = len(classes) - len(tested)
    tail = f" {_plural(skipped, 'class', 'classes')} could not be seen in this corpus." if skipped else ""
    if not n_base and not n_tuned:
        return "No latent is specific to either model, so no class shift can be measured." + tail
    if not n_base or not n_tuned:
        side, other, n = ("base", "tuned", n_tuned) if not n_base else ("tuned", "base", n_base)
        return (
            f"Only {other} has annotated specific latents ({n}); with none in {side}, shares cannot be compared." + tail
        )
    at = f"at {n_base} and {n_tuned} latents"
    found = sorted((row for row in tested if row.verdict in ("up", "down")), key=lambda row: -abs(row.diff.value or 0))
    if not tested:
        return f"No class is covered by this corpus ({n_base} and {n_tuned} latents annotated)."
    if found:
        said = "; ".join(
            f"{row.name} {'rises' if row.verdict == 'up' else 'falls'} by {abs(row.diff.value or 0):.1f} points "
            f"(95 % {interval(row.diff)}, adjusted p {row.p_adjusted:.2g})"
            for row in found
        )
        rest = len(tested) - len(found)
        more = (
            f"; the other {_plural(rest, 'class shift', 'class shifts')} cannot be told from zero {at}" if rest else ""
        )
        return f"{said}{more}.{tail}"
    largest = max(tested, key=lambda row: abs(row.diff.value or 0))
    if len(tested) == 1:
        could = f"at {signed(largest.diff.value)} points could be anything from {interval(largest.diff)}"
        said = f"{largest.name} {could if largest.diff.value else 'is exactly 0'}"
        return f"The one class shift that could be measured is not distinguishable from zero {at}; {said}.{tail}"
    if not largest.diff.value:
        return f"None of the {len(tested)} class shifts is distinguishable from zero {at}; all are exactly 0.{tail}"
    return (
        f"None of the {len(tested)} class shifts is distinguishable from zero {at}; the largest, {largest.name} at "
        f"{signed(largest.diff.value)} points, could be anything from {interval(largest.diff)}.{tail}"
    )


def not_significant(
    classes: Sequence[ClassRow],
    categories: Sequence[ClassRow],
    latents: Latents,
    *,
    arena: Arena | None = None,
    benchmarks: Sequence[BenchmarkRow] = (),
) -> list[str]:
    """Everything whose verdict is unclear, by name, with n and the smallest effect that this n could have shown."""
    out = []
    n = f"{latents.base.annotated} and {latents.tuned.annotated} latents"
    for row in (*classes, *categories):
        if row.verdict != "unclear":
            continue
        if row.diff.value is None:
            out.append(f"{row.code} {row.name}: shares not defined at {n}.")
            continue
        mde = "" if row.mde is None else f"; smallest detectable shift {row.mde:.1f} points"
        out.append(f"{row.code} {row.name}: {signed(row.diff.value)} points (95 % {interval(row.diff)}), {n}{mde}.")
    for elo in arena.rows if arena else ():
        if elo.verdict == "unclear":
            out.append(f"Arena {elo.category}: {signed(elo.delta.value)} Elo (95 % {interval(elo.delta)}).")
    for bench in benchmarks:
        if bench.verdict == "unclear":
            mde = "" if bench.mde is None else f"; smallest detectable change {bench.mde:.3g}"
            known = bench.delta.low is not None or bench.delta.high is not None
            digits = 3 if max(abs(bench.base), abs(bench.tuned)) <= 1 else 1
            bounds = f"95 % {interval(bench.delta, digits)}" if known else "no interval"
            change = signed(bench.delta.value, digits)
            out.append(f"{bench.task} {bench.metric}: {change} ({bounds}), n = {bench.n}{mde}.")
    return out


def share_only(classes: Sequence[ClassRow]) -> list[str]:
    """Classes whose share and count move in opposite directions: only the share moved."""
    out = []
    for row in classes:
        diff, count = row.diff.value, row.count_change.value
        if diff is not None and count is not None and diff * count < 0:
            word = "rises" if diff > 0 else "falls"
            out.append(
                f"{row.name}, share only: the share {word} by {abs(diff):.1f} points while the count goes from "
                f"{row.base.count} to {row.tuned.count} latents."
            )
    return out


def share_method(rows: Sequence[ClassRow], omnibus: Mapping[str, float | None]) -> list[str]:
    """How the shares' intervals and verdicts were made, for the caveats.

    Args:
        rows: classes and categories.
        omnibus: what was tested jointly ("classes", "categories") → its p, ``None`` where there was nothing to test.
    """
    tests = ", ".join(f"{name} p = {p:.2g}" for name, p in omnibus.items() if p is not None)
    out = [
        "Class and category intervals: 95 %, seeded Bayesian bootstrap over families of latents with "
        f"{SMOOTHING:g} pseudo latents inside and outside; simultaneous ones by max-|t|. Verdicts: joint permutation "
        f"test{f' ({tests})' if tests else ''}, then step-down max-T within classes and within categories. Smallest "
        "detectable shift: (1.96 + 0.84) × bootstrap standard error, that is 80 % power at 0.05 before multiplicity.",
        "A share of latents is not a measure of ability, and association is not cause.",
    ]
    open_ended = [row.name for row in rows if row.change is not None and row.change.high is None]
    undefined = [row.name for row in rows if row.diff.value is not None and row.change is None]
    if open_ended:
        out.append(f"Percent change has no upper bound where base has very few latents: {', '.join(open_ended)}.")
    if undefined:
        out.append(f"Percent change is not defined where the base share is 0: {', '.join(undefined)}.")
    return out


def _plural(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
