"""A call that comes as text, `{"name": "f", "arguments": {...}}`, read while it comes.

A grammar made it (wire/ollama_format.py): there can be blanks between any two of its tokens, and `name` is first. The
trap: whoever waits for the end of the JSON is silent for as long as the arguments are, and the caller takes the silence
for a failure. So the name is known as soon as it is there, and the arguments are passed on letter by letter. Where the
text may be an answer instead, which can have a name too, it is taken for a call once the arguments have begun.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

import orjson

from wire.errors import Garbled


def _beginning(*pieces: str) -> re.Pattern[str]:
    """Fits everything that can still become these pieces, one after the other."""
    pattern = ""
    for piece in reversed(pieces):
        pattern = f"(?:{piece}{pattern})?"
    return re.compile(pattern)


_NAMED = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*+")')
_NAME_BEGUN = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)')
_NAMED_YET = _beginning(r"\s*+", r"\{", r"\s*+", *'"name"', r"\s*+", ":", r"\s*+", '"', r'(?:[^"\\]|\\.)*+', r"\\")
_BETWEEN = re.compile(r'\s*,\s*"arguments"\s*:\s*(?=\{)')
_BETWEEN_YET = _beginning(r"\s*+", ",", r"\s*+", *'"arguments"', r"\s*+", ":", r"\s*+")
_NO_ARGUMENTS = re.compile(r"\s*\}")
_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')
_MAX_HELD = 1000
"""Characters in which a name, and what follows it, must be complete: a grammar can be generous with blanks."""


class Piece(NamedTuple):
    """What a piece of the text means."""

    name: str | None = None
    """The call begins: of this function."""
    arguments: str = ""
    """More of its arguments, as text."""
    text: str = ""
    """It is no call: text as it is."""


class _At(Enum):
    NAME = auto()
    BETWEEN = auto()
    ARGUMENTS = auto()
    END = auto()
    TEXT = auto()
    WHOLE = auto()
    """A call or an answer, which only its end tells."""


class CallText:
    """Reads one call; what turns out to be none is text."""

    __slots__ = ("_at", "_depth", "_escaped", "_forced", "_held", "_names", "_pieces", "_quoted", "_whole")

    def __init__(self, names: frozenset[str], *, forced: bool = True, whole: bool = False) -> None:
        """`names` are those of the functions.

        `forced`: one of them had to be called, so that a name of theirs is enough. `whole`: an answer can have
        arguments too, and more than these, so that a call is one when it is over.
        """
        self._names = names
        self._forced = forced
        self._whole = whole
        self._at = _At.NAME
        self._held = ""
        """Not understood yet."""
        self._pieces: list[str] = []
        """Of what is looked at as a whole."""
        self._depth = 0
        self._quoted = False
        self._escaped = False

    @property
    def is_open(self) -> bool:
        """A call has begun and is not complete."""
        return self._at in (_At.BETWEEN, _At.ARGUMENTS)

    def rest(self) -> Piece:
        """At the end: what was held until then."""
        match self._at:
            case _At.NAME:
                return Piece(text=self._held)
            case _At.WHOLE:
                return self._judged("".join(self._pieces))
            case _:
                return Piece()

    def take(self, text: str) -> Piece:
        """What this piece adds; raises Garbled for a forced call that goes on otherwise than it must."""
        match self._at:
            case _At.TEXT:
                return Piece(text=text)
            case _At.ARGUMENTS:
                return Piece(arguments=self._arguments(text))
            case _At.WHOLE:
                self._pieces.append(text)
                return Piece()
            case _At.END:
                return Piece()
            case _At.BETWEEN:
                self._held += text
                return Piece(arguments=self._begun_arguments())
            case _:
                self._held += text
                return self._begun()

    def _begun(self) -> Piece:
        """What the beginning is, as far as it is held."""
        found = _NAMED.match(self._held)
        if found is None:
            may_be = self._may_become_named()
        else:
            name = self._name(found[1])
            rest = self._held[found.end() :]
            if name is not None and (self._forced or _BETWEEN.match(rest)):
                return self._call(name, rest)
            may_be = name is not None and _BETWEEN_YET.fullmatch(rest) is not None
        if may_be and len(self._held) < _MAX_HELD:
            return Piece()
        self._at = _At.TEXT
        return Piece(text=self._held)

    def _call(self, name: str, rest: str) -> Piece:
        """A call of that function, or what only its end can tell from one; `rest` follows the name."""
        if self._whole:
            self._at = _At.WHOLE
            self._pieces.append(self._held)
            return Piece()
        self._at = _At.BETWEEN
        self._held = rest
        return Piece(name, self._begun_arguments())

    def _may_become_named(self) -> bool:
        begun = _NAME_BEGUN.fullmatch(self._held)
        if begun is not None:
            return any(name.startswith(begun[1]) for name in self._names)
        return _NAMED_YET.fullmatch(self._held) is not None

    def _judged(self, text: str) -> Piece:
        """What a text is that begins as a call does."""
        try:
            value: dict[str, object] = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Piece(text=text)
        return CallText(self._names).take(text) if value.keys() == {"name", "arguments"} else Piece(text=text)

    def _name(self, quoted: str) -> str | None:
        """The function's name; None where there is no such function."""
        try:
            name = orjson.loads(quoted)
        except orjson.JSONDecodeError:
            return None
        return name if name in self._names else None

    def _begun_arguments(self) -> str:
        """The arguments as far as they are held, once they have begun."""
        found = _BETWEEN.match(self._held)
        if found is not None:
            self._at = _At.ARGUMENTS
            return self._arguments(self._held[found.end() :])
        if _NO_ARGUMENTS.match(self._held):
            self._at = _At.END
            return "{}"
        if len(self._held) < _MAX_HELD and _BETWEEN_YET.fullmatch(self._held):
            return ""
        raise Garbled("called a tool in words that cannot be read")

    def _arguments(self, text: str) -> str:
        """As much of the text as belongs to the arguments, which end with the brace that closes them."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._quoted else _OUTSIDE).search(text, at)
            if found is None:
                break
            at = found.end()
            match found[0]:
                case '"':
                    self._quoted = not self._quoted
                case "\\":
                    self._escaped = True
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        self._at = _At.END
                        return text[:at]
        return text
