"""Newline-delimited JSON, as Ollama streams it: one object per line. A single JSON document is its shortest form."""

from __future__ import annotations

from typing import Any

import orjson

from wire.errors import Garbled
from wire.lines import MAX_LINE, LineSplitter


class NdjsonDecoder:
    """feed() gives the objects completed so far; close() the last one, if its newline is missing."""

    __slots__ = ("_lines",)

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._lines = LineSplitter(limit)

    def feed(self, data: bytes) -> list[dict[str, Any] | Garbled]:
        """A line that is no JSON object comes as a Garbled in its place: it may have held text, so none is skipped."""
        return self._decode(self._lines.feed(data))

    def close(self) -> list[dict[str, Any] | Garbled]:
        return self._decode(self._lines.close())

    @staticmethod
    def _decode(lines: list[bytes]) -> list[dict[str, Any] | Garbled]:
        return [json_object(line) for line in lines if line and not line.isspace()]


def json_object(text: bytes) -> dict[str, Any] | Garbled:
    """One JSON object, or the fault that says that it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Garbled("sent a line that is not JSON")
    if isinstance(value, dict):
        return value
    return Garbled("sent a JSON value that is not an object")
