"""Reading a small YAML file that a person wrote, with errors that say what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml

from modeldiff_eval.errors import UsageError

MAX_BYTES = 4_000_000
MAX_DEPTH = 100
_Fast: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where it is there: ten times as fast."""


def read_yaml(path: Path, what: str, *, hint: str = "") -> Any:
    """The plain data in ``path``; a key that is given twice is refused.

    Args:
        what: the kind of file, as an error calls it ("taxonomy file").
        hint: ends the message where the file is not YAML.

    Raises:
        UsageError: it cannot be read, is larger than four megabytes, or is not UTF-8 or not YAML; it refers to another part of
            itself (a short file of such references can stand for gigabytes), or is nested too deeply.
    """
    return _read(path, what, hint, _Plain)


def read_yaml_with_lines(path: Path, what: str, key: str, *, hint: str = "") -> tuple[Any, list[int]]:
    """:func:`read_yaml`, and the line (from 1) on which each item of the list under the top-level ``key`` begins."""
    lines: list[int] = []

    class WithLines(_Plain):
        def construct_document(self, node: yaml.Node) -> Any:
            for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
                if name.value == key and isinstance(value, yaml.SequenceNode):
                    lines[:] = [item.start_mark.line + 1 for item in value.value]
            found: Any = super().construct_document(node)
            return found

    return _read(path, what, hint, WithLines), lines


def _read(path: Path, what: str, hint: str, loader: Any) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes; this is not a {what}.")
        text = path.read_text(encoding="utf-8-sig")
        _require_plain(text)
        return yaml.load(text, Loader=loader)
    except OSError as error:
        raise UsageError(f"Cannot read the {what} {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as the date 2027-02-30
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{where}: not valid YAML ({problem}). {hint}".rstrip()) from error


def _require_plain(text: str) -> None:
    """No references, and no deeper than :data:`MAX_DEPTH`: both are looked for without building anything."""
    depth = 0
    for event in yaml.parse(text, Loader=_Fast):
        if isinstance(event, yaml.AliasEvent):
            _refuse("references (*name) are not read; write the part out", event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            _refuse("nested too deeply", event)


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.composer.ComposerError(None, None, problem, event.start_mark)


class _Plain(_Fast):  # type: ignore[misc, valid-type]
    """A safe loader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    """A whole number, or its text where it has more digits than Python turns into one."""
    try:
        return yaml.constructor.SafeConstructor.construct_yaml_int(loader, node)
    except ValueError:
        return node.value


_Plain.add_constructor("tag:yaml.org,2002:int", _number)
