"""Reading a small YAML file that a person wrote, with errors that say what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from modeldiff_eval.errors import UsageError

MAX_BYTES = 4_000_000


def read_yaml(path: Path, what: str, *, hint: str = "") -> Any:
    """The plain data in ``path``; a key that is given twice is refused.

    Args:
        what: the kind of file, as an error calls it ("taxonomy file").
        hint: ends the message where the file is not YAML.

    Raises:
        UsageError: it cannot be read, is larger than four megabytes, or is not UTF-8 or not YAML.
    """
    return _read(path, what, hint, _UniqueKeys)


def read_yaml_with_lines(path: Path, what: str, key: str, *, hint: str = "") -> tuple[Any, list[int]]:
    """:func:`read_yaml`, and the line (from 1) on which each item of the list under the top-level ``key`` begins."""
    lines: list[int] = []
    fast: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast

    class WithLines(_RefusesDoubles, fast):  # type: ignore[misc, valid-type]
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
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise UsageError(f"Cannot read the {what} {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply; this is not a {what}.") from error
    except ValueError as error:  # such as the date 2027-02-30
        raise UsageError(f"{path}: not valid YAML ({error}). {hint}".rstrip()) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{where}: not valid YAML ({problem}). {hint}".rstrip()) from error


class _RefusesDoubles(yaml.constructor.SafeConstructor):
    """Refuses a key given twice instead of keeping the last."""

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
        return super().construct_mapping(node, deep)


class _UniqueKeys(_RefusesDoubles, yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""
