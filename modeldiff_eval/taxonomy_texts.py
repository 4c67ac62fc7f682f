"""What a taxonomy is made from: the labels, descriptions and top passages of annotated latents, read and cleaned.

All of it is text of documents, or of a model that has read documents: it is cut, control characters are taken out, and
nothing in it is followed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from modeldiff_eval.annotate_words import clean, find_boilerplate, safe
from modeldiff_eval.annotation import Annotation
from modeldiff_eval.errors import UsageError

TEXT_CHARS = 400
PASSAGE_CHARS = 300
PASSAGES = 3
_TABLE = "latents.parquet"
_LINES = "annotations.jsonl"
# How the offline annotator's descriptions begin; they are counts in fixed words, of which only what is quoted is said.
_COUNTED = re.compile(r"In \d+% of the top |The peaks in the top |Top passages from ")
_QUOTED = re.compile(r"“([^”]*)”")
_LANGUAGE = re.compile(r"read as (\w+)")


@dataclass(frozen=True)
class Described:
    """One annotated latent: what it is called and some of what it fires on, safe to print.

    ``words`` is what to compare: label and description, without the fixed words of the offline annotator. ``passages``
    are of different documents, the strongest first; empty where the source has none.
    """

    label: str | None
    words: str
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """What was read: ``latents`` to work with, and how many were ``left_out`` for which reason."""

    path: Path
    latents: tuple[Described, ...]
    left_out: dict[str, int]


def read_source(path: Path) -> Source:
    """A finished run's folder (its table of latents and their examples), or an ``annotations.jsonl``.

    Raises:
        UsageError: it cannot be read, is neither, holds no annotation, or all annotations failed.
    """
    if path.is_dir():
        if (path / _TABLE).is_file():
            return _from_run(path)
        if not (path / _LINES).is_file():
            raise UsageError(f"{path} holds neither {_TABLE} nor {_LINES}. Name the folder of a finished run.")
        path = path / _LINES
    return _from_lines(path)


def gist(label: str | None, description: str | None) -> str:
    """Label and description as one text to compare; of the offline annotator's sentences only what they quote."""
    said = safe(description or "", TEXT_CHARS)
    if _COUNTED.match(said):
        said = ", ".join(dict.fromkeys([*_QUOTED.findall(said), *_LANGUAGE.findall(said)]))
    name = safe(label or "").strip("“”")
    parts = [name] if name and name not in said.split(", ") else []
    return ". ".join([*parts, said] if said else parts)


def _described(rows: Iterable[tuple[str | None, str | None, tuple[str, ...]]]) -> tuple[list[Described], int]:
    """Latents that have words or passages, and how many have neither."""
    made, empty = [], 0
    for label, description, passages in rows:
        words = gist(label, description)
        if words or passages:
            made.append(Described(safe(label) if label else None, words, passages))
        else:
            empty += 1
    return made, empty


def _from_lines(path: Path) -> Source:
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        raise UsageError(f"Cannot read the annotations {path}: {error.strerror or error}.") from error
    found: dict[str, Annotation] = {}
    broken = 0
    for line in lines:
        try:
            annotation = Annotation.model_validate_json(line)
        except ValidationError:
            broken += 1
            continue
        # The last line of a key counts; without keys, the last of a latent.
        found[annotation.key or f"{annotation.annotator}:{annotation.latent}"] = annotation
    if not found:
        what = f"none of its {len(lines):,} lines is one" if lines else "it is empty"
        raise UsageError(f"{path} holds no annotations: {what}. Name the {_LINES} of a run, or the run's folder.")
    good = [a for a in found.values() if a.failure is None]
    failures = Counter(safe(a.failure, 120) for a in found.values() if a.failure is not None)
    if not good:
        reason, count = failures.most_common(1)[0]
        raise UsageError(
            f"{path}: all {len(found):,} annotations failed ({count:,} by: {reason}). Annotate again first."
        )
    made, empty = _described((a.label, a.description, ()) for a in good)
    left = {"broken lines": broken, "annotation failed": failures.total(), "nothing said": empty}
    return Source(path, tuple(made), {reason: n for reason, n in left.items() if n})


def _from_run(folder: Path) -> Source:
    """The run's table has each latent once for each side; its examples are joined where they are there."""
    import pandas as pd

    keys = ["crosscoder", "dictionary", "latent"]
    columns = [*keys, "label", "description", "annotation_failure"]
    try:
        table = pd.read_parquet(folder / _TABLE, columns=columns).drop_duplicates(keys)
    except Exception as error:  # the reader has many error types
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"{folder / _TABLE} is not the table of latents of a run: {safe(reason, 200)}") from error
    failed = table["annotation_failure"].notna() | table["description"].isna()
    if failed.all():
        reason = next(iter(table["annotation_failure"].dropna()), "there are none")
        raise UsageError(f"{folder}: all {len(table):,} annotations failed ({safe(str(reason), 120)}). Annotate first.")
    passages = _passages(folder / "examples.parquet", keys)
    good = table[~failed].astype({"label": object, "description": object})
    rows = good.where(good.notna(), None)[["label", "description"]].itertuples(index=False, name=None)
    ids = good[keys].itertuples(index=False, name=None)
    made, empty = _described((*row, passages.get(key, ())) for row, key in zip(rows, ids, strict=True))
    left = {"annotation failed": int(failed.sum()), "nothing said": empty}
    return Source(folder, tuple(made), {reason: n for reason, n in left.items() if n})


def _passages(file: Path, keys: list[str]) -> dict[tuple[str, str, int], tuple[str, ...]]:
    """The strongest passages of each latent, one for each document, without chat template and system prompt."""
    if not file.is_file():
        return {}
    import pandas as pd

    try:
        table = pd.read_parquet(file, columns=[*keys, "rank", "document", "text"])
    except Exception as error:  # the reader has many error types
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"{file} is not the table of examples of a run: {safe(reason, 200)}") from error
    table = table.sort_values([*keys, "rank"]).drop_duplicates([*keys, "document"])
    boilerplate = find_boilerplate(list(dict.fromkeys(table["text"])))
    found: dict[tuple[str, str, int], list[str]] = {}
    for *key, text in table[[*keys, "text"]].itertuples(index=False, name=None):
        kept = found.setdefault((str(key[0]), str(key[1]), int(key[2])), [])
        if len(kept) < PASSAGES and (passage := safe(clean(text, boilerplate), PASSAGE_CHARS)) and passage not in kept:
            kept.append(passage)
    return {key: tuple(texts) for key, texts in found.items()}
