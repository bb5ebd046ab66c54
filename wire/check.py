"""What is checked in a caller's request to any endpoint, before anything is decided or sent.

Every refusal names the parameter the way OpenAI does (`messages[1].role`) and says what would be right. What is
unknown passes: a gateway that refuses next year's parameter breaks apps that the upstream could have served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from wire.errors import BadRequest
from wire.openai import Json

MAX_NAME = 256
"""Characters of a model's name. It stands in errors, headers and logs."""


class InvalidType(BadRequest):
    code = "invalid_type"


class InvalidValue(BadRequest):
    code = "invalid_value"


class MissingParameter(BadRequest):
    code = "missing_required_parameter"


def parse_body(body: bytes) -> Json:
    """The request's JSON object; raises BadRequest for anything else."""
    if not body.strip():
        raise BadRequest("The request has no body. Send a JSON object.")
    try:
        value = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise BadRequest(_not_json(body, str(error))) from None
    if not isinstance(value, dict):
        raise InvalidType(f"The request body must be a JSON object, but it is {kind_of(value)}.")
    return value


def _not_json(body: bytes, error: str) -> str:
    if body.startswith(b"--"):
        return "The request body must be a JSON object, but it is a form."
    try:
        body.decode()
    except UnicodeDecodeError as found:
        return f"The request body is not UTF-8: there is a byte 0x{body[found.start]:02X} at position {found.start}."
    return f"The request body is not valid JSON: {error}."


def check_model(body: Json) -> str:
    """The model's name; raises BadRequest."""
    model = required(body, "model", str)
    if not model.strip():
        raise InvalidValue("'model' is empty. Name a model, for example 'qwen2.5:7b'.", param="model")
    if len(model) > MAX_NAME:
        raise InvalidValue(f"'model' is {len(model)} characters long; a name has at most {MAX_NAME}.", param="model")
    return model


def check_fields(body: Json, fields: Mapping[str, Callable[[str, Any], None]]) -> None:
    """Checks the fields that are there, and not null, each in its own way; raises BadRequest."""
    for name, check in fields.items():
        value = body.get(name)
        if value is not None:
            check(name, value)


def check_stream(body: Json) -> tuple[bool, bool]:
    """Whether a stream is asked for, and whether with usage; raises BadRequest. Their types are checked already."""
    stream = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise InvalidValue("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return stream, bool(options and options.get("include_usage"))


def number_between(low: float, high: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(f"'{name}' must be a number, but it is {kind_of(value)}.", param=name)
        if not low <= value <= high:
            raise InvalidValue(f"'{name}' must be between {low:g} and {high:g}, but it is {value:g}.", param=name)

    return check


def integer(low: int | None = None, high: int | None = None) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidType(f"'{name}' must be an integer, but it is {kind_of(value)}.", param=name)
        if low is not None and value < low:
            raise InvalidValue(f"'{name}' must be at least {low}, but it is {value}.", param=name)
        if high is not None and value > high:
            raise InvalidValue(f"'{name}' must be at most {high}, but it is {value}.", param=name)
        if not -(2**63) <= value < 2**63:
            raise InvalidValue(f"'{name}' must fit into 64 bits.", param=name)

    return check


def of_type(kind: type, words: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise InvalidType(f"'{name}' must be {words}, but it is {kind_of(value)}.", param=name)

    return check


def one_of(*words: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value not in words:
            said = f"'{value[:40]}'" if isinstance(value, str) else kind_of(value)
            raise InvalidValue(f"'{name}' must be one of {listed(words)}, but it is {said}.", param=name)

    return check


def stop_strings(name: str, value: Any) -> None:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return
    raise InvalidType(f"'{name}' must be a string or an array of strings.", param=name)


def required[T](body: Json, name: str, kind: type[T]) -> T:
    value = body.get(name)
    if value is None:
        raise MissingParameter(f"You must provide '{name}' ({_KINDS[kind]}).", param=name)
    if not isinstance(value, kind):
        raise InvalidType(f"'{name}' must be {_KINDS[kind]}, but it is {kind_of(value)}.", param=name)
    return value


_KINDS: dict[type, str] = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    return _KINDS[type(value)]


def listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)
