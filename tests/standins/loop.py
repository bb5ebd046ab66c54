"""The server below every stand-in: a thread with an event loop, and connections that notice who leaves.

It is written on sockets and not on werkzeug (which pytest-httpserver uses), because werkzeug ends every
connection after one answer, and a gateway that pools its upstream connections must be tested against servers
that keep them. One thread runs one event loop with all the connections in it, so that stopping ends it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

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
