"""The outcome of the bench of organisms for a terminal or a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from modeldiff_eval.organism_bench import OrganismBench, OrganismRow, Tally
from modeldiff_eval.organism_score import Score
from modeldiff_eval.truth_table import percent

_CAPTION = (
    "Learned: greedy answers to held-out prompts that carry the plant, tuned / base. Named: by a label (L) or the top documents (D) of the "
    "first five latents of the tuned side. Blind: how often five latents drawn at random would have named it, by either way."
)


def print_organisms(result: OrganismBench, console: Console) -> None:
    """One row for each organism, then the shares over all that learned."""
    head = f"Organisms of {result.base}, method {result.method}, seed {result.seed}"
    console.print(head, highlight=False, markup=False, soft_wrap=True)
    table = Table(title="Was the plant named?", caption=_CAPTION, caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("organism", no_wrap=True)
    table.add_column("learned", no_wrap=True)
    for name in (result.specific.ranking, "shift"):
        for column in (f"named by {name}", "class", "category", "blind"):
            table.add_column(column, no_wrap=column != f"named by {name}")
    for row in result.rows:
        table.add_row(row.name, _learned(row), *_cells(row.specific, row), *_cells(row.shift, row))
    console.print(table)
    for label, total in ((result.specific.ranking, result.specific), ("shift", result.shift)):
        console.print(f"{label}: {_total(total)}", highlight=False, markup=False, soft_wrap=True)
    for row in result.rows:
        if row.failure:
            console.print(f"{row.name}: {row.outcome}: {row.failure}", highlight=False, markup=False, soft_wrap=True)


def _learned(row: OrganismRow) -> str:
    if row.learned is None:
        return "–"
    tuned, base = row.learned.tuned, row.learned.base
    return f"{'yes' if row.learned.learned else 'NO'} {tuned.count} / {base.count} of {tuned.n}"


def _cells(score: Score | None, row: OrganismRow) -> tuple[str, str, str, str]:
    if score is None:
        return "–", "–", "–", "–"
    how = "".join(letter for letter, hit in (("L", score.by_label), ("D", score.by_documents)) if hit)
    documents = f"{score.documents.count} of {score.documents.n}"
    named = f"yes ({how}; {documents})" if score.named else f"no ({documents})"
    category = "–" if score.category_hit is None else f"{row.expected_category} {_yes(score.category_hit)}"
    blind = ", ".join(
        f"{x} {percent(s)}" for x, s in (("L", score.baseline.by_label), ("D", score.baseline.by_documents))
    )
    return named, f"{row.expected_class} {_yes(score.class_hit)}", category, blind


def _yes(hit: bool) -> str:
    return "yes" if hit else "no"


def _total(total: Tally) -> str:
    named, classes, categories = total.named, total.class_hits, total.category_hits
    return (
        f"named {named.count} of {named.n}, {percent(named)}, blindly {total.expected_named:.1f}; "
        f"class {classes.count} of {classes.n}, {percent(classes)}; category {categories.count} of {categories.n}, {percent(categories)}"
    )
