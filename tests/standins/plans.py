"""The plans that make a stand-in misbehave, and those that make it say something of our choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

How = Literal["reset", "clean"]


@dataclass(frozen=True)
class Normal:
    """Answer as always: a place in the queue for a call that is to succeed."""


@dataclass(frozen=True)
class Status:
    """This status and body; without a body, what the dialect says with that status."""

    status: int
    body: bytes | Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResetBeforeHeaders:
    """Take the request and reset the connection."""


@dataclass(frozen=True)
class ResetAfterHeaders:
    """Send the head of a good answer and reset the connection."""


@dataclass(frozen=True)
class Silence:
    """Send nothing until the client leaves or the time is up; then close, or answer after all."""

    seconds: float = 30.0
    then: Literal["close", "answer"] = "close"


@dataclass(frozen=True)
class SilenceAfterHeaders:
    """Send the head of a good answer and nothing more, until the client leaves or the time is up."""

    seconds: float = 30.0


@dataclass(frozen=True)
class CutAfter:
    """End after n pieces of the good answer (negative n: all but the last -n, as in a slice).

    `reset` resets the connection; `clean` ends a chunked body in proper form, so only the dialect's own end
    is missing. A whole answer counts as two pieces; if it has a length, a clean cut is an early close.
    """

    n: int
    how: How = "reset"


@dataclass(frozen=True)
class HalfLine:
    """After n pieces, send half of the next one and end as `CutAfter` does."""

    n: int = 1
    how: How = "clean"


@dataclass(frozen=True)
class ErrorAfter:
    """After n pieces, the dialect's in-stream error, then a proper end of the body without done or [DONE].

    With n = 0 it is the first line of a 200 stream. A request for a whole answer gets a plain 500.
    """

    n: int
    message: str = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True)
class HoldAfter:
    """After n pieces, hold until `StandIn.release()`, until the client leaves or the time is up; then go on."""

    n: int
    seconds: float = 30.0


@dataclass(frozen=True)
class Garbage:
    """Raw bytes in the place of an HTTP answer, then a close."""

    data: bytes = b"\x16\x03\x01 this is no HTTP\r\n\r\n"


@dataclass(frozen=True)
class GarbageBody:
    """A 200 with the dialect's content type and a body that is none of its lines."""

    data: bytes = b"<html><body>It works!</body></html>\n"


@dataclass(frozen=True)
class Lines:
    """A 200 whose body is exactly these bytes, each written by itself, `pace` seconds apart."""

    lines: Sequence[bytes]
    pace: float = 0.0


@dataclass(frozen=True)
class Pace:
    """The normal answer with so many seconds before each piece."""

    seconds: float


@dataclass(frozen=True)
class KeepAliveOnly:
    """Nothing but the dialect's signs of life until the client leaves or the time is up.

    Then a proper end of a body without content, or the good answer after all. Ollama has no signs of life:
    there it is a silence after the headers.
    """

    seconds: float = 30.0
    every: float = 0.05
    then: Literal["end", "answer"] = "end"


@dataclass(frozen=True)
class EmptyDeltas:
    """Pieces of the dialect that say nothing (an empty delta, a line with empty content), as `KeepAliveOnly`.

    A request for a whole answer gets signs of life instead, for one document has no empty pieces.
    """

    seconds: float = 30.0
    every: float = 0.05
    then: Literal["end", "answer"] = "end"


@dataclass(frozen=True)
class Finish:
    """End in proper form with this reason, after n pieces of the good answer; without n, after all of them.

    `insufficient_system_resource` is how DeepSeek says that it gave up on an answer. A whole answer keeps its
    text, and only its reason is another.
    """

    reason: str
    n: int | None = None


@dataclass(frozen=True)
class Say:
    """The good answer, but in these pieces, whatever was asked."""

    pieces: Sequence[str]


@dataclass(frozen=True)
class Blank:
    """A good answer with nothing in it but so many blank pieces: what models in JSON mode fall into."""

    pieces: int = 20


@dataclass(frozen=True)
class BadLine:
    """After n pieces, half of the next one on a line of its own; then all goes on as if nothing had been."""

    n: int = 1


Plain = Normal | Say | Blank | Pace
"""A good answer is sent from head to end."""
Changed = Status | Lines | GarbageBody | ErrorAfter | Finish | BadLine
"""So is something else in place of it."""
Broken = CutAfter | HalfLine | ResetAfterHeaders
"""It is begun, and breaks off."""
Waiting = HoldAfter | SilenceAfterHeaders | KeepAliveOnly | EmptyDeltas
"""It is begun, and its caller kept waiting."""
Plan = Plain | Changed | Broken | Waiting | Silence | Garbage | ResetBeforeHeaders
