"""``modeldiff-eval taxonomy …``: check a file of classes and categories, or make one from a run's latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from modeldiff_eval.errors import AnnotationError, MissingDependencyError, UsageError

HELP = """Check a taxonomy of classes and categories, or make one from the latents of a run.

\b
Examples:
  modeldiff-eval taxonomy check
  modeldiff-eval taxonomy check mine.yaml --json
  modeldiff-eval taxonomy induce runs/demo --out mine.yaml
  modeldiff-eval taxonomy induce annotations.jsonl --classes 7 --categories 30 --annotator claude --out mine.yaml
"""

taxonomy_app = typer.Typer(help=HELP, rich_markup_mode=None, no_args_is_help=True)


@taxonomy_app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A taxonomy (YAML).", show_default="the packaged one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read a taxonomy and print its tree; say what is poor in it. Exit code 2 when it breaks a rule.

    \b
    Examples:
      modeldiff-eval taxonomy check
      modeldiff-eval taxonomy check mine.yaml
    """
    from modeldiff_eval.taxonomy import Taxonomy

    taxonomy = Taxonomy.load(file)
    from modeldiff_eval.annotate_words import safe
    from modeldiff_eval.taxonomy_check import check as warnings_of

    embedder, note = _embedder()
    warnings = warnings_of(taxonomy, embedder)
    if as_json:
        classes = [
            {
                "code": class_.code,
                "name": class_.name,
                "categories": [
                    {"code": c.code, "name": c.name, "cues": len(c.cues), "words": len(c.description.split()), "signal": c.signal}
                    for c in class_.categories
                ],
            }
            for class_ in taxonomy.classes
        ]  # fmt: skip
        facts = {
            "file": str(file) if file else None,
            "fingerprint": taxonomy.fingerprint,
            "classes": classes,
            "warnings": [warned.model_dump(mode="json") for warned in warnings],
            "not_compared": note,
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    cues = sum(len(category.cues) for category in taxonomy.categories)
    print(
        f"{file or 'the packaged taxonomy'}: {len(taxonomy.classes)} classes, {len(taxonomy.categories)} categories, "
        f"{cues} cues, fingerprint {taxonomy.fingerprint}"
    )
    wide = max(len(category.code) for category in taxonomy.categories)
    for class_ in taxonomy.classes:
        print(f"{class_.code:{wide}}  {safe(class_.name, 80)}")
        for category in class_.categories:
            signal = f", signal {category.signal}" if category.signal else ""
            count = f"{len(category.cues)} cue{'s' if len(category.cues) != 1 else ''}"
            print(f"  {category.code:{wide}}  {safe(category.name, 80)} ({count}{signal})")
    for warned in warnings:
        print(f"warning: {', '.join(warned.about)}: {warned.text}")
    if note:
        print(f"note: meanings were not compared: {note}")


@taxonomy_app.command()
def induce(
    source: Annotated[Path, typer.Argument(metavar="RUN|ANNOTATIONS", help="A run's folder, or an annotations.jsonl.")],
    out: Annotated[Path, typer.Option("--out", help="File to write (YAML); it must not exist.")],
    classes: Annotated[
        int | None, typer.Option(help="Classes, at most 26.", show_default="by silhouette, at most 12")
    ] = None,
    categories: Annotated[
        int | None, typer.Option(help="Groups before merging.", show_default="by silhouette, at most 60")
    ] = None,
    annotator: Annotated[
        str, typer.Option(help="Who names and merges: offline (telling words), claude or local:MODEL.")
    ] = "offline",
    annotator_model: Annotated[str | None, typer.Option(help="With claude, another model.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="With claude, stop at this many US dollars.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the grouping.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors and the path.")] = False,
) -> None:
    """A taxonomy of two levels from what a run's latents are called and fire on; give it to a comparison with --taxonomy.

    Replies of a language model are kept beside OUT, in OUT.replies.jsonl: run again and nothing is asked twice. A run's
    folder gives better groups than annotations.jsonl alone, because passages are compared too.

    \b
    Examples:
      modeldiff-eval taxonomy induce runs/demo --out mine.yaml
      modeldiff-eval taxonomy induce runs/demo --classes 7 --categories 30 --annotator local:embedded --out mine.yaml
    """
    if out.exists():
        raise UsageError(f"{out} exists already. Name another file with --out, or remove it.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it, or name a file elsewhere.")
    from modeldiff_eval.store import require_writable, write_text

    require_writable(out.absolute().parent)
    from rich.console import Console

    from modeldiff_eval.progress import Reporter
    from modeldiff_eval.terminal import TerminalReporter, hush

    hush()
    from modeldiff_eval.embedding import SentenceEmbedder
    from modeldiff_eval.taxonomy import Taxonomy
    from modeldiff_eval.taxonomy_file import report_lines, to_yaml
    from modeldiff_eval.taxonomy_induce import induce as make
    from modeldiff_eval.taxonomy_induce import replier_of
    from modeldiff_eval.taxonomy_texts import read_source

    read = read_source(source)
    replier = replier_of(annotator, model=annotator_model, max_cost=max_cost)
    reporter = Reporter() if quiet else TerminalReporter(Console(stderr=True))
    made = make(
        read.latents, SentenceEmbedder(), classes=classes, categories=categories, replier=replier,
        replies=out.with_name(f"{out.name}.replies.jsonl"), seed=seed, reporter=reporter,
    )  # fmt: skip
    name = source.absolute().name
    write_text(out, to_yaml(made, name, read.left_out))
    Taxonomy.load(out)
    if as_json:
        facts: dict[str, Any] = {
            "file": str(out),
            "report": made.report.model_dump(mode="json"),
            "left_out": read.left_out,
            "sizes": made.sizes,
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    if not quiet:
        for line in report_lines(made.report, name, read.left_out):
            print(line)
        for class_ in made.taxonomy.classes:
            print(f"{class_.code}  {class_.name}")
            for category in class_.categories:
                print(f"  {category.code}  {category.name} ({made.sizes[category.code]:,} latents)")
    print(out)


def _embedder() -> tuple[Any, str | None]:
    """The sentence encoder, or why there is none."""
    from modeldiff_eval.embedding import SentenceEmbedder

    try:
        return SentenceEmbedder(), None
    except (MissingDependencyError, AnnotationError) as error:
        return None, str(error)
