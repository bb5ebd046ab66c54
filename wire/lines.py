"""Cuts a byte stream into lines, whatever pieces it comes in.

Bytes, never `str.splitlines`: U+2028, U+2029 and U+0085 are legal inside JSON strings and end no line here.
"""

from __future__ import annotations

from wire.errors import Garbled

MAX_LINE = 16 * 1024 * 1024
"""Bytes. A line beyond it is a runaway server, not an answer: the largest honest one is a whole reply with images."""


class LineSplitter:
    """feed() gives the lines completed so far, without their `\\n` or `\\r\\n`; close() gives the rest, if any."""

    __slots__ = ("_limit", "_rest", "_size")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises Garbled where a line grows beyond the limit."""
        lines = data.split(b"\n")
        last = lines.pop()
        if lines and self._rest:
            self._rest.append(lines[0])
            lines[0] = b"".join(self._rest)
            self._rest.clear()
            self._size = 0
        if last:
            self._rest.append(last)
            self._size += len(last)
            if self._size > self._limit:
                raise Garbled(f"sent a line of more than {self._limit} bytes")
        return [line[:-1] if line[-1:] == b"\r" else line for line in lines]

    def close(self) -> list[bytes]:
        """The line that had no end: some servers leave the last newline out."""
        rest = b"".join(self._rest)
        self._rest.clear()
        self._size = 0
        return [rest.removesuffix(b"\r")] if rest else []
