"""Server-sent events, both ways.

Comments and blank lines are no events. An event whose blank line is missing at the end still counts: SDKs drop it in
silence, and with it the last words of an answer.
"""

from __future__ import annotations

from typing import NamedTuple

from wire.lines import MAX_LINE, LineSplitter


class Event(NamedTuple):
    """One event; `name` is empty where the stream gave none."""

    name: bytes
    data: bytes


class SseDecoder:
    """feed() gives the events completed so far; close() the last one, if its blank line is missing."""

    __slots__ = ("_data", "_lines", "_name")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._lines = LineSplitter(limit)
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[Event]:
        return self._decode(self._lines.feed(data))

    def close(self) -> list[Event]:
        return self._decode([*self._lines.close(), b""])

    def _decode(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(Event(self._name, b"\n".join(self._data)))
                    self._data.clear()
                self._name = b""  # an event without data is dropped, as the standard says
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif line.startswith(b"event:"):
                self._name = line[6:].strip()
        return events


def comment(text: bytes) -> bytes:
    """A comment line: keeps a waiting client's timers quiet and is no event to it."""
    return b": " + text + b"\n\n"
