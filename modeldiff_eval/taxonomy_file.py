"""The file of an induced taxonomy: how it was made as a comment, then classes and categories."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from modeldiff_eval.annotate_words import safe
from modeldiff_eval.records import Record
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.taxonomy_cluster import Stability


class Report(Record):
    """How a taxonomy was made. ``outside``: latents that fit no category; ``silhouettes``: mean by number tried."""

    latents: int
    outside: int
    groups: int
    merged: int
    categories: int
    classes: int
    chosen: bool
    silhouettes: dict[int, float]
    stability: Stability
    named_by: str
    unnamed: int
    notes: tuple[str, ...]
    cost: float | None
    seed: int


@dataclass(frozen=True)
class Induced:
    """The taxonomy, how it was made, and how many latents each category has (by code)."""

    taxonomy: Taxonomy
    report: Report
    sizes: dict[str, int]


def to_yaml(made: Induced, source: str, left_out: dict[str, int]) -> str:
    """The file: how it was made as a comment, then what :meth:`Taxonomy.load` reads."""
    comment = "\n".join(f"# {line}" for line in report_lines(made.report, source, left_out))
    classes = []
    for class_ in made.taxonomy.classes:
        categories = [category.model_dump(mode="json", exclude_none=True) for category in class_.categories]
        classes.append({"code": class_.code, "name": class_.name, "categories": categories})
    body = yaml.safe_dump({"version": 1, "classes": classes}, allow_unicode=True, sort_keys=False, width=120)
    return f"{comment}\n{body}"


def report_lines(report: Report, source: str, left_out: dict[str, int]) -> list[str]:
    """How the taxonomy was made, line by line, safe to print."""
    steady = report.stability
    share = report.outside / report.latents
    lines = [
        f"{report.classes} classes and {report.categories} categories made from {report.latents:,} latents of {safe(source, 200)}; "
        f"{report.outside:,} of them ({share:.0%}) fit no category. Seed {report.seed}.",
        f"Stability: adjusted Rand index (1 the same grouping, 0 chance) between groupings of disjoint halves {steady.halves:.2f} "
        f"({steady.halves_low:.2f} to {steady.halves_high:.2f} over {steady.pairs} pairs), between two seeds {steady.seeds:.2f}; "
        f"n = {steady.n:,} latents, before merging.",
    ]
    if report.chosen:
        tried = ", ".join(f"{k}: {value:.3f}" for k, value in report.silhouettes.items())
        lines.append(
            f"The number of groups is the smallest within a standard error of the best mean silhouette ({tried})."
        )
    if report.merged:
        lines.append(f"{report.merged} of {report.groups} groups were merged into others.")
    lines.append(f"Named by: {safe(report.named_by, 100)}.")
    if report.named_by.startswith("telling"):
        lines.append(
            "Names are only the words that tell a group from the others: give each a name of your own before counting."
        )
    if report.unnamed:
        lines.append(f"{report.unnamed} names failed and are telling words instead.")
    lines += [f"Note: {safe(note, 200)}." for note in report.notes[:5]]
    if left_out:
        lines.append("Not used: " + ", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) + ".")
    return lines
