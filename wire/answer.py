"""The caller's side of a call: readings in, OpenAI's bytes out, as a stream or as one whole reply.

One id and one `created` for the whole answer, however many upstreams it took. The SDKs' helpers are particular about
the rest (openai_api section 1.4): exactly one role delta per choice, a finish chunk for every choice, usage in a chunk
of its own and only if asked, an exact `data: [DONE]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import orjson

from wire.errors import DONE, Fault, fault_frame
from wire.fold import Fold
from wire.openai import Delta, Finished, Json, ModelRequest, Reading, Usage
from wire.resume import Said

_OPENING = {"role": "assistant", "content": "", "refusal": None}
_OPENING_WITH_CALL = {"role": "assistant", "content": None, "refusal": None}
_CALLS = frozenset({"tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class Opening:
    """What an answer says of itself, and the request that it answers."""

    call_id: str
    """Without a prefix: each kind of object has its own (`chatcmpl-`, `resp_`)."""
    created: int
    """Unix time."""
    model: str
    request: ModelRequest
    wall: Callable[[], float] | None = None
    """Gives Unix time, for objects that say when they were complete."""


class Answer(ABC):
    """The caller's side of a call: readings in, bytes out. One per answer, however many upstreams it took."""

    content_type: str
    usage: Json | None = None
    """OpenAI's usage object of a chat completion, whatever the endpoint: for the log."""
    finish_reason: str | None = None
    done: bool = False
    """The answer is complete, or has ended in an error."""
    binary: bool = False
    """It goes out as it comes and is no stream of events: nothing else may be in it, no last words either."""
    shown: bool = True
    """Whoever looks at the flow may see it; False for what fills memory and says nothing to the eye."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Every choice that began has its finish_reason: only formalities can be missing."""

    @property
    def text(self) -> str:
        """What the first choice said so far, where that is text."""
        return ""

    def replied(self, content_type: str) -> None:
        """The upstream begins a reply of this media type that is to be passed on as it is."""
        # A header that was folded over two lines must not become one of ours.
        known = bool(content_type) and content_type.isascii() and content_type.isprintable()
        self.content_type = content_type if known else "application/octet-stream"

    @abstractmethod
    def write(self, readings: list[Reading]) -> bytes:
        """The bytes for these readings, `b""` where there are none."""


class Streamed(Answer):
    """An answer that goes out as it comes. A Fault among the readings ends it, in the words of fault_frame()."""

    content_type = "text/event-stream; charset=utf-8"
    said: Said
    """What the caller has seen of it."""

    @property
    def text(self) -> str:
        return self.said.text

    @abstractmethod
    def fail(self, fault: Fault) -> bytes:
        """The last words of an answer that cannot go on."""


class Whole(Answer):
    """An answer that goes out at once when it is complete; until then nothing was sent, so a Fault is raised."""

    content_type = "application/json"


class StreamedAnswer(Streamed):
    """write() gives the SSE bytes for readings; the first ones are preceded by the role delta.

    Readings of several upstreams may follow one another, if those of the later ones go on from the earlier ones'.
    """

    def __init__(self, *, call_id: str, created: int, model: str, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._about: Json = {"id": call_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._delta_end = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._text_end = b"}" + self._delta_end
        self._begin_chunks()
        self._opened: set[int] = set()
        self._finished: set[int] = set()
        self._speaks = False
        """Choice 0 has begun and has not ended."""
        self.said = Said()
        self._said_content = self.said.content.append
        self._said_reasoning = self.said.reasoning.append
        self.usage: Json | None = None
        self.finish_reason: str | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        """Every choice that began has its finish_reason: only formalities can be missing."""
        return bool(self._opened) and self._opened == self._finished

    def write(self, readings: list[Reading]) -> bytes:
        """The bytes for these readings, `b""` where there are none. A Fault ends the answer."""
        out: list[bytes] = []
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta():
                    delta, finish_reason, index, logprobs, _ = reading
                    if self._speaks and index == 0 and delta and finish_reason is None and logprobs is None:
                        # Nearly all of them, so without a detour.
                        if len(delta) == 1 and "content" in delta:
                            text = delta["content"]
                            out.append(self._text_head + orjson.dumps(text) + self._text_end)
                            self._said_content(text)
                        elif len(delta) == 1 and "reasoning_content" in delta:
                            text = delta["reasoning_content"]
                            thought = orjson.dumps(text)
                            out.append(self._thought_head + thought + b',"reasoning":' + thought + self._text_end)
                            self._said_reasoning(text)
                        else:
                            out.append(self._delta_head + orjson.dumps(_shown(delta)) + self._delta_end)
                            self.said.add(delta)
                    else:
                        self._write_delta(reading, out)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self._finish(out)
                case Fault():
                    out.append(self.fail(reading))
                case _:
                    assert_never(reading)
        return b"".join(out)

    def fail(self, fault: Fault) -> bytes:
        self.done = True
        return fault_frame(fault)

    def _begin_chunks(self) -> None:
        """Every chunk shares its beginning and its end: they are encoded once, and only the delta each time."""
        self._head = b"data: " + orjson.dumps(self._about)[:-1] + b',"choices":['
        self._delta_head = self._head + b'{"index":0,"delta":'
        self._text_head = self._delta_head + b'{"content":'
        self._thought_head = self._delta_head + b'{"reasoning_content":'

    def _write_delta(self, piece: Delta, out: list[bytes]) -> None:
        index = piece.choice
        if index in self._finished:
            return
        if piece.server is not None and not self._opened:
            self._about |= piece.server
            self._begin_chunks()
        if index not in self._opened:
            self._opened.add(index)
            opening = _OPENING if _CALLS.isdisjoint(piece.delta) else _OPENING_WITH_CALL
            out.append(self._chunk(index, opening, None, None))
        if piece.delta or piece.logprobs is not None:
            out.append(self._chunk(index, _shown(piece.delta), piece.logprobs, None))
            if index == 0:
                self._speaks = True
                self.said.add(piece.delta)
            else:
                self.said.choices = True
        if piece.finish_reason is not None:
            self._finished.add(index)
            self._speaks = self._speaks and index != 0
            self.finish_reason = self.finish_reason or piece.finish_reason
            out.append(self._chunk(index, {}, None, piece.finish_reason))

    def _finish(self, out: list[bytes]) -> None:
        for index in sorted((self._opened or {0}) - self._finished):
            self._write_delta(Delta({}, "stop", index), out)
        if self._include_usage and self.usage is not None:
            out.append(self._head + b'],"usage":' + orjson.dumps(self.usage) + b"}\n\n")
        out.append(DONE)
        self.done = True

    def _chunk(self, index: int, delta: Json, logprobs: object, finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + orjson.dumps(choice) + self._tail


def _shown(delta: Json) -> Json:
    """Reasoning under both of its names: some clients read the one, some the other."""
    return delta | {"reasoning": delta["reasoning_content"]} if "reasoning_content" in delta else delta


class WholeAnswer(Whole):
    """write() collects and gives nothing until the readings say Finished; then the whole reply, at once."""

    def __init__(self, *, call_id: str, created: int, model: str) -> None:
        self._call_id = call_id
        self._created = created
        self._model = model
        self._fold = Fold()
        self.usage: Json | None = None
        self.finish_reason: str | None = None
        self.done = False

    @property
    def complete(self) -> bool:
        """Every choice that began has its finish_reason: only formalities can be missing."""
        return self._fold.complete

    @property
    def text(self) -> str:
        return self._fold.text

    def write(self, readings: list[Reading]) -> bytes:
        """The reply's bytes once it is complete, `b""` before. A Fault is the caller's to handle: nothing was sent."""
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta():
                    self._fold.add(reading)
                    self.finish_reason = self.finish_reason or reading.finish_reason
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    self.finish_reason = self.finish_reason or "stop"
                    return orjson.dumps(
                        self._fold.reply(
                            call_id=self._call_id,
                            created=self._created,
                            model=self._model,
                            usage=self.usage,
                        )
                    )
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return b""
