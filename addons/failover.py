"""Which target is asked next, and what the caller is told when none is left.

The layer (layer.py, stream.py) moves bytes and watches the clock; what it should do with a failed attempt is decided
here, in an ordinary hook.
"""

from __future__ import annotations

from asyncio import StreamWriter

from mitmproxy import ctx
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from addons.exchange import Attempt, Exchange, UpstreamCall
from addons.layer import GatewayLayer
from addons.state import State, new_tool_call_id
from rules.decide import Target
from wire.dialects import DIALECTS, Facets
from wire.errors import (
    BadRequest,
    ConnectFailed,
    Fault,
    ModelMissing,
    ModelNotFound,
    Overloaded,
    RateLimited,
    TimedOut,
    UpstreamFault,
)
from wire.openai import ChatRequest


class Failover:
    """Puts our layer in place of the stock one, and names the next target when an attempt has failed."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.is_behind = is_behind

    def next_layer(self, data: layer.NextLayer) -> None:
        # Under `-s` our hook runs before the core's, so the core is asked first.
        if data.layer is None:
            core: NextLayer = ctx.master.addons.get("nextlayer")
            core.next_layer(data)
        parent, found = None, data.layer
        while found is not None and not isinstance(found, HttpLayer):
            parent, found = found, getattr(found, "child_layer", None)
        if not isinstance(found, HttpLayer) or isinstance(found, GatewayLayer):
            return
        found.context.layers.remove(found)
        ours = GatewayLayer(found.context, found.mode, self.state)
        if parent is None:
            data.layer = ours
        else:
            parent.child_layer = ours  # type: ignore[attr-defined]  # every layer that we walked through has one

    def client_connected(self, client: Client) -> None:
        handler = _handler(client)
        if handler is not None:
            look_after(handler)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Fail closed: whatever mode or option brought it about, nothing is dialled that no rule has named."""
        if data.server not in self.state.dialled:
            data.server.error = "unigate connects to nothing but the targets of its rules"

    def attempt_failed(self, flow: HTTPFlow) -> None:
        exchange = self.state.exchanges[flow]
        attempt = exchange.attempts[-1]
        fault = attempt.fault
        assert fault is not None
        if isinstance(fault, ConnectFailed | ModelMissing):
            self.state.report_down(attempt.target.provider)
        if not fault.retryable:
            exchange.fault = fault
            return
        exchange.upstream = next_call(exchange, self.state)
        if exchange.upstream is None:
            exchange.fault = no_target_left(exchange)


def _handler(client: Client) -> ConnectionHandler | None:
    servers: Proxyserver | None = ctx.master.addons.get("proxyserver")
    return servers.connections.get(client.id) if servers is not None else None


def is_behind(client: Client) -> bool:
    """Whether a caller has not yet taken what was written to it."""
    handler = _handler(client)
    io = handler.transports.get(client) if handler is not None else None
    writer = io.writer if io is not None else None
    return isinstance(writer, StreamWriter) and writer.transport.get_write_buffer_size() > 0


def look_after(handler: ConnectionHandler) -> None:
    """Mends two habits of mitmproxy's connection handler, on this one object.

    - It opens five connections to one address at a time, and lets the sixth call of an HTTP/2 client wait.
    - A connection is closed by cancelling the task that reads it. Where that task is just waiting for its turn to hand
      on data, nobody closes the socket: the server goes on writing into it for as long as the caller stays connected.
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
        finally:
            await sweep(command.connection)

    async def handle_connection(connection: Connection) -> None:
        try:
            await stock_handle(connection)
        finally:
            await sweep(connection)

    handler.open_connection = open_connection  # type: ignore[method-assign]
    handler.handle_connection = handle_connection  # type: ignore[method-assign]


class _Place:
    """A place in a queue that never fills."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


class _Unbounded(dict[object, _Place]):
    """How many connections a target bears is the rules' business, not a constant of the proxy's."""

    def __missing__(self, _address: object) -> _Place:
        return _Place()


def next_call(exchange: Exchange, state: State) -> UpstreamCall | None:
    """The next target that the request can be said to, ready to be sent. None: there is none left.

    A target that cannot be told the request counts as a failed attempt: another dialect may be able to carry it.
    """
    request = exchange.request
    assert request is not None
    while exchange.waiting:
        target = exchange.waiting.pop(0)
        try:
            return _translated(exchange, request, target, state)
        except BadRequest as fault:
            exchange.attempts.append(Attempt(target, state.clock(), fault))
    return None


def _translated(exchange: Exchange, request: ChatRequest, target: Target, state: State) -> UpstreamCall:
    """Raises BadRequest where the target's dialect cannot say it."""
    dialect = DIALECTS[target.dialect]
    facets = Facets(target.profile, target.num_ctx, target.keep_alive)
    translated = dialect.translate(request, target.model, facets)
    exchange.dropped = translated.dropped
    host, port = _address(target, state)
    return UpstreamCall(
        target=target,
        host=host,
        port=port,
        tls=target.tls,
        path=dialect.chat_path(target.path, facets),
        accept=dialect.accept,
        body=translated.body,
        read=lambda content_type: dialect.read(new_tool_call_id, content_type, facets),
    )


def _address(target: Target, state: State) -> tuple[str, int]:
    if target.dialect == "sandbox":
        return "127.0.0.1", state.sandbox_port or 0
    return target.host, target.port


def no_target_left(exchange: Exchange) -> Fault:
    """One fault for all attempts: it names each in plain words and has the status of the most telling one."""
    faults = [(attempt.target.name, attempt.fault) for attempt in exchange.attempts if attempt.fault is not None]
    kept = [fault for _, fault in faults]
    if kept and all(isinstance(fault, BadRequest) for fault in kept):
        return kept[0]
    story = [f"{name} {fault.message}" for name, fault in faults]
    skipped = exchange.decision.skipped if exchange.decision is not None else ()
    story += [f"{skip.target} was skipped: {skip.why}" for skip in skipped if not skip.as_meant]
    if kept and all(isinstance(fault, ModelMissing | BadRequest) for fault in kept):
        model = exchange.request.model[:200] if exchange.request is not None else ""
        return ModelNotFound(
            f"The model `{model}` does not exist or you do not have access to it ({'; '.join(story)}).",
            param="model",
        )
    for kind in (RateLimited, Overloaded, TimedOut, ConnectFailed, UpstreamFault):
        telling = [fault for fault in kept if isinstance(fault, kind) and not isinstance(fault, ModelMissing)]
        if telling:
            waits = [fault.retry_after for fault in telling if fault.retry_after is not None]
            return type(telling[0])(
                f"No target could answer: {'; '.join(story)}.", retry_after=min(waits) if waits else None
            )
    return UpstreamFault(f"No target could answer: {'; '.join(story)}.")
