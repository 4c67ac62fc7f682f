"""JSON in what a chat model wrote: the first object in the text, and what is wrong with it by its schema.

The schemas are those of this package's questions, so only their words are understood: ``type``, ``properties``,
``required``, ``additionalProperties: false``, ``items``, ``minItems``, ``maxItems``, ``enum``, ``minimum``, ``maximum``.
"""

from __future__ import annotations

import json
from typing import Any

KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "enum",
        "minimum",
        "maximum",
        "description",
    }
)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
_TRIES = 50


def first_object(text: str) -> dict[str, Any] | None:
    """The first whole JSON object in a text, whatever stands around it; None where there is none.

    NaN and infinities are not JSON; an object that holds one does not count.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse, strict=False)
    start = -1
    for _ in range(_TRIES):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def complaint(value: Any, schema: dict[str, Any], *, where: str = "the answer") -> str | None:
    """The first thing that is wrong with ``value``, or None. Nothing of the value but its field names is repeated.

    Raises:
        ValueError: the schema has a word that is not understood here.
    """
    if unknown := schema.keys() - KEYWORDS:
        raise ValueError(f"the schema's word {sorted(unknown)[0]!r} is not understood")
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return f"{where} must be of the type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        options = schema["enum"]
        return f"{where} must be one of {', '.join(map(str, options))}"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{where} must be at least {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{where} must be at most {schema['maximum']}"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            return f"{where} must have at least {schema['minItems']} entries"
        if len(value) > schema.get("maxItems", len(value)):
            return f"{where} must have at most {schema['maxItems']} entries"
        faults = (complaint(item, schema.get("items", {}), where=f"{where}[{i}]") for i, item in enumerate(value))
        return next((fault for fault in faults if fault), None)
    if isinstance(value, dict):
        return _object_complaint(value, schema, where)
    return None


def _object_complaint(value: dict[str, Any], schema: dict[str, Any], where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} must have the field {name!r}"
    if schema.get("additionalProperties") is False and (extra := sorted(value.keys() - properties.keys())):
        return (
            f"{where} has a field that is not asked for; the fields are {', '.join(properties)} ({len(extra)} too many)"
        )
    for name, inner in properties.items():
        if name in value and (fault := complaint(value[name], inner, where=f"the field {name!r}")):
            return fault
    return None
