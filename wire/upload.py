"""A request body that nobody holds as a whole: words of ours, and spans of what the caller sent, in order.

The trap: a file of 25 MB that becomes one `bytes` costs the gateway 25 MB per call and copy. So a mapper only says
where in the caller's body the file lies, and whoever sends the upload reads it there, a piece at a time.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PIECE = 192 * 1024
"""Bytes that are read at a time. Three of them become four of base64, so a multiple of three."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of the caller's body, from `start` up to `end`."""

    start: int
    end: int
    base64: bool = False
    """Written as base64."""

    @property
    def length(self) -> int:
        """Bytes as written."""
        size = self.end - self.start
        return (size + 2) // 3 * 4 if self.base64 else size


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that is made while it is sent."""

    content_type: str
    parts: tuple[bytes | Span, ...]

    @property
    def length(self) -> int:
        """Bytes of the whole body, known before any of it is made."""
        return sum(part.length if isinstance(part, Span) else len(part) for part in self.parts)

    def pieces(self, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
        """The body, no piece of it empty nor much larger than PIECE. `read(start, end)` gives bytes of the caller's."""
        for part in self.parts:
            if isinstance(part, Span):
                for start in range(part.start, part.end, PIECE):
                    data = read(start, min(start + PIECE, part.end))
                    yield b2a_base64(data, newline=False) if part.base64 else data
            elif part:
                yield part
