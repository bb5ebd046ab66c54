"""pydantic's complaints about rules.yaml, in the words of the file: what stands there, and what would be right.

A value is repeated only where no secret belongs, and only a short one: what is as long as a key may be a key that
somebody put into the wrong place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, SecretStr

from rules.schema import RulesFile
from rules.values import is_short, near

type Path = tuple[str | int, ...]

_MEANT = {
    "api_key": "key", "token": "key", "quota": "limits", "rate_limit": "limits", "rate_limits": "limits",
    "per_client": "each_client", "total": "overall", "redis": "store",
    "since": "from", "date": "from", "in": "input", "prompt": "input", "prompt_tokens": "input",
    "cached": "cached_input", "cache_hit": "cached_input",
    "out": "output", "completion": "output", "completion_tokens": "output",
    "database": "url", "file": "url", "path": "url", "retention": "keep", "max_size": "size",
    "address": "host", "bind": "host", "listen": "host", "allow_origins": "origins", "allowed_origins": "origins",
}  # fmt: skip
"""What other programs call a key that has another name here, where nothing is spelled alike."""
_ADDRESSES = ("urls", "url", "store")
"""Keys whose texts may hold a password."""


def words_of(item: Mapping[str, Any], path: Path, value: Any) -> str:
    """One of ValidationError.errors() as a sentence.

    `path` leads to the place from the top of the file, and `value` is what the file says there.
    """
    match item["type"]:
        case "extra_forbidden":
            return _unknown_key(path)
        case "missing":
            return "is missing"
        case "literal_error":
            expected = item["ctx"]["expected"]
            said = _shown(path, value)
            return f"must be {'one of ' if ' or ' in expected else ''}{expected}{said and f', not {said}'}"
        case "model_type" | "dict_type":
            kind, _ = _type_at(path)
            names = ", ".join(_keys(kind)) or "names"
            if value is None and path:
                return f"is empty and must be a mapping of {names}; fill it in, or leave it out"
            return f"must be a mapping of {names}{_each(kind, ', each with a mapping of ')}"
        case "tuple_type":
            return f"must be a list{_each(_type_at(path)[0], ' of mappings of ')}"
        case "too_short":
            return "needs at least one entry"
        case "value_error":
            why, said = str(item["ctx"]["error"]), _shown(path, value)
            return why if not said or said in why else f"{said}: {why}"
        case _:
            return _wrong_type(path, value)


def _each(kind: Any, words: str) -> str:
    """The words and the keys that each entry of a list or a mapping has, if it has any."""
    keys = _keys(_inside(kind)[0]) if get_args(kind) else []
    return words + ", ".join(keys) if keys else ""


def _unknown_key(path: Path) -> str:
    noun, _ = _type_at(path[:-1])
    key, known = str(path[-1]), _keys(noun)
    places = list(_homes(noun, key))
    if places:
        return f"unknown key here; it belongs into {' or '.join(places)}"
    if key == "<<":
        return "mappings are not merged here; write it all out"
    meant = _MEANT.get(key)
    if meant in known:
        return f"unknown key (did you mean '{meant}'?)"
    return f"unknown key{near(key, known) or f'; known here: {", ".join(known)}'}"


def _homes(noun: Any, key: str) -> Iterable[str]:
    """The nouns inside a noun that have such a key, as dotted paths."""
    if not _is_noun(noun):
        return
    for name, field in noun.model_fields.items():
        inner, _ = _bare(field.annotation)
        if key in _keys(inner):
            yield name
        yield from (f"{name}.{deeper}" for deeper in _homes(inner, key))


def _wrong_type(path: Path, value: Any) -> str:
    kind, marks = _type_at(path)
    wanted = _wanted(kind, marks)
    if value is None:
        return f"is empty; write {wanted}, or leave it out"
    said = _quoted(value) if kind is not SecretStr else _UNTOLD
    end = "; write it in quotes" if kind in (str, SecretStr) and not isinstance(value, list | dict) else ""
    return f"{said} is not {wanted}{end}"


def may_be_secret(path: Path) -> bool:
    """Whether what stands at a place may be a key or hold a password; of a place that the schema does not know, yes."""
    try:
        kind, _ = _type_at(path)
    except LookupError:
        return True
    return kind is SecretStr or any(step in _ADDRESSES for step in path[-2:])


def _shown(path: Path, value: Any) -> str:
    """A value where it is a single one and may be repeated, or nothing."""
    single = isinstance(value, str | int | float | date) and not may_be_secret(path)
    return _quoted(value).removeprefix(_UNTOLD) if single else ""


_UNTOLD = "this value"


def _quoted(value: Any) -> str:
    match value:
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case bool():
            return "true" if value else "false"
        case str() if is_short(value):
            return f"'{value}'"
        case float() | int() if is_short(f"{value:.20g}"):
            return f"{value:.20g}" if isinstance(value, int) else str(value)
        case date() if is_short(str(value)):
            return str(value)
        case _:
            return _UNTOLD


def _wanted(kind: Any, marks: Mapping[str, Any]) -> str:
    if kind is bool:
        return "true or false"
    if kind is ByteSize:
        return "a size above 0, such as 64KiB or 32MiB"
    if kind not in (int, float):
        return "a text"
    number = "a whole number" if kind is int else "a number"
    above, least, most = marks.get("gt"), marks.get("ge"), marks.get("le")
    if least is not None:
        return f"{number} from {least} to {most}" if most is not None else f"{number}, {least} or more"
    return f"{number} above {above}" + (f" and at most {most:.9g}" if most is not None else "")


def _keys(noun: Any) -> list[str]:
    return [field.alias or name for name, field in noun.model_fields.items()] if _is_noun(noun) else []


def _is_noun(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _type_at(path: Path) -> tuple[Any, dict[str, Any]]:
    """The type that the schema has at a place, and the bounds of its values (`gt`, `ge`, `le`). Raises LookupError."""
    kind: Any = RulesFile
    marks: dict[str, Any] = {}
    for step in path:
        if _is_noun(kind):
            fields: dict[Any, Any] = {
                named: field for name, field in kind.model_fields.items() for named in (name, field.alias)
            }
            field = fields[step]
            kind, marks = _bare(field.annotation)
            marks |= _bounds(field.metadata)
        else:
            kind, marks = _inside(kind)
    return kind, marks


def _inside(kind: Any) -> tuple[Any, dict[str, Any]]:
    """The type of the entries of a list or a mapping, and their bounds."""
    return _bare([inner for inner in get_args(kind) if inner is not Ellipsis][-1])


def _bare(kind: Any) -> tuple[Any, dict[str, Any]]:
    """A type without Annotated and without None, and the bounds that stood there."""
    marks: dict[str, Any] = {}
    while (origin := get_origin(kind)) in (Annotated, Union, UnionType):
        if origin is Annotated:
            for mark in kind.__metadata__:
                marks |= _bounds(getattr(mark, "metadata", ()))
        kind = get_args(kind)[0]
    return kind, marks


def _bounds(marks: Iterable[Any]) -> dict[str, Any]:
    return {name: getattr(mark, name) for mark in marks for name in ("gt", "ge", "le") if hasattr(mark, name)}
