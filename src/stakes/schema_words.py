"""What a setting takes, in words, from the JSON schema of its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
_TYPES = {"number": "number", "integer": "whole number", "boolean": "true or false", "string": "text"}


def accepted(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words: type and range; empty for objects, of which a few words would say nothing.

    Example:
        >>> accepted({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]})
        'whole number, at least 1 or null'
    """
    if "anyOf" in schema:
        parts = [accepted(part) for part in schema["anyOf"]]
        return " or ".join(parts) if all(parts) else ""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "array":
        items = accepted(schema.get("items", {}))
        return f"list of: {items}" if items else ""
    if kind not in _TYPES:
        return ""
    bounds = [said.format(f"{schema[key]:g}") for key, said in _BOUNDS.items() if key in schema]
    return ", ".join([_TYPES[kind], *bounds])
