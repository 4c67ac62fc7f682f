"""A card from published counts (``COUNTS.yaml``) or from latents annotated elsewhere (``LATENTS.csv``).

The paper's tables are percentages without intervals; from the counts behind them this makes the same card that a run
makes: shares, intervals, joint tests, verdicts, and what the printed numbers contradict.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import scipy

from modeldiff_eval._version import __version__
from modeldiff_eval.agreement import compare, map_for, rank_correlations, sentence
from modeldiff_eval.card_digest import seal
from modeldiff_eval.counts_benchmarks import benchmarks_from_spec
from modeldiff_eval.counts_csv import read_latents
from modeldiff_eval.counts_evidence import arena_from_spec
from modeldiff_eval.counts_spec import CountPair, CountsSpec, SideSpec, read_spec
from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.findings import headline, not_significant, share_method, share_only
from modeldiff_eval.published import arena_caveats, compare_elo, compare_shifts, elo_caveats, shift_caveats
from modeldiff_eval.published_snapshots import snapshots_caveats
from modeldiff_eval.records import (
    Arena,
    BenchmarkRow,
    Card,
    LatentCounts,
    Latents,
    ModelInfo,
    Models,
    Provenance,
)
from modeldiff_eval.stats_shares import ShareShifts, share_shifts
from modeldiff_eval.taxonomy import Taxonomy

DRAWS = 10_000


def card_from_counts(
    path: Path | str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    title: str | None = None,
    created: str | None = None,
    models: tuple[str, str] | None = None,
) -> Card:
    """The report card of a file of counts (YAML) or of annotated latents (CSV).

    Args:
        path: ``.yaml`` (see :mod:`modeldiff_eval.counts_spec`) or ``.csv`` (see :mod:`modeldiff_eval.counts_csv`).
        draws: bootstrap resamples and permutations.
        seed: seed of both.
        title: replaces the file's title.
        created: time stamp of the card (ISO 8601); now if left out.
        models: (base, tuned) as they stand in the CSV's ``model`` column; left out, the column holds base and tuned. Only
            for a CSV.

    Raises:
        UsageError: the file cannot be read or its counts do not add up; the message says where and what to do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        if models is not None:
            raise UsageError(
                f"{path}: --models belongs to LATENTS.csv; a file of counts names its models itself, under 'models'. "
                "Leave it out."
            )
        return _card_from_yaml(path, draws=draws, seed=seed, title=title, created=created)
    if suffix == ".csv":
        return _card_from_csv(path, draws=draws, seed=seed, title=title, created=created, models=models)
    raise UsageError(f"{path}: {suffix or 'no'} suffix; a card is made from COUNTS.yaml or LATENTS.csv.")


def _card_from_yaml(path: Path, *, draws: int, seed: int, title: str | None, created: str | None) -> Card:
    spec = read_spec(path)
    taxonomy = Taxonomy.load()
    classes = _shifts_from_counts(spec, spec.classes, taxonomy, path, draws=draws, rng=np.random.default_rng([seed, 1]))
    categories = _shifts_from_counts(
        spec, spec.categories, taxonomy, path, draws=draws, rng=np.random.default_rng([seed, 2])
    )
    latents = Latents(
        base=_side(spec.latents.base, [pair.base for pair in spec.classes.values()], classes.effective_n_base),
        tuned=_side(spec.latents.tuned, [pair.tuned for pair in spec.classes.values()], classes.effective_n_tuned),
    )
    arena, arena_notes = arena_from_spec(spec.arena, path.parent) if spec.arena else (None, [])
    benchmarks, benchmark_notes = benchmarks_from_spec(spec.benchmarks)
    caveats = [
        "Made from published counts, not from the models: every latent is resampled on its own. Where one behaviour "
        "is split over several latents, or the two sets share latents, the true intervals differ from these.",
        *_side_caveats("base", spec.latents.base, latents.base),
        *_side_caveats("tuned", spec.latents.tuned, latents.tuned),
    ]
    if len(spec.categories) < len(taxonomy.categories):
        caveats.append(
            f"Counts of {len(spec.categories)} of the {len(taxonomy.categories)} categories were published; the others "
            "are not listed."
        )
    if spec.published:
        caveats += shift_caveats(spec.published.source, compare_shifts(spec.published, classes.rows, categories.rows))
        caveats += elo_caveats(spec.published.source, compare_elo(spec.published))
        caveats += arena_caveats(spec.published, arena) if arena else []
    caveats += snapshots_caveats(arena, spec.published) if arena else []
    caveats += [*arena_notes, *benchmark_notes, *spec.caveats]
    ids = [_model(spec.models.base), _model(spec.models.tuned)]
    return _card(
        title=title or spec.title or f"{ids[0].id} → {ids[1].id}",
        created=created,
        mode=spec.mode,
        method=spec.method,
        models=Models(anchor=_model(spec.models.anchor) if spec.models.anchor else None, base=ids[0], tuned=ids[1]),
        latents=latents,
        classes=classes,
        categories=categories,
        caveats=caveats,
        arena=arena,
        benchmarks=benchmarks,
        provenance=_provenance(path, seed=seed, corpus=spec.source),
    )


def _card_from_csv(
    path: Path, *, draws: int, seed: int, title: str | None, created: str | None, models: tuple[str, str] | None
) -> Card:
    taxonomy = Taxonomy.load()
    read = read_latents(path, taxonomy, models=models)
    groups = [(item.code, item.name) for item in taxonomy.classes]
    classes = share_shifts(
        read.base.classes, read.tuned.classes, read.base.families, read.tuned.families,
        groups=groups, covered=None, draws=draws, rng=np.random.default_rng([seed, 1]),
    )  # fmt: skip
    categories = ShareShifts([], None, None, None)
    if read.has_categories:
        categories = share_shifts(
            read.base.categories, read.tuned.categories, read.base.families, read.tuned.families,
            groups=[(item.code, item.name) for item in taxonomy.categories],
            covered=None, draws=draws, rng=np.random.default_rng([seed, 2]),
        )  # fmt: skip
    sides = []
    for side, effective in ((read.base, classes.effective_n_base), (read.tuned, classes.effective_n_tuned)):
        n = len(side.classes)
        none = int(np.count_nonzero(side.classes < 0))
        counts = LatentCounts(
            specific=n + side.failed, annotated=n, none=none, failed=side.failed, effective_n=effective
        )
        sides.append(counts)
    latents = Latents(base=sides[0], tuned=sides[1])
    caveats = ["Made from latents annotated elsewhere; models and crosscoders were not seen."]
    if not read.has_families:
        caveats.append("The file has no family column: every latent is resampled on its own.")
    for name, counts in (("base", latents.base), ("tuned", latents.tuned)):
        if counts.failed:
            caveats.append(f"{counts.failed} {name} latents have no annotation; they are left out of the shares.")
    names = models or ("base", "tuned")
    return _card(
        title=title or f"{names[0]} → {names[1]}",
        created=created,
        mode="direct",
        method="latents annotated elsewhere",
        models=Models(base=ModelInfo(id=names[0]), tuned=ModelInfo(id=names[1])),
        latents=latents,
        classes=classes,
        categories=categories,
        caveats=caveats,
        arena=None,
        benchmarks=[],
        provenance=_provenance(path, seed=seed, corpus=None),
    )


def _card(
    *,
    title: str,
    created: str | None,
    mode: Literal["direct", "anchored"],
    method: str,
    models: Models,
    latents: Latents,
    classes: ShareShifts,
    categories: ShareShifts,
    arena: Arena | None,
    benchmarks: list[BenchmarkRow],
    caveats: list[str],
    provenance: Provenance,
) -> Card:
    omnibus = {"classes": classes.omnibus_p, "categories": categories.omnibus_p}
    compared = compare(
        map_for(None, Taxonomy.load()), [*classes.rows, *categories.rows], arena=arena, benchmarks=benchmarks
    )
    correlations = rank_correlations(compared, rng=np.random.default_rng([provenance.seeds["bootstrap"], 45]))
    return seal(
        Card(
            title=title,
            created=created or datetime.now(UTC).isoformat(timespec="seconds"),
            mode=mode,
            method=method,
            headline=headline(classes.rows, latents),
            models=models,
            crosscoders=[],
            latents=latents,
            classes=classes.rows,
            categories=categories.rows,
            arena=arena,
            benchmarks=benchmarks,
            agreement=[item.row for item in compared],
            rank_correlations=correlations,
            not_significant=not_significant(classes.rows, categories.rows, latents, arena=arena, benchmarks=benchmarks),
            caveats=[
                *caveats,
                *filter(None, [sentence(compared, correlations)]),
                *share_only(classes.rows),
                *share_method([*classes.rows, *categories.rows], omnibus),
            ],
            provenance=provenance,
        )
    )


def _shifts_from_counts(
    spec: CountsSpec,
    pairs: Mapping[str, CountPair],
    taxonomy: Taxonomy,
    path: Path,
    *,
    draws: int,
    rng: np.random.Generator,
) -> ShareShifts:
    """Shifts of classes or categories when every latent is its own family; what is not counted is "none"."""
    if not pairs:
        return ShareShifts([], None, None, None)
    names = {item.code: item.name for item in taxonomy.classes}
    names |= {item.code: item.name for item in taxonomy.categories}
    groups = [(code, pair.name or _name(code, names, path)) for code, pair in pairs.items()]
    sides = []
    for counts, annotated in (
        ([pair.base for pair in pairs.values()], spec.latents.base.annotated),
        ([pair.tuned for pair in pairs.values()], spec.latents.tuned.annotated),
    ):
        rest = annotated - sum(counts)
        sides.append(np.repeat(np.arange(-1, len(counts)), [rest, *counts]))
    base, tuned = sides
    return share_shifts(
        base,
        tuned,
        np.arange(len(base)),
        len(base) + np.arange(len(tuned)),
        groups=groups,
        covered=set(pairs) - set(spec.not_covered),
        draws=draws,
        rng=rng,
    )


def _name(code: str, names: Mapping[str, str], path: Path) -> str:
    if code not in names:
        raise UsageError(
            f"{path}: {code!r} is no code of the packaged taxonomy.{did_you_mean(code, names)} "
            "For a taxonomy of your own, give the entry a 'name'."
        )
    return names[code]


def _model(value: str | ModelInfo) -> ModelInfo:
    return ModelInfo(id=value) if isinstance(value, str) else value


def _side(side: SideSpec, counts: Sequence[int], effective: float | None) -> LatentCounts:
    failed = side.failed if side.failed is not None else (side.specific or side.annotated) - side.annotated
    return LatentCounts(
        specific=side.specific if side.specific is not None else side.annotated + failed,
        annotated=side.annotated,
        none=side.annotated - sum(counts),
        failed=failed,
        effective_n=effective,
    )


def _side_caveats(name: str, side: SideSpec, counts: LatentCounts) -> list[str]:
    if side.specific is None:
        return [
            f"The number of specific latents of {name} was not published; {counts.specific}, the annotated ones, is a "
            "lower bound."
        ]
    if side.failed is None and counts.failed:
        return [
            f"{name}: {counts.specific} specific latents are reported, the shares are over {counts.annotated}; the "
            f"difference of {counts.failed} is counted as failed annotations."
        ]
    return []


def _provenance(path: Path, *, seed: int, corpus: str | None) -> Provenance:
    return Provenance(
        package="modeldiff_eval",
        versions={
            "modeldiff_eval": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "scipy": scipy.__version__,
        },
        seeds={"bootstrap": seed},
        command=f"modeldiff-eval card {path.name} --seed {seed}",
        corpus=corpus,
        tokens=None,
        annotator=None,
    )
