"""What Ollama's `format` can be: a grammar that the answer cannot leave, made by llama.cpp from a JSON Schema.

The trap: the grammar is all that a schema becomes. The model never reads it, so descriptions are lost unless they are
said in words; and what no grammar can be made of (a pattern without anchors, a bound in the thousands) fails the whole
request with 400 or 500. Such keywords are left out here and said; a strict schema is checked on the answer anyway.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from wire.openai import Json, encoded

_MAX_DEPTH = 100
"""Levels to which a schema is looked through; beyond, it is passed as it is."""
_MAX_REPEATED = 1000
"""llama.cpp unrolls what is repeated, and gives up at about twice as much."""
_BOUNDS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NO_GRAMMAR = re.compile(r"\(\?|\\[^nrt\\^$.*+?()\[\]{}|/-]")
"""Groups with a question mark, and classes as in `\\d`, which its grammars do not know."""
_ONE = frozenset({"items", "additionalProperties", "not"})
_SEVERAL = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "$defs", "definitions"})
"""Keywords that hold a schema, a list of them, and an object of them."""


class Format(NamedTuple):
    """What is sent, and what the model must be told besides."""

    format: Any
    """`"json"`, a schema, or None for text."""
    words: str = ""
    holds_calls: bool = False
    """Calls cannot leave it either: their arguments fit their schema."""


def native_format(response_format: Any) -> Format:
    """The format for a checked `response_format`; None for kinds that it does not know."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **rest}} if schema:
            pass
        case {"type": "json_object"} | {"type": "json_schema"}:
            return Format("json")
        case _:
            return Format(None)
    usable = grammar(schema)
    description = _description(rest)
    if usable is schema and not description and not _is_described(schema):
        return Format(schema)
    words = "Answer with JSON that fits this JSON Schema, and nothing else:\n" + encoded(schema).decode()
    return Format(usable, "\n".join(filter(None, [description, words])))


def call_or_answer(response_format: Any, functions: list[Json], call: str) -> Format:
    """The format of either: a call of one of these functions, or an answer of this checked form, which is JSON.

    `call` says in words what a call is. The schema is always said too: who knows of calls only calls for ever. Where
    there is none, any object will do, and a call is one.
    """
    either = f"Answer with nothing but either {call}, or, where no call is needed, your answer, as "
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema), **rest}} if schema:
            words = f"{either}JSON that fits this JSON Schema:\n{encoded(schema).decode()}"
            form = call_format(functions, grammar(schema))
            return Format(form, "\n".join(filter(None, [_description(rest), words])), holds_calls=True)
        case _:
            return Format("json", f"{either}another JSON object.")


def is_like_a_call(response_format: Any) -> bool:
    """Whether an answer of this form may begin as a call does, and go on otherwise."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            said = encoded(schema)
            return b'"name":' in said and b'"arguments":' in said
        case _:
            return False


def _description(json_schema: dict[Any, Any]) -> str:
    description = json_schema.get("description")
    return description if isinstance(description, str) else ""


def grammar(schema: Json, depth: int = 0) -> Json:
    """The schema without what no grammar can be made of; the same object where it has nothing of the kind."""
    usable: Json = {}
    same = True
    for key, value in schema.items():
        if key == "pattern" and not _is_usable_pattern(value):
            same = False
            continue
        if key in _BOUNDS and not (isinstance(value, int | float) and value <= _MAX_REPEATED):
            same = False
            continue
        usable[key] = _inner(key, value, depth + 1) if depth < _MAX_DEPTH else value
        same = same and usable[key] is value
    return schema if same else usable


def _is_usable_pattern(pattern: Any) -> bool:
    return (
        isinstance(pattern, str) and pattern[:1] == "^" and pattern[-1:] == "$" and _NO_GRAMMAR.search(pattern) is None
    )


def _inner(key: str, value: Any, depth: int) -> Any:
    match value:
        case dict() if key in _ONE:
            return grammar(value, depth)
        case list() if key in _SEVERAL:
            found = [grammar(one, depth) if isinstance(one, dict) else one for one in value]
            return value if all(new is old for new, old in zip(found, value, strict=True)) else found
        case dict() if key in _NAMED:
            named = {name: grammar(one, depth) if isinstance(one, dict) else one for name, one in value.items()}
            return value if all(named[name] is one for name, one in value.items()) else named
        case _:
            return value


def _is_described(schema: Json) -> bool:
    """Whether there is a description in it: a name that is no keyword may say so too, which does no harm."""
    return b'"description":"' in encoded(schema)


def call_format(functions: list[Json], answer: Json | None = None) -> Json:
    """The schema of one call of one of these functions, as OpenAI writes them: `{"name": ..., "arguments": {...}}`.

    With `answer`, which is a schema too, what fits that is as good. Measured with `name` first: the name is then known
    while the arguments are still coming.
    """
    named: Json = {"$defs": {}, "definitions": {}}
    choices = [_call_schema(function["function"], f"parameters{n}", named) for n, function in enumerate(functions)]
    if answer is not None:
        choices.append(_placed(answer, "answer", named))
    schema: Json = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return schema | {key: schemas for key, schemas in named.items() if schemas}


def _call_schema(function: Json, place: str, named: Json) -> Json:
    parameters = grammar({"type": "object", "properties": {}} | (function.get("parameters") or {}))
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": _placed(parameters, place, named)},
        "required": ["name", "arguments"],
    }


def _placed(schema: Json, place: str, named: Json) -> Json:
    """The schema as a part of a larger one, to whose definitions (`named`) it adds what it refers to.

    References count from the root of the whole. A definition keeps its name behind that of the place: llama.cpp used to
    call its rules by the last step of a reference, so that two of one name were the same to it. Nor could that name be
    the one of a property's rule, `answer-item`, or have an underscore, which lost those that refer to themselves.
    """
    if b'"$ref":' not in encoded(schema):
        return schema
    own = dict(schema)
    for key in named:
        definitions = own.get(key)
        if isinstance(definitions, dict):
            del own[key]
            named[key] |= {f"of-{place}-{name}": _moved(one, place) for name, one in definitions.items()}
    named["$defs"][place] = _moved(own, place)
    return {"$ref": f"#/$defs/{place}"}


_REFERENCE = re.compile(r"#(/(?:\$defs|definitions)/|(?=/|\Z))")


def _moved(value: Any, place: str, depth: int = 0) -> Any:
    """A schema whose references within the document lead to where _placed() puts things."""
    match value:
        case dict() if depth < 2 * _MAX_DEPTH:
            return {
                key: _reference(one, place) if key == "$ref" and isinstance(one, str) else _moved(one, place, depth + 1)
                for key, one in value.items()
            }
        case list() if depth < 2 * _MAX_DEPTH:
            return [_moved(one, place, depth + 1) for one in value]
        case _:
            return value


def _reference(given: str, place: str) -> str:
    found = _REFERENCE.match(given)
    if found is None:
        return given
    return f"#{found[1]}of-{place}-{given[found.end() :]}" if found[1] else f"#/$defs/{place}{given[1:]}"
