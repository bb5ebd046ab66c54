"""The ground the stand-ins share: a small HTTP/1.1 server in a thread, and the plans that make it misbehave.

It is written on sockets and not on werkzeug (which pytest-httpserver uses), because werkzeug ends every
connection after one answer, and a gateway that pools its upstream connections must be tested against servers
that keep them. One thread runs one event loop with all the connections in it, so that stopping ends it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self, assert_never

Headers = tuple[tuple[str, str], ...]
How = Literal["reset", "clean"]
Prefill = Literal["continue", "start_over", "differ", "refuse"]
"""What a model makes of a last message that is its own: see `StandIn.prefill`."""

_HEAD_LIMIT = 1 << 20
_SETTLE = 0.02
"""Seconds between the last bytes and a reset, so that the client's kernel has them before the reset."""


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Wait until the condition holds, looking often; tells whether it did within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def halves(body: bytes) -> tuple[bytes, ...]:
    """Cut a body in two, so that plans which count pieces have something to count in a whole answer."""
    middle = len(body) // 2
    return (body[:middle], body[middle:])


def words(text: str) -> list[str]:
    """Cut a text into pieces the way a model speaks: each word with the blanks before it."""
    pieces: list[str] = []
    for part in text.split(" "):
        pieces.append(f" {part}" if pieces else part)
    return [piece for piece in pieces if piece]


def rest_of(pieces: Sequence[str], known: str) -> list[str] | None:
    """The pieces of a text without its known beginning, cut where that ends; None where it begins otherwise."""
    if not "".join(pieces).startswith(known):
        return None
    left, kept = len(known), []
    for piece in pieces:
        if rest := piece[left:] if left < len(piece) else "":
            kept.append(rest)
        left = max(left - len(piece), 0)
    return kept


def differing(known: str) -> list[str]:
    """Pieces that repeat the first half of a text, at least 20 characters of it, and then say something else."""
    return [*words(known[: max(20, len(known) // 2)]), " ...", " but", " on", " second", " thought,", " no."]


def compact(document: object) -> str:
    """JSON without blanks; halves of surrogate pairs, which no UTF-8 can say, become U+FFFD."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def example(schema: Any, root: Any | None = None, depth: int = 0) -> Any:
    """A value that fits a JSON schema, always the same: "Oslo", 7, true, and the first of any choice.

    What holds itself is not gone into for ever: far down only what is required is there.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict):
        return "Oslo"
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found = root
        for step in reference[2:].split("/"):
            found = found.get(step, {}) if isinstance(found, dict) else {}
        return example(found, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return example(schema[choice][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    properties = schema.get("properties")
    match kind:
        case "object":
            needed = schema.get("required") or ()
            return {
                name: example(inner, root, depth + 1)
                for name, inner in (properties or {}).items()
                if depth < 8 or name in needed
            }
        case "array":
            return [example(schema.get("items", {}), root, depth + 1)]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "Oslo"


# ---------------------------------------------------------------------------------------------------------
# What was asked, and what is answered


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


# ---------------------------------------------------------------------------------------------------------
# Plans


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


Plan = (
    Normal
    | Status
    | ResetBeforeHeaders
    | ResetAfterHeaders
    | Silence
    | SilenceAfterHeaders
    | CutAfter
    | HalfLine
    | ErrorAfter
    | HoldAfter
    | Garbage
    | GarbageBody
    | Lines
    | Pace
    | KeepAliveOnly
    | EmptyDeltas
    | Finish
    | Say
    | Blank
    | BadLine
)


# ---------------------------------------------------------------------------------------------------------
# Sockets


class ClientGoneError(Exception):
    """The client closed its side, or the connection broke."""


class Connection(asyncio.Protocol):
    """One client's connection, with reads and writes that notice at once when the client leaves."""

    def __init__(self, server: LoopServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self.on_leave: Callable[[], None] | None = None
        """Called as soon as the client closes its side or the connection breaks; more than once, perhaps."""
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop's call for a new connection: begin to serve it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(0)  # so that "writable" says that all has left
        self._server.begin(self)

    def data_received(self, data: bytes) -> None:
        """The event loop's call for new bytes."""
        self._buffer += data
        self._news.set()

    def eof_received(self) -> bool:
        """The client closed its side. Kept open, for the side of the server is its own to close."""
        self._leave()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is no more."""
        self._leave()
        self._server.lost(self)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client caught up."""
        if not self._gone.is_set():
            self._writable.set()

    def _leave(self) -> None:
        if self.on_leave is not None:
            self.on_leave()
        self._gone.set()
        self._news.set()
        self._writable.set()

    @property
    def gone(self) -> bool:
        """Whether the client closed its side."""
        return self._gone.is_set()

    async def _more(self) -> None:
        if self.gone:
            raise ClientGoneError
        self._news.clear()
        await self._news.wait()

    async def until(self, end: bytes) -> bytes:
        """Read to the given bytes, and with them."""
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise ClientGoneError
            await self._more()
        return await self.exactly(at + len(end))

    async def exactly(self, length: int) -> bytes:
        """Read so many bytes."""
        while len(self._buffer) < length:
            await self._more()
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    async def write(self, data: bytes) -> None:
        """Write and let it leave; raises when the client has gone."""
        await self._writable.wait()
        if self.gone or self._transport is None:
            raise ClientGoneError
        self._transport.write(data)
        await asyncio.sleep(0)

    async def pause(self, seconds: float | None, other: asyncio.Event | None = None) -> bool:
        """Wait so long, or until the event; raises when the client leaves. True: the event came."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._gone, other) if event is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self.gone:
            raise ClientGoneError
        return other is not None and other.is_set()

    async def flush(self) -> None:
        """Wait until the bytes written have left this process."""
        await self._writable.wait()

    async def reset(self) -> None:
        """Let the bytes written arrive, then reset."""
        await self.flush()
        await asyncio.sleep(_SETTLE)
        self.abort()

    def abort(self) -> None:
        """Reset at once: with linger on and zero, closing a socket sends a reset."""
        if self._transport is not None:
            with contextlib.suppress(OSError):  # closed already
                self._transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self._transport.abort()

    def close(self) -> None:
        """Close in good order, after the bytes written."""
        if self._transport is not None:
            self._transport.close()

    def half_close(self) -> None:
        """Close the side of the server only."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()


class LoopServer(ABC):
    """A listening socket, a thread and an event loop; the subclass says what happens on a connection.

    `stop` refuses and resets; the port stays reserved, so that `start` gets it again while other tests run.
    `close`, or the end of the `with`, gives it all up and raises what went wrong in the thread, if anything.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.connections_made = 0
        self.errors: list[BaseException] = []
        """What went wrong inside the stand-in: its own bugs, never the client's doing."""
        self._guard: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._halt: asyncio.Event | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    @property
    def url(self) -> str:
        """Where it listens; known from the first start on."""
        return f"http://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many client connections are open now."""
        return len(self._connections)

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Serve one connection to its end; when this returns it is closed in good order."""

    def start(self) -> None:
        """Listen: on a free port at first, and then always on that same port."""
        if self._thread is not None:
            return
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        listener = self._bound()
        listener.listen(128)
        self.port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listener, ready), name=f"stand-in:{self.port}", daemon=True
        )
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the stand-in did not start")

    def stop(self) -> None:
        """Refuse connections from now on, and reset those that are open. `start` begins anew."""
        if self._thread is None:
            return
        self.post(self._halt_now)
        self._thread.join(10)
        if self._thread.is_alive():
            raise RuntimeError("the stand-in did not stop")
        self._thread = None
        # Bound and not listening: connections are refused, and no one else is given the port.
        self._guard = self._bound()

    def close(self) -> None:
        """Stop for good, and say what went wrong inside, if anything did."""
        self.stop()
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self.errors:
            raise RuntimeError(f"the stand-in at {self.url} failed") from self.errors[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RuntimeError:
            if error is None:
                raise

    def post(self, action: Callable[[], None]) -> None:
        """Run an action in the server's own thread; nothing happens when it is not running."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it ended just now
                self._loop.call_soon_threadsafe(action)

    def begin(self, connection: Connection) -> None:
        """Called for each new connection."""
        self.connections_made += 1
        connection.number = self.connections_made
        self._connections[connection] = asyncio.get_running_loop().create_task(self._serve(connection))
        if self._halt is None or self._halt.is_set():
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """Called when a connection is no more."""
        self._connections.pop(connection, None)

    def _bound(self) -> socket.socket:
        # The protocol is named because asyncio turns off Nagle's delay only for sockets that name it.
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.host, self.port))
        except OSError:
            made.close()
            raise
        return made

    def _halt_now(self) -> None:
        if self._halt is not None:
            self._halt.set()

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._main(listener, ready))
        except BaseException as error:  # reported by close() in the test's own thread
            self.errors.append(error)
        finally:
            self._loop = None
            listener.close()
            ready.set()

    async def _main(self, listener: socket.socket, ready: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        self._halt = asyncio.Event()
        server = await loop.create_server(lambda: Connection(self), sock=listener)
        self._loop = loop
        ready.set()
        await self._halt.wait()
        # asyncio leaves open what it has accepted and not yet made when its server is closed, so that comes first.
        loop.remove_reader(listener)
        await _a_few_turns()
        server.close()
        while self._connections:
            tasks = list(self._connections.values())
            for connection in list(self._connections):
                connection.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
        await server.wait_closed()
        await _a_few_turns()

    async def _serve(self, connection: Connection) -> None:
        try:
            await self.serve(connection)
        except ClientGoneError:
            connection.abort()
        except Exception as error:  # reported by close() in the test's own thread
            self.errors.append(error)
            connection.abort()
        finally:
            connection.close()


async def _a_few_turns() -> None:
    """In which what was accepted a moment ago is made, aborted and lost."""
    for _ in range(10):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------------------
# HTTP


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


class StandIn(LoopServer):
    """A server of one dialect that records what it is asked and follows the plans it is given."""

    chat_paths: tuple[str, ...] = ()
    """Paths of the chat calls; plans apply to POSTs there."""
    stream_type: str = "text/plain"
    """The content type of the dialect's streams."""
    line_end: bytes = b"\n"
    """What ends a piece of the dialect's streams."""
    forbidden: tuple[str, ...] = ("cookie", "origin", "openai-", "x-stainless-")
    """Headers that must never arrive; a name that ends in a dash stands for all that begin so."""

    def __init__(self, reply: Sequence[str] | None = None) -> None:
        super().__init__()
        self.reply = reply
        """The pieces that are said; None: a parrot's answer to what was asked."""
        self.prefill: Prefill = "continue"
        """What is made of a last message of the assistant, that is of an answer begun.

        `continue`: if the reply begins with it, the rest of the reply is said, else the whole. `start_over`: the
        message is overlooked. `differ`: it is repeated by half and then left for something else. `refuse`: an error.
        """
        self.parallel: int | None = None
        """How many chat calls are answered at once; those beyond wait in silence and without bound. None: all."""
        self.seen: list[Seen] = []
        self.aborted = 0
        """How many clients left before their answer was written in full."""
        self.leaked: list[str] = []
        """Every header that arrived and must not, as `path: name`; values are not kept."""
        self.pace = 0.0
        """Seconds before each piece of every normal answer."""
        self.always: Plan | None = None
        """A plan for every chat call for which the queue holds none."""
        self.always_at: dict[str, Plan] = {}
        """By path, without its query: a plan for every other call to it, such as one to a list of models."""
        self.most_in_flight = 0
        """The largest number of chat calls that were ever being answered at once."""
        self._plans: deque[Plan] = deque()
        self._holds: set[asyncio.Event] = set()
        self._answering: set[Connection] = set()
        self._queue: deque[tuple[Connection, asyncio.Event]] = deque()

    @property
    def chats(self) -> list[Seen]:
        """The chat calls among the requests."""
        return [seen for seen in list(self.seen) if self.is_chat(seen)]

    @property
    def holding(self) -> int:
        """How many answers stand still at a `HoldAfter`."""
        return len(self._holds)

    @property
    def in_flight(self) -> int:
        """How many chat calls are being answered now; a call whose client left is none."""
        return len(self._answering)

    @property
    def waiting(self) -> int:
        """How many chat calls wait for one of the `parallel` places."""
        return len(self._queue)

    def plan(self, *plans: Plan) -> None:
        """Queue plans: each next chat call takes one, in order of arrival; after that, normal behaviour."""
        self._plans.extend(plans)

    def release(self) -> None:
        """Let the answers held by `HoldAfter` go on."""

        def go() -> None:
            for hold in self._holds:
                hold.set()

        self.post(go)

    def is_chat(self, seen: Seen) -> bool:
        """Whether this is a chat call."""
        return seen.method == "POST" and seen.path.partition("?")[0] in self.chat_paths

    # What a dialect says

    @abstractmethod
    def answer(self, seen: Seen) -> Answer:
        """The dialect's answer to a request, good or bad."""

    @abstractmethod
    def error_body(self, status: int, message: str | None = None) -> bytes:
        """The body of an error; without a message, what the dialect says with this status."""

    @abstractmethod
    def error_piece(self, message: str) -> bytes:
        """An error in the midst of a stream."""

    @abstractmethod
    def empty_piece(self, seen: Seen) -> bytes:
        """A piece of a stream that says nothing."""

    @abstractmethod
    def finished(self, pieces: Sequence[bytes], n: int | None, reason: str, *, streamed: bool) -> tuple[bytes, ...]:
        """The pieces of an answer, ended after n of them by this reason."""

    def life_sign(self, streamed: bool) -> bytes:
        """What the dialect sends to show that it still works; empty: it has nothing of the kind."""
        return b""

    def unwanted(self, seen: Seen) -> list[str]:
        """Names of the headers in a request that must never arrive here."""
        return [
            name
            for name, _ in seen.headers
            for bad in self.forbidden
            if (name.lower().startswith(bad) if bad.endswith("-") else name.lower() == bad)
        ]

    # How it is sent

    async def serve(self, connection: Connection) -> None:
        """Answer requests on one connection until one side closes it."""
        keep = True
        while keep:
            try:
                seen, version = await read_request(connection)
            except ValueError:
                await connection.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            self.seen.append(seen)
            self.leaked += [f"{seen.path}: {name}" for name in self.unwanted(seen)]
            try:
                plan = self._next_plan(seen)
                if self.is_chat(seen):
                    await self._place(connection)
                keep = await self._perform(_Writer(connection, seen, version), seen, plan)
            except ClientGoneError:
                self.aborted += 1
                raise
            finally:
                self._give_back(connection)

    async def _place(self, connection: Connection) -> None:
        """Take one of the places, in order of arrival."""
        # Given back as soon as the client is gone, or the next call would seem to be one too many.
        connection.on_leave = partial(self._give_back, connection)
        if self.parallel is not None and len(self._answering) >= self.parallel:
            turn = asyncio.Event()
            self._queue.append((connection, turn))
            await connection.pause(None, turn)
            return
        self._take(connection)

    def _take(self, connection: Connection) -> None:
        self._answering.add(connection)
        self.most_in_flight = max(self.most_in_flight, len(self._answering))

    def _give_back(self, connection: Connection) -> None:
        """Give a place, or a place in the queue, back; the first in the queue takes what is free."""
        self._answering.discard(connection)
        for entry in [entry for entry in self._queue if entry[0] is connection]:
            self._queue.remove(entry)
        while self._queue and (self.parallel is None or len(self._answering) < self.parallel):
            first, turn = self._queue.popleft()
            self._take(first)
            turn.set()

    def _next_plan(self, seen: Seen) -> Plan:
        if not self.is_chat(seen):
            return self.always_at.get(seen.path.partition("?")[0], Normal())
        if self._plans:
            return self._plans.popleft()
        return self.always or Normal()

    async def _perform(self, out: _Writer, seen: Seen, plan: Plan) -> bool:
        """Carry out one plan; says whether the connection may serve another request."""
        connection = out.connection
        match plan:
            case ResetBeforeHeaders():
                connection.abort()
                return False
            case Garbage(data):
                await connection.write(data)
                return False
            case Silence(seconds, then):
                await connection.pause(seconds)
                if then == "close":
                    return False
            case _:
                pass
        match plan:
            case Say(said):
                answer = self._saying(seen, said)
            case Blank(count):
                answer = self._saying(seen, [" \n" if number % 8 == 7 else "  " for number in range(count)])
            case _:
                answer = self.answer(seen)
        if not answer.chunked and len(answer.pieces) == 1:
            answer = replace(answer, pieces=halves(answer.pieces[0]))
        pieces = answer.pieces
        match plan:
            case Normal() | Silence() | Say() | Blank():
                return await out.whole(answer, self.pace)
            case Pace(seconds):
                return await out.whole(answer, seconds)
            case Status(status, body, headers):
                return await out.whole(self._planned_status(status, body, headers))
            case Lines(lines, pace):
                return await out.whole(self._planned_body(answer, tuple(lines)), pace)
            case GarbageBody(data):
                return await out.whole(self._planned_body(answer, (data,)))
            case ErrorAfter(n, message):
                if not answer.streamed:
                    return await out.whole(self._planned_status(500, self.error_body(500, message), {}))
                return await out.whole(replace(answer, pieces=(*pieces[:n], self.error_piece(message))))
            case HoldAfter(n, seconds):
                await out.head(answer)
                await out.pieces((*answer.prelude, *pieces[:n]), self.pace)
                await self._hold(connection, seconds)
                await out.pieces(pieces[n:], self.pace)
                return await out.end()
            case ResetAfterHeaders():
                await out.head(answer)
                await connection.reset()
                return False
            case SilenceAfterHeaders(seconds):
                await out.head(answer)
                await connection.pause(seconds)
                return False
            case KeepAliveOnly(seconds, every, after) | EmptyDeltas(seconds, every, after):
                await out.head(replace(answer, chunked=True))
                empty = answer.streamed and isinstance(plan, EmptyDeltas)
                sign = self.empty_piece(seen) if empty else self.life_sign(answer.streamed)
                await self._signs(out, sign, seconds, every)
                if after == "answer":
                    await out.pieces(pieces, self.pace)
                return await out.end()
            case Finish(reason, ended):
                ends = self.finished(pieces, ended, reason, streamed=answer.streamed)
                return await out.whole(replace(answer, pieces=ends), self.pace)
            case BadLine(n):
                bad = halves(pieces[n].rstrip(self.line_end))[0] + self.line_end if n < len(pieces) else b""
                return await out.whole(replace(answer, pieces=(*pieces[:n], bad, *pieces[n:])), self.pace)
            case CutAfter(n, how):
                kept = pieces[:n]
            case HalfLine(n, how):
                kept = (*pieces[:n], *(halves(piece)[0] for piece in pieces[n : n + 1]))
            case Garbage() | ResetBeforeHeaders():
                raise AssertionError("done above")
            case _:
                assert_never(plan)
        await out.head(answer)
        await out.pieces((*answer.prelude, *kept), self.pace)
        if how == "clean":
            return await out.end()
        await connection.reset()
        return False

    def _saying(self, seen: Seen, pieces: Sequence[str]) -> Answer:
        kept, self.reply = self.reply, pieces
        try:
            return self.answer(seen)
        finally:
            self.reply = kept

    def _planned_status(
        self, status: int, body: bytes | Mapping[str, object] | None, headers: Mapping[str, str]
    ) -> Answer:
        if body is None:
            body = self.error_body(status)
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        named = dict(headers)
        if not any(name.lower() == "content-type" for name in named):
            named["Content-Type"] = "application/json"
        return Answer(status, tuple(named.items()), (body,))

    def _planned_body(self, answer: Answer, pieces: tuple[bytes, ...]) -> Answer:
        kind = self.stream_type if answer.streamed else "application/json"
        return Answer(200, (("Content-Type", kind),), pieces, chunked=True)

    async def _hold(self, connection: Connection, seconds: float) -> None:
        hold = asyncio.Event()
        self._holds.add(hold)
        try:
            await connection.pause(seconds, hold)
        finally:
            self._holds.discard(hold)

    async def _signs(self, out: _Writer, sign: bytes, seconds: float, every: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if sign:
                await out.pieces((sign,))
            await out.connection.pause(min(every, left))


class _Writer:
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
