"""Requests and answers of the stand-ins as HTTP/1 has them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from .loop import Connection

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived: header names keep their letters' case, and doubles stay doubles."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    json: Any | None
    at: float
    connection: int = 0
    """Which connection of this server it came on, counted from 1: tells whether a client reuses them."""

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case of letters."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True)
class Answer:
    """An answer as pieces: each piece is written and flushed by itself, and plans count them."""

    status: int = 200
    headers: Headers = ()
    pieces: tuple[bytes, ...] = ()
    prelude: tuple[bytes, ...] = ()
    """Bytes before the pieces that no plan counts, such as keep-alive comments."""
    chunked: bool = False
    """False: the pieces together have a Content-Length."""
    streamed: bool = False
    """A stream of the dialect (an error in it is a line of it), and not one JSON document."""


async def read_request(connection: Connection) -> tuple[Seen, str]:
    """Read one request with its body, and say its HTTP version."""
    head = await connection.until(b"\r\n\r\n")
    first, *rest = head[:-4].decode("latin-1").split("\r\n")
    method, path, version = first.split(" ")
    headers: list[tuple[str, str]] = []
    for line in rest:
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    known = {name.lower(): value for name, value in headers}
    if known.get("expect", "").lower() == "100-continue":
        await connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if "chunked" in known.get("transfer-encoding", "").lower():
        while size := int((await connection.until(b"\r\n")).split(b";")[0], 16):
            body += await connection.exactly(size)
            await connection.exactly(2)
        while await connection.until(b"\r\n") != b"\r\n":
            pass
    elif length := int(known.get("content-length", "0")):
        body = await connection.exactly(length)
    document: Any | None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    seen = Seen(method, path, headers, body, document, time.monotonic(), connection.number)
    return seen, version


class Writer:
    """Writes one answer in the framing that the request allows."""

    def __init__(self, connection: Connection, seen: Seen, version: str) -> None:
        self.connection = connection
        self._bare = seen.method == "HEAD"
        self._old = version == "HTTP/1.0"
        self._keep = not self._old and "close" not in (seen.header("connection") or "").lower()
        self._chunked = False
        self._missing = 0

    async def head(self, answer: Answer) -> None:
        """Write the status line and the headers."""
        bodiless = answer.status in (204, 304)
        length = sum(map(len, (*answer.prelude, *answer.pieces)))
        self._chunked = answer.chunked and not self._old and not bodiless
        if answer.chunked and self._old:
            self._keep = False
        self._missing = 0 if answer.chunked or bodiless else length
        lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        lines.append(f"Date: {formatdate(usegmt=True)}")
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        elif not answer.chunked and not bodiless:
            lines.append(f"Content-Length: {length}")
        if not self._keep:
            lines.append("Connection: close")
        await self.connection.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def pieces(self, pieces: Sequence[bytes], pace: float = 0.0) -> None:
        """Write pieces one by one."""
        for piece in pieces:
            if pace:
                await self.connection.pause(pace)
            if self._bare or not piece:
                continue
            self._missing -= len(piece)
            await self.connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def end(self) -> bool:
        """End the body; says whether the connection may go on, which it may not after a body cut short."""
        if self._chunked and not self._bare:
            await self.connection.write(b"0\r\n\r\n")
        return self._keep and (self._bare or self._missing <= 0)

    async def whole(self, answer: Answer, pace: float = 0.0) -> bool:
        """Write an answer from head to end."""
        await self.head(answer)
        await self.pieces((*answer.prelude, *answer.pieces), pace)
        return await self.end()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
