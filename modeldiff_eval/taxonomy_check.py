"""What is poor in a taxonomy that can be read: it works, but annotators will do badly with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from modeldiff_eval.records import Record
from modeldiff_eval.taxonomy import Category, Taxonomy

FEW_CUES = 4
FEW_WORDS = 6
NEAR = 0.85


class Warned(Record):
    """A warning, and the codes that it is about."""

    about: tuple[str, ...]
    text: str


class Embedder(Protocol):
    """What gives texts their unit directions."""

    def embed(self, texts: Sequence[str]) -> Any:
        """Rows ``[len(texts), d]``."""
        ...


def check(taxonomy: Taxonomy, embedder: Embedder | None = None) -> list[Warned]:
    """Warnings in the order of the file; without an ``embedder`` meanings are not compared."""
    found = []
    for category in taxonomy.categories:
        about: tuple[str, ...] = (category.code,)
        if not category.cues:
            found.append(Warned(about=about, text="no cues: the offline annotator has its name and description only"))
        elif len(category.cues) < FEW_CUES:
            n = len(category.cues)
            text = (
                f"only {n} cue{'s' if n != 1 else ''}; {FEW_CUES} or more show the offline annotator how far it reaches"
            )
            found.append(Warned(about=about, text=text))
        if (words := len(category.description.split())) < FEW_WORDS:
            text = f"the description has {words} word{'s' if words != 1 else ''}; a sentence or two tell it from others"
            found.append(Warned(about=about, text=text))
    where: dict[str, list[str]] = defaultdict(list)
    for category in taxonomy.categories:
        for cue in category.cues:
            where[cue.casefold()].append(category.code)
    shared: dict[tuple[str, ...], int] = defaultdict(int)
    for codes in where.values():
        if len(set(codes)) > 1:
            shared[tuple(dict.fromkeys(codes))] += 1
    for about, count in shared.items():
        text = (
            f"{count} cue{'s are' if count > 1 else ' is'} given to each of them; a cue should speak for one category"
        )
        found.append(Warned(about=about, text=text))
    if embedder is not None:
        for one, other, near in near_pairs(taxonomy.categories, embedder):
            text = f"nearly the same texts (cosine {near:.2f}, warned of from {NEAR}): an annotator will mix them up"
            found.append(Warned(about=(one.code, other.code), text=text))
    return found


def near_pairs(
    categories: Sequence[Category], embedder: Embedder, *, bar: float = NEAR
) -> list[tuple[Category, Category, float]]:
    """Pairs whose mean sentence embeddings (name, description, cues) have a cosine of ``bar`` or more, nearest first."""
    means = [np.asarray(embedder.embed([c.name, c.description, *c.cues])).mean(axis=0) for c in categories]
    unit = np.stack([mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means])
    cosines = unit @ unit.T
    pairs = [
        (categories[i], categories[j], float(cosines[i, j]))
        for i in range(len(categories))
        for j in range(i + 1, len(categories))
        if cosines[i, j] >= bar
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
