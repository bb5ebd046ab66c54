"""Replies that are passed on as they are: sound, images, transcripts of a server that speaks as OpenAI does.

The trap: what is not understood cannot be told from what is not complete. So the reply's framing decides about its end,
events go out whole, and sound that breaks off must break the caller's connection: a shorter file looks like a good one.
Nor can what was dictated be told from what the server says of itself, but for its place: a usage is believed where it
is a member of the answer's object, or of an event's, and nowhere else.
"""

from __future__ import annotations

import re
from typing import Any, assert_never

import orjson

from wire.answer import Streamed, Whole
from wire.errors import Cut, Fault, Garbled, fault_frame
from wire.member import Member
from wire.openai import FINISHED, Delta, Finished, Json, Reading, Usage, count, usage_object
from wire.rejections import in_stream_error
from wire.resume import Said
from wire.sse import SseDecoder

MAX_WHOLE = 64 * 1024 * 1024
"""Bytes of an answer that is held until it is complete: ten large images."""
MAX_EVENT = 32 * 1024 * 1024
"""Bytes of one event: an image."""
MAX_SHORT = 64 * 1024
"""Bytes. An answer or an event that is longer is no error message."""

_EVENT_END = re.compile(rb"\n\r?\n")


class RelayedReply:
    """Reads one reply: pieces of `{"raw": b"..."}`, its usage where JSON or an event has one, and its end.

    Of events only whole ones come out. An error that a server answers with status 200 is found where the reply, or the
    event, is short.
    """

    def __init__(self, content_type: str, *, whole: bool, limit: int = MAX_WHOLE, event_limit: int = MAX_EVENT) -> None:
        """`whole`: the answer is held until it is complete, so `limit` bounds it."""
        kind = content_type.partition(";")[0].strip().lower()
        self._is_text = kind.startswith("text/") or kind.endswith("json")
        self._is_json = kind.endswith("json")
        self._is_stream = is_events(content_type)
        self._is_page = kind in ("text/html", "application/xhtml+xml")
        self._limit = limit if whole else None
        self._event_limit = event_limit
        self._size = 0
        self._held: list[bytes] = []
        """An event that is not complete, or the beginning of JSON that may be an error."""
        self._held_size = 0
        self._holds = self._is_json or self._is_stream
        self._last = b""
        """The last two bytes."""
        self._usage = Member("usage")
        """Of JSON that passes as it comes."""
        self._over = False

    def feed(self, data: bytes) -> list[Reading]:
        if self._over or not data:
            return []
        self._size += len(data)
        before, self._last = self._last, (self._last + data[-2:])[-2:]
        if self._is_page:
            return self._fail(Garbled("sent a web page in place of its answer"))
        if self._limit is not None and self._size > self._limit:
            return self._fail(Garbled(f"sent an answer of more than {self._limit} bytes"))
        if not self._holds:
            return [Delta({"raw": data}), *self._counted(data)]
        self._held.append(data)
        self._held_size += len(data)
        if self._is_json:
            return self._release() if self._held_size > MAX_SHORT else []
        readings = self._events() if _EVENT_END.search(before + data) else []
        if self._held_size > self._event_limit:
            readings += self._fail(Garbled(f"sent an event of more than {self._event_limit} bytes"))
        return readings

    def close(self) -> list[Reading]:
        if self._over:
            return []
        if not self._size and not (self._is_text and not self._holds):
            return self._fail(Cut("sent an empty answer"))
        if self._is_stream:
            self._held.append(b"\n\n" if self._held_size else b"")  # some servers leave the last blank line out
        held = b"".join(self._held)
        error = _error_in(held, self._is_stream)
        if error is not None:
            return self._fail(in_stream_error(error))
        self._over = True
        readings: list[Reading] = [Delta({"raw": held})] if held else []
        if self._is_stream:
            readings += _usages_in(held)
        elif self._is_json and self._holds:
            readings += _usage_in(held)
        return [*readings, FINISHED]

    def _release(self) -> list[Reading]:
        """The JSON is too long for an error: what comes now passes."""
        self._holds = False
        held, self._held = b"".join(self._held), []
        return [Delta({"raw": held}), *self._counted(held)]

    def _counted(self, data: bytes) -> list[Usage]:
        """What a server says of its work in JSON that passes: it may do so before an image, or after it."""
        if not self._is_json:
            return []
        return [usage for value in self._usage.feed(data) for usage in _usage_of(value)]

    def _events(self) -> list[Reading]:
        """All events that are complete."""
        held = b"".join(self._held)
        end = max((match.end() for match in _EVENT_END.finditer(held)), default=0)
        events, rest = held[:end], held[end:]
        self._held = [rest] if rest else []
        self._held_size = len(rest)
        error = _error_in(events, True)
        if error is not None:
            return self._fail(in_stream_error(error))
        return [Delta({"raw": events}), *_usages_in(events)] if events else []

    def _fail(self, fault: Fault) -> list[Reading]:
        self._over = True
        self._held.clear()
        return [fault]


def is_events(content_type: str) -> bool:
    """Whether a reply of this media type is a stream of events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _error_in(data: bytes, is_stream: bool) -> Any:
    """What an error in place of an answer, or of an event, says; None where there is none."""
    if len(data) > MAX_SHORT or b'"error"' not in data:
        return None
    for text in _data_of(data) if is_stream else [data]:
        match _parsed(text):
            case {"error": error} if error is not None:
                return error
            case {"type": "error", **rest}:
                return rest
    return None


def _data_of(events: bytes) -> list[bytes]:
    decoder = SseDecoder(len(events))  # bounded already
    return [event.data for event in (*decoder.feed(events), *decoder.close())]


def _parsed(text: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _usages_in(events: bytes) -> list[Usage]:
    """What whole events say of the work."""
    if b'"usage"' not in events:
        return []
    return [usage for text in _data_of(events) if b'"usage"' in text for usage in _usage_in(text)]


def _usage_in(text: bytes) -> list[Usage]:
    """What one whole JSON object says of the work."""
    match _parsed(text) if b'"usage"' in text else None:
        case {"usage": usage}:
            return _usage_of(usage)
    return []


def _usage_of(usage: Any) -> list[Usage]:
    """As a chat completion would have it; nothing where tokens are not counted: whisper-1 counts seconds."""
    if not isinstance(usage, dict):
        return []
    asked = usage.get("input_tokens", usage.get("prompt_tokens"))
    given = usage.get("output_tokens", usage.get("completion_tokens"))
    return [Usage(usage_object(count(asked), count(given)))] if asked is not None or given is not None else []


class RelayedStream(Streamed):
    """Pieces of a reply go out as they come. Nothing can go on from them, so `said` holds more than text."""

    def __init__(self, *, binary: bool = False, shown: bool = True) -> None:
        self.binary = binary
        self.shown = shown
        self.said = Said()

    @property
    def complete(self) -> bool:
        return False

    def replied(self, content_type: str) -> None:
        super().replied(content_type)
        # Some servers do not know that they can be asked for events, and send what they have.
        self.binary = self.binary or not is_events(content_type)

    def write(self, readings: list[Reading]) -> bytes:
        out: list[bytes] = []
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta(delta):
                    self.said.other = True
                    out.append(self._piece(delta))
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    out.append(self._end())
                case Fault():
                    out.append(self.fail(reading))
                case _:
                    assert_never(reading)
        return b"".join(out)

    def fail(self, fault: Fault) -> bytes:
        self.done = True
        return b"" if self.binary else fault_frame(fault)

    def _piece(self, delta: Json) -> bytes:
        piece: bytes = delta["raw"]
        return piece

    def _end(self) -> bytes:
        return b""


class RelayedWhole(Whole):
    """A reply that goes out when it is complete, so that until then another target can answer."""

    def __init__(self, *, shown: bool = True) -> None:
        self.shown = shown
        self._pieces: list[bytes] = []

    @property
    def complete(self) -> bool:
        return False

    def write(self, readings: list[Reading]) -> bytes:
        for reading in readings:
            if self.done:
                break
            match reading:
                case Delta(delta):
                    self._add(delta)
                case Usage(usage):
                    self.usage = usage
                case Finished():
                    self.done = True
                    return self._whole()
                case Fault():
                    raise reading
                case _:
                    assert_never(reading)
        return b""

    def _add(self, delta: Json) -> None:
        self._pieces.append(delta["raw"])

    def _whole(self) -> bytes:
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return whole
