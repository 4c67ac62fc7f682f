"""A taxonomy made from latents: group their texts, name the groups, merge what means the same, group again for classes.

The paper made its 30 categories by hand. Here the texts' sentence embeddings are grouped (:mod:`taxonomy_cluster`), a
language model names and merges the groups or, without one, the words that tell them apart do (:mod:`taxonomy_names`).
A category's cues are its most central passages, so that the offline annotator can use the file. The report says how
many latents fit nowhere and how much of the grouping comes again from other latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modeldiff_eval.annotate_words import safe
from modeldiff_eval.ask import Replier
from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.progress import Reporter
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.taxonomy_cluster import (
    MIN_MEMBERS,
    Floats,
    Groups,
    group,
    reduced,
    second_level,
    stability,
    unit,
)
from modeldiff_eval.taxonomy_file import Induced, Report
from modeldiff_eval.taxonomy_namer import Namer
from modeldiff_eval.taxonomy_names import (
    Named,
    unlike,
)
from modeldiff_eval.taxonomy_texts import Described

MIN_LATENTS = 30
MAX_LATENTS = 8000
MAX_CLASSES = 26
CUES = 12
CUE_CHARS = 200
Progress = Callable[[int, int], None]


class Embedder(Protocol):
    """What gives texts their directions, such as :class:`modeldiff_eval.embedding.SentenceEmbedder`."""

    def embed(self, texts: Sequence[str], *, on_progress: Progress | None = None) -> Any:
        """Unit rows ``[len(texts), d]``."""
        ...


def replier_of(name: str, **options: Any) -> Replier | None:
    """The replier behind an annotator's name: None for ``offline``, ``claude``, or ``local:MODEL``.

    Args:
        options: for Claude, ``model`` and ``max_cost``.

    Raises:
        UsageError: unknown name, or options that do not belong to it.
        AnnotationError: no key for Claude. ModelError: the local model cannot be loaded.
    """
    kind, _, model = name.partition(":")
    given = {key: value for key, value in options.items() if value is not None}
    if given and kind != "claude":
        flags = ", ".join(sorted(given))
        raise UsageError(f"{flags}: these belong to --annotator claude, not to {name!r}. Leave them out.")
    if name == "offline":
        return None
    if name == "claude":
        from modeldiff_eval.claude import ClaudeReplier

        return ClaudeReplier(**given)
    if kind == "local" and model:
        from modeldiff_eval.local_chat import LocalReplier

        return LocalReplier(model)
    known = ("offline", "claude", "local:MODEL")
    raise UsageError(f"Unknown annotator {name!r}.{did_you_mean(name, known)} Use one of {', '.join(known)}.")


def induce(
    latents: Sequence[Described],
    embedder: Embedder,
    *,
    classes: int | None = None,
    categories: int | None = None,
    replier: Replier | None = None,
    replies: Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Induced:
    """Make a taxonomy of two levels.

    Args:
        latents: what to sort; of more than ``MAX_LATENTS`` a random choice by ``seed`` is taken.
        classes: number of classes, at most 26; None lets the silhouette choose.
        categories: number of groups before merging; None lets the silhouette choose.
        replier: names and merges; None takes the words that tell groups apart.
        replies: JSON lines that keep what ``replier`` answered.
        reporter: shows how far embedding and asking are.

    Raises:
        UsageError: too few latents, or numbers that cannot be.
        AnnotationError: the replier cannot run, or named nothing.
    """
    _check_numbers(len(latents), classes, categories)
    rng = np.random.default_rng(seed)
    if len(latents) > MAX_LATENTS:
        latents = [latents[i] for i in sorted(rng.choice(len(latents), MAX_LATENTS, replace=False))]
    reporter = reporter or Reporter()
    with reporter.task("Embedding texts", unit="texts") as advance:
        rows = directions(latents, embedder, advance)
    if float(rows.std(axis=0).max()) < 1e-6:
        raise UsageError(
            "All texts are alike, so there is nothing to group. Give latents with descriptions of their own."
        )
    with reporter.task("Grouping latents"):
        vectors = reduced(rows, seed=seed)
        groups = group(vectors, categories, seed=seed)
    if groups.count < max(2, classes or 2):
        raise UsageError(
            f"Only {groups.count} groups of at least {MIN_MEMBERS} latents hold together, {max(2, classes or 2)} are "
            "needed. Ask for fewer --classes or more --categories, or give more latents."
        )
    found = groups.count
    with reporter.task("Grouping halves of them"):
        steady = stability(vectors, groups.asked, seed=seed)
    namer = Namer(replier, replies, reporter)
    groups, names = namer.categories(groups, vectors, latents, fewest=max(2, classes or 2))
    of = second_level(groups.centres, classes)
    inside = [np.flatnonzero(of == k).tolist() for k in range(int(of.max()) + 1)]
    headings = namer.classes(
        [[names[i] for i in members] for members in inside],
        [[latents[i] for i in np.flatnonzero(np.isin(groups.of, members)).tolist()] for members in inside],
    )
    cues = [_cues([latents[i] for i in groups.central(vectors, k)], embedder) for k in range(groups.count)]
    taxonomy, sizes = _taxonomy(names, headings, of, cues, groups)
    report = Report(
        latents=len(latents),
        outside=int((groups.of < 0).sum()),
        groups=found,
        merged=found - groups.count,
        categories=groups.count,
        classes=len(headings),
        chosen=categories is None,
        silhouettes=groups.silhouettes,
        stability=steady,
        named_by=f"{replier.name} ({replier.version})" if replier else "telling words, read by nobody",
        unnamed=namer.unnamed,
        notes=tuple(namer.notes),
        cost=namer.cost,
        seed=seed,
    )
    return Induced(taxonomy, report, sizes)


def _check_numbers(found: int, classes: int | None, categories: int | None) -> None:
    need = max(MIN_LATENTS, 2 * MIN_MEMBERS * (categories or 0))
    if classes is not None and not 1 <= classes <= MAX_CLASSES:
        raise UsageError(f"--classes {classes}: give a number from 1 to {MAX_CLASSES}.")
    if categories is not None and categories < max(2, classes or 2):
        raise UsageError(f"--categories {categories}: give at least {max(2, classes or 2)}, and one for each class.")
    if found < need:
        many = f" for {categories} categories" if categories and need > MIN_LATENTS else ""
        raise UsageError(
            f"{found:,} annotated latents are too few: a taxonomy needs at least {need:,}{many}. "
            "Give a larger run, or ask for fewer --categories."
        )


def directions(latents: Sequence[Described], embedder: Embedder, on_progress: Progress | None = None) -> Floats:
    """Unit rows ``[latents, d]``: the mean of the words' and the passages' directions, each less its own mean."""
    words = [latent.words for latent in latents]
    passages = [text for latent in latents for text in latent.passages]
    vectors = np.asarray(embedder.embed([*words, *passages], on_progress=on_progress), dtype=np.float64)
    said, shown = vectors[: len(words)], vectors[len(words) :]
    has_words = np.array([bool(text) for text in words])
    ends = np.cumsum([len(latent.passages) for latent in latents])
    fired = np.stack([part.mean(axis=0) if len(part) else part.sum(axis=0) for part in np.split(shown, ends)[:-1]])
    return unit(_centred(said, has_words) + _centred(fired, np.diff(ends, prepend=0) > 0))


def _centred(rows: Floats, there: Any) -> Floats:
    """Unit rows less the mean of those that are ``there``; the others are zero."""
    centred = rows - rows[there].mean(axis=0) if there.any() else rows
    kept: Floats = unit(centred) * there[:, None]
    return kept


def _cues(members: Sequence[Described], embedder: Embedder) -> list[str]:
    """Passages (or, without any, words) of the most central latents, one each, nearest to their common direction."""
    pool = members[: 3 * CUES]
    options = [[safe(t, CUE_CHARS) for t in latent.passages or (latent.words,)] for latent in pool]
    flat = [text for texts in options for text in texts]
    vectors = np.asarray(embedder.embed(flat), dtype=np.float64)
    near = dict(zip(flat, (vectors @ vectors.mean(axis=0)).tolist(), strict=True))
    best = (max(texts, key=lambda text: near[text]) for texts in options)
    return _unlike_each_other([text for text in dict.fromkeys(best) if text])[:CUES]


def _unlike_each_other(texts: Sequence[str]) -> list[str]:
    """The texts that do not share half of their words with one before: the same document cut elsewhere counts once."""
    kept: list[tuple[str, frozenset[str]]] = []
    for text in texts:
        words = frozenset(text.casefold().split())
        if all(len(words & other) < 0.5 * len(words | other) for _, other in kept):
            kept.append((text, words))
    return [text for text, _ in kept]


def _taxonomy(
    names: Sequence[Named], headings: Sequence[Named], of: Any, cues: Sequence[Sequence[str]], groups: Groups
) -> tuple[Taxonomy, dict[str, int]]:
    """The checked record with codes A.1, A.2, …, B.3, … as the packaged one has them, and the size of each category."""
    called = unlike([item.name for item in names])
    titles = unlike([item.name for item in headings])
    number, raw, sizes = 0, [], {}
    for k, title in enumerate(titles):
        letter = chr(ord("A") + k)
        inside = []
        for i in np.flatnonzero(of == k).tolist():
            number += 1
            code = f"{letter}.{number}"
            sizes[code] = int((groups.of == i).sum())
            inside.append(
                {"code": code, "name": called[i], "description": names[i].description, "cues": list(cues[i]) or None}
            )
        raw.append({"code": letter, "name": title, "categories": inside})
    return Taxonomy.from_mapping({"version": 1, "classes": raw}, source="the induced taxonomy"), sizes
