"""Preference pairs: read any preference file, keep what one training can use, hold prompts out.

Nothing here imports torch. A pair is a prompt (one or more turns), a preferred and a dispreferred answer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from modeldiff_eval.errors import CorpusError, MissingDependencyError
from modeldiff_eval.records import Record

MALFORMED_LIMIT = 0.1
"""Share of malformed rows above which a file is refused."""

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


class Turn(Record):
    """One chat turn."""

    role: str
    content: str


class Pair(Record):
    """One prompt with a preferred and a dispreferred answer."""

    turns: tuple[Turn, ...]
    chosen: str
    rejected: str
    source: str = ""
    language: str = ""

    @property
    def key(self) -> str:
        """Hash of the prompt without case and spacing: equal for pairs that share a prompt."""
        text = "\n".join(f"{turn.role}: {' '.join(turn.content.lower().split())}" for turn in self.turns)
        return hashlib.sha256(text.encode()).hexdigest()


class Preparation(Record):
    """What happened to the rows on the way to training; every count is of pairs."""

    read: int
    malformed: int
    malformed_reasons: dict[str, int] = Field(default_factory=dict)
    other_source: int = 0
    other_language: int = 0
    duplicate: int = 0
    too_long: int = 0
    training: int = 0
    held_out: int = 0
    held_out_prompts: int = 0
    sha256: str


def read_rows(pairs: str) -> tuple[list[Any], str]:
    """Rows of a JSON/JSONL(.gz) file or of a ``datasets`` hub id, and their SHA-256.

    A line that is not JSON comes back as ``None`` so that it can be counted.

    Args:
        pairs: path of a file, or ``org/name`` (optionally ``org/name:split``; split ``train`` by default).

    Raises:
        CorpusError: no such file or data set.
        MissingDependencyError: a hub id was given and ``datasets`` is not installed.
    """
    path = Path(pairs)
    if not path.is_file():
        if pairs.endswith(_SUFFIXES) or not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?", pairs):
            raise CorpusError(
                f"The preference file {pairs} does not exist. Give a JSONL(.gz) file or a hub id org/name."
            )
        return _hub_rows(pairs)
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{pairs} cannot be read ({error}); it must be UTF-8 JSONL, gzipped if it ends in .gz."
        ) from error
    digest = hashlib.sha256(raw).hexdigest()
    if path.name.removesuffix(".gz").endswith(".json"):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{pairs} is not valid JSON ({error}).") from error
        return (rows if isinstance(rows, list) else [rows]), digest
    return [_loads(line) for line in text.splitlines() if line.strip()], digest


def _loads(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _hub_rows(name: str) -> tuple[list[Any], str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {name} from the hub needs 'datasets': pip install 'modeldiff-eval[train]'."
        ) from error
    repository, _, split = name.partition(":")
    try:
        rows = [dict(row) for row in load_dataset(repository, split=split or "train")]
    except Exception as error:  # the hub client raises many unrelated types
        raise CorpusError(
            f"{name} is neither a file nor a data set that can be loaded ({type(error).__name__}: {error})."
        ) from error
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
    return rows, digest


def parse_pair(row: Any) -> Pair:
    """A :class:`Pair` from a row with ``prompt``, ``chosen`` and ``rejected``.

    ``prompt`` is text or a list of turns; ``prompt_messages`` (turns) goes before it; ``chosen`` and ``rejected`` are
    text or a list of turns, whose last one is the answer (then ``prompt`` may be missing: the turns before are it).

    Raises:
        ValueError: the row cannot be used; the message is a short reason, fit to be counted.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for name in ("chosen", "rejected"):
        if not row.get(name):
            raise ValueError(f"no {name!r}")
    prompt = row.get("prompt_messages") or row.get("prompt")
    if not prompt and isinstance(row["chosen"], list):
        prompt = row["chosen"][:-1]
    if not prompt:
        raise ValueError("no 'prompt'")
    turns = _turns(prompt)
    if turns[-1].role != "user":
        raise ValueError("the prompt does not end with a user turn")
    chosen, rejected = _answer(row["chosen"]), _answer(row["rejected"])
    if chosen == rejected:
        raise ValueError("chosen and rejected are equal")
    source, language = str(row.get("source") or ""), str(row.get("language") or "")
    return Pair(turns=turns, chosen=chosen, rejected=rejected, source=source, language=language)


def _turns(prompt: Any) -> tuple[Turn, ...]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt.strip()}]
    try:
        turns = tuple(Turn(role=turn["role"], content=turn["content"]) for turn in prompt)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("malformed turns in the prompt") from error
    if not turns or not all(turn.content.strip() for turn in turns):
        raise ValueError("an empty turn in the prompt")
    return turns


def _answer(value: Any) -> str:
    if isinstance(value, list):
        value = value[-1].get("content") if isinstance(value[-1], dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError("an answer is not text")
    return value.strip()


def prepare(
    rows: Iterable[Any],
    sha256: str,
    *,
    sources: Sequence[str] = (),
    language: str | None = None,
    prompt_tokens: Callable[[Pair], int],
    max_prompt_tokens: int,
    held_out_prompts: int,
    seed: int,
) -> tuple[list[Pair], list[Pair], Preparation]:
    """Training pairs, held-out pairs, and the count of what was left out and why.

    Held-out prompts are chosen by a seeded hash of the prompt, so no prompt is in both parts and the choice does not
    depend on the order of the rows. A prompt longer than ``max_prompt_tokens`` is dropped: when
    a prompt alone fills the training length its answers are empty and TRL's CPO loss becomes NaN.

    Args:
        rows: rows of :func:`read_rows`.
        sha256: hash of the data, recorded only.
        sources: keep only rows whose ``source`` is one of these; all if empty.
        language: keep only rows of this ``language``; rows that name none are kept.
        prompt_tokens: length in tokens of a pair's rendered prompt.
        max_prompt_tokens: longest prompt that is kept.
        held_out_prompts: number of distinct prompts held out of training.
        seed: of the split.

    Raises:
        CorpusError: too many malformed rows, or nothing left to train on.
    """
    reasons: Counter[str] = Counter()
    count: Counter[str] = Counter()
    kept: dict[tuple[str, str, str], Pair] = {}
    for row in rows:
        count["read"] += 1
        try:
            pair = parse_pair(row)
        except ValueError as error:
            reasons[str(error)] += 1
            continue
        if sources and pair.source not in sources:
            count["other_source"] += 1
        elif language and pair.language and pair.language != language:
            count["other_language"] += 1
        elif prompt_tokens(pair) > max_prompt_tokens:
            count["too_long"] += 1
        elif (identity := (pair.key, pair.chosen, pair.rejected)) in kept:
            count["duplicate"] += 1
        else:
            kept[identity] = pair
    malformed = sum(reasons.values())
    if malformed > MALFORMED_LIMIT * count["read"]:
        raise CorpusError(
            f"{malformed} of {count['read']} rows are malformed ({dict(reasons)}); at most {MALFORMED_LIMIT:.0%} "
            "may be. Each row needs 'prompt', 'chosen' and 'rejected'."
        )
    held_keys = _held_out_keys(list(kept.values()), held_out_prompts, seed)
    training = [pair for pair in kept.values() if pair.key not in held_keys]
    held_out = [pair for pair in kept.values() if pair.key in held_keys]
    preparation = Preparation(
        **count,
        malformed=malformed,
        malformed_reasons=dict(reasons),
        training=len(training),
        held_out=len(held_out),
        held_out_prompts=len(held_keys),
        sha256=sha256,
    )
    if not training:
        raise CorpusError(
            f"No pair is left to train on: {preparation.model_dump()}. Check --sources, --language, --max-length "
            "and --held-out."
        )
    return training, held_out, preparation


def _held_out_keys(pairs: Sequence[Pair], wanted: int, seed: int) -> set[str]:
    keys = {pair.key for pair in pairs}
    return set(sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())[:wanted])
