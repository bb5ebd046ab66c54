"""A tool's JSON Schema as Ollama reads it: what its structs keep stays, the rest is said in words.

Ollama decodes every tool into structs of its own (ollama_api section 2, "Tool schema"). The trap: what they have no
field for is gone without a word (`default`, `minimum`, `$ref`, `oneOf`, ...), so the model never hears of it. Here such
keywords move into the description, where the model reads them, and what has another spelling gets that.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import unquote

from wire.errors import BadRequest
from wire.openai import Json, encoded

_MAX_DEPTH = 100
"""Levels of a schema, references followed. No honest one has as many; Python's stack is not endless."""
_MAX_INLINED = 200
"""References of one tool that are replaced by what they stand for: schemas can be written that grow without end."""
_PLAIN = frozenset({"type", "description", "enum"})
"""Keywords that are kept as they are: most properties have no others."""
_SILENT = frozenset({"$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "strict", "description"})
"""Nothing to a model, or said elsewhere."""
_BARE = frozenset({"pattern", "format"})
"""Keywords whose strings are understood without quotes."""


class Parameters(NamedTuple):
    """The parameters of one function."""

    schema: Json
    """As Ollama keeps it. It always has `properties`: without them the jinja path answers 400."""
    words: str
    """What it has no place for, for the function's description; "" where that is nothing."""


def native_parameters(parameters: Json | None, where: str) -> Parameters:
    """A function's parameters, where there are any; raises BadRequest with `param` for what is no schema."""
    root = parameters or {}
    reader = _Reader(root)
    found = reader.resolved(root, ("#",))
    schema = found.schema
    native: Json = {"type": schema.get("type") or "object"}
    if schema.get("required") is not None:
        native["required"] = schema["required"]
    native["properties"] = reader.properties(schema.get("properties") or {}, f"{where}.properties", found.open_refs)
    top = ("type", "required", "properties")
    words = [
        *found.words,
        *(_word(key, value) for key, value in schema.items() if key not in top and not _is_silent(key, value, "")),
    ]
    if reader.refers:
        native["$defs"] = {**_object(root.get("definitions")), **_object(root.get("$defs"))}
    return Parameters(native, _described(schema, f"(parameters: {'; '.join(words)})" if words else ""))


class _Resolved(NamedTuple):
    """A schema with what it refers to in its place."""

    schema: Json
    words: list[str]
    """What it goes on referring to."""
    open_refs: tuple[str, ...]
    """The references that it stands inside of."""


class _Reader:
    """Reads the schemas within one tool's parameters, which are the root of their references."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._inlined = 0
        self.refers = False
        """A reference was left in words, so its definition must be there."""

    def properties(self, given: Any, where: str, open_refs: tuple[str, ...], depth: int = 1) -> Json:
        if not isinstance(given, dict):
            raise BadRequest(f"'{where}' must be an object of JSON Schemas.", param=where)
        return {
            name: self._schema(value, f"{where}.{name}", name, open_refs, depth)
            for name, value in given.items()
            if value is not False  # no value fits it
        }

    def _schema(self, given: Any, where: str, name: str, open_refs: tuple[str, ...], depth: int) -> Json:
        """One schema below the top, `name` being the property's."""
        if given is True:
            return {}
        if not isinstance(given, dict):
            raise BadRequest(f"'{where}' must be a JSON Schema object.", param=where)
        if given.keys() <= _PLAIN:
            return given
        schema, words, opened = self.resolved(given, open_refs)
        depth += 1 + len(opened) - len(open_refs)
        if depth > _MAX_DEPTH:
            raise _too_deep()
        native: Json = {}
        for key, value in schema.items():
            match key:
                case "type" | "enum" | "required":
                    native[key] = value
                case "const":
                    native["enum"] = [value]
                case "properties":
                    native[key] = self.properties(value, f"{where}.{key}", opened, depth)
                case "items" if isinstance(value, dict):
                    native[key] = self._schema(value, f"{where}.{key}", "", opened, depth)
                case "anyOf" | "oneOf" if isinstance(value, list):
                    native["anyOf"] = native.get("anyOf", []) + [
                        self._schema(choice, f"{where}.{key}[{number}]", "", opened, depth)
                        for number, choice in enumerate(value)
                    ]
                case _ if not _is_silent(key, value, name):
                    words.append(_word(key, value))
        description = _described(schema, f"({'; '.join(words)})" if words else "")
        return native | {"description": description} if description else native

    def resolved(self, schema: Json, open_refs: tuple[str, ...], depth: int = 0) -> _Resolved:
        """Follows `$ref` and `allOf` as far as they lead somewhere new; `depth` counts the `allOf` within others."""
        if depth > _MAX_DEPTH:
            raise _too_deep()
        words: list[str] = []
        while True:
            match schema:
                case {"$ref": str(ref), **rest}:
                    target = _target(self._root, ref)
                    if target is None or ref in open_refs or self._inlined >= _MAX_INLINED:
                        self.refers = self.refers or target is not None
                        kind = {"type": target["type"]} if target is not None and "type" in target else {}
                        words.append(f"as {ref}")
                        schema = kind | rest
                    else:
                        self._inlined += 1
                        open_refs = (*open_refs, ref)
                        schema = _merged(target, rest)
                case {"allOf": [*several], **rest} if several and all(isinstance(one, dict) for one in several):
                    schema = {}
                    for one in several:
                        found = self.resolved(one, open_refs, depth + 1)
                        schema, open_refs = _merged(schema, found.schema), found.open_refs
                        words += found.words
                    schema = _merged(schema, rest)
                case _:
                    return _Resolved(schema, words, open_refs)


def _too_deep() -> BadRequest:
    return BadRequest(f"A schema in 'tools' is more than {_MAX_DEPTH} levels deep.", param="tools")


def _merged(one: Json, other: Json) -> Json:
    """A schema that says what both say; the other one's word counts where they differ."""
    merged = one | other
    match one, other:
        case {"properties": dict(first)}, {"properties": dict(second)}:
            merged["properties"] = first | second
    match one, other:
        case {"required": list(names)}, {"required": list(more)}:
            merged["required"] = [*names, *(name for name in more if name not in names)]
    return merged


def _target(root: Json, ref: str) -> Json | None:
    """What a reference within the same document refers to; None for any other one, and for one that leads nowhere."""
    if ref != "#" and not ref.startswith("#/"):
        return None
    found: Any = root
    for token in ref.split("/")[1:]:
        name = unquote(token).replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _is_silent(key: str, value: Any, name: str) -> bool:
    """Whether a keyword says nothing that a model should know."""
    match key:
        case "additionalProperties" | "unevaluatedProperties":
            return isinstance(value, bool)  # strict schemas say it everywhere
        case "title":
            # Schema libraries make it from the property's name.
            return not isinstance(value, str) or value.lower().replace(" ", "_") in (name.lower(), "")
        case _:
            return key in _SILENT


def _word(key: str, value: Any) -> str:
    text = value if key in _BARE and isinstance(value, str) else encoded(value).decode()
    return f"{key}: {text}"


def _described(schema: Json, words: str) -> str:
    description = schema.get("description")
    return " ".join(filter(None, [description if isinstance(description, str) else "", words]))


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
