"""The JSON schema of ``card.json``, made from the record and published as ``data/card.schema.json``."""

from __future__ import annotations

import json

from modeldiff_eval.records import Card

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def card_schema() -> str:
    """The schema as indented JSON, with the published names (``class``, not ``class_``)."""
    found = {"$schema": DIALECT, **Card.model_json_schema(by_alias=True, mode="validation")}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
