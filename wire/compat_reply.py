"""Reads what OpenAI-compatible servers answer: streams, and whole replies of servers that tell more in these.

The trap: a server that is compatible in its documents is lenient about `index`, `id`, `role` and `[DONE]` in its
streams, and the SDKs' helpers are not (openai_api section 1.4). And a `[DONE]` may be a lie: llama-cpp-python says it
also where it broke an answer off for the next caller's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from wire.custom import CustomCalls, custom_names
from wire.errors import Cut, Fault, Garbled, UpstreamFault
from wire.first_call import FirstCall
from wire.ndjson import json_object
from wire.openai import (
    FINISH_REASONS,
    FINISHED,
    ChatRequest,
    Delta,
    Json,
    Reading,
    Reply,
    Usage,
    arguments_text,
    can_be_written,
    count,
)
from wire.profiles import Profile
from wire.rejections import in_stream_error
from wire.sse import Event, SseDecoder

_PLAIN = frozenset({"content", "reasoning_content", "refusal"})
"""Keys whose values are strings: those can always be written."""
_OTHERWISE = frozenset({"role", "tool_calls", "function_call", "reasoning"})
"""Keys that are read for themselves."""
_SERVER: Mapping[str, Callable[[Any], bool]] = {
    "system_fingerprint": lambda value: isinstance(value, str),
    "service_tier": lambda value: value in ("auto", "default", "flex", "scale", "priority", "fast"),
}
"""What a server says of itself, in every chunk, and whether that can be passed on."""
_MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of a reply that comes whole."""


def read_compat(make_id: Callable[[], str], content_type: str, profile: Profile, request: ChatRequest) -> Reply:
    """The reader of one reply, with what the server does not do for itself: custom tools, one call only."""
    reply: Reply = CompatReply(make_id, profile, content_type)
    if "parallel_tool_calls" in profile.drops and request.body.get("parallel_tool_calls") is False:
        reply = FirstCall(reply)
    names = custom_names(request.body.get("tools")) if profile.functions_only else None
    return CustomCalls(reply, names) if names else reply


class CompatReply:
    """Reads one reply of an OpenAI-compatible server: a stream, or a JSON reply that came whole, asked for or not."""

    __slots__ = (
        "_begun",
        "_calls",
        "_decoder",
        "_ended",
        "_failing",
        "_heard",
        "_limit",
        "_make_id",
        "_over",
        "_says_why",
        "_told",
        "_whole",
        "_whole_size",
    )

    _null_logprobs: ClassVar[bool] = False
    """A token may have no probability, as the first one of a prompt has none."""

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
        self._heard = "event-stream" not in content_type.lower()
        """There was an event; or it never said that there would be any."""
        self._says_why = False
        """It has finish_reasons; some servers have none at all."""
        self._over = False
        """After the end, or a fault, nothing is read."""
        self._told = False
        """The caller knows what the server says of itself."""

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
        return [*readings, Cut("stopped before its answer was complete" if self._heard else "sent an empty stream")]

    def _read(self, events: list[Event]) -> list[Reading]:
        readings: list[Reading] = []
        if events:
            self._heard = True
        for name, data in events:
            if data.strip() == b"[DONE]":
                self._over = True
                readings += self._read_done()
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

    def _read_done(self) -> list[Reading]:
        if not self._begun:
            return [Cut("said that it was done before it said anything")]
        if self._says_why and self._begun - self._ended:
            return [Cut("said that it was done, but not why")]
        calls: list[Reading] = [Delta({}, "tool_calls", choice) for choice in self._calls if choice not in self._ended]
        return [*calls, FINISHED]

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
        begun = len(readings)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._read_choice(choice, key, readings)
                if readings and isinstance(readings[-1], Fault):
                    return
        if not self._told and len(readings) > begun and isinstance(first := readings[begun], Delta):
            self._told = True
            server = {name: value for name, fits in _SERVER.items() if fits(value := chunk.get(name))}
            readings[begun] = first._replace(server=server) if server else first
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            readings.append(Usage(_usage(usage)))

    def _read_choice(self, choice: Json, key: str, readings: list[Reading]) -> None:
        index = choice.get("index")
        index = max(0, int(index)) if isinstance(index, int) else 0
        if index not in self._begun:
            self._begun.add(index)
            self._says_why = self._says_why or "finish_reason" in choice
        given = choice.get(key)
        delta = self._delta(given, index) if isinstance(given, dict) else {}
        if isinstance(delta, Garbled):
            readings.append(delta)
            return
        reason = choice.get("finish_reason")
        if not reason:  # some send "" until the end
            reason = None
        elif isinstance(reason, str) and reason in self._failing:
            readings.append(UpstreamFault(f"broke off ({reason})", kind="resources"))
            return
        else:
            self._ended.add(index)
            reason = reason if isinstance(reason, str) and reason in FINISH_REASONS else "stop"
            if index in self._calls and reason in ("stop", "function_call"):
                reason = "tool_calls"
        logprobs = _logprobs(choice.get("logprobs"), self._null_logprobs)
        if logprobs is not None and not can_be_written(logprobs):
            readings.append(Garbled("sent logprobs that cannot be passed on"))
            return
        if delta or reason is not None or logprobs is not None:
            readings.append(Delta(delta, reason, index, logprobs))

    def _delta(self, given: Json, choice: int) -> Json | Garbled:
        text = given.get("content")
        if len(given) == 1 and text and isinstance(text, str):
            return {"content": text}  # nearly all of them, so without a detour
        delta = {
            key: value
            for key, value in given.items()
            if key not in _OTHERWISE and value is not None and value != "" and value != []
        }
        reasoning = given.get("reasoning")
        if reasoning and isinstance(reasoning, str) and "reasoning_content" not in delta:
            delta["reasoning_content"] = reasoning
        if any(not isinstance(delta.get(key, ""), str) for key in ("content", "reasoning_content", "refusal")):
            return Garbled("sent text that is not a string")
        calls = given.get("tool_calls")
        if not calls and (function := given.get("function_call")):
            # So did OpenAI in 2023, and so some servers still do, a few of them beside the same call in tool_calls.
            calls = [{"index": 0, "function": function}]
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
        kind, text_key = ("custom", "input") if isinstance(given.get("custom"), dict) else ("function", "arguments")
        called = given.get(kind)
        if not isinstance(called, dict | None):
            return None
        name = (called or {}).get("name") or ""
        said = (called or {}).get(text_key)
        text = None if said is None else arguments_text(said)
        if not isinstance(name, str) or (text is None and said is not None):
            return None
        calls = self._calls.setdefault(choice, [])
        place = _place(calls, given.get("index"), given.get("id"), name)
        fragment = {key: value for key, value in given.items() if key not in ("index", "id", "type", kind)}
        piece: Json = {} if text is None else {text_key: text}
        if place is None:
            place = len(calls)
            call_id = given.get("id")
            # Of two calls with one id nobody could tell whose result is whose.
            is_good = call_id and isinstance(call_id, str) and all(call.id != call_id for call in calls)
            made = call_id if is_good else self._make_id()
            calls.append(_Call(given.get("index"), call_id, name))
            fragment = {"id": made, "type": given.get("type") or kind} | fragment
            piece = {"name": name, text_key: ""} | piece
        elif name and name != calls[place].name:
            piece = {"name": name} | piece
        fragment = {"index": place} | fragment
        return fragment | {kind: piece} if called is not None else fragment


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


def _logprobs(given: Any, may_be_null: bool) -> Json | None:
    """Logprobs with the keys that OpenAI always has; Ollama's /v1 layer leaves some out."""
    if not isinstance(given, dict):
        return None
    return {"content": None, "refusal": None} | {key: _tokens(value, may_be_null) for key, value in given.items()}


def _tokens(given: Any, may_be_null: bool) -> list[Json] | None:
    tokens: list[Json] = [{"bytes": None, "top_logprobs": []} | token for token in _probable(given, may_be_null)]
    for token in tokens:
        token["top_logprobs"] = [{"bytes": None} | top for top in _probable(token["top_logprobs"], False)]
    return tokens or None


def _probable(given: Any, may_be_null: bool) -> list[Json]:
    """The entries that name a token and its probability."""
    return [item for item in given if _is_probable(item, may_be_null)] if isinstance(given, list) else []


def _is_probable(item: Any, may_be_null: bool) -> bool:
    match item:
        case {"token": str(), "logprob": int() | float() as logprob}:
            return not isinstance(logprob, bool) and _is_bytes(item.get("bytes"))
        case {"token": str(), "logprob": None}:
            return may_be_null
        case _:
            return False


def _is_bytes(given: Any) -> bool:
    return given is None or (isinstance(given, list) and all(type(byte) is int for byte in given))


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
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = fixed.pop(name, None)
        if isinstance(details, dict):
            fixed[name] = {key: count(value) for key, value in details.items() if isinstance(value, int)}
    hits = count(usage.get("prompt_cache_hit_tokens"))
    if hits and not usage.get("prompt_tokens_details"):
        fixed["prompt_tokens_details"] = {"cached_tokens": hits}
    return fixed
