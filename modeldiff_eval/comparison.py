"""Several tuned models of one base side by side, such as SimPO and DPO: what each changed, and how far the changes differ.

Overlapping intervals of two cards say little: both changes are against the same base, on much the same text. What is compared here is the
difference of the two differences, with base and documents drawn once for both (``docs/decisions/020-leaderboard-and-comparison.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modeldiff_eval import comparison_words as words
from modeldiff_eval.comparison_activation import activation_differences, align
from modeldiff_eval.comparison_evidence import compare_arena, compare_benchmarks
from modeldiff_eval.comparison_latents import overlaps
from modeldiff_eval.comparison_records import ComparedClass, ComparedRun, Comparison, PairDifference, SharedActivation
from modeldiff_eval.comparison_runs import RunFiles, read_runs, require_comparable
from modeldiff_eval.comparison_shares import NOTHING, share_differences, sides_of
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.records import ClassRow


def compare_runs(runs: Mapping[str, Path], *, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare finished runs of tuned models of one base.

    Args:
        runs: name → the run's folder, with ``card.json`` and what the run left beside it; a folder with a card alone (from published counts) is
            compared as far as counts go.
        draws: resamples.
        seed: of all resampling; equal runs give equal comparisons.

    Raises:
        UsageError: fewer than two runs, a folder without a card or with a broken table, or runs that differ in more than the tuned model.
        SettingsError: too few draws.
    """
    if draws < 100:
        raise SettingsError(f"draws is {draws}; at least 100 resamples are needed for a 95 % interval.")
    found = read_runs(runs)
    caveats = require_comparable(found)
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    classes, said, shared = _level(found, pairs, classes=True, draws=draws, seed=seed)
    categories, more, _ = _level(found, pairs, classes=False, draws=draws, seed=seed)
    first = found[0].card
    return Comparison(
        title=f"{first.models.base.id}: {', '.join(run.name for run in found)}",
        created=max(run.card.created for run in found),
        mode=first.mode,
        method=first.method,
        base=first.models.base,
        anchor=first.models.anchor,
        layer=first.crosscoders[0].layer if first.crosscoders else None,
        base_shared=shared,
        runs=[_run(run) for run in found],
        classes=classes,
        categories=categories,
        benchmarks=compare_benchmarks(found, pairs, draws=draws, rng=np.random.default_rng([seed, 73])),
        arena=compare_arena(found, pairs),
        overlaps=[overlap for a, b in pairs for overlap in overlaps(a, b)],
        draws=draws,
        seed=seed,
        rules=list(words.RULES),
        caveats=[*caveats, *dict.fromkeys([*said, *more])],
    )


def _level(
    runs: Sequence[RunFiles], pairs: Sequence[tuple[RunFiles, RunFiles]], *, classes: bool, draws: int, seed: int
) -> tuple[list[ComparedClass], list[str], bool]:
    """Classes or categories of all runs, caveats, and whether base is shared."""
    cards: dict[str, Sequence[ClassRow]] = {
        run.name: run.card.classes if classes else run.card.categories for run in runs
    }
    rows = [row for row in cards[runs[0].name] if all(any(r.code == row.code for r in own) for own in cards.values())]
    by = {name: {row.code: row for row in own} for name, own in cards.items()}
    groups = [(row.code, row.name) for row in rows]
    codes = [code for code, _ in groups]
    sides = sides_of(runs, codes, classes=classes) if groups else None
    shares: list[list[PairDifference]] = []
    activation: list[list[SharedActivation]] = []
    caveats = (
        []
        if sides is None or not classes
        else words.caveats(
            counts_only=any(run.latents is None for run in runs), base_shared=sides.base_shared, matched=sides.matched
        )
    )
    for number, (a, b) in enumerate(pairs):
        both = [(by[a.name][code], by[b.name][code]) for code in codes]
        rng = np.random.default_rng([seed, 71, int(classes), number])
        if sides is None:
            reason = "The cards list only some of the categories, so their shares cannot be resampled together."
            shares.append([PairDifference(first=a.name, second=b.name, value=NOTHING, missing=reason) for _ in groups])
        else:
            covered = [x.covered and y.covered for x, y in both]
            shares.append(
                share_differences(sides, a.name, b.name, groups, covered, draws=draws, rng=rng, comparisons=len(pairs))
            )
        aligned = align(a, b, codes, classes=classes)
        rng = np.random.default_rng([seed, 72, int(classes), number])
        activation.append(activation_differences(a, b, both, aligned, draws=draws, rng=rng, comparisons=len(pairs)))
        if classes and not isinstance(aligned, str) and aligned.renamed:
            caveats.append(words.renamed(aligned.renamed, a.name, b.name))
    compared = [
        ComparedClass(
            code=code, name=name, runs={run.name: by[run.name][code] for run in runs}, shares=[own[i] for own in shares],
            activation=[own[i] for own in activation],
        )
        for i, (code, name) in enumerate(groups)
    ]  # fmt: skip
    return compared, caveats, bool(sides and sides.base_shared)


def _run(run: RunFiles) -> ComparedRun:
    counts = run.card.latents
    return ComparedRun(
        name=run.name, title=run.card.title, created=run.card.created, headline=run.card.headline, tuned=run.card.models.tuned,
        specific_base=counts.base.specific, specific_tuned=counts.tuned.specific, annotated_base=counts.base.annotated,
        annotated_tuned=counts.tuned.annotated,
    )  # fmt: skip
