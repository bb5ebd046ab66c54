"""A value that fits a JSON Schema, always the same one: what the sandbox model answers and calls tools with.

The trap: schemas recur, and a schema is the caller's. No value needs a definition within itself, so a reference that
leads into itself is a dead end, out of which the nearest choice, list or optional property leads; and steps, levels and
lengths are counted. What no grammar could be made of (`not`, `contains`, `if`) is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from addons.example_pattern import example_of
from wire.openai import Json

MAX_STEPS = 5_000
"""Schemas that are looked at for one value."""
MAX_LEVELS = 60
MAX_LENGTH = 5_000
"""Characters of one string."""
_FORMATS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "sandbox@example.com",
    "hostname": "sandbox.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/sandbox",
    "url": "https://example.com/sandbox",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class _DeadEnd(Exception):
    """No value on this way."""


def example(schema: Any, name: str, *, avoid: Callable[[Json], bool] = lambda choice: False) -> Any:
    """A value for this schema; a text about `name` where none is found.

    Of the choices on the first level those that `avoid` holds for come last.
    """
    maker = _Maker(schema)
    try:
        match schema:
            case {"anyOf": list(choices), **rest}:
                ordered = sorted(choices, key=lambda choice: isinstance(choice, dict) and avoid(choice))
                return maker.value({**rest, "anyOf": ordered}, name)
            case _:
                return maker.value(schema, name)
    except _DeadEnd:
        return {} if isinstance(schema, dict) and schema.get("type") == "object" else f"sandbox {name}"


class _Maker:
    """Makes values of one document."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0
        self._within: list[str] = []
        """The references that were followed to here."""
        self._level = 0

    def value(self, schema: Any, name: str, nth: int = 0) -> Any:
        """`nth`: of several that must not be equal."""
        self._steps += 1
        if schema is False or self._steps > MAX_STEPS or self._level > MAX_LEVELS:
            raise _DeadEnd
        if not isinstance(schema, dict):
            return f"sandbox {name}"
        self._level += 1
        try:
            return self._value(schema, name, nth)
        finally:
            self._level -= 1

    def _value(self, schema: Json, name: str, nth: int) -> Any:
        match schema:
            case {"$ref": str(reference), **rest}:
                return self._referred(reference, rest, name, nth)
            case {"const": value}:
                return value
            case {"enum": [_, *_] as values}:
                return values[nth % len(values)]
            case {"allOf": [_, *_] as parts, **others}:
                joined: Any = others
                for part in parts:
                    joined = _both(joined, self._resolved(part))
                return self.value(joined, name, nth)
            case {"anyOf": [_, *_] as choices, **rest} | {"oneOf": [_, *_] as choices, **rest}:
                return self._chosen(choices, rest, name, nth)
            case _:
                return self._plain(schema, name, nth)

    def _plain(self, schema: Json, name: str, nth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema, name)
            case "integer" | "number":
                return _number(schema, kind == "integer", nth)
            case "boolean":
                return nth % 2 == 0
            case "null":
                return None
            case _:
                return _text(schema, name, nth)

    def _referred(self, reference: str, rest: Json, name: str, nth: int) -> Any:
        if reference in self._within:
            raise _DeadEnd
        self._within.append(reference)
        try:
            return self.value(_both(self._at(reference), rest), name, nth)
        finally:
            self._within.pop()

    def _resolved(self, schema: Any) -> Any:
        """What a part of an `allOf` is; a chain of references is followed one step."""
        match schema:
            case {"$ref": str(reference), **rest}:
                return _both(self._at(reference), rest)
            case _:
                return schema

    def _at(self, reference: str) -> Any:
        """Where a reference leads within the document."""
        if not reference.startswith("#"):
            raise _DeadEnd
        found = self._root
        for step in reference[1:].split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            match found:
                case dict() if key in found:
                    found = found[key]
                case list() if key.isdecimal() and int(key) < len(found):
                    found = found[int(key)]
                case _:
                    raise _DeadEnd
        return found

    def _chosen(self, choices: list[Any], rest: Json, name: str, nth: int) -> Any:
        for choice in choices:
            try:
                return self.value(_both(rest, choice), name, nth)
            except _DeadEnd:
                continue
        raise _DeadEnd

    def _object(self, schema: Json) -> Json:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        required = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
        more = schema.get("additionalProperties", True)
        made: Json = {}
        for key, one in properties.items():
            try:
                made[key] = self.value(one, key)
            except _DeadEnd:
                if key in required:
                    raise
        for key in required:
            if key not in made:
                made[key] = self.value(more, key)
        while len(made) < _count(schema, "minProperties"):
            key = f"sandbox {len(made)}"
            made[key] = self.value(more, key)
        return made

    def _array(self, schema: Json, name: str) -> list[Any]:
        first = schema.get("prefixItems")
        made = [self.value(one, name, n) for n, one in enumerate(first)] if isinstance(first, list) else []
        least, most = _count(schema, "minItems"), _count(schema, "maxItems", MAX_STEPS)
        items = schema.get("items", True)
        wanted = max(least, 1) if isinstance(items, dict) and not made else least
        while len(made) < min(wanted, most):
            try:
                made.append(self.value(items, name, len(made)))
            except _DeadEnd:
                if len(made) < least:
                    raise
                break
        return made


def _both(schema: Any, other: Any) -> Any:
    """A schema for what fits both, as far as one can be written down without thinking."""
    if not (isinstance(schema, dict) and isinstance(other, dict)):
        return False if schema is False or other is False else schema if isinstance(schema, dict) else other
    both = {**schema, **other}
    match schema.get("properties"), other.get("properties"):
        case dict(one), dict(two):
            both["properties"] = {**one, **two}
    match schema.get("required"), other.get("required"):
        case list(first), list(second):
            both["required"] = [*first, *second]
    return both


def _count(schema: Json, key: str, otherwise: int = 0) -> int:
    value = schema.get(key)
    return int(value) if isinstance(value, int | float) and value >= 0 else otherwise


def _text(schema: Json, name: str, nth: int) -> str:
    known = _FORMATS.get(str(schema.get("format")))
    if known is not None:
        return known
    least, most = min(_count(schema, "minLength"), MAX_LENGTH), _count(schema, "maxLength", MAX_LENGTH)
    pattern = schema.get("pattern")
    made = example_of(pattern, least, most) if isinstance(pattern, str) else None
    if made is not None:
        return made
    text = f"sandbox {name}" if nth == 0 else f"{nth + 1} sandbox {name}"
    return text.ljust(least, ".")[:most]


def _number(schema: Json, whole: bool, nth: int) -> float:
    """1, or the nearest to a bound that fits."""
    low = max(_bounds(schema, "minimum", "exclusiveMinimum"), default=-math.inf)
    high = min(_bounds(schema, "maximum", "exclusiveMaximum"), default=math.inf)
    step = schema.get("multipleOf")
    step = step if isinstance(step, int | float) and step > 0 else 1

    def fits(value: float) -> bool:
        return (
            low <= value <= high
            and value != schema.get("exclusiveMinimum")
            and value != schema.get("exclusiveMaximum")
            and ("multipleOf" not in schema or math.isclose(value / step, round(value / step)))
            and (not whole or value == int(value))
            and abs(value) < 2**53
        )

    found = [*dict.fromkeys(value for value in _candidates(low, high, step) if fits(value))] or [1]
    value = found[nth % len(found)]
    return int(value) if whole or value == int(value) else value


def _bounds(schema: Json, *keys: str) -> list[float]:
    found = (schema.get(key) for key in keys)
    return [value for value in found if isinstance(value, int | float) and not isinstance(value, bool)]


def _candidates(low: float, high: float, step: float) -> Iterator[float]:
    yield from (1, 2, 3, 0)
    yield from (step * n for n in range(1, 10))
    if math.isfinite(low):
        yield from (step * (math.floor(low / step) + n) for n in range(10))
        yield low
    if math.isfinite(high):
        yield from (step * (math.ceil(high / step) - n) for n in range(10))
        yield high
    if math.isfinite(low) and math.isfinite(high):
        yield (low + high) / 2
