"""OpenAI-compatible servers: nearly right, so patched, never rebuilt. What we do not know passes as it came.

The differences between servers are rows in profiles.py. The trap: a server that is compatible in its documents is
lenient about `index`, `id`, `role` and `[DONE]` in its streams, and the SDKs' helpers are not (openai_api section 1.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from wire.errors import Cut, Fault, Garbled, Untranslatable, UpstreamFault, in_stream_error
from wire.ndjson import json_object
from wire.openai import FINISH_REASONS, FINISHED, ChatRequest, Delta, Json, Reading, Translated, Usage
from wire.profiles import Profile
from wire.sse import Event, SseDecoder

_MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of a reply that comes whole although a stream was asked."""


def to_compat(request: ChatRequest, model: str, profile: Profile) -> Translated:
    """The caller's body with the model's name, a stream asked for, and the profile's differences."""
    body = dict(request.body)
    body["model"] = model
    body["stream"] = True
    # Usage is always asked for: the caller sees it only if the caller asked, our log always.
    body["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
    dropped = tuple(name for name in request.body if name in profile.drops and body[name] is not None)
    for name in profile.drops:
        body.pop(name, None)
    if profile.max_tokens is not None:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        body.pop("max_completion_tokens", None)
        body.pop("max_tokens", None)
        if limit is not None:
            body[profile.max_tokens] = limit
    thinking = profile.thinking_by_default and _thinks(body)
    if profile.thinking_by_default and thinking and body.get("tool_choice") not in (None, "auto", "none"):
        body["thinking"] = {"type": "disabled"}
        thinking = False
    if profile.functions_only:
        _check_tools(body.get("tools") or [])
    body["messages"] = [_message(message, profile, thinking) for message in body["messages"]]
    if not profile.json_schema:
        _schema_in_words(body)
    return Translated(orjson.dumps(body), dropped)


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


def _schema_in_words(body: Json) -> None:
    """json_schema -> json_object, with the schema said in a system message: the server refuses the former."""
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            words = "Answer with one JSON object, and nothing else, that fits this JSON Schema:\n"
            rule = {"role": "system", "content": words + orjson.dumps(schema).decode()}
        case {"type": "json_schema"}:
            rule = {"role": "system", "content": "Answer with one JSON object and nothing else."}
        case _:
            return
    body["response_format"] = {"type": "json_object"}
    body["messages"] = [rule, *body["messages"]]


class CompatReply:
    """Reads one reply of an OpenAI-compatible server: a stream, or a whole JSON reply where it ignored `stream`."""

    __slots__ = (
        "_calls",
        "_decoder",
        "_ended",
        "_failing",
        "_finished",
        "_indexes",
        "_make_id",
        "_whole",
        "_whole_size",
    )

    def __init__(self, make_id: Callable[[], str], profile: Profile, content_type: str) -> None:
        self._make_id = make_id
        self._failing = profile.failing_finish
        self._decoder = SseDecoder()
        self._whole: list[bytes] | None = [] if "json" in content_type else None
        self._whole_size = 0
        self._calls: dict[tuple[int, int], str] = {}
        """(choice, tool index) -> id of every call seen."""
        self._indexes: dict[int, int] = {}
        """choice -> the tool index of its latest call."""
        self._ended: set[int] = set()
        self._finished = False

    def feed(self, data: bytes) -> list[Reading]:
        if self._whole is not None:
            self._whole.append(data)
            self._whole_size += len(data)
            return [Garbled("sent an endless reply")] if self._whole_size > _MAX_WHOLE else []
        try:
            return self._read(self._decoder.feed(data))
        except Garbled as fault:
            return [fault]

    def close(self) -> list[Reading]:
        if self._whole is not None:
            return self._read_whole(b"".join(self._whole))
        readings = self._read(self._decoder.close())
        if self._finished or any(isinstance(reading, Fault) for reading in readings):
            return readings
        if self._ended:  # a finish_reason is the server's own word; not all of them send [DONE]
            return [*readings, FINISHED]
        return [*readings, Cut("ended its answer without saying that it was done")]

    def _read(self, events: list[Event]) -> list[Reading]:
        readings: list[Reading] = []
        for name, data in events:
            if self._finished:
                break
            if data.strip() == b"[DONE]":
                self._finished = True
                readings.append(FINISHED)
                break
            chunk = json_object(data)
            if isinstance(chunk, Garbled):
                readings.append(chunk)
            elif chunk.get("error") is not None:
                readings.append(in_stream_error(chunk["error"]))
            elif name == b"error":
                readings.append(in_stream_error(chunk))
            else:
                self._read_chunk(chunk, "delta", readings)
            if readings and isinstance(readings[-1], Fault):
                break
        return readings

    def _read_whole(self, body: bytes) -> list[Reading]:
        reply = json_object(body.strip())
        if isinstance(reply, Garbled):
            return [reply]
        if reply.get("error") is not None:
            return [in_stream_error(reply["error"])]
        readings: list[Reading] = []
        self._read_chunk(reply, "message", readings)
        if not self._ended:
            readings.append(Cut("sent a reply without a finished choice"))
        return [*readings, FINISHED] if not isinstance(readings[-1], Fault) else readings

    def _read_chunk(self, chunk: Json, key: str, readings: list[Reading]) -> None:
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._read_choice(choice, key, readings)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            readings.append(Usage(_usage(usage)))

    def _read_choice(self, choice: Json, key: str, readings: list[Reading]) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        given = choice.get(key)
        delta = self._delta(given, index) if isinstance(given, dict) else {}
        if isinstance(delta, Garbled):
            readings.append(delta)
            return
        reason = choice.get("finish_reason")
        if reason in self._failing:
            readings.append(UpstreamFault(f"broke off ({reason})"))
            return
        if reason is not None:
            self._ended.add(index)
            reason = reason if reason in FINISH_REASONS else "stop"
            if reason == "stop" and index in self._indexes:
                reason = "tool_calls"
        logprobs = choice.get("logprobs")
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
        calls = given.get("tool_calls")
        if calls:
            fragments = [self._call(call, choice) for call in calls] if isinstance(calls, list) else [None]
            if None in fragments:
                return Garbled("sent a tool call that is not an object")
            delta["tool_calls"] = fragments
        return delta

    def _call(self, call: Any, choice: int) -> Json | None:
        """One fragment of a call with what OpenAI always has: an index, and at its start an id and a type."""
        if not isinstance(call, dict):
            return None
        function = call.get("function")
        named = isinstance(function, dict) and bool(function.get("name"))
        index = call.get("index")
        if not isinstance(index, int):
            latest = self._indexes.get(choice, -1)
            index = latest + 1 if named or latest < 0 else latest
        fragment = call | {"index": index}
        if isinstance(function, dict) and not isinstance(function.get("arguments"), str | None):
            fragment["function"] = function | {"arguments": orjson.dumps(function["arguments"]).decode()}
        if (choice, index) not in self._calls:
            fragment = {"id": self._make_id(), "type": "function"} | {
                key: value for key, value in fragment.items() if value is not None and value != ""
            }
            self._calls[choice, index] = fragment["id"]
            self._indexes[choice] = index
        return fragment


def _usage(usage: Json) -> Json:
    """OpenAI's three counts, whatever is missing; the server's other keys stay. DeepSeek's cache hits are named."""
    counted = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    prompt, completion, total = (value if isinstance(value, int) else 0 for value in counted.values())
    fixed = usage | {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total or prompt + completion,
    }
    hits = usage.get("prompt_cache_hit_tokens")
    if isinstance(hits, int) and not usage.get("prompt_tokens_details"):
        fixed["prompt_tokens_details"] = {"cached_tokens": hits}
    return fixed
