"""Checks a caller's request to /v1/chat/completions: after it every dialect can rely on what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wire.check import (
    InvalidValue,
    check_fields,
    check_model,
    check_stream,
    integer,
    number_between,
    of_type,
    one_of,
    required,
    stop_strings,
)
from wire.check_messages import OldWords, check_messages
from wire.check_tools import check_response_format, check_tool_choice, check_tools
from wire.legacy import modern
from wire.openai import ChatRequest, Json, json_chars
from wire.structured import expected


def check_chat(body: Json) -> ChatRequest:
    """A request that every dialect can rely on; raises BadRequest with `param`.

    What was said with `functions` is said with `tools` afterwards, and the caller's own body is its `origin`.
    """
    if body.get("functions") is not None or body.get("function_call") is not None:
        return _checked(modern(body), body)
    try:
        return _checked(body, None)
    except OldWords:
        return _checked(modern(body), body)


def _checked(body: Json, origin: Json | None) -> ChatRequest:
    """`origin`: the caller's own body, where this one is modern()."""
    model = check_model(body)
    messages = required(body, "messages", list)
    if not messages:
        raise InvalidValue("'messages' is empty. Send at least one message.", param="messages")
    check_fields(body, _FIELDS)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise InvalidValue("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    if body.get("tool_choice") is not None:
        check_tool_choice(body)
    stream, include_usage = check_stream(body)
    contents = check_messages(messages)
    form = body.get("response_format") or {}
    request = ChatRequest(
        body=body,
        model=model,
        stream=stream,
        include_usage=include_usage,
        prompt_chars=contents.prompt_chars,
        beside_chars=contents.beside_chars + sum(map(json_chars, body.get("tools") or ())),
        maybe_chars=contents.maybe_chars + _maybe_chars(body),
        has_tools=bool(body.get("tools")),
        has_images=contents.images,
        wants_json=form.get("type") in ("json_object", "json_schema"),
        origin=origin,
    )
    expected(request)  # a strict schema that is none is refused here, before anything is asked
    return request


def _maybe_chars(body: Json) -> int:
    """Characters beside the messages that not every server puts into the prompt."""
    given = [(body.get("response_format") or {}).get("json_schema"), *[body[name] for name in _MAYBE & body.keys()]]
    return sum([json_chars(value) for value in given if value is not None])


_MAYBE = frozenset({"prediction", "documents", "chat_template", "chat_template_kwargs"})
"""The last three are fields of vLLM's, and of servers like it."""
_FIELDS: Mapping[str, Callable[[str, Any], None]] = {
    "stream": of_type(bool, "true or false"),
    "stream_options": of_type(dict, "an object"),
    "temperature": number_between(0, 2),
    "top_p": number_between(0, 1),
    "frequency_penalty": number_between(-2, 2),
    "presence_penalty": number_between(-2, 2),
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "seed": integer(),
    "n": integer(1, 128),
    "stop": stop_strings,
    "logprobs": of_type(bool, "true or false"),
    "top_logprobs": integer(0, 20),
    "tools": check_tools,
    "parallel_tool_calls": of_type(bool, "true or false"),
    "response_format": check_response_format,
    "reasoning_effort": of_type(str, "a string such as 'low', 'medium' or 'high'"),
    "verbosity": one_of("low", "medium", "high"),
}
"""Range and type of what the dialects rely on (openai_api section 1.1). New efforts of reasoning come every year."""
