"""The load generator: requests as bytes made once, replies looked at as little as possible.

It runs in the process of the benchmark itself, which has nothing else to do meanwhile. The row `direct`
(this client against the upstream, nothing between) shows that it is not the bottleneck.

The trap: a token may be cut by a chunk boundary when a proxy reads a long burst in pieces. Counting is
therefore exact only where tokens come one by one; `content_of` decodes a reply properly and is used once
per target before anything is timed.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, cast

from .upstream import MODEL, WORD

Wire = Literal["native", "openai"]
Mode = Literal["whole", "burst", "paced", "first"]

_WORD = WORD.encode()
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_SENTENCE = 'The quick brown fox jumps over the lazy dog, and then "rests" a while.\n'
PATHS: dict[Wire, str] = {"native": "/api/chat", "openai": "/v1/chat/completions"}
HEADERS = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 1.0.0",
    "Authorization": "Bearer sk-benchmark",
}


class Unexpected(Exception):
    """A reply that is not what the upstream was asked for: nothing measured with it would mean anything."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered call."""

    status: int
    seconds: float
    """From the write of the request to the last byte of the reply."""
    first: float
    """From the write of the request to the first token; 0 if there was none."""
    tokens: int
    body: bytes
    """As on the wire (chunk framing and all); empty unless it was asked for."""


def chat_body(wire: Wire, mode: Mode, count: int, prompt_bytes: int = 0) -> bytes:
    """A chat call in the target's own wire format; `prompt_bytes` of prose stand before the marker."""
    prose = _SENTENCE * (prompt_bytes // len(_SENTENCE))
    stream = mode != "whole"
    call: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": f"{prose}Say something. @bench:{mode}:{count}@"},
        ],
        "stream": stream,
    }
    match wire:
        case "native":
            call["options"] = {"temperature": 0.5, "num_predict": count}
        case "openai":
            call |= {"temperature": 0.5, "max_tokens": count}
    return json.dumps(call, separators=(",", ":")).encode()


def chat_request(wire: Wire, mode: Mode, count: int, prompt_bytes: int = 0) -> bytes:
    """The same with its HTTP head: ready to be written to a connection as often as one likes."""
    body = chat_body(wire, mode, count, prompt_bytes)
    head = [f"POST {PATHS[wire]} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in HEADERS.items()]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def get_request(path: str) -> bytes:
    """A GET without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n".encode()


def content_of(wire: Wire, mode: Mode, body: bytes) -> str:
    """The text of a reply that was kept with `keep`, decoded by the book."""
    text = _unchunked(body).decode()
    if mode == "whole":
        value = json.loads(text)
        return str(value["message"]["content"] if wire == "native" else value["choices"][0]["message"]["content"])
    if wire == "native":
        return "".join(json.loads(line)["message"]["content"] for line in text.splitlines())
    events = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    if not events or events[-1] != "[DONE]":
        raise Unexpected(f"the stream does not end in [DONE] but in {text[-200:]!r}")
    choices = (choice for event in events[:-1] for choice in json.loads(event).get("choices", []))
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _unchunked(body: bytes) -> bytes:
    """Take the framing off, if there is one: JSON never starts with a hexadecimal line of its own."""
    if body[:1] in b"{[":
        return body
    out, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return bytes(out)
        out += body[end + 2 : end + 2 + size]
        at = end + 4 + size


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one call on it."""

    def __init__(self, on_tokens: Callable[[int], None] | None = None) -> None:
        self._on_tokens = on_tokens
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._keep = False
        self._start()

    def _start(self) -> None:
        self._head = b""
        self._status = 0
        self._remaining = -1
        """Bytes of the body still to come; negative for a chunked one."""
        self._tail = b""
        """The last bytes seen: a token and the closing chunk may be cut by a read."""
        self._tokens = 0
        self._first = 0.0
        self._kept: list[bytes] = []
        self._sent = 0.0

    async def call(self, request: bytes, keep: bool = False) -> Reply:
        """Send a request and wait for the end of its reply."""
        if self._transport is None:
            raise ConnectionResetError("the connection was closed")
        self._start()
        self._keep = keep
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        self._sent = perf_counter()
        self._transport.write(request)
        return await waiter

    def close(self) -> None:
        """Close the connection; a call still on it fails."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("closed in the middle of a reply"))

    def data_received(self, data: bytes) -> None:
        if not self._status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[: end + 2], self._head[end + 4 :]
            self._status = int(head[9:12])
            length = _LENGTH.search(head)
            if length is not None:
                self._remaining = int(length[1])
            elif not _CHUNKED.search(head):
                self._remaining = 0
        if self._keep:
            self._kept.append(data)
        window = self._tail + data
        tokens = (window[-len(data) - 3 :] if data else b"").count(_WORD)
        if tokens:
            if not self._tokens:
                self._first = perf_counter() - self._sent
            self._tokens += tokens
            if self._on_tokens is not None:
                self._on_tokens(tokens)
        if self._remaining >= 0:
            self._remaining -= len(data)
            ended = self._remaining <= 0
        else:
            ended = window.endswith(b"\r\n0\r\n\r\n") or window == b"0\r\n\r\n"
        self._tail = window[-7:]
        if ended and self._waiter is not None and not self._waiter.done():
            seconds = perf_counter() - self._sent
            reply = Reply(self._status, seconds, self._first, self._tokens, b"".join(self._kept))
            self._waiter.set_result(reply)


async def connect(port: int, on_tokens: Callable[[int], None] | None = None) -> Connection:
    """A new connection to a port of this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(on_tokens), "127.0.0.1", port)
    return connection


@dataclass(slots=True)
class Pacer:
    """The client's end of the side channel: one byte for each token that has arrived."""

    transport: asyncio.Transport | None = field(default=None)

    async def open(self, port: int) -> None:
        """Connect to the upstream's second port."""
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)

    def acknowledge(self, tokens: int) -> None:
        """Tell the upstream that so many tokens are here."""
        if self.transport is not None:
            self.transport.write(b"+" * tokens)

    def close(self) -> None:
        """Close the channel."""
        if self.transport is not None:
            self.transport.abort()


async def one_after_the_other(
    port: int,
    request: bytes,
    calls: int,
    *,
    tokens: int | None = None,
    on_tokens: Callable[[int], None] | None = None,
    warm_up: int = 3,
    within: float = 30.0,
) -> list[Reply]:
    """Calls on one connection, each when the last is answered; every reply is checked.

    `tokens` is how many each reply must have (None: do not count). The deadline `within` (seconds) is one for
    all calls: a timer per call would be measured with it.
    """
    connection = await connect(port, on_tokens)
    try:
        async with asyncio.timeout(within):
            for _ in range(warm_up):
                _check(await connection.call(request), tokens)
            return [_check(await connection.call(request), tokens) for _ in range(calls)]
    finally:
        connection.close()


def _check(reply: Reply, tokens: int | None) -> Reply:
    if reply.status != 200 or (tokens is not None and reply.tokens != tokens):
        raise Unexpected(f"status {reply.status} with {reply.tokens} tokens where 200 with {tokens} was due")
    return reply


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of connections got done."""

    calls: int
    seconds: float


async def side_by_side(
    port: int,
    request: bytes,
    *,
    connections: int,
    calls: int = 10**9,
    seconds: float,
    calls_per_connection: int = 10**9,
) -> Load:
    """Keep `connections` busy until `calls` are answered or `seconds` are over, whichever is first."""
    begun = perf_counter()
    until = begun + seconds
    started = answered = 0

    async def work() -> None:
        nonlocal started, answered
        while started < calls and perf_counter() < until:
            connection = await connect(port)
            try:
                for _ in range(calls_per_connection):
                    if started >= calls or perf_counter() >= until:
                        return
                    started += 1
                    _check(await connection.call(request), None)
                    answered += 1
            finally:
                connection.close()

    async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return Load(answered, perf_counter() - begun)
