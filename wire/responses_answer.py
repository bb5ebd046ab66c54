"""The caller's side of a call to /v1/responses: readings in, a Response object or its events out.

Every event has its `event:` line and its number; there is no [DONE]. A stream that cannot go on ends in
`response.failed`, with all that was said, for a helper that misses the last event takes silence for an end. The object
echoes the request: strict clients want fields that nobody asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import orjson

from wire.answer import Opening, Streamed, Whole
from wire.errors import BadRequest, Fault, RateLimited
from wire.openai import Delta, Finished, Json, Reading, Usage, count
from wire.responses import LOGPROBS, SEALED_REASONING, ResponsesRequest
from wire.responses_kept import RESPONSE
from wire.responses_output import Output, Tell
from wire.resume import Said

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""finish_reason -> why a response is incomplete; with any other it is completed."""
TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
"""Service tiers that a response may name."""


class _Growing:
    """A response as far as it has come, whichever way it goes out."""

    def __init__(self, opening: Opening, tell: Tell) -> None:
        request = opening.request
        asked = request.origin or {}
        include = asked.get("include") or ()
        self._opening = opening
        self._asked = asked
        self.output = Output(
            opening.call_id,
            request.full_names if isinstance(request, ResponsesRequest) else {},
            tell,
            logprobs=LOGPROBS in include,
            seals=SEALED_REASONING in include,
        )
        self.finish_reason: str | None = None
        self._tier: str | None = None
        """The service tier that the server says it used."""

    def add(self, piece: Delta) -> bool:
        """False where the reading is not part of this answer: there is one choice, and nothing follows its end."""
        if piece.choice or self.finish_reason is not None:
            return False
        if piece.server is not None and piece.server.get("service_tier") in TIERS:
            self._tier = piece.server["service_tier"]
        if piece.delta or piece.logprobs is not None:
            self.output.add(piece.delta, piece.logprobs)
        if piece.finish_reason is not None:
            self.finish(piece.finish_reason)
        return True

    def finish(self, reason: str) -> None:
        if self.finish_reason is None:
            self.finish_reason = reason
            self.output.close(cut=reason in INCOMPLETE)

    def object(self, status: str, usage: Json | None, fault: Fault | None = None) -> Json:
        """The Response object as it is now (openai_api section 2.2). `usage` is a chat completion's."""
        opening, asked = self._opening, self._asked
        why = INCOMPLETE.get(self.finish_reason or "") if status == "incomplete" else None
        response: Json = {
            "id": RESPONSE + opening.call_id,
            "object": "response",
            "created_at": opening.created,
            "status": status,
            "background": False,
            "error": None if fault is None else {"code": _error_code(fault), "message": fault.message},
            "incomplete_details": None if why is None else {"reason": why},
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": asked.get("max_tool_calls"),
            "model": opening.model,
            "output": self.output.items(),
            "parallel_tool_calls": _or(asked.get("parallel_tool_calls"), True),
            "previous_response_id": asked.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None} | (asked.get("reasoning") or {}),
            "store": _or(asked.get("store"), True),
            "temperature": _or(asked.get("temperature"), 1.0),
            "text": {"format": {"type": "text"}} | _given(asked.get("text") or {}),
            "tool_choice": _or(asked.get("tool_choice"), "auto"),
            "tools": [_tool(tool) for tool in asked.get("tools") or ()],
            "top_logprobs": _or(asked.get("top_logprobs"), 0),
            "top_p": _or(asked.get("top_p"), 1.0),
            "truncation": "disabled",
            "metadata": _or(asked.get("metadata"), {}),
        }
        response |= {name: asked[name] for name in _ECHOED if asked.get(name) is not None}
        if status == "completed" and opening.wall is not None:
            response["completed_at"] = int(opening.wall())
        if self._tier is not None:
            response["service_tier"] = self._tier
        if usage is not None:
            response["usage"] = _usage(usage)
        return response

    def ended(self, usage: Json | None) -> Json:
        """The object of an answer that came to its end."""
        self.finish("stop")
        return self.object("incomplete" if self.finish_reason in INCOMPLETE else "completed", usage)


_ECHOED = ("user", "safety_identifier", "prompt_cache_key")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _given(value: Json) -> Json:
    return {key: inner for key, inner in value.items() if inner is not None}


def _tool(tool: Json) -> Json:
    """A tool of the caller's with the keys that strict clients want to see."""
    if tool["type"] == "namespace":
        inner = [_tool(one) for one in tool["tools"]]
        return {"description": ""} | tool | {"tools": inner}
    return {"parameters": None, "strict": False} | tool if tool["type"] == "function" else tool


def _usage(usage: Json) -> Json:
    """A chat completion's usage in the words of a response."""
    prompt, completion = (_object(usage.get(f"{name}_tokens_details")) for name in ("prompt", "completion"))
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": count(prompt.get("cached_tokens")),
            "cache_write_tokens": count(prompt.get("cache_write_tokens")),
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": count(completion.get("reasoning_tokens"))},
        "total_tokens": usage["total_tokens"],
    }


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _error_code(fault: Fault) -> str:
    """Of the codes that a failed response may have."""
    match fault:
        case RateLimited():
            return "rate_limit_exceeded"
        case BadRequest():
            return "invalid_prompt"
        case _:
            return "server_error"


def _event(name: str, fields: Json, number: int) -> bytes:
    data = orjson.dumps({"type": name, **fields, "sequence_number": number})
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def last_words(fault: Fault) -> bytes:
    """How a stream ends of which nothing was sent."""
    return _event("error", {"code": fault.code or fault.type, "message": fault.message, "param": fault.param}, 0)


class ResponsesStreamed(Streamed):
    """write() gives the events for readings; the first ones are preceded by `response.created`."""

    def __init__(self, opening: Opening) -> None:
        self._growing = _Growing(opening, self._tell)
        self._out: list[bytes] = []
        """What the present write() gives."""
        self._number = 0
        """Of the next event."""
        self.said = Said()
        self.response: Json | None = None
        """The final object."""
        self._key: str | None = None
        """What a delta may hold to go the short way."""
        self._head = self._middle = b""
        self._pieces: list[str] = []
        self._said: list[str] = []

    @property
    def complete(self) -> bool:
        return self.finish_reason is not None

    def write(self, readings: list[Reading]) -> bytes:
        out = self._out = []
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta():
                    delta, finish_reason, index, logprobs, _server = reading
                    if (
                        self._key in delta
                        and len(delta) == 1
                        and finish_reason is None
                        and logprobs is None
                        and index == 0
                    ):
                        # Nearly all of them, so without a detour.
                        text = delta[self._key]
                        out.append(self._head + orjson.dumps(text) + self._middle + b"%d}\n\n" % self._number)
                        self._number += 1
                        self._pieces.append(text)
                        self._said.append(text)
                    else:
                        self._write_delta(reading)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self._begin()
                    self.response = self._growing.ended(self.usage)
                    self.finish_reason = self._growing.finish_reason
                    self._end(self.response)
                case Fault():
                    self._fail(reading)
                case _:
                    assert_never(reading)
        return b"".join(out)

    def fail(self, fault: Fault) -> bytes:
        self._out = []
        self._fail(fault)
        return b"".join(self._out)

    def _fail(self, fault: Fault) -> None:
        if self._number:
            self.response = self._growing.object("failed", self.usage, fault)
            self._end(self.response)
        else:
            self._out.append(last_words(fault))
            self.done = True

    def _begin(self) -> None:
        if not self._number:
            response = self._growing.object("in_progress", None)
            self._tell("created", {"response": response})
            self._tell("in_progress", {"response": response})

    def _end(self, response: Json) -> None:
        self._tell(response["status"], {"response": response})
        self.done = True

    def _write_delta(self, piece: Delta) -> None:
        self._begin()
        if self._growing.add(piece):
            self.said.add(piece.delta)
        self.finish_reason = self._growing.finish_reason
        speaking = self._growing.output.speaking
        short = None if speaking is None else _SHORT.get(speaking.parts[-1].kind)
        if speaking is None or short is None:
            self._key = None
            return
        self._key, name, self._middle, said = short
        self._pieces = speaking.parts[-1].pieces
        self._said = getattr(self.said, said)
        place = orjson.dumps({"type": name, **speaking.place})
        self._head = b"event: " + name.encode() + b"\ndata: " + place[:-1] + b',"delta":'

    def _tell(self, name: str, fields: Json) -> None:
        self._out.append(_event(f"response.{name}", fields, self._number))
        self._number += 1


_SHORT: Mapping[str, tuple[str, str, bytes, str]] = {
    "output_text": ("content", "response.output_text.delta", b',"logprobs":[],"sequence_number":', "content"),
    "reasoning_text": ("reasoning_content", "response.reasoning_text.delta", b',"sequence_number":', "reasoning"),
}
"""Of a part's kind: the delta's key, its event, what follows the text there, and where it is noted as said."""


class ResponsesWhole(Whole):
    """write() collects and gives nothing until the readings say Finished; then the whole object, at once."""

    def __init__(self, opening: Opening) -> None:
        self._growing = _Growing(opening, lambda _name, _fields: None)
        self.response: Json | None = None
        """The final object."""

    @property
    def complete(self) -> bool:
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        output = self._growing.output.items()
        said = [part for item in output if item["type"] == "message" for part in item["content"]]
        return "".join(part["text"] for part in said if part["type"] == "output_text")

    def write(self, readings: list[Reading]) -> bytes:
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta():
                    self._growing.add(reading)
                    self.finish_reason = self._growing.finish_reason
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.response = self._growing.ended(self.usage)
                    self.finish_reason = self._growing.finish_reason
                    self.done = True
                    return orjson.dumps(self.response)
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return b""
