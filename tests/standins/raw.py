"""A server that plays a script of bytes: for the answers that no well-meant HTTP server gives.

A script is a list of steps for one connection; several scripts are played one per connection in the order in
which they are opened, and the last serves all later ones.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .framing import Seen, read_request
from .loop import Connection, LoopServer


@dataclass(frozen=True)
class Expect:
    """Read one whole request and record it."""


@dataclass(frozen=True)
class Send:
    """Send bytes."""

    data: bytes


@dataclass(frozen=True)
class Flood:
    """Send the same bytes again and again until the client leaves or the time is up."""

    data: bytes
    seconds: float = 10.0
    pace: float = 0.0


@dataclass(frozen=True)
class Wait:
    """Wait; goes on to the end of the script early when the client leaves."""

    seconds: float


@dataclass(frozen=True)
class Reset:
    """Let what was sent arrive, then reset the connection."""


@dataclass(frozen=True)
class HalfClose:
    """Close the server's side, and read on."""


@dataclass(frozen=True)
class Close:
    """Close in good order; the end of a script does the same."""


Step = Expect | Send | Flood | Wait | Reset | HalfClose | Close
Script = Sequence[Step]


class RawServer(LoopServer):
    """Plays scripts, and records the requests it was told to expect."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self.scripts = [list(script) for script in scripts] or [[]]
        self.seen: list[Seen] = []

    async def serve(self, connection: Connection) -> None:
        """Play the script of this connection."""
        for step in self.scripts[min(connection.number, len(self.scripts)) - 1]:
            match step:
                case Expect():
                    seen, _ = await read_request(connection)
                    self.seen.append(seen)
                case Send(data):
                    await connection.write(data)
                case Flood(data, seconds, pace):
                    deadline = time.monotonic() + seconds
                    while time.monotonic() < deadline:
                        await connection.write(data)
                        if pace:
                            await connection.pause(pace)
                case Wait(seconds):
                    await connection.pause(seconds)
                case Reset():
                    await connection.reset()
                    return
                case HalfClose():
                    connection.half_close()
                case Close():
                    return


# ---------------------------------------------------------------------------------------------------------
# Bytes and scripts


def head(status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(body: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    """A complete answer with its length."""
    return head(status, {"Content-Type": kind, "Content-Length": str(len(body))}) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked_head(kind: str = "application/x-ndjson", **headers: str) -> bytes:
    """The head of a chunked answer; underscores in names of headers stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return head("200 OK", {"Content-Type": kind, "Transfer-Encoding": "chunked", **named})


def closed_at_once() -> Script:
    """The connection ends right after it is accepted."""
    return [Close()]


def reset_at_once() -> Script:
    """The connection is reset right after it is accepted."""
    return [Reset()]


def interim(body: bytes, status: str = "103 Early Hints") -> Script:
    """A 1xx answer before the real one."""
    return [Expect(), Send(head(status, {"Link": "</style.css>"})), Send(whole(body))]


def broken_chunking(*pieces: bytes) -> Script:
    """Good chunks, then one whose size is no number."""
    return [Expect(), Send(chunked_head()), *(Send(chunk(piece)) for piece in pieces), Send(b"zz\r\nnothing\r\n")]


def cut_chunk(piece: bytes) -> Script:
    """A chunk that says it is longer than it is, and then the end of the connection."""
    return [Expect(), Send(chunked_head()), Send(b"%x\r\n%b" % (len(piece) + 100, piece)), Close()]


def huge_header(size: int, body: bytes = b"{}") -> Script:
    """One header of this size."""
    length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return [Expect(), Send(head("200 OK", {"X-Huge": "x" * size, **length}) + body)]


def endless_headers(seconds: float = 10.0, pace: float = 0.0) -> Script:
    """Headers without an end, until the client leaves or the time is up."""
    return [Expect(), Send(b"HTTP/1.1 200 OK\r\n"), Flood(b"X-More: and more\r\n" * 64, seconds, pace)]


def with_trailers(body: bytes, trailers: Mapping[str, str], kind: str = "application/json") -> Script:
    """A chunked answer with headers after its body."""
    after = "".join(f"{name}: {value}\r\n" for name, value in trailers.items()).encode("latin-1")
    return [Expect(), Send(chunked_head(kind, Trailer=", ".join(trailers)) + chunk(body) + b"0\r\n" + after + b"\r\n")]


def gzipped(body: bytes, kind: str = "application/json") -> Script:
    """An answer compressed though no one asked for it."""
    packed = gzip.compress(body, mtime=0)
    headers = {"Content-Type": kind, "Content-Encoding": "gzip", "Content-Length": str(len(packed))}
    return [Expect(), Send(head("200 OK", headers) + packed)]


def until_eof(body: bytes, kind: str = "application/json") -> Script:
    """An HTTP/1.0 answer whose body ends with the connection."""
    return [Expect(), Send(b"HTTP/1.0 200 OK\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + body), Close()]
