"""Messages in the words of an OpenAI-compatible server that does not take all that OpenAI takes.

The trap: DeepSeek refuses a turn that called tools without the reasoning that led to it, and OpenAI's clients never
send any back (openai_api section 6.2). So it is put back in, as far as it is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wire.attached import file_text
from wire.custom import as_function_call
from wire.errors import Untranslatable
from wire.openai import ChatRequest, Json
from wire.profiles import Profile


def native_messages(request: ChatRequest, model: str, profile: Profile, *, thinking: bool) -> list[Json]:
    """A new list, of the messages themselves where nothing differs, else of changed copies; raises Untranslatable."""
    messages: list[Json] = request.body["messages"]
    if profile.takes_all_messages:
        return [*messages]
    native: list[Json] = []
    for number, message in enumerate(messages):
        role = message["role"]
        is_bare = role in _PLAIN or (role == "assistant" and len(message) == 2)
        if is_bare and isinstance(message.get("content"), str):  # most of them, so without a detour
            native.append(message)
        else:
            native.append(_message(message, number, request, model, profile, thinking))
    return native


_PLAIN = frozenset({"system", "user", "tool"})
"""Roles whose messages pass as they came if their content is text; the assistant's may hold calls and reasoning."""


def _message(message: Json, number: int, request: ChatRequest, model: str, profile: Profile, thinking: bool) -> Json:
    changes: Json = {}
    role = message["role"]
    content = message.get("content")
    if role == "developer" and not profile.developer_role:
        changes["role"] = "system"
    if isinstance(content, list) and profile.text_only:
        where = f"messages[{number}]"
        if role == "user":
            parts = [
                _part(part, f"{where}.content[{place}]", request.fetched, model, profile)
                for place, part in enumerate(content)
            ]
            is_text = not profile.text_parts and all(part["type"] == "text" for part in parts)
            changes["content"] = _text(parts, where) if is_text else parts
        else:
            changes["content"] = _text(content, where)
    if role != "assistant":
        return message | changes if changes else message
    if content is None and not profile.null_content:
        changes["content"] = message.get("refusal") or ""
    calls = message.get("tool_calls")
    if calls and profile.functions_only:
        changes["tool_calls"] = [as_function_call(call) if "custom" in call else call for call in calls]
    if profile.thinking_by_default and message.get("reasoning_content") is None:
        reasoning = message.get("reasoning")
        if isinstance(reasoning, str):
            changes["reasoning_content"] = reasoning
        elif calls and thinking:
            changes["reasoning_content"] = _remembered(calls, request.thoughts)
    native = message | changes if changes else message
    return native if profile.nulls else {key: value for key, value in native.items() if value is not None}


def _remembered(calls: list[Json], thoughts: Mapping[str, str]) -> str:
    """What led to these calls; empty where nobody knows, for the key must be there."""
    return next((text for call in calls if (text := thoughts.get(call["id"])) is not None), "")


def _text(parts: list[Json], where: str) -> str:
    """The parts of a role whose content is a string."""
    texts: list[str] = []
    for number, part in enumerate(parts):
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case _:
                raise _not_taken(part, f"{where}.content[{number}]")
    return "\n".join(texts)


def _part(part: Json, spot: str, fetched: Mapping[str, str], model: str, profile: Profile) -> Json:
    """One part of a user's message; the part itself where the server takes it."""
    match part["type"]:
        case "text":
            return part
        case "file":
            return {"type": "text", "text": file_text(part.get("file"), spot)}
        case "image_url" if model in profile.blind:
            raise Untranslatable(f"'{spot}': the model '{model}' sees no images.", param=f"{spot}.image_url")
        case "image_url":
            return _image(part, spot, fetched, profile.max_url)
        case _:
            raise _not_taken(part, spot)


def _image(part: Json, spot: str, fetched: Mapping[str, str], max_url: int | None) -> Json:
    image = part["image_url"]
    url: str = image["url"]
    if max_url is None or len(url) <= max_url or url[:5].lower() == "data:":
        return part
    data = fetched.get(url)
    if data is None:
        raise Untranslatable(
            f"'{spot}.image_url.url' has {len(url)} characters; this model takes URLs of {max_url} at the most, or a "
            "data URL (data:image/png;base64,...).",
            param=f"{spot}.image_url.url",
        )
    return part | {"image_url": image | {"url": data}}


def _not_taken(part: Any, spot: str) -> Untranslatable:
    return Untranslatable(f"'{spot}': this model takes no '{part['type']}' parts here.", param=spot)
