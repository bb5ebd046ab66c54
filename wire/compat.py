"""OpenAI-compatible servers: nearly right, so patched, never rebuilt. What we do not know passes as it came.

The differences between servers are rows in profiles.py. The trap: a server that is compatible in its documents is
lenient about `index`, `id`, `role` and `[DONE]` in its streams, and the SDKs' helpers are not (openai_api section 1.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from wire.errors import Cut, Fault, Garbled, Untranslatable, UpstreamFault, in_stream_error
from wire.ndjson import json_object
from wire.openai import (
    FINISH_REASONS,
    FINISHED,
    ChatRequest,
    Delta,
    Json,
    Reading,
    Translated,
    Usage,
    arguments_text,
    can_be_written,
    count,
    encoded,
    is_neutral,
)
from wire.profiles import Profile
from wire.sse import Event, SseDecoder

_LIMITS = frozenset({"max_completion_tokens", "max_tokens"})
_PLAIN = frozenset({"content", "reasoning_content", "refusal"})
"""Keys whose values are strings: those can always be written."""
_MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of a reply that comes whole although a stream was asked."""


def to_compat(request: ChatRequest, model: str, profile: Profile) -> Translated:
    """The caller's body with the model's name, a stream asked for, and the profile's differences."""
    body = dict(request.body)
    body["model"] = model
    body["stream"] = True
    # Usage is always asked for: the caller sees it only if the caller asked, our log always.
    body["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
    dropped = tuple(
        name for name, value in request.body.items() if name in profile.drops and not is_neutral(name, value)
    )
    for name in profile.drops:
        body.pop(name, None)
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
    thinking = profile.thinking_by_default and _thinks(body)
    if thinking and body.get("reasoning_effort") == "none":
        del body["reasoning_effort"]
        body["thinking"] = {"type": "disabled"}
        thinking = False
    if thinking and (request.prefill is not None or body.get("tool_choice") not in (None, "auto", "none")):
        # It does not think with a forced tool. Where the answer has begun there is nothing left to think about.
        body["thinking"] = {"type": "disabled"}
        thinking = False
    if profile.functions_only:
        _check_tools(body.get("tools") or [])
    if not profile.strict_tools and _loosen_tools(body):
        dropped = (*dropped, "tools.function.strict")
    body["messages"] = [_message(message, profile, thinking) for message in body["messages"]]
    if request.prefill is not None:
        _begin_answer(body["messages"], request.prefill.text, profile)
    if not profile.json_schema:
        _schema_in_words(body)
    return Translated(encoded(body), dropped)


def _thinks(body: Json) -> bool:
    match body.get("thinking"):
        case {"type": "disabled"}:
            return False
        case _:
            return True


def _check_tools(tools: list[Json]) -> None:
    for number, tool in enumerate(tools):
        if tool["type"] != "function":
            spot = f"tools[{number}].type"
            raise Untranslatable(f"'{spot}': this model takes 'function' tools, not '{tool['type']}'.", param=spot)


def _loosen_tools(body: Json) -> bool:
    """Takes `strict` off the functions; True where one was strict."""
    was_strict = False
    tools: list[Json] = []
    for tool in body.get("tools") or []:
        function = tool["function"] if tool["type"] == "function" else {}
        was_strict = was_strict or bool(function.get("strict"))
        loose = {key: value for key, value in function.items() if key != "strict"}
        tools.append({**tool, "function": loose} if "strict" in function else tool)
    if tools:
        body["tools"] = tools
    return was_strict


def _message(message: Json, profile: Profile, thinking: bool) -> Json:
    """The message itself where nothing differs, else a changed copy."""
    changes: Json = {}
    role = message["role"]
    if role == "developer" and not profile.developer_role:
        changes["role"] = "system"
    if role == "assistant":
        if message.get("content") is None and not profile.null_content:
            changes["content"] = ""
        if thinking and message.get("tool_calls") and message.get("reasoning_content") is None:
            # OpenAI clients never send it back, and without the key the server answers 400.
            changes["reasoning_content"] = ""
    return message | changes if changes else message


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


def _schema_in_words(body: Json) -> None:
    """json_schema -> json_object, with the schema said in a system message: the server refuses the former."""
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            words = "Answer with one JSON object, and nothing else, that fits this JSON Schema:\n"
            rule = {"role": "system", "content": words + encoded(schema).decode()}
        case {"type": "json_schema"}:
            rule = {"role": "system", "content": "Answer with one JSON object and nothing else."}
        case _:
            return
    body["response_format"] = {"type": "json_object"}
    body["messages"] = [rule, *body["messages"]]


class CompatReply:
    """Reads one reply of an OpenAI-compatible server: a stream, or a whole JSON reply where it ignored `stream`."""

    __slots__ = (
        "_begun",
        "_calls",
        "_decoder",
        "_ended",
        "_failing",
        "_limit",
        "_make_id",
        "_over",
        "_whole",
        "_whole_size",
    )

    def __init__(
        self, make_id: Callable[[], str], profile: Profile, content_type: str, limit: int = _MAX_WHOLE
    ) -> None:
        self._make_id = make_id
        self._failing = profile.failing_finish
        self._decoder = SseDecoder()
        self._whole: list[bytes] | None = [] if "json" in content_type.lower() else None
        self._whole_size = 0
        self._limit = limit
        self._calls: dict[int, list[_Call]] = {}
        """choice -> its calls so far; their places in the list are the indexes that the caller sees."""
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._over = False
        """After the end, or a fault, nothing is read."""

    def feed(self, data: bytes) -> list[Reading]:
        if self._over:
            return []
        try:
            if self._whole is None:
                return self._read(self._decoder.feed(data))
            self._whole_size += len(data)
            if self._whole_size > self._limit:
                raise Garbled("sent an endless reply")
            self._whole.append(data)
            return []
        except Garbled as fault:
            self._over = True
            return [fault]

    def close(self) -> list[Reading]:
        if self._over:
            return []
        if self._whole is not None:
            return self._read_whole(b"".join(self._whole))
        readings = self._read(self._decoder.close())
        if readings and isinstance(readings[-1], Garbled):
            return [*readings[:-1], Cut("ended its answer in the middle of an event")]
        if self._over:
            return readings
        if self._ended and self._begun == self._ended:  # finish_reasons are the server's own word; some send no [DONE]
            return [*readings, FINISHED]
        return [*readings, Cut("stopped before its answer was complete")]

    def _read(self, events: list[Event]) -> list[Reading]:
        readings: list[Reading] = []
        for name, data in events:
            if data.strip() == b"[DONE]" and not self._begun:
                self._over = True
                readings.append(Cut("said that it was done before it said anything"))
                break
            if data.strip() == b"[DONE]":
                self._over = True
                readings += [Delta({}, "tool_calls", choice) for choice in self._calls if choice not in self._ended]
                readings.append(FINISHED)
                break
            chunk = json_object(data)
            if isinstance(chunk, Garbled):
                readings.append(chunk)
            elif (failure := _failure(chunk, name)) is not None:
                readings.append(failure)
            else:
                self._read_chunk(chunk, "delta", readings)
            if readings and isinstance(readings[-1], Fault):
                self._over = True
                break
        return readings

    def _read_whole(self, body: bytes) -> list[Reading]:
        reply = json_object(body.strip())
        if isinstance(reply, Garbled):
            return [reply]
        if (failure := _failure(reply, b"")) is not None:
            return [failure]
        readings: list[Reading] = []
        self._read_chunk(reply, "message", readings)
        if readings and isinstance(readings[-1], Fault):
            return readings
        if self._ended and self._begun == self._ended:
            return [*readings, FINISHED]
        return [*readings, Cut("sent a reply without a finished choice")]

    def _read_chunk(self, chunk: Json, key: str, readings: list[Reading]) -> None:
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._read_choice(choice, key, readings)
                if readings and isinstance(readings[-1], Fault):
                    return
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            readings.append(Usage(_usage(usage)))

    def _read_choice(self, choice: Json, key: str, readings: list[Reading]) -> None:
        index = choice.get("index")
        index = int(index) if isinstance(index, int) else 0
        self._begun.add(index)
        given = choice.get(key)
        delta = self._delta(given, index) if isinstance(given, dict) else {}
        if isinstance(delta, Garbled):
            readings.append(delta)
            return
        reason = choice.get("finish_reason")
        if not reason or not isinstance(reason, str):  # some send "" until the end
            reason = None
        elif reason in self._failing:
            readings.append(UpstreamFault(f"broke off ({reason})", kind="resources"))
            return
        else:
            self._ended.add(index)
            reason = reason if reason in FINISH_REASONS else "stop"
            if reason == "stop" and index in self._calls:
                reason = "tool_calls"
        logprobs = _logprobs(choice.get("logprobs"))
        if logprobs is not None and not can_be_written(logprobs):
            readings.append(Garbled("sent logprobs that cannot be passed on"))
            return
        if delta or reason is not None or logprobs is not None:
            readings.append(Delta(delta, reason, index, logprobs))

    def _delta(self, given: Json, choice: int) -> Json | Garbled:
        delta = {
            key: value
            for key, value in given.items()
            if key not in ("role", "tool_calls", "reasoning") and value is not None and value != "" and value != []
        }
        reasoning = given.get("reasoning")
        if reasoning and isinstance(reasoning, str) and "reasoning_content" not in delta:
            delta["reasoning_content"] = reasoning
        if any(not isinstance(delta.get(key, ""), str) for key in ("content", "reasoning_content", "refusal")):
            return Garbled("sent text that is not a string")
        calls = given.get("tool_calls")
        if calls:
            fragments = [self._call(call, choice) for call in calls] if isinstance(calls, list) else [None]
            if None in fragments:
                return Garbled("sent a tool call that cannot be read")
            delta["tool_calls"] = fragments
        if not delta.keys() <= _PLAIN and not can_be_written(delta):
            return Garbled("sent a delta that cannot be passed on")
        return delta

    def _call(self, given: Any, choice: int) -> Json | None:
        """One fragment as OpenAI has it: counted from 0, with id, type and name where its call begins and only there.

        None for what cannot be read. Some servers number all calls of a reply 0, or repeat id and name: helpers join
        these to "call_1call_1".
        """
        if not isinstance(given, dict):
            return None
        function = given.get("function")
        if not isinstance(function, dict | None):
            return None
        name = (function or {}).get("name") or ""
        arguments = (function or {}).get("arguments")
        text = None if arguments is None else arguments_text(arguments)
        if not isinstance(name, str) or (text is None and arguments is not None):
            return None
        calls = self._calls.setdefault(choice, [])
        place = _place(calls, given.get("index"), given.get("id"), name)
        fragment = {key: value for key, value in given.items() if key not in ("index", "id", "type", "function")}
        piece: Json = {} if text is None else {"arguments": text}
        if place is None:
            place = len(calls)
            calls.append(_Call(given.get("index"), given.get("id"), name))
            made = given["id"] if given.get("id") and isinstance(given["id"], str) else self._make_id()
            fragment = {"id": made, "type": given.get("type") or "function"} | fragment
            piece = {"name": name, "arguments": ""} | piece
        elif name and name != calls[place].name:
            piece = {"name": name} | piece
        fragment = {"index": place} | fragment
        return fragment | {"function": piece} if function is not None else fragment


class _Call(NamedTuple):
    """What the server said at a call's start."""

    index: Any
    id: Any
    name: str


def _place(calls: list[_Call], index: Any, call_id: Any, name: str) -> int | None:
    """The place of the call that a fragment continues; None where it begins one."""
    counted = isinstance(index, int)
    for place in reversed(range(len(calls))):
        known = calls[place]
        if counted and known.index != index:
            continue
        another = call_id != known.id if call_id else not counted
        return None if name and another else place
    return None


def _failure(chunk: Json, event: bytes) -> Fault | None:
    """The fault that an event tells of, in any of the forms in which servers do; None for a chunk."""
    if chunk.get("error") is not None:
        return in_stream_error(chunk["error"])
    if event == b"error" or chunk.get("object") == "error":
        return in_stream_error(chunk)
    return None


def _logprobs(given: Any) -> Json | None:
    """Logprobs with the keys that OpenAI always has; Ollama's /v1 layer leaves some out."""
    if not isinstance(given, dict):
        return None
    return {"content": None, "refusal": None} | {key: _tokens(value) for key, value in given.items()}


def _tokens(given: Any) -> list[Json] | None:
    tokens: list[Json] = [{"bytes": None, "top_logprobs": []} | token for token in _objects(given)]
    for token in tokens:
        token["top_logprobs"] = [{"bytes": None} | top for top in _objects(token["top_logprobs"])]
    return tokens or None


def _objects(given: Any) -> list[Json]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _usage(usage: Json) -> Json:
    """OpenAI's three counts, whatever is missing; the server's other keys stay. DeepSeek's cache hits are named."""
    prompt, completion, total = (
        count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    fixed = {key: value for key, value in usage.items() if value is not None and can_be_written(value)} | {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total or prompt + completion,
    }
    hits = count(usage.get("prompt_cache_hit_tokens"))
    if hits and not usage.get("prompt_tokens_details"):
        fixed["prompt_tokens_details"] = {"cached_tokens": hits}
    return fixed
