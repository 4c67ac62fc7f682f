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
        UsageError: it cannot be read, is larger than four megabytes, or is not UTF-8 or not YAML; it refers to another part of
            itself (a short file of such references can stand for gigabytes), or is nested too deeply.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES} bytes; this is not a {what}.")
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Plain)
    except OSError as error:
        raise UsageError(f"Cannot read the {what} {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply for a {what}. {hint}".rstrip()) from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise UsageError(f"{path}{where}: not valid YAML ({problem}). {hint}".rstrip()) from error


class _Plain(yaml.SafeLoader):
    """A safe loader that refuses references, and a key given twice instead of keeping the last."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "references (*name) are not read; write the part out", event.start_mark
            )
        return super().compose_node(parent, index)

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


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    """A whole number, or its text where it has more digits than Python turns into one."""
    try:
        return yaml.SafeLoader.construct_yaml_int(loader, node)
    except ValueError:
        return node.value


_Plain.add_constructor("tag:yaml.org,2002:int", _number)
