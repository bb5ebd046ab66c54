"""Checks the messages of a chat request: roles, parts, calls and what answers them."""

from __future__ import annotations

from typing import Any, NamedTuple

from wire.attached import file_chars
from wire.check import InvalidType, InvalidValue, MissingParameter, kind_of, listed
from wire.openai import Json, json_chars

ROLES = ("system", "developer", "user", "assistant", "tool")
_MEDIA = ("file", "image_url", "input_audio")
_SEEING = frozenset({"user", "tool"})
"""Roles that may show an image. OpenAI's chat has none for tools; its /v1/responses has."""


_READ = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call"})
"""What is counted by itself, or is no text for a model."""


class Contents(NamedTuple):
    """What the messages hold. The counts are those of ModelRequest with the same names."""

    prompt_chars: int
    beside_chars: int
    maybe_chars: int
    images: bool


class OldWords(Exception):
    """A message with a `function_call`, or the result of one: legacy.py knows them."""


def check_messages(messages: list[Any]) -> Contents:
    """Raises BadRequest, or OldWords."""
    chars = beside = maybe = 0
    images = False
    called: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise InvalidType(f"'{where}' must be an object, but it is {kind_of(message)}.", param=where)
        role = message.get("role")
        if role is None:
            raise MissingParameter(f"'{where}.role' is missing. Use one of {listed(ROLES)}.", param=f"{where}.role")
        if role not in ROLES:
            if role == "function":
                raise OldWords
            said = f"'{role}'" if isinstance(role, str) else kind_of(role)
            raise InvalidValue(
                f"'{where}.role' must be one of {listed(ROLES)}, but it is {said}.", param=f"{where}.role"
            )
        content = message.get("content")
        if isinstance(content, str):
            chars += len(content)
        elif isinstance(content, list):
            length, attached, seen = _check_parts(content, where, role)
            chars += length
            beside += attached
            images = images or seen
        elif content is not None:
            raise InvalidType(
                f"'{where}.content' must be a string or an array of parts, but it is {kind_of(content)}.",
                param=f"{where}.content",
            )
        if message.get("function_call") is not None:
            raise OldWords
        calls = message.get("tool_calls")
        if calls is not None:
            beside += _check_calls(calls, where, role, called)
        if role == "tool":
            _check_tool_result(message, where, called)
        elif content is None and not (role == "assistant" and (calls or message.get("refusal"))):
            hint = " (only an assistant message with tool_calls may leave it out)" if role == "assistant" else ""
            raise MissingParameter(f"'{where}.content' is missing{hint}.", param=f"{where}.content")
        if len(message) > 1 + ("content" in message) + (calls is not None or role == "tool"):  # few hold more
            maybe += _other_chars(message)
    return Contents(chars, beside, maybe, images)


def _other_chars(message: Json) -> int:
    """Characters of what a message holds besides content and calls: reasoning, a name, a refusal."""
    chars = 0
    for key in message.keys() - _READ:
        value = message[key]
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, list | dict):
            chars += json_chars(value)
    match message:
        case {"reasoning_content": str(one), "reasoning": str(other)}:  # one text under two names: one of them is read
            return chars - min(len(one), len(other))
        case _:
            return chars


def _check_parts(parts: list[Any], where: str, role: str) -> tuple[int, int, bool]:
    """Characters of text, those of files of text, and whether there is an image."""
    chars = attached = 0
    images = False
    for number, part in enumerate(parts):
        if type(part) is dict and part.get("type") == "text" and isinstance(part.get("text"), str):
            chars += len(part["text"])  # most are text, so without a detour
            continue
        spot = f"{where}.content[{number}]"
        match part:
            case {"type": "refusal", "refusal": str(text)}:
                chars += len(text)
            case {"type": "text"}:
                raise InvalidType(f"'{spot}.text' must be a string.", param=f"{spot}.text")
            case {"type": "image_url", "image_url": {"url": str()}} if role in _SEEING:
                images = True
            case {"type": "image_url"} if role in _SEEING:
                raise InvalidType(
                    f"'{spot}.image_url' must be an object with a 'url' string.", param=f"{spot}.image_url"
                )
            case {"type": "input_audio"} if role == "user":
                _check_audio(part.get("input_audio"), f"{spot}.input_audio")
            case {"type": "file"} if role == "user":
                _check_file(part.get("file"), f"{spot}.file")
                attached += file_chars(part["file"])
            case {"type": str(kind)}:
                allowed = ("text", *_MEDIA) if role == "user" else ("text",)
                raise InvalidValue(
                    f"'{spot}.type' is '{kind[:40]}'; a {role} message takes {listed(allowed)}.",
                    param=f"{spot}.type",
                )
            case _:
                raise InvalidType(f"'{spot}' must be an object with a 'type'.", param=spot)
    return chars, attached, images


def _check_audio(given: Any, spot: str) -> None:
    match given:
        case {"data": str(), "format": str()}:
            pass
        case _:
            raise InvalidType(
                f"'{spot}' must be an object with 'data' (base64) and 'format' ('wav' or 'mp3').", param=spot
            )


def _check_file(given: Any, spot: str) -> None:
    match given:
        case {"file_data": str()} | {"file_id": str()}:
            pass
        case _:
            raise InvalidType(f"'{spot}' must be an object with 'file_data' (base64) or 'file_id'.", param=spot)


def _check_calls(calls: Any, where: str, role: str, called: set[str]) -> int:
    """Characters of what is called, and with what. Adds the ids to those that were `called`."""
    spot = f"{where}.tool_calls"
    if role != "assistant":
        raise InvalidValue(f"'{spot}' belongs to assistant messages only, not to '{role}'.", param=spot)
    if not isinstance(calls, list):
        raise InvalidType(f"'{spot}' must be an array, but it is {kind_of(calls)}.", param=spot)
    chars = 0
    for number, call in enumerate(calls):
        length = _call_chars(call)
        if length is None:
            raise InvalidType(
                f"'{spot}[{number}]' must have an 'id' and a 'function' with 'name' and 'arguments' (a JSON string).",
                param=f"{spot}[{number}]",
            )
        chars += length
        called.add(call["id"])
    return chars


def _call_chars(call: Any) -> int | None:
    """Of a function or a custom tool; None for what is no call. A history has hundreds of them, and a pattern takes
    five times as long.
    """
    if not isinstance(call, dict) or not isinstance(call.get("id"), str):
        return None
    for kind, key in _CALLED:
        said = call.get(kind)
        if isinstance(said, dict) and isinstance(name := said.get("name"), str):
            given = said.get(key)
            if isinstance(given, str) and (kind == "function" or call.get("type") == kind):
                return len(name) + len(given)
    return None


_CALLED = (("function", "arguments"), ("custom", "input"))


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
