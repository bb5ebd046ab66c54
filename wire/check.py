"""Checks a caller's request to /v1/chat/completions, before anything is decided or sent.

Every refusal names the parameter the way OpenAI does (`messages[1].role`) and says what would be right. What is
unknown passes: a gateway that refuses next year's parameter breaks apps that the upstream could have served.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from wire.errors import BadRequest
from wire.openai import ChatRequest, Json

MAX_NAME = 256
"""Characters of a model's name. It stands in errors, headers and logs."""
ROLES = ("system", "developer", "user", "assistant", "tool")
MEDIA_PARTS = frozenset({"image_url", "input_audio", "file"})


class InvalidType(BadRequest):
    code = "invalid_type"


class InvalidValue(BadRequest):
    code = "invalid_value"


class MissingParameter(BadRequest):
    code = "missing_required_parameter"


def parse_body(body: bytes) -> Json:
    """The request's JSON object; raises BadRequest for anything else."""
    if not body.strip():
        raise BadRequest("The request has no body. Send a JSON object with `model` and `messages`.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidType(f"The request body must be a JSON object, but it is {_kind(value)}.")
    return value


def check_chat(body: Json) -> ChatRequest:
    """A request that every dialect can rely on; raises BadRequest with `param`."""
    model = _required(body, "model", str)
    if not model.strip():
        raise InvalidValue("'model' is empty. Name a model, for example 'qwen2.5:7b'.", param="model")
    if len(model) > MAX_NAME:
        raise InvalidValue(f"'model' is {len(model)} characters long; a name has at most {MAX_NAME}.", param="model")
    messages = _required(body, "messages", list)
    if not messages:
        raise InvalidValue("'messages' is empty. Send at least one message.", param="messages")
    for name, check in _FIELDS.items():
        value = body.get(name)
        if value is not None:
            check(name, value)
    stream = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise InvalidValue("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    chars, images = _check_messages(messages)
    form = body.get("response_format") or {}
    return ChatRequest(
        body=body,
        model=model,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        prompt_chars=chars,
        has_tools=bool(body.get("tools")),
        has_images=images,
        wants_json=form.get("type") in ("json_object", "json_schema"),
    )


def _check_messages(messages: list[Any]) -> tuple[int, bool]:
    """Characters of text, and whether there is an image; raises BadRequest."""
    chars = 0
    images = False
    called: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise InvalidType(f"'{where}' must be an object, but it is {_kind(message)}.", param=where)
        role = message.get("role")
        if role is None:
            raise MissingParameter(f"'{where}.role' is missing. Use one of {_list(ROLES)}.", param=f"{where}.role")
        if role not in ROLES:
            said = f"'{role}'" if isinstance(role, str) else _kind(role)
            raise InvalidValue(
                f"'{where}.role' must be one of {_list(ROLES)}, but it is {said}.", param=f"{where}.role"
            )
        content = message.get("content")
        if isinstance(content, str):
            chars += len(content)
        elif isinstance(content, list):
            length, seen = _check_parts(content, where, role)
            chars += length
            images = images or seen
        elif content is not None:
            raise InvalidType(
                f"'{where}.content' must be a string or an array of parts, but it is {_kind(content)}.",
                param=f"{where}.content",
            )
        calls = message.get("tool_calls")
        if calls is not None:
            called |= _check_calls(calls, where, role)
        if role == "tool":
            _check_tool_result(message, where, called)
        elif content is None and not (role == "assistant" and (calls or message.get("refusal"))):
            hint = " (only an assistant message with tool_calls may leave it out)" if role == "assistant" else ""
            raise MissingParameter(f"'{where}.content' is missing{hint}.", param=f"{where}.content")
    return chars, images


def _check_parts(parts: list[Any], where: str, role: str) -> tuple[int, bool]:
    chars = 0
    images = False
    for number, part in enumerate(parts):
        spot = f"{where}.content[{number}]"
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                chars += len(text)
            case {"type": "text"}:
                raise InvalidType(f"'{spot}.text' must be a string.", param=f"{spot}.text")
            case {"type": "image_url", "image_url": {"url": str()}} if role == "user":
                images = True
            case {"type": "image_url"} if role == "user":
                raise InvalidType(
                    f"'{spot}.image_url' must be an object with a 'url' string.", param=f"{spot}.image_url"
                )
            case {"type": str(kind)} if role == "user" and kind in MEDIA_PARTS:
                pass
            case {"type": str(kind)}:
                allowed = ("text", *sorted(MEDIA_PARTS)) if role == "user" else ("text",)
                raise InvalidValue(
                    f"'{spot}.type' is '{kind[:40]}'; a {role} message takes {_list(allowed)}.",
                    param=f"{spot}.type",
                )
            case _:
                raise InvalidType(f"'{spot}' must be an object with a 'type'.", param=spot)
    return chars, images


def _check_calls(calls: Any, where: str, role: str) -> set[str]:
    spot = f"{where}.tool_calls"
    if role != "assistant":
        raise InvalidValue(f"'{spot}' belongs to assistant messages only, not to '{role}'.", param=spot)
    if not isinstance(calls, list):
        raise InvalidType(f"'{spot}' must be an array, but it is {_kind(calls)}.", param=spot)
    ids: set[str] = set()
    for number, call in enumerate(calls):
        match call:
            case {"id": str(name), "function": {"name": str(), "arguments": str()}}:
                ids.add(name)
            case {"id": str(name), "type": "custom", "custom": {"name": str(), "input": str()}}:
                ids.add(name)
            case _:
                raise InvalidType(
                    f"'{spot}[{number}]' must have an 'id' and a 'function' with 'name' and 'arguments' "
                    "(a JSON string).",
                    param=f"{spot}[{number}]",
                )
    return ids


def _check_tool_result(message: Json, where: str, called: set[str]) -> None:
    spot = f"{where}.tool_call_id"
    answered = message.get("tool_call_id")
    if not isinstance(answered, str):
        raise MissingParameter(f"'{spot}' is missing: a tool message answers one call by its id.", param=spot)
    if message.get("content") is None:
        raise MissingParameter(f"'{where}.content' is missing.", param=f"{where}.content")
    if answered not in called:
        raise InvalidValue(
            f"'{spot}' is '{answered[:64]}', but no assistant message before it made a tool call with that id.",
            param=spot,
        )


def _number(low: float, high: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(f"'{name}' must be a number, but it is {_kind(value)}.", param=name)
        if not low <= value <= high:
            raise InvalidValue(f"'{name}' must be between {low:g} and {high:g}, but it is {value:g}.", param=name)

    return check


def _integer(low: int | None = None) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidType(f"'{name}' must be an integer, but it is {_kind(value)}.", param=name)
        if low is not None and value < low:
            raise InvalidValue(f"'{name}' must be at least {low}, but it is {value}.", param=name)
        if not -(2**63) <= value < 2**63:
            raise InvalidValue(f"'{name}' must fit into 64 bits.", param=name)

    return check


def _of_type(kind: type, words: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise InvalidType(f"'{name}' must be {words}, but it is {_kind(value)}.", param=name)

    return check


def _stop(name: str, value: Any) -> None:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return
    raise InvalidType(f"'{name}' must be a string or an array of strings.", param=name)


def _tools(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise InvalidType(f"'{name}' must be an array, but it is {_kind(value)}.", param=name)
    for number, tool in enumerate(value):
        match tool:
            case {"type": "function", "function": {"name": str(), **rest}}:
                parameters = rest.get("parameters")
                if parameters is not None and not isinstance(parameters, dict):
                    spot = f"{name}[{number}].function.parameters"
                    raise InvalidType(f"'{spot}' must be a JSON Schema object.", param=spot)
            case {"type": "function"}:
                spot = f"{name}[{number}].function"
                raise InvalidType(f"'{spot}' must be an object with a 'name'.", param=spot)
            case {"type": str()}:
                pass
            case _:
                raise InvalidType(f"'{name}[{number}]' must be an object with a 'type'.", param=f"{name}[{number}]")


_FIELDS: dict[str, Callable[[str, Any], None]] = {
    "stream": _of_type(bool, "true or false"),
    "stream_options": _of_type(dict, "an object"),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "seed": _integer(),
    "n": _integer(1),
    "stop": _stop,
    "tools": _tools,
    "response_format": _of_type(dict, "an object"),
}
"""Range and type of what both dialects rely on (openai_api section 1.1)."""


def _required[T](body: Json, name: str, kind: type[T]) -> T:
    value = body.get(name)
    if value is None:
        raise MissingParameter(f"You must provide '{name}' ({_KINDS[kind]}).", param=name)
    if not isinstance(value, kind):
        raise InvalidType(f"'{name}' must be {_KINDS[kind]}, but it is {_kind(value)}.", param=name)
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


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)
