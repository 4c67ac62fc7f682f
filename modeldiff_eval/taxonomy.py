"""The taxonomy: classes and the categories inside them, read from YAML and checked.

The packaged file holds the 7 classes and 30 categories of the paper (Table 6: codes and names). Any file of the
same shape replaces it::

    version: 1
    classes:
      - code: A
        name: Safety & Content Moderation
        categories:
          - {code: A.1, name: Harmful Content Detection, description: ..., cues: [..., ...]}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource
from modeldiff_eval.yaml_file import read_yaml

_CLASS_CODE = re.compile(r"[A-Z][A-Za-z0-9]{0,7}")
_CATEGORY_CODE = re.compile(r"([A-Z][A-Za-z0-9]{0,7})\.([0-9]{1,4})")
_TOP_KEYS = ("version", "classes")
_CLASS_KEYS = ("code", "name", "categories")
_CATEGORY_KEYS = ("code", "name", "description", "cues", "signal")
SIGNALS = ("non_english",)


class Category(Record):
    """One category.

    ``cues`` are short texts of its kind: what users ask and what models answer. ``signal`` names a finding other than
    wording that speaks for it: ``"non_english"``, the share of excerpts in another language.
    """

    code: str
    name: str
    description: str
    cues: tuple[str, ...] = ()
    signal: str | None = None


class Class(Record):
    """One class and its categories, in the order of the file."""

    code: str
    name: str
    categories: tuple[Category, ...]


class Taxonomy(Record):
    """Classes and categories with unique codes, checked by :meth:`load` and :meth:`from_mapping`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    version: int = 1
    classes: tuple[Class, ...]

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories in the order of the file."""
        return tuple(category for class_ in self.classes for category in class_.categories)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each category code in :attr:`categories`."""
        return {category.code: i for i, category in enumerate(self.categories)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash (16 hex digits) of everything in the taxonomy; part of an annotation's key."""
        payload = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(payload.encode()).hexdigest()[:16]

    def category(self, code: str) -> Category:
        """The category of this code.

        Raises:
            UsageError: no such category.
        """
        if code not in self.index:
            raise UsageError(f"The taxonomy has no category {code!r}.{did_you_mean(code, self.index)}")
        return self.categories[self.index[code]]

    def class_of(self, code: str) -> Class:
        """The class of a category code (``"A.1"``) or of a class code (``"A"``).

        Raises:
            UsageError: no such code.
        """
        for class_ in self.classes:
            if class_.code == code or any(category.code == code for category in class_.categories):
                return class_
        known = [*self.index, *(class_.code for class_ in self.classes)]
        raise UsageError(f"The taxonomy has no class or category {code!r}.{did_you_mean(code, known)}")

    @classmethod
    def load(cls, path: Path | str | None = None) -> Taxonomy:
        """Read a taxonomy file; ``None`` is the packaged one.

        Raises:
            UsageError: the file is missing, is not YAML, or breaks a rule (the message says which and where).
        """
        file = resource("data/taxonomy.yaml") if path is None else Path(path)
        raw = read_yaml(file, "taxonomy file", hint="Quote texts that hold ': ' or '#'.")
        return cls.from_mapping(raw, source=str(file))

    @classmethod
    def from_mapping(cls, raw: Any, *, source: str = "taxonomy") -> Taxonomy:
        """Check plain data (what YAML gave) and make the record.

        Raises:
            UsageError: as in :meth:`load`; ``source`` opens the message.
        """
        top = _mapping(raw, _TOP_KEYS, where=source)
        version = top.get("version", 1)
        if version != 1 or isinstance(version, bool):
            raise UsageError(f"{source}: version {version!r} is not known; this release reads version 1.")
        classes = tuple(
            _class(item, where=f"{source}: classes[{i}]") for i, item in enumerate(_items(top, "classes", where=source))
        )
        _unique([class_.code for class_ in classes], what="class code", where=source)
        _unique([class_.name for class_ in classes], what="class name", where=source)
        categories = [category for class_ in classes for category in class_.categories]
        _unique([category.code for category in categories], what="category code", where=source)
        _unique([category.name for category in categories], what="category name", where=source)
        known = [class_.code for class_ in classes]
        for class_ in classes:
            for category in class_.categories:
                prefix = category.code.split(".")[0]
                if prefix not in known:
                    raise UsageError(
                        f"{source}: category {category.code} belongs to class {prefix!r}, which is missing; "
                        f"the file has {', '.join(known)}. Add the class or rename the category."
                    )
                if prefix != class_.code:
                    raise UsageError(
                        f"{source}: category {category.code} stands under class {class_.code}; "
                        f"move it to class {prefix} or give it a code {class_.code}.N."
                    )
        return cls(version=1, classes=classes)


def _class(raw: Any, *, where: str) -> Class:
    item = _mapping(raw, _CLASS_KEYS, where=where)
    code = _text(item, "code", where=where)
    if not _CLASS_CODE.fullmatch(code):
        raise UsageError(f"{where}: class code {code!r} must be a capital, then letters or digits only, such as 'A'.")
    where = f"{where} ({code})"
    categories = tuple(
        _category(entry, where=f"{where}, categories[{i}]")
        for i, entry in enumerate(_items(item, "categories", where=where))
    )
    return Class(code=code, name=_text(item, "name", where=where), categories=categories)


def _category(raw: Any, *, where: str) -> Category:
    item = _mapping(raw, _CATEGORY_KEYS, where=where)
    code = _text(item, "code", where=where)
    if not _CATEGORY_CODE.fullmatch(code):
        raise UsageError(f"{where}: category code {code!r} must be a class code, a dot and a number, such as 'A.1'.")
    where = f"{where} ({code})"
    cues: tuple[str, ...] = ()
    if item.get("cues") is not None:
        entries = _items(item, "cues", where=where)
        for i, cue in enumerate(entries):
            if not isinstance(cue, str) or not cue.strip():
                raise UsageError(f"{where}: cues[{i}] is {cue!r}; a cue is a short text (quote it in the YAML).")
        cues = tuple(str(cue).strip() for cue in entries)
        _unique(list(cues), what="cue", where=where)
    signal = item.get("signal")
    if signal is not None and signal not in SIGNALS:
        hint = did_you_mean(str(signal), SIGNALS)
        raise UsageError(f"{where}: unknown signal {signal!r}.{hint} Known signals: {', '.join(SIGNALS)}.")
    return Category(
        code=code,
        name=_text(item, "name", where=where),
        description=" ".join(_text(item, "description", where=where).split()),
        cues=cues,
        signal=signal,
    )


def _mapping(raw: Any, keys: tuple[str, ...], *, where: str) -> dict[str, Any]:
    """``raw`` as a dictionary that holds nothing but ``keys``."""
    if not isinstance(raw, dict):
        kind = "empty" if raw is None else f"a {type(raw).__name__}"
        raise UsageError(f"{where}: {kind}; expected a mapping with the keys {', '.join(keys)}.")
    for key in raw:
        if key not in keys:
            hint = did_you_mean(str(key), keys)
            raise UsageError(f"{where}: unknown key {key!r}.{hint} Known keys: {', '.join(keys)}.")
    return raw


def _items(raw: dict[str, Any], key: str, *, where: str) -> list[Any]:
    """A list that is there and not empty."""
    value = raw.get(key)
    if not isinstance(value, list) or not value:
        state = "is missing" if key not in raw else "is empty" if not value else f"is a {type(value).__name__}"
        raise UsageError(f"{where}: {key!r} {state}; give a list with at least one entry.")
    return value


def _text(raw: dict[str, Any], key: str, *, where: str) -> str:
    """A text that is there and not blank."""
    value = raw.get(key)
    if not isinstance(value, str) or not value.strip():
        state = "is missing" if key not in raw else f"is {value!r}"
        raise UsageError(f"{where}: {key!r} {state}; give a text.")
    return value.strip()


def _unique(values: list[str], *, what: str, where: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{where}: the {what} {value!r} appears twice; each must be given once.")
        seen.add(value)
