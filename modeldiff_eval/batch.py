"""Many comparisons at once: which pairs they are, what they are called, and what they have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from modeldiff_eval.errors import SettingsError, UsageError, did_you_mean
from modeldiff_eval.records import Record, problem_of
from modeldiff_eval.settings import Settings, make_settings
from modeldiff_eval.store import fingerprint
from modeldiff_eval.yaml_file import read_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAKEN = frozenset({"cache", "compare", "comparison", "leaderboard", "index", "shared", "cards"})
"""Stems of what a batch itself writes beside its pairs."""
_TEXT = ("base", "text_from", "answers", "rollouts", "rollout_tokens", "seed", "trust_remote_code", "device", "dtype")
_OWN = (
    "tuned", "title", "arena", "arena_style", "arena_snapshot", "arena_names", "agreement", "benchmarks", "log_to",
    "annotator", "annotator_model", "max_cost", "batches", "repeats",
)  # fmt: skip


class Pair(Record):
    """One comparison of a batch: ``name`` is its folder in OUT and what pages call its tuned model."""

    name: str
    settings: Settings

    @property
    def text_key(self) -> str:
        """Pairs of one key are compared on one text: the answers of all their models join it."""
        return fingerprint(self.settings.model_dump(include=set(_TEXT)))

    @property
    def shared_key(self) -> str:
        """Pairs of one key differ in their tuned model and in what is laid beside it."""
        return fingerprint(self.settings.model_dump(exclude=set(_OWN)))


class Matrix(Record):
    """The file of ``--matrix``: ``settings`` that all pairs have, and each pair's own, which win."""

    settings: dict[str, Any] = Field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = Field(min_length=1)


def named_pairs(tuned: Sequence[str], flags: Mapping[str, Any], *, config: Path | None = None) -> list[Pair]:
    """The pairs of ``--tuned NAME=MODEL …``, which differ in their tuned model only.

    Raises:
        UsageError: no model, a name that is missing, used twice or no folder name, a tuned model that is the base.
    """
    if not tuned:
        raise UsageError("Name the tuned models: --tuned NAME=MODEL, repeatedly, or a --matrix file.")
    given = []
    for item in tuned:
        name, equals, model = item.partition("=")
        if not (equals and model):
            raise UsageError(
                f"--tuned {item!r}: give each tuned model a name, such as --tuned {_suggest(item)}={item.rstrip('=')}."
            )
        given.append((name, model))
    return checked(
        Pair(name=_folder_name(name), settings=make_settings({**flags, "tuned": model}, config=config)[0])
        for name, model in given
    )


def matrix_pairs(path: Path, flags: Mapping[str, Any]) -> list[Pair]:
    """The pairs of a matrix file. Flags and environment win over the file, a pair's own settings over common ones.

    Raises:
        UsageError: the file is no matrix, a key or setting in it is unknown, or what :func:`named_pairs` refuses.
    """
    raw = read_yaml(path, "matrix file")
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: a matrix file has 'settings' for all pairs and 'pairs' by name.")
    for key in raw:
        if key not in Matrix.model_fields:
            inside = (
                " Settings of all pairs belong under 'settings'."
                if str(key).replace("-", "_") in Settings.model_fields
                else did_you_mean(str(key), Matrix.model_fields)
            )
            raise UsageError(f"{path}: unknown key {key!r}.{inside} A matrix has 'settings' and 'pairs'.")
    try:
        matrix = Matrix.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {problem_of(error)}. Write pairs as 'NAME: {{tuned: MODEL}}'.") from error
    pairs = []
    for name, own in matrix.pairs.items():
        folder = _folder_name(name)
        values = {str(key).replace("-", "_"): value for key, value in {**matrix.settings, **own}.items()}
        try:
            # As a flag, so that MODELDIFF_TUNED cannot make all pairs one.
            settings, _ = make_settings({**flags, "tuned": values.pop("tuned", None)}, config=values, environ=None)
        except SettingsError as error:
            raise SettingsError(f"{path}: pair {name!r}: {error}") from error
        pairs.append(Pair(name=folder, settings=settings))
    return checked(pairs)


def checked(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs, if they can be told apart and each has something to compare.

    Raises:
        UsageError: see :func:`named_pairs`.
    """
    found: dict[str, Pair] = {}
    runs: dict[str, str] = {}
    for pair in pairs:
        if (other := found.get(pair.name.casefold())) is not None:
            raise UsageError(
                f"Two pairs are called {pair.name!r}{f' and {other.name!r}' if other.name != pair.name else ''}. Give each a name of its own."
            )
        if pair.settings.tuned == pair.settings.base:
            raise UsageError(
                f"Pair {pair.name!r}: tuned is the base itself ({pair.settings.base}). Name a fine-tune, or leave the pair out."
            )
        run = fingerprint(pair.settings.model_dump(exclude={"title"}))
        if run in runs:
            raise UsageError(f"The pairs {runs[run]!r} and {pair.name!r} are the same comparison. Leave one out.")
        found[pair.name.casefold()] = pair
        runs[run] = pair.name
    return list(found.values())


def grouped(pairs: Iterable[Pair], key: str) -> list[tuple[Pair, ...]]:
    """Pairs with one ``text_key`` or ``shared_key`` together, in their order."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(getattr(pair, key), []).append(pair)
    return [tuple(group) for group in groups.values()]


def _folder_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise UsageError(
            f"{name!r} cannot be a pair's name: use letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit."
        )
    if name.partition(".")[0].lower() in _TAKEN:
        raise UsageError(f"{name!r} cannot be a pair's name: a batch itself writes files of that name. Choose another.")
    return name


def _suggest(model: str) -> str:
    """A name for a model that came without one."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", model.strip("=/").rpartition("/")[2]).strip("-._")
    return stem[:64] or "NAME"
