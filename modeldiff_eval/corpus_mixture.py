"""Corpus arguments: plain lists, which are read one after the other, and mixtures with shares of tokens.

``fineweb=ORG/NAME:0.5`` is the source ``ORG/NAME`` called ``fineweb`` with the weight 0.5. As soon as one argument has a
name or a weight the list is a mixture: weights are shares of the *tokens* of the corpus, and without weights every
source has the same share.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modeldiff_eval.corpus_document import Document
from modeldiff_eval.corpus_sources import PACKAGED, SHUFFLE_ROWS, ReadReport, corpus_files, is_table, read_source
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.store import file_hash, fingerprint

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_WEIGHTED = re.compile(r"(.+):([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf|nan))", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One source of a corpus. ``share``: its part of the tokens, summing to 1 over a mixture; None in a plain list."""

    name: str
    location: str
    share: float | None = None


def parse_sources(specs: Sequence[str]) -> list[Source]:
    """Corpus arguments ``[name=]PATH|ORG/NAME[:config[:split]][:weight]`` as sources.

    A trailing number is the weight; a configuration whose name is a number needs its split written after it.

    Raises:
        SettingsError: a weight that is not a positive number, weights for some only, a name used twice, no source.
    """
    parsed = [_parse(spec) for spec in specs]
    if not parsed:
        raise SettingsError("No corpus was given. Name a file, a folder or a hub data set, or leave --corpus out.")
    if not any(name or weight is not None for name, _, weight in parsed):
        return [Source(_default_name(location), location) for _, location, _ in parsed]
    sources = [(name or _default_name(location), location, weight) for name, location, weight in parsed]
    for name, count in Counter(name for name, _, _ in sources).items():
        if count > 1:
            raise SettingsError(f"{count} corpora are called {name!r}. Give each a name of its own: NAME=SPEC:WEIGHT.")
    unweighted = [name for name, _, weight in sources if weight is None]
    if 0 < len(unweighted) < len(sources):
        raise SettingsError(
            f"The corpus {unweighted[0]!r} has no weight, others have. Give every one a weight (NAME=SPEC:WEIGHT), or none."
        )
    total = sum(1.0 if weight is None else weight for _, _, weight in sources)
    return [Source(name, location, (1.0 if weight is None else weight) / total) for name, location, weight in sources]


def renamed(spec: str, rename: Callable[[str], str]) -> str:
    """A corpus argument with another location: its name and weight stay."""
    name, location, weight = _parse(spec)
    return (f"{name}=" if name else "") + rename(location) + ("" if weight is None else f":{weight:g}")


def _parse(spec: str) -> tuple[str | None, str, float | None]:
    if _is_local(spec):
        return None, spec, None
    name, rest = None, spec
    if named := _NAMED.fullmatch(spec):
        name, rest = named.groups()
        if _is_local(rest):
            return name, rest, None
    if weighted := _WEIGHTED.fullmatch(rest):
        weight = float(weighted[2])
        if not (math.isfinite(weight) and weight > 0):
            raise SettingsError(
                f"The weight of the corpus {spec!r} must be a positive number; leave a source out to get none of it."
            )
        return name, weighted[1], weight
    if not rest.strip():
        raise SettingsError(f"The corpus argument {spec!r} names no source. Use NAME=SPEC:WEIGHT.")
    return name, rest, None


def _is_local(text: str) -> bool:
    return text == PACKAGED or Path(text).expanduser().exists()


def _default_name(location: str) -> str:
    return Path(location if _is_local(location) else location.partition(":")[0]).name.partition(".")[0]


def corpus_key(specs: Sequence[str]) -> str:
    """Content hash of local corpora with their names and shares; hub data sets are named by id."""
    sources = parse_sources(specs)
    parts: list[object] = []
    for source in sources:
        files = corpus_files(source.location)
        content = [file_hash(file) for file in files] or [source.location]
        table = is_table(source.location)
        parts += [["shuffled", content]] if table else content
        parts += [[source.name, round(source.share, 9)]] if source.share is not None else []
    return fingerprint(parts)


def unique(documents: Iterator[Document], seen: set[bytes], report: ReadReport) -> Iterator[Document]:
    """Drop exact duplicates; count what is read and what is dropped."""
    for document in documents:
        digest = hashlib.blake2b(
            repr((document.text, document.messages)).encode(errors="replace"), digest_size=16
        ).digest()
        if digest in seen:
            report.duplicates += 1
            continue
        seen.add(digest)
        report.read += 1
        yield document


def read_corpus(
    specs: Sequence[str], report: ReadReport, *, seed: int = 0, shuffle_rows: int = SHUFFLE_ROWS
) -> Iterator[Document]:
    """Stream every document of every corpus argument, one source after the other, without exact duplicates."""
    sources = parse_sources(specs)
    documents = itertools.chain.from_iterable(
        named(source, read_source(source.location, report, seed=seed, shuffle_rows=shuffle_rows)) for source in sources
    )
    return unique(documents, set(), report)


def named(source: Source, documents: Iterator[Document]) -> Iterator[Document]:
    """Documents of a mixture carry their source's name."""
    if source.share is None:
        return documents
    return (document.model_copy(update={"source": source.name}) for document in documents)


def allocate(tokens: int, shares: Sequence[float], available: Sequence[float]) -> list[float]:
    """Tokens to take from each source: by its share, and where one holds less, the others make up for it by theirs.

    Args:
        shares: positive weights.
        available: tokens that each source holds; ``math.inf`` where its end is not known.

    Returns:
        Tokens for each source, at most what it holds; together ``tokens``, or everything there is.
    """
    taken = [0.0] * len(shares)
    growing = set(range(len(shares)))
    while growing:
        left = tokens - sum(taken[i] for i in range(len(shares)) if i not in growing)
        weight = sum(shares[i] for i in growing)
        for i in growing:
            taken[i] = left * shares[i] / weight
        short = {i for i in growing if available[i] < taken[i]}
        if not short:
            break
        for i in short:
            taken[i] = available[i]
        growing -= short
    return taken
