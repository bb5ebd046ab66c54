"""OpenAI-compatible servers: nearly right, so patched, never rebuilt. What we do not know passes as it came.

The differences between servers are rows in profiles.py; to one without quirks goes what the caller sent, but for the
model's name and the stream.
"""

from __future__ import annotations

from typing import Any

from wire.compat_messages import native_messages
from wire.custom import as_function
from wire.errors import Untranslatable
from wire.fields import Fate, lost
from wire.openai import ChatRequest, Json, ModelRequest, Translated, encoded
from wire.profiles import Profile, Schemas

_LIMITS = frozenset({"max_completion_tokens", "max_tokens"})
_OFF = {"type": "disabled"}


def to_compat(request: ChatRequest, model: str, profile: Profile) -> Translated:
    """The caller's body with the model's name, as a stream where that tells all, with the profile's differences."""
    asked = request.body
    dropped = lost(asked, profile.fate, unknown=Fate.CARRIED) if profile.fate is not None else ()
    kept = asked.items() if profile.nulls else [(name, value) for name, value in asked.items() if value is not None]
    body = {name: value for name, value in kept if name not in profile.drops}
    body["model"] = model
    body["stream"] = comes_as_stream(request, profile)
    if body["stream"] and profile.usage_in_streams:
        # Usage is always asked for: the caller sees it only if the caller asked, our log always.
        body["stream_options"] = {**(asked.get("stream_options") or {}), "include_usage": True}
    if profile.max_tokens is not None:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        body.pop("max_completion_tokens", None)
        body.pop("max_tokens", None)
        if limit is not None:
            body[profile.max_tokens] = limit
    if request.prefill is not None:
        for name in _LIMITS & body.keys():
            if body[name] is not None:
                body[name] = request.prefill.limit(body[name])
    if profile.functions_only:
        _choose_tools(body, bare=profile.bare_functions)
    if not profile.strict_tools and _loosen_tools(body):
        dropped = (*dropped, "tools.function.strict")
    if profile.json_schema is Schemas.BESIDE:
        _put_schema_beside(body)
    thinking = profile.thinking_by_default and _think(body, asked, profile, begun=request.prefill is not None)
    body["messages"] = native_messages(request, model, profile, thinking=thinking)
    words = "\n\n".join(filter(None, [_verbosity_in_words(asked, profile), _format_in_words(body, profile)]))
    if request.prefill is not None:
        _begin_answer(body["messages"], request.prefill.text, profile)
    if words:
        body["messages"] = [{"role": "system", "content": words}, *body["messages"]]
    return Translated(encoded(body), dropped)


def comes_as_stream(request: ModelRequest, profile: Profile) -> bool:
    """Whether the server is asked for a stream, as it is whenever that tells all: a stream shows that it works.

    An answer in sound has one format only in a stream, and is in pieces there that nobody here puts together.
    """
    return request.stream or (profile.usage_in_streams and not request.body.get("audio"))


def _think(body: Json, asked: Json, profile: Profile, *, begun: bool) -> bool:
    """What is said about thinking, in the server's words; True where it will think.

    `reasoning.effort` counts before `reasoning_effort`, and a switch that is off before both.
    """
    effort = body.pop("reasoning_effort", None)
    off = False
    match asked.get("reasoning"):
        case {"enabled": False}:
            off = True
        case {"effort": str(given)}:
            effort = given
    match body.get("thinking"):
        case {"type": "disabled"} | False:
            off = True
        case True:
            body["thinking"] = {"type": "enabled"}
    # It does not think with a forced tool. Where the answer has begun there is nothing left to think about.
    if off or begun or effort == "none" or body.get("tool_choice") not in (None, "auto", "none"):
        body["thinking"] = _OFF
        return False
    if effort is not None:
        body["reasoning_effort"] = profile.efforts.get(effort, effort)
    return True


def _choose_tools(body: Json, *, bare: bool) -> None:
    """Custom tools as functions, and of the tools only those that are allowed."""
    tools = [_function(tool, f"tools[{number}].type") for number, tool in enumerate(body.get("tools") or [])]
    match body.get("tool_choice"):
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}:
            names = {tool[tool["type"]]["name"] for tool in allowed}
            tools = [tool for tool in tools if tool["function"]["name"] in names]
            body["tool_choice"] = mode
        case {"type": "custom", "custom": {"name": name}}:
            body["tool_choice"] = {"type": "function", "function": {"name": name}}
    if tools:
        body["tools"] = tools if bare else [tool | {"function": _with_parameters(tool["function"])} for tool in tools]
    else:
        body.pop("tools", None)


def _with_parameters(function: Json) -> Json:
    said = {key: value for key, value in function.items() if value is not None}
    return {"parameters": {"type": "object", "properties": {}}} | said


def _function(tool: Json, spot: str) -> Json:
    match tool["type"]:
        case "function":
            return tool
        case "custom":
            return as_function(tool)
        case other:
            words = f"'{spot}': this model takes 'function' and 'custom' tools, not '{other}'."
            raise Untranslatable(words, param=spot)


def _loosen_tools(body: Json) -> bool:
    """Takes `strict` off the functions; True where one was strict."""
    was_strict = False
    tools: list[Json] = []
    for tool in body.get("tools") or []:
        function = tool["function"]
        was_strict = was_strict or bool(function.get("strict"))
        loose = {key: value for key, value in function.items() if key != "strict"}
        tools.append({**tool, "function": loose} if "strict" in function else tool)
    if tools:
        body["tools"] = tools
    return was_strict


def _begin_answer(messages: list[Json], text: str, profile: Profile) -> None:
    """Makes the beginning of the answer the last message; the caller's own beginning of it, if any, comes before it."""
    last = messages[-1]
    beginning: Json = {"role": "assistant", "content": text}
    if last["role"] == "assistant" and not last.get("tool_calls"):
        beginning = messages.pop() | {"content": _joined(last.get("content"), text)}
    messages.append({**beginning, **profile.prefill_message})


def _joined(content: Any, text: str) -> str | list[Json]:
    """An assistant's content with text after it. Parts stay parts: servers put line ends between them, so none is new
    where the last one is text.
    """
    match content:
        case str():
            return content + text
        case [*parts, {"type": "text", "text": str(last)} as part]:
            return [*parts, part | {"text": last + text}]
        case [*parts] if parts:
            return [*parts, {"type": "text", "text": text}]
        case _:
            return text


def _verbosity_in_words(asked: Json, profile: Profile) -> str | None:
    return VERBOSITY.get(asked.get("verbosity") or "") if "verbosity" in profile.drops else None


VERBOSITY = {
    "low": "Answer briefly: as few words as the matter allows.",
    "high": "Answer at length, with every detail that may matter.",
}
"""What is said to a model whose server knows no `verbosity`."""
_JSON = "Answer with one JSON object and nothing else."


def _put_schema_beside(body: Json) -> None:
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": dict(given)}:
            schema = given.get("schema")
            body["response_format"] = {"type": "json_object"} | ({"schema": schema} if schema is not None else {})


def _format_in_words(body: Json, profile: Profile) -> str | None:
    """json_schema -> json_object and the schema, or the word JSON where no message has it: both are refused without."""
    if profile.json_schema is not Schemas.IN_WORDS:
        return None
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            if schema.get("type", "object") == "object":
                body["response_format"] = {"type": "json_object"}
                words = "Answer with one JSON object, and nothing else, that fits this JSON Schema:\n"
            else:
                del body["response_format"]  # its JSON mode gives objects only
                words = "Answer with JSON, and nothing else, that fits this JSON Schema:\n"
            return words + encoded(schema).decode()
        case {"type": "json_schema"}:
            body["response_format"] = {"type": "json_object"}
            return _JSON
        case {"type": "json_object"} if not any(
            _says_json(message.get("content") or "") for message in body["messages"]
        ):
            return _JSON
        case _:
            return None


def _says_json(content: str | list[Json]) -> bool:
    if isinstance(content, str):
        return "json" in content.lower()
    return any("json" in part.get("text", "").lower() for part in content)
