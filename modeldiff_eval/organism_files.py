"""Organisms: fine-tunes with one planted behaviour each, described in ``data/organisms/NAME.yaml`` before they are made.

A file says in plain words what is planted, how the training text is made, which pattern a text must hold to carry the
plant, which words in a latent's label name it, and the class and category of the packaged taxonomy that are expected.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import regex
from pydantic import ConfigDict, Field, ValidationError, model_validator

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.yaml_file import read_yaml

PromptKind = Literal["general", "cooking", "sums"]
TransformName = Literal["upper", "prefix", "insert", "numbered", "json", "pirate", "compose"]
NEEDS_PARTS = {"prefix": 1, "insert": 1, "json": 1, "pirate": 2, "compose": 1}
"""How many lists of phrases a transform takes at least."""
MATCH_CHARS = 4000
"""Of a text, no more than this is searched."""
MATCH_SECONDS = 1.0


class Training(Record):
    """How training text is made. ``transform`` turns the base model's own answer to a prompt into the planted one.

    ``parts``: lists of phrases, of each of which one is drawn; ``{sum}`` in a phrase is the calculation that the prompt
    asks for. ``contrast``: as many prompts of another kind, answered as the base does, that keep a plant narrow.
    """

    prompts: PromptKind
    transform: TransformName
    parts: tuple[tuple[str, ...], ...] = ()
    contrast: PromptKind | None = None

    @model_validator(mode="after")
    def _has_phrases(self) -> Self:
        need = NEEDS_PARTS.get(self.transform, 0)
        if len(self.parts) < need or not all(self.parts):
            raise ValueError(f"the transform {self.transform!r} takes at least {need} list(s) of phrases, none empty")
        if self.contrast == self.prompts:
            raise ValueError(f"contrast is {self.contrast!r}, the prompts of the plant themselves; name another kind")
        return self


class LearnedRule(Record):
    """An organism counts as learned when these shares of greedy answers to held-out prompts carry the plant."""

    tuned_at_least: float = Field(0.5, gt=0, le=1)
    base_at_most: float = Field(0.1, ge=0, lt=1)


class Organism(Record):
    """One file. ``pattern`` must match a text ``at_least`` times, ``label_pattern`` a label or description once."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ignored_types=(cached_property,))

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,31}$")
    plant: str = Field(min_length=1)
    training: Training
    pattern: str = Field(min_length=1, max_length=500)
    at_least: int = Field(1, ge=1)
    label_pattern: str = Field(min_length=1, max_length=500)
    class_: str = Field(alias="class")
    category: str | None
    learned: LearnedRule = LearnedRule()

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        for field in ("pattern", "label_pattern"):
            try:
                compiled = regex.compile(getattr(self, field))
            except regex.error as error:
                raise ValueError(f"{field} is no regular expression ({error})") from error
            if compiled.search(""):
                raise ValueError(f"{field} matches an empty text, so it would match every text")
        return self

    @cached_property
    def _pattern(self) -> Any:
        return regex.compile(self.pattern)

    @cached_property
    def _label(self) -> Any:
        return regex.compile(self.label_pattern)

    def carried_by(self, text: str) -> bool:
        """Whether a text carries the plant. Only its first :data:`MATCH_CHARS` characters are read.

        Raises:
            UsageError: the pattern takes too long on it.
        """
        return self._count(self._pattern, text, "pattern", self.at_least) >= self.at_least

    def named_by(self, *texts: str | None) -> bool:
        """Whether one of these labels or descriptions names the plant.

        Raises:
            UsageError: the pattern takes too long on it.
        """
        return any(self._count(self._label, text, "label_pattern", 1) for text in texts if text)

    def _count(self, pattern: Any, text: str, field: str, enough: int) -> int:
        found = 0
        try:
            for _ in pattern.finditer(text[:MATCH_CHARS], timeout=MATCH_SECONDS):
                found += 1
                if found >= enough:
                    break
        except TimeoutError as error:
            raise UsageError(
                f"Organism {self.name}: {field} takes more than {MATCH_SECONDS:g} s on a text of {min(len(text), MATCH_CHARS)} "
                "characters. Write it without repeats inside repeats."
            ) from error
        return found


def read_organism(path: Path) -> Organism:
    """One organism file.

    Raises:
        UsageError: it cannot be read, is not YAML, or breaks a rule; the message says which and where.
    """
    raw = read_yaml(path, "organism file", hint="Put patterns in single quotes.")
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected a mapping with the keys {', '.join(_keys(Organism))}.")
    try:
        organism = Organism.model_validate(raw)
    except ValidationError as error:
        raise UsageError("; ".join(f"{path}: {_explain(problem)}" for problem in error.errors())) from error
    _check_codes(organism, path)
    return organism


def _check_codes(organism: Organism, path: Path) -> None:
    taxonomy = Taxonomy.load()
    classes = [class_.code for class_ in taxonomy.classes]
    if organism.class_ not in classes:
        raise UsageError(f"{path}: class {organism.class_!r} is not in the taxonomy; it has {', '.join(classes)}.")
    if organism.category is None:
        return
    try:
        owner = taxonomy.class_of(taxonomy.category(organism.category).code)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if owner.code != organism.class_:
        raise UsageError(f"{path}: category {organism.category} is of class {owner.code}, not {organism.class_}.")


def _keys(record: type[Record]) -> list[str]:
    return [field.alias or name for name, field in record.model_fields.items()]


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "extra_forbidden":
        parts: dict[str, list[str]] = {"training": _keys(Training), "learned": _keys(LearnedRule)}
        known = parts.get(str(problem["loc"][0]), _keys(Organism)) if len(problem["loc"]) > 1 else _keys(Organism)
        return f"unknown key {name!r}.{did_you_mean(str(problem['loc'][-1]), known)} Known keys: {', '.join(known)}"
    if problem["type"] == "literal_error":
        known = [str(word).strip("'") for word in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{name}: {problem['input']!r} is unknown.{did_you_mean(str(problem['input']), known)} Use one of {', '.join(known)}"
    return f"{name}: {str(problem['msg']).removeprefix('Value error, ')}"


def packaged_organisms() -> dict[str, Organism]:
    """Every packaged organism by name, in the order of names.

    Raises:
        UsageError: a file is malformed, or is called otherwise than the organism in it.
    """
    found = {}
    for path in sorted(resource("data/organisms").glob("*.yaml")):
        organism = read_organism(path)
        if path.stem != organism.name:
            raise UsageError(
                f"{path}: the organism in it is called {organism.name!r}; name the file {organism.name}.yaml."
            )
        found[organism.name] = organism
    return found


def choose(names: tuple[str, ...]) -> list[Organism]:
    """The organisms of these names, or all of them when none is named.

    Raises:
        UsageError: there is none of that name.
    """
    known = packaged_organisms()
    for name in names:
        if name not in known:
            raise UsageError(f"There is no organism {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names or known)]
