"""Checks the messages of a chat request: roles, parts, calls and what answers them."""

from __future__ import annotations

from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter, kind_of, listed
from wire.openai import Json

ROLES = ("system", "developer", "user", "assistant", "tool")
_MEDIA = ("file", "image_url", "input_audio")
_SEEING = frozenset({"user", "tool"})
"""Roles that may show an image. OpenAI's chat has none for tools; its /v1/responses has."""


class OldWords(Exception):
    """A message with a `function_call`, or the result of one: legacy.py knows them."""


def check_messages(messages: list[Any]) -> tuple[int, bool]:
    """Characters of text, and whether there is an image; raises BadRequest, or OldWords."""
    chars = 0
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
            length, seen = _check_parts(content, where, role)
            chars += length
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
            case {"type": str(kind)}:
                allowed = ("text", *_MEDIA) if role == "user" else ("text",)
                raise InvalidValue(
                    f"'{spot}.type' is '{kind[:40]}'; a {role} message takes {listed(allowed)}.",
                    param=f"{spot}.type",
                )
            case _:
                raise InvalidType(f"'{spot}' must be an object with a 'type'.", param=spot)
    return chars, images


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


def _check_calls(calls: Any, where: str, role: str) -> set[str]:
    spot = f"{where}.tool_calls"
    if role != "assistant":
        raise InvalidValue(f"'{spot}' belongs to assistant messages only, not to '{role}'.", param=spot)
    if not isinstance(calls, list):
        raise InvalidType(f"'{spot}' must be an array, but it is {kind_of(calls)}.", param=spot)
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
