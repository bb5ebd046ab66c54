"""One member of a JSON object that passes by and is never held as a whole: the usage beside an image.

The trap: what is said in a text may look like JSON. A search for `"usage":` finds what somebody dictated, or what an
inner object says of itself. So texts and depth are followed from the first byte on, and nothing is searched.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

MAX_VALUE = 64 * 1024
"""Bytes. A longer value, or name, is not kept."""

_MARK = re.compile(rb'["{}\[\],:]')
_TEXT = rb"(?:[^\"\\]++|\\.)*+"
"""Up to its end, or to an escape that is not complete."""
_IN_TEXT = re.compile(_TEXT, re.DOTALL)
_DEEP = re.compile(rb'(?:[^"{}\[\]]++|"' + _TEXT + rb'")*+', re.DOTALL)
"""What says nothing in the inner objects, which may be thousands of words and their times."""


class Member:
    """Finds the values of one member of the outermost object. What is no JSON object has none."""

    def __init__(self, name: str, limit: int = MAX_VALUE) -> None:
        self._name = orjson.dumps(name)
        self._limit = limit
        self._depth = 0
        self._in_text = False
        self._escaped = False
        """The last piece ended in the middle of an escape."""
        self._expects_name = False
        self._named = False
        """The name that came last is the one that is looked for."""
        self._kept: bytearray | None = None
        """What has come of a name, or of a value that is looked for; None where nothing is to be kept."""
        self._over = False

    def feed(self, data: bytes) -> list[Any]:
        """The values that are complete with this piece, parsed. A name may come twice."""
        if not self._depth and not self._over:
            data = data.lstrip()
            self._over = bool(data) and not data.startswith(b"{")
        found: list[Any] = []
        if not data:
            return found
        at, since = int(self._escaped), 0
        self._escaped = False
        while not self._over:
            start = self._next(data, at)
            at, char = start + 1, data[start : start + 1]
            if not char or char == b"\\":
                self._escaped = bool(char)
                break
            ends_name = self._in_text and self._expects_name and self._depth == 1
            ends_value = not self._in_text and self._named and self._depth == 1 and char in b",}"
            if ends_name or ends_value:
                kept = self._keep(data[since : at if ends_name else start])
                if ends_name:
                    self._named = kept == self._name
                else:
                    found += _parsed(kept)
                self._kept = None
            if self._follow(char):
                self._kept, since = bytearray(), start if char == b'"' else at
        if self._kept is not None:
            self._keep(data[since:])
        return found

    def _next(self, data: bytes, at: int) -> int:
        """Where the next byte stands that matters; at the end of the piece, where there is none."""
        if self._in_text:
            return _end_of(_IN_TEXT, data, at)
        match = _MARK.search(data, _end_of(_DEEP, data, at) if self._depth > 1 else at)
        return match.start() if match is not None else len(data)

    def _follow(self, char: bytes) -> bool:
        """True where something begins that is to be kept: a name, or the value that is looked for."""
        if char == b'"':
            self._in_text = not self._in_text
            return self._in_text and self._expects_name and self._depth == 1
        if char in b"{[":
            self._depth += 1
        elif char in b"}]":
            self._depth -= 1
            self._over = not self._depth
        if self._depth == 1:
            if char == b":":
                self._expects_name = False
                return self._named
            if char in b"{,":
                self._expects_name, self._named = True, False
        return False

    def _keep(self, data: bytes) -> bytes | None:
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > self._limit:
                self._kept = None
        return bytes(self._kept) if self._kept is not None else None


def _end_of(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Of a pattern that always matches, be it nothing."""
    match = pattern.match(data, at)
    return at if match is None else match.end()


def _parsed(value: bytes | None) -> list[Any]:
    try:
        return [orjson.loads(value)] if value is not None else []
    except orjson.JSONDecodeError:
        return []
