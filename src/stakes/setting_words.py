"""Settings in words: what one takes, and what is wrong with a value or a name that was given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import core_schema

from stakes.errors import ConfigError, shown

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
_MOST = 201  # characters of a value in a message
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


def refused(kind: type[BaseModel], first: Mapping[str, Any]) -> ConfigError:
    """A wrong value as our error: what the setting takes, what came, and what the setting is."""
    place = [str(part) for part in first["loc"]]
    owner, where = within(kind, place[:-1]), ".".join(place)
    if owner is not None and first["type"] == "extra_forbidden":
        return unknown(where, owner.model_fields, kind.__name__)
    takes, text = _said_of(owner, place[-1]) if owner is not None and place else ("", "")
    # A check of our own says what is wrong better than the type does.
    if not takes or first["type"] not in get_args(core_schema.ErrorType):
        said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        takes = said[:1].lower() + said[1:]
    what = f"setting {where!r} of {kind.__name__}" if where else f"settings of {kind.__name__}"
    return ConfigError(what, expected=takes, got=_given(first), fix=text)


def _given(first: Mapping[str, Any]) -> str:
    """What came, in a line; nothing where settings were checked against each other: what is wrong names them."""
    if first["type"] == "missing":
        return "none"
    value = first.get("input")
    if first["type"] == "value_error" and isinstance(value, Mapping | BaseModel):
        return ""
    return shown(value, most=_MOST)


def within(kind: type[BaseModel], place: Sequence[str]) -> type[BaseModel] | None:
    """The settings at a place of ``kind``; None where these are not settings of their own, as in a list."""
    for name in place:
        field = kind.model_fields.get(name)
        inner = field.annotation if field is not None else None
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            return None
        kind = inner
    return kind


def _said_of(kind: type[BaseModel], name: str) -> tuple[str, str]:
    """What a setting takes, and what it is; empty where nothing says so."""
    field = kind.model_fields.get(name)
    if field is None:
        return "", ""
    text = field.description or ""
    schema = kind.model_json_schema()["properties"][name]
    return accepted(schema), f"{text[:1].upper()}{text[1:]}." if text else ""


def unknown(key: str, here: Any, owner: str) -> ConfigError:
    """A name that is no setting, with the ones next to it.

    Args:
        here: what there is at that place, by name.
        owner: of the settings, for the message.
    """
    names = sorted(here) if isinstance(here, Mapping) else []
    near = difflib.get_close_matches(key.rpartition(".")[2], names)
    return ConfigError(
        f"unknown setting {key!r} of {owner}",
        expected=f"one of {', '.join(names) or 'none below that'}",
        got=repr(key),
        fix=f"Did you mean {' or '.join(near)}?" if near else "",
    )
