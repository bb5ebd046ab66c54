"""mitmproxy's connection handler: the object behind one caller's connection, and what must be mended on it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamWriter

from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.proxy.server_hooks import ServerConnectErrorHook, ServerConnectionHookData
from mitmproxy.utils.asyncio_utils import create_task


def handler_of(client: Client) -> ConnectionHandler | None:
    servers: Proxyserver | None = ctx.master.addons.get("proxyserver")
    return servers.connections.get(client.id) if servers is not None else None


def tell(client: Client, event: events.Event) -> None:
    """Hands an event to a connection's layers soon: never from within another event's handling."""
    handler = handler_of(client)
    if handler is not None:
        asyncio.get_running_loop().call_soon(_hand_over, handler, event)


def _hand_over(handler: ConnectionHandler, event: events.Event) -> None:
    if handler.client in handler.transports:
        create_task(handler.server_event(event), name="tell a connection", keep_ref=True)


def is_behind(client: Client) -> bool:
    """Whether a caller has not yet taken what was written to it."""
    handler = handler_of(client)
    io = handler.transports.get(client) if handler is not None else None
    writer = io.writer if io is not None else None
    return isinstance(writer, StreamWriter) and writer.transport.get_write_buffer_size() > 0


def when_taken(client: Client, connection: Connection, event: events.Event) -> None:
    """Hands an event to a caller's layers when the other side of one of its connections has taken what was sent."""
    handler = handler_of(client)
    io = handler.transports.get(connection) if handler is not None else None
    writer = io.writer if io is not None else None
    if handler is not None and isinstance(writer, StreamWriter):
        create_task(_hand_over_when_taken(handler, writer, event), name="wait for a reader", keep_ref=True)


async def _hand_over_when_taken(handler: ConnectionHandler, writer: StreamWriter, event: events.Event) -> None:
    with contextlib.suppress(OSError):  # the connection broke: its own end is told as well
        await writer.drain()
    if handler.client in handler.transports:
        await handler.server_event(event)


def cut(client: Client, connection: Connection) -> None:
    """Resets one of a caller's connections, with whatever was not sent yet: its other side must not take it for an
    end in good order, nor may a side that does not read keep what is still to be sent."""
    handler = handler_of(client)
    io = handler.transports.get(connection) if handler is not None else None
    writer = io.writer if io is not None else None
    if isinstance(writer, StreamWriter):
        opened = writer.get_extra_info("socket")
        if opened is not None:  # else it broke already
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def look_after(handler: ConnectionHandler) -> None:
    """Mends four habits of mitmproxy's connection handler, on this one object.

    - It opens five connections to one address at a time, and lets the sixth call of an HTTP/2 client wait.
    - A connection is closed by cancelling the task that reads it. Where that task is just waiting for its turn to hand
      on data, nobody closes the socket: the server goes on writing into it for as long as the caller stays connected.
    - It reads nothing more from anyone until everyone has taken what was written. A server that stops reading is so
      never heard out when it answers early, and holds up all other calls of an HTTP/2 caller. What a server is sent is
      paced by `when_taken`; what is read goes to the caller, who alone is waited for.
    - It takes for granted that who is connected has an address. A server that resets the connection in that very moment
      has none, and its call would never hear of it.
    """
    handler.max_conns = _Unbounded()  # type: ignore[assignment]
    stock_open, stock_handle = handler.open_connection, handler.handle_connection

    async def sweep(connection: Connection) -> None:
        left = handler.transports.pop(connection, None)
        if left is not None and left.writer is not None:
            left.writer.close()
            connection.state = ConnectionState.CLOSED
            await handler.server_event(events.ConnectionClosed(connection))

    async def open_connection(command: commands.OpenConnection) -> None:
        try:
            await stock_open(command)
        except (AssertionError, TypeError):  # the latter where Python leaves assertions out
            if command.connection.peername is not None or command.connection not in handler.transports:
                raise
            await _never_connected(handler, command)
        finally:
            await sweep(command.connection)

    async def handle_connection(connection: Connection) -> None:
        try:
            await stock_handle(connection)
        finally:
            await sweep(connection)

    async def drain_writers() -> None:
        io = handler.transports.get(handler.client)
        if io is not None and io.writer is not None:
            try:
                await io.writer.drain()
            except OSError as error:
                if io.handler is not None:
                    io.handler.cancel(f"Error sending data: {error}")

    handler.drain_writers = drain_writers  # type: ignore[method-assign]
    handler.open_connection = open_connection  # type: ignore[method-assign]
    handler.handle_connection = handle_connection  # type: ignore[method-assign]


async def _never_connected(handler: ConnectionHandler, command: commands.OpenConnection) -> None:
    """What the handler does about a connection that could not be made."""
    connection = command.connection
    connection.error, connection.state = "the connection was reset at once", ConnectionState.CLOSED
    writer = handler.transports.pop(connection).writer
    if writer is not None:
        writer.close()
    await handler.handle_hook(ServerConnectErrorHook(ServerConnectionHookData(connection, handler.client)))
    await handler.server_event(events.OpenConnectionCompleted(command, connection.error))


class _Place:
    """A place in a queue that never fills."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


class _Unbounded(dict[object, _Place]):
    """How many connections a target bears is the rules' business, not a constant of the proxy's."""

    def __missing__(self, _address: object) -> _Place:
        return _Place()
