"""Whether a reply has the shape that was asked for: the part of JSON Schema that tool inputs need.

Checked: ``type``, ``properties``, ``required``, ``additionalProperties: false``, ``items``, ``enum``, ``const``,
``anyOf``, and the bounds of strings, numbers and lists. A keyword that is neither checked nor a mere description is an
error of the schema's author, so that no rule is silently skipped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_SILENT = {"title", "description", "default", "examples", "$schema", "format"}


class Problem(NamedTuple):
    """One place where a value breaks its schema: ``where`` (``"patterns[2]"``), what was ``wanted``, what was ``got``.

    ``wanted`` holds nothing of the value, so it can be shown to a model again.
    """

    where: str
    wanted: str
    got: str

    def __str__(self) -> str:
        return f"{self.where}: {self.wanted}, not {self.got}"


def check_schemas(schemas: Iterable[dict[str, Any]]) -> None:
    """Refuse schemas that could not be checked later.

    Raises:
        ValueError: a schema holds a keyword or a type that is not known here.
    """
    seen: set[str] = set()
    for schema in schemas:
        if (text := json.dumps(schema, sort_keys=True)) not in seen:
            seen.add(text)
            _check_schema(schema, "its top")


def _check_schema(schema: dict[str, Any], where: str) -> None:
    if strangers := schema.keys() - _RULES.keys() - _SILENT - {"properties", "items"}:
        raise ValueError(f"The schema at {where} uses {', '.join(sorted(strangers))}, which is not checked.")
    types = schema.get("type", [])
    if strangers := {types} - _TYPES if isinstance(types, str) else set(types) - _TYPES:
        raise ValueError(f"The schema at {where} has an unknown type: {', '.join(sorted(strangers))}.")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"The schema at {where}: additionalProperties can only be false.")
    for name, part in schema.get("properties", {}).items():
        _check_schema(part, name)
    if "items" in schema:
        _check_schema(schema["items"], f"the items of {where}")
    for part in schema.get("anyOf", []):
        _check_schema(part, f"a shape of {where}")


def check(value: Any, schema: dict[str, Any], where: str = "") -> list[Problem]:
    """Every place where ``value`` breaks ``schema``, one that :func:`check_schemas` lets pass; empty where it fits."""
    found: list[Problem] = []
    for keyword, rule in schema.items():
        if keyword in _RULES:
            found += [
                Problem(where or "the reply", wanted, _short(value)) for wanted in _RULES[keyword](value, rule, schema)
            ]
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                found += check(value[name], part, f"{where}.{name}" if where else name)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += check(item, schema["items"], f"{where}[{i}]")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"


def _is_type(value: Any, name: str) -> bool:
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    kinds: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[name])


def _type(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    names = [rule] if isinstance(rule, str) else list(rule)
    return [] if any(_is_type(value, name) for name in names) else [f"must be of type {' or '.join(names)}"]


def _enum(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    return [] if any(_same(value, one) for one in rule) else [f"must be one of the {len(rule)} allowed values"]


def _const(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    return [] if _same(value, rule) else [f"must be {_short(rule)}"]


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _required(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    missing = [name for name in rule if isinstance(value, dict) and name not in value]
    return [f"must have {', '.join(missing)}"] if missing else []


def _closed(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    strangers = isinstance(value, dict) and value.keys() - schema.get("properties", {}).keys()
    return [f"must have nothing but {', '.join(schema.get('properties', {}))}"] if strangers else []


def _any_of(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
    return [] if any(not check(value, one) for one in rule) else [f"must have one of {len(rule)} shapes"]


def _bound(
    kind: tuple[type, ...], holds: Callable[[Any, Any], bool], wanted: str
) -> Callable[[Any, Any, Any], list[str]]:
    def rule_holds(value: Any, rule: Any, schema: dict[str, Any]) -> list[str]:
        concerned = isinstance(value, kind) and not isinstance(value, bool)
        return [wanted.format(rule)] if concerned and not holds(value, rule) else []

    return rule_holds


_RULES: dict[str, Callable[[Any, Any, dict[str, Any]], list[str]]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "required": _required,
    "additionalProperties": _closed,
    "anyOf": _any_of,
    "minimum": _bound((int, float), lambda value, rule: value >= rule, "must be at least {}"),
    "maximum": _bound((int, float), lambda value, rule: value <= rule, "must be at most {}"),
    "minLength": _bound((str,), lambda value, rule: len(value) >= rule, "must have at least {} characters"),
    "maxLength": _bound((str,), lambda value, rule: len(value) <= rule, "must have at most {} characters"),
    "pattern": _bound((str,), lambda value, rule: re.search(rule, value) is not None, "must match {}"),
    "minItems": _bound((list,), lambda value, rule: len(value) >= rule, "must have at least {} items"),
    "maxItems": _bound((list,), lambda value, rule: len(value) <= rule, "must have at most {} items"),
    "uniqueItems": _bound((list,), lambda value, rule: not rule or _distinct(value), "must have no item twice"),
}


def _distinct(items: list[Any]) -> bool:
    return len({json.dumps(item, sort_keys=True, default=str) for item in items}) == len(items)
