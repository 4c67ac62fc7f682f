"""Findings become a card: shares and activation changes by class, outside evidence, the words, the caveats."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval import agreement, distributions, findings, graded_words, naming_words
from modeldiff_eval._version import __version__
from modeldiff_eval.card_latents import changed_latents, top_latents
from modeldiff_eval.graded import GradedView, Shifted
from modeldiff_eval.naming_shares import share_shifts_over_repeats
from modeldiff_eval.records import (
    ActivationChange,
    ActivationSplit,
    AnnotationQuality,
    Arena,
    BenchmarkRow,
    Card,
    CausalPanel,
    ClassRow,
    Coverage,
    CrosscoderInfo,
    DifferenceInfo,
    Estimate,
    LatentCounts,
    Latents,
    Models,
    Provenance,
    StrongShare,
)
from modeldiff_eval.settings import Method, Settings, command_line
from modeldiff_eval.stats_shares import ShareShifts, over_seeds, share_shifts
from modeldiff_eval.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from modeldiff_eval.annotation import Evidence

METHODS: dict[Method, str] = {
    "difference": "dictionary of differences with Latent Scaling; batchtopk crosscoder, paired activation shift",
    "batchtopk": "batchtopk crosscoder, Latent Scaling, paired activation shift",
    "dedicated": "batchtopk crosscoder with dedicated latents, Latent Scaling, paired activation shift",
    "delta": "batchtopk crosscoder with a weighted difference, Latent Scaling, paired activation shift",
}
_COUNTED = {
    "gated": ", a latent's activation summed where the two together make it fire (so a model that fires on other tokens is not seen to)",
    "hard": ", a latent's activation summed where the model alone passes the threshold (so small moves at the threshold are magnified)",
}


@dataclass(frozen=True)
class Outside:
    """What benchmarks and the arena say, with their caveats."""

    arena: Arena | None
    benchmarks: list[BenchmarkRow]
    caveats: list[str]
    scores: pd.DataFrame | None = None
    """By document, for later comparisons; the card does not hold them."""


def build_card(
    *,
    settings: Settings,
    models: Models,
    crosscoders: list[CrosscoderInfo],
    differences: list[DifferenceInfo] | None,
    table: pd.DataFrame,
    evidence: dict[str, dict[int, Evidence]],
    activation: dict[str, list[ActivationChange]],
    graded: GradedView,
    activation_by: list[ActivationSplit] | None = None,
    outside: Outside,
    taxonomy: Taxonomy,
    coverage: Coverage,
    corpus_key: str,
    tokens: int,
    caveats: Sequence[str],
    versions: dict[str, str],
    seed_tables: Sequence[pd.DataFrame] = (),
    nulls: Mapping[str, Shifted] | None = None,
    created: str | None = None,
    causal: CausalPanel | None = None,
    naming: AnnotationQuality | None = None,
    repeats: Mapping[tuple[str, int], Sequence[str | None]] | None = None,
) -> Card:
    """The whole card.

    Args:
        table: one row per (side, latent), from :func:`modeldiff_eval.side_tables.latent_table`.
        evidence: side → latent → examples.
        activation: "classes" and "categories" → activation changes in the taxonomy's order.
        graded: shares by graded weight, in the same order.
        seed_tables: the same as ``table`` from crosscoders of other seeds.
        nulls: side → what its null control says, where there is one.
        activation_by: the classes' changes on parts of the text.
        naming: how well the latents are named; the shares without weak names are added here.
        repeats: (crosscoder, latent) → category of every repeat, where an annotator was asked several times.
    """
    groups = {
        "classes": [(c.code, c.name) for c in taxonomy.classes],
        "categories": [(c.code, c.name) for c in taxonomy.categories],
    }
    covered = _covered(table, coverage, taxonomy)
    shifts = {
        level: _shares(table, groups[level], covered, level, settings, seed=[settings.seed, 31 + number])
        for number, level in enumerate(groups)
    }
    spread: list[str] = []
    if seed_tables:
        shifts, spread = _over_seeds(shifts, [table, *seed_tables], groups, settings)
    if repeats:
        shifts = share_shifts_over_repeats(shifts, table, repeats, groups, draws=settings.draws, seed=settings.seed)
    rows = {
        level: [
            row.model_copy(update={"activation": change, "graded": share} if row.covered else {})
            for row, change, share in zip(
                shifts[level].rows,
                activation[level],
                graded.rows(level, len(groups[level])),
                strict=True,
            )
        ]
        for level in groups
    }
    nulls = nulls or {}
    latents = Latents(
        base=_counts(table, "base", shifts["classes"].effective_n_base, graded),
        tuned=_counts(table, "tuned", shifts["classes"].effective_n_tuned, graded),
        null_rate=max((null.rate for null in nulls.values()), default=None),
    )
    anchored = models.anchor is not None
    compared = agreement.compare(
        agreement.map_for(settings.agreement, taxonomy),
        [*rows["classes"], *rows["categories"]],
        arena=outside.arena,
        benchmarks=outside.benchmarks,
        coverage=coverage,
    )
    correlations = agreement.rank_correlations(compared, rng=np.random.default_rng([settings.seed, 45]))
    return Card(
        title=settings.title or f"{_name(models.base)} → {_name(models.tuned)}",
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        mode="anchored" if anchored else "direct",
        method=METHODS[settings.method],
        headline=" ".join(
            [
                _headline(rows["classes"], latents, table),
                *graded_words.shifted(latents, nulls),
                *graded_words.first_named(table, nulls),
            ]
        ),
        models=models,
        crosscoders=crosscoders,
        differences=differences,
        delta_norm_histogram=distributions.delta_norm_histogram(table),
        nu_maps=distributions.nu_maps(table),
        latents=latents,
        classes=rows["classes"],
        categories=rows["categories"],
        arena=outside.arena,
        activation_by=activation_by,
        benchmarks=outside.benchmarks,
        agreement=[item.row for item in compared],
        rank_correlations=correlations,
        causal=causal,
        annotation_quality=_without_weak(naming, table, groups["classes"], settings),
        coverage=coverage,
        not_significant=[
            *_flat_activation(rows["classes"]),
            *findings.not_significant(
                rows["classes"] if _defined(rows["classes"]) else [],
                rows["categories"] if _defined(rows["categories"]) else [],
                latents,
                arena=outside.arena,
                benchmarks=outside.benchmarks,
            ),
        ],
        top_latents=top_latents(table, evidence, settings),
        caveats=[
            *_caveats(settings, table, latents, shifts, rows),
            *graded_words.caveats(latents, nulls),
            *naming_words.caveats(naming),
            *spread,
            *outside.caveats,
            *filter(None, [agreement.sentence(compared, correlations)]),
            *caveats,
        ],
        provenance=Provenance(
            package=f"modeldiff-eval {__version__}",
            versions={"python": platform.python_version(), **versions},
            seeds={"seed": settings.seed},
            command=command_line(settings),
            corpus=corpus_key,
            tokens=tokens,
            annotator=_annotators(settings) if bool((table["annotation_failure"] != "not annotated").any()) else None,
        ),
    )  # fmt: skip


def _name(model: Any) -> str:
    return f"{model.id} + {model.adapter}" if model.adapter else str(model.id)


def _defined(rows: list[ClassRow]) -> bool:
    return any(row.diff.value is not None for row in rows)


def _covered(table: pd.DataFrame, coverage: Coverage, taxonomy: Taxonomy) -> set[str]:
    """Codes that the corpus reaches: some document says so, or some live latent is named so."""
    named = table.loc[table["category"].notna() & (table["firings"] > 0), "category"]
    categories = {str(code) for code in named} | {str(row["category"]) for row in coverage.categories}
    categories &= {c.code for c in taxonomy.categories}
    return categories | {code.split(".")[0] for code in categories}


def _shares(
    table: pd.DataFrame,
    groups: list[tuple[str, str]],
    covered: set[str],
    level: str,
    settings: Settings,
    *,
    seed: list[int],
) -> ShareShifts:
    return share_shifts(
        *_labels(table, groups, level),
        groups=groups,
        covered=covered,
        draws=settings.draws,
        rng=np.random.default_rng(seed),
    )


def _over_seeds(
    shifts: dict[str, ShareShifts],
    tables: Sequence[pd.DataFrame],
    groups: dict[str, list[tuple[str, str]]],
    settings: Settings,
) -> tuple[dict[str, ShareShifts], list[str]]:
    """Intervals of the share differences widened by the choice of the seed, and what the seeds say one by one."""
    out, said = {}, list[str]()
    for number, (level, shift) in enumerate(shifts.items()):
        sides = [_labels(table, groups[level], level) for table in tables]
        rng = np.random.default_rng([settings.seed, 33 + number])
        rows, values = over_seeds(shift.rows, sides, draws=settings.draws, rng=rng)
        out[level] = shift._replace(rows=rows)
        if level == "classes":
            said = graded_words.over_seeds(groups[level], sides, values)
    return out, said


def _without_weak(
    naming: AnnotationQuality | None, table: pd.DataFrame, groups: list[tuple[str, str]], settings: Settings
) -> AnnotationQuality | None:
    """The record with the class shares of the latents whose name is not weak; unscored ones stay in."""
    if naming is None or not naming.scored:
        return naming
    strong = table[~table["weak"].fillna(False).astype(bool)]
    shift = _shares(strong, groups, {code for code, _ in groups}, "classes", settings, seed=[settings.seed, 35])
    rows = [StrongShare(code=r.code, base=r.base, tuned=r.tuned, diff=r.diff) for r in shift.rows]
    return naming.model_copy(update={"without_weak": rows})


def _labels(
    table: pd.DataFrame, groups: list[tuple[str, str]], level: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Group of every annotated specific latent of base and of tuned, then their families."""
    index = {code: i for i, (code, _) in enumerate(groups)}
    labels, families = [], []
    for side in ("base", "tuned"):
        own = table[(table["model"] == side) & table["specific"] & table["annotation_failure"].isna()]
        codes = own["category"].map(lambda c: c.split(".")[0] if level == "classes" and isinstance(c, str) else c)
        labels.append(np.asarray([index.get(c, -1) for c in codes], dtype=np.int64))
        families.append(own["family"].to_numpy(dtype=np.int64))
    return labels[0], labels[1], families[0], families[1]


def _counts(table: pd.DataFrame, side: str, effective_n: float | None, graded: GradedView) -> LatentCounts:
    whole = table[table["model"] == side]
    own = whole[whole["specific"]]
    annotated = own[own["annotation_failure"].isna()]
    return LatentCounts(
        specific=len(own),
        shifted=None if whole["shifted"].isna().all() else int(whole["shifted"].sum()),
        annotated=len(annotated),
        none=int(annotated["category"].isna().sum()),
        failed=len(own) - len(annotated),
        effective_n=effective_n,
        graded=graded.counts[side],
    )


def _annotators(settings: Settings) -> str:
    """Who named the latents: a language model or a person names some, the offline annotator the others."""
    return settings.annotator + ("" if settings.annotator == "offline" else ", offline for the rest")


def _headline(classes: list[ClassRow], latents: Latents, table: pd.DataFrame) -> str:
    """The counts' sentence, and what the paired activation shift saw on the same tokens."""
    moved = sorted(
        (row for row in classes if row.activation and row.activation.verdict in ("up", "down")),
        key=lambda row: -abs((row.activation.change.value if row.activation else 0) or 0),
    )
    said = findings.headline(classes, latents)
    if not latents.base.specific and not latents.tuned.specific:
        # The candidate is chosen on the ranking half and reported from the other one.
        candidates = table[table["rank_key"].notna() & table["nu_error"].notna()]
        nearest = candidates.sort_values(["rank_key", "latent"]).head(1)
        first = "the first candidate" if _by_difference(table) else "the nearest candidate"
        near = "".join(
            f" ({first} has ν^ε {row.nu_error:.2f}, 95 % {row.nu_error_low:.2f} to {row.nu_error_high:.2f})"
            for row in nearest.itertuples()
        )
        said = f"No latent is specific to either model by the thresholds{near}, so class shares cannot be compared."
    if moved:
        parts = [f"{row.name} {_percent(row.activation.change)}" for row in moved[:3] if row.activation]
        largest = ", most of all" if len(moved) > len(parts) else ""
        count = f"{len(moved)} of {len(classes)} classes"
        return f"{said} On the same tokens the activation of {count} changed{largest}: {'; '.join(parts)}."
    if any(row.activation and row.activation.change.value is not None for row in classes):
        return f"{said} On the same tokens no class's activation shift can be told from chance and numerical noise."
    return said


def _by_difference(table: pd.DataFrame) -> bool:
    return bool((table["dictionary"] == "difference").any())


def _percent(value: Estimate) -> str:
    return f"{findings.signed(value.value)} % (95 % {findings.interval(value)})"


def _flat_activation(classes: list[ClassRow]) -> list[str]:
    out = []
    for row in classes:
        change = row.activation
        if change and change.verdict == "unclear" and change.change.value is not None:
            null = "not measured" if change.null_size is None else f"{change.null_size:.1f} %"
            out.append(
                f"{row.code} {row.name}, activation: {_percent(change.change)}, {change.n_latents} latents, "
                f"{change.n_documents} documents; numerical noise alone reaches {null}."
            )
    return out


def _caveats(
    settings: Settings,
    table: pd.DataFrame,
    latents: Latents,
    shifts: dict[str, ShareShifts],
    rows: dict[str, list[ClassRow]],
) -> list[str]:
    limits, rate = settings.thresholds, settings.false_discovery_rate
    fires = f"at least {limits.min_firings} firings; reported ν come from the other half"
    if settings.method == "difference":
        out = [
            "Specific latents are those of a dictionary of the difference tuned − base that are more than noise (exchange control at a false "
            f"discovery rate of {100 * rate:g} %, Benjamini–Hochberg) and of which the other model has none in either direction: |ν^ε| < "
            f"{limits.nu_error:g} on one half of the held-out documents, with {fires}. The activation view uses the crosscoder, whose latents "
            "are numbered before these."
        ]
    else:
        out = [
            f"Specific = ν^ε < {limits.nu_error:g} and ν^r < {limits.nu_reconstruction:g} on one half of the held-out documents, with "
            f"{fires}. These fixed thresholds are not set from a null: their false discovery rate is unknown."
        ]
    if not latents.base.specific and not latents.tuned.specific:
        order = (
            "those that explain most of the difference in their own model's answers beyond the other's"
            if settings.method == "difference"
            else "lowest upper limit of ν^ε"
        )
        out.append(
            f"No latent passed the thresholds. The latents shown are the {settings.annotate_top} nearest candidates on each side ({order}"
            ") and the largest activation shifts; they are leads, not findings."
        )
    searched = table if settings.method != "difference" else table[table["dictionary"] == "difference"]
    undefined = int(searched["nu_error"].isna().sum())
    out.append(
        f"ν is undefined for {undefined} of {len(searched)} (side, latent) rows: dead, rarely firing, or no reliable β in the own model."
    )
    if _defined(rows["classes"]):
        out += findings.share_method(
            (*rows["classes"], *rows["categories"]), {level: shift.omnibus_p for level, shift in shifts.items()}
        )
        out += findings.share_only(rows["classes"])
    else:
        out.append("Class shares are not defined where a side has no annotated specific latent; they are null, not 0.")
    if any(row.activation for row in rows["classes"]):
        out.append(
            f"Activation change: both models encoded alone on the same held-out tokens{_COUNTED[settings.shift_estimator]}; interval over documents "
            "and over the class's latents, p over documents adjusted by step-down max-T over the classes, "
            "and a verdict only where the interval excludes 0 and the change exceeds what the base in another precision shows, "
            "and 0.25 %, more than random noise of 1 % of the energy does. "
            "One dictionary and one set of names: another training can move a class. "
            "Classes hold every live latent that was named; a change "
            "says that these latents fire more or less, not that the model got better or worse."
        )
        out.append(changed_latents(table))
    if settings.annotator != "offline":
        rest = (
            "Latents without a review" if settings.annotator.startswith("human:") else "Latents that no claim rests on"
        )
        out.append(
            f"{rest}, and with them the classes of the activation view, were named by the offline sentence encoder: rough, and sure of few."
        )
    else:
        out.append(
            "Latents were named by an offline sentence encoder, not by a language model: categories are rough, and its confidence is low for many."
        )
    return out
