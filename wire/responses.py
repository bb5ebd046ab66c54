"""Checks a caller's request to /v1/responses and puts it into the words of /v1/chat/completions.

What OpenAI keeps on its servers (files, prompts, conversations, background jobs) and what its servers run (hosted
tools) is refused with its parameter; earlier responses come in as `history`. Whatever refuses the translated request
later names a place in it that its caller never wrote: callers_param() gives the place in the caller's own request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from wire.check import InvalidType, InvalidValue, MissingParameter, check_fields, integer, of_type
from wire.check_chat import check_chat
from wire.errors import BadRequest, restated
from wire.openai import ChatRequest, Json, can_be_written, is_neutral
from wire.responses_items import MOST_SHOWN, item_type, messages_of
from wire.responses_tools import read_choice, read_tools

EARLIER = "previous_response_id"
"""The place of every item that the caller did not send again."""
LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"
INCLUDE = frozenset(
    {
        LOGPROBS,
        SEALED_REASONING,
        "message.input_image.image_url",
        # Of hosted tools: no item of theirs can occur here, so nothing is left out.
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


class UnsupportedParameter(BadRequest):
    code = "unsupported_parameter"


_NOWHERE: Mapping[str, str] = MappingProxyType({})
_NO_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest(ChatRequest):
    """A request to /v1/responses as the chat request that it comes to; `origin` is what the caller sent."""

    items: tuple[Json, ...] = ()
    """The items of this request, references resolved; without those of earlier responses."""
    places: Mapping[str, str] = _NOWHERE
    """A place in `body` -> where that stands in `origin`."""
    full_names: Mapping[str, tuple[str, str]] = _NO_NAMES
    """Name of a function in `body` -> (namespace, name), for those that are in a namespace."""


def check_responses(
    body: Json, history: Sequence[Json] = (), find: Callable[[str], Json | None] = lambda item_id: None
) -> ResponsesRequest:
    """A request that every dialect can rely on; raises BadRequest with `param` in the caller's words.

    `history`: the input and output items of the response that `previous_response_id` names, and of those before it.
    `find`: id -> an item of any response that is kept, for references to it.
    """
    for name, instead in _MOVED.items():
        if not is_neutral(name, body.get(name)):
            raise UnsupportedParameter(f"'{name}' is no parameter of /v1/responses. {instead}", param=name)
    for name, refuse in _REFUSED.items():
        if body.get(name) not in (None, False):
            raise UnsupportedParameter(f"'{name}': {refuse}", param=name)
    check_fields(body, _FIELDS)
    if not can_be_written([body.get(name) for name in _SAID_BACK]):
        raise BadRequest("The request is nested too deeply: its JSON may have about 250 levels.")
    given, items = _items(body.get("input"), history, find)
    tools = read_tools(body.get("tools"))
    choice = read_choice(body.get("tool_choice"), tools)
    placed = [(EARLIER, item) for item in history] + items
    instructions = body.get("instructions")
    if instructions is not None:
        placed.insert(0, ("instructions", {"role": "system", "content": instructions}))
    messages, places = messages_of(placed, tools.flat)
    places |= {f"tools[{number}]": place for number, place in enumerate(tools.places)}
    chat: Json = {name: value for name, value in body.items() if name not in _OURS and name not in _MOVED}
    chat["messages"] = messages
    if tools.chat:
        chat["tools"] = tools.chat
    if choice is not None:
        chat["tool_choice"] = choice
    chat |= _renamed(body)
    try:
        request = check_chat(chat)
    except BadRequest as fault:
        raise restated(fault, lambda param: _place(places, param)) from None
    known = {field.name: getattr(request, field.name) for field in fields(request)}
    known |= {"include_usage": True, "origin": body, "lost": _lost(body)}
    return ResponsesRequest(**known, items=given, places=places, full_names=tools.full_names)


def _items(
    given: Any, history: Sequence[Json], find: Callable[[str], Json | None]
) -> tuple[tuple[Json, ...], list[tuple[str, Any]]]:
    """The items of this request, and the same with the place of each."""
    match given:
        case None if history:
            return (), []
        case None:
            raise MissingParameter("You must provide 'input' (a string or an array of items).", param="input")
        case str():
            message: Json = {"role": "user", "content": given}
            return (message,), [("input", message)]
        case [] if not history:
            raise InvalidValue("'input' is empty. Send at least one item.", param="input")
        case [*items]:
            earlier = {item["id"]: item for item in history if "id" in item}
            named: set[str] = set()
            resolved = [_resolved(item, f"input[{at}]", earlier, find, named) for at, item in enumerate(items)]
            return tuple(resolved), [(f"input[{at}]", item) for at, item in enumerate(resolved)]
        case _:
            raise InvalidType("'input' must be a string or an array of items.", param="input")


def _resolved(
    item: Any, place: str, earlier: Mapping[str, Json], find: Callable[[str], Json | None], named: set[str]
) -> Any:
    """The item itself where it is a reference. Each may be named once: a short request could stand for any length."""
    if not isinstance(item, dict) or item_type(item) != "item_reference":
        return item
    spot = f"{place}.id"
    wanted = item.get("id")
    if not isinstance(wanted, str):
        raise MissingParameter(f"'{spot}' is missing: an item has a 'type', or is a reference by 'id'.", param=spot)
    if wanted in named:
        raise InvalidValue(f"'{spot}': '{wanted[:MOST_SHOWN]}' is referred to twice. Do so once.", param=spot)
    named.add(wanted)
    found = earlier.get(wanted) or find(wanted)
    if found is None:
        raise InvalidValue(
            f"'{spot}': no item '{wanted[:MOST_SHOWN]}' is kept here (any more). Items of responses with 'store' false "
            "are not kept; send the item itself.",
            param=spot,
        )
    return found


def _renamed(body: Json) -> Json:
    """What has another name in chat, or another form."""
    chat: Json = {}
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    text = body.get("text") or {}
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    form = _response_format(text.get("format"))
    if form is not None:
        chat["response_format"] = form
    if LOGPROBS in _included(body.get("include")):
        chat["logprobs"] = True
        if body.get("top_logprobs") is not None:
            chat["top_logprobs"] = body["top_logprobs"]
    return chat


def _included(include: Any) -> list[str]:
    for number, value in enumerate(include or ()):
        if not isinstance(value, str) or value not in INCLUDE:
            spot = f"include[{number}]"
            names = ", ".join(f"'{name}'" for name in sorted(INCLUDE))
            raise InvalidValue(f"'{spot}' must be one of {names}.", param=spot)
    return include or []


def _response_format(given: Any) -> Json | None:
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "json_object"}
        case {"type": "json_schema", "name": str(), "schema": dict()}:
            schema = {name: given[name] for name in _OF_SCHEMA if given.get(name) is not None}
            return {"type": "json_schema", "json_schema": schema}
        case {"type": "json_schema"}:
            raise MissingParameter(
                "'text.format' of type 'json_schema' must have a 'name' and a 'schema' (an object).",
                param="text.format",
            )
        case _:
            raise InvalidValue(
                "'text.format' must be an object with a 'type': 'text', 'json_object' or 'json_schema'.",
                param="text.format",
            )


_OF_SCHEMA = ("name", "description", "schema", "strict")


def _lost(body: Json) -> tuple[str, ...]:
    """What neither reaches a model nor is done here."""
    reasoning = body.get("reasoning") or {}
    names = [f"reasoning.{name}" for name, value in reasoning.items() if name != "effort" and value is not None]
    if body.get("truncation") == "auto":
        names.append("truncation")
    if body.get("context_management"):
        names.append("context_management")
    return tuple(names)


_OURS = frozenset(
    {
        "background",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",  # counts calls of hosted tools, and there are none
        "metadata",
        "previous_response_id",
        "prompt",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)
"""What chat has under another name, or what is done here. Anything else passes as it is."""

_MOVED: Mapping[str, str] = {
    "messages": "Send the conversation in 'input'.",
    "max_tokens": "Use 'max_output_tokens'.",
    "max_completion_tokens": "Use 'max_output_tokens'.",
    "response_format": "Use 'text.format'.",
    "reasoning_effort": "Use 'reasoning.effort'.",
    "verbosity": "Use 'text.verbosity'.",
    "functions": "Use 'tools'.",
    "function_call": "Use 'tool_choice'.",
    "logprobs": f"Add '{LOGPROBS}' to 'include'.",
    "n": "One call gives one response.",
    "stop": "Use /v1/chat/completions for stop sequences.",
}
"""Parameters of chat's, and what would be right here."""

_REFUSED: Mapping[str, str] = {
    "background": "responses are not made in the background here. Leave it out, and use 'stream' for long answers.",
    "conversation": f"conversations are not kept here. Use '{EARLIER}', or send all items in 'input'.",
    "prompt": "prompt templates are not kept here. Send their text in 'instructions' or 'input'.",
}


def _metadata(name: str, value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidType(f"'{name}' must be an object of strings.", param=name)


def _truncation(name: str, value: Any) -> None:
    if value not in ("auto", "disabled"):
        raise InvalidValue(f"'{name}' must be 'auto' or 'disabled'.", param=name)


_FIELDS: Mapping[str, Callable[[str, Any], None]] = {
    "include": of_type(list, "an array of strings"),
    "instructions": of_type(str, "a string"),
    "max_output_tokens": integer(1),
    "max_tool_calls": integer(1),
    "metadata": _metadata,
    EARLIER: of_type(str, "a string"),
    "prompt_cache_key": of_type(str, "a string"),
    "reasoning": of_type(dict, "an object"),
    "safety_identifier": of_type(str, "a string"),
    "store": of_type(bool, "true or false"),
    "stream_options": of_type(dict, "an object"),
    "text": of_type(dict, "an object"),
    "top_logprobs": integer(0, 20),
    "truncation": _truncation,
    "user": of_type(str, "a string"),
}
"""What chat has no word for, or another one, and what is said back."""
_SAID_BACK = ("reasoning", "text", "tool_choice", "tools")
"""What the response repeats and nobody else may have read to its depth."""


def callers_param(request: ChatRequest, param: str) -> str:
    """A parameter of the translated request -> where the caller wrote it; other names are given back as they are."""
    return _place(request.places, param) if isinstance(request, ResponsesRequest) else param


def _place(places: Mapping[str, str], param: str) -> str:
    head = param
    while True:
        known = places.get(head) or _RENAMED.get(head)
        if known is not None:
            tail = _LAYERS.sub("", param[len(head) :])
            for ours, theirs in _TAILS:
                tail = tail.replace(ours, theirs)
            return known + tail
        cut = max(head.rfind("."), head.rfind("["))
        if cut < 1:
            return param
        head = head[:cut]


_RENAMED: Mapping[str, str] = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
_LAYERS = re.compile(r"\.(?:function|custom|json_schema|file|grammar)(?=[.\[]|$)")
"""Objects that chat has around what is flat here."""
_TAILS = ((".image_url.url", ".image_url"), (".tool_call_id", ".call_id"))
