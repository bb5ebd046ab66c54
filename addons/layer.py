"""The failover layer: mitmproxy's HTTP layer with upstreams that can be changed while the caller waits.

Plain hooks cannot do it: they reach no second upstream on a flow, stream no answer of their own and see no timeout. So
HttpLayer and HttpStream are subclassed, and addons/failover.py puts them in place of the stock ones.

One call: the `request` hook leaves an UpstreamCall in the exchange; the stream opens a connection, sends it and reads
the reply. Until the *commit* (the first content of a stream, the end of a whole reply) any failure is invisible to the
caller: the hook `attempt_failed` names the next target, a pause or the final fault. After it the next target goes on
with the same stream from what the caller has; where that cannot be, the stream ends in an error frame.

What went wrong before, and is guarded here:
- Without an exchange and an UpstreamCall nothing is ever sent anywhere (fail closed).
- The upstream's key is added to a request of our own at the moment of sending; flow.request never holds it.
- A connection that is given up is forgotten first, or its last words and its closing reach the next attempt.
- A connection that could not be opened is forgotten, or every later request is answered from its remembered error.
- Empty data on a chunked reply would be written as the closing chunk: a truncated answer that looks complete.
- A wake-up cannot be cancelled and keeps what asked for it in memory: the layer asks, never a stream, one at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loguru import logger
from mitmproxy.connection import Connection, Server
from mitmproxy.proxy import commands, events, tunnel
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import (
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpLayer,
    HTTPMode,
    RegisterHttpConnection,
)
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestProtocolError

from addons.broken_tls import UpstreamTls
from addons.clock import ClockedStream, LastCall
from addons.http1 import CallerHttp1, UpstreamConnection
from addons.parts import FanOut, PartStream
from addons.sending import PieceTaken
from addons.state import State, new_request_id
from addons.stream import OPENING_TOOK_TOO_LONG, TLS_FAILED, GatewayStream, Tick

LONGEST_SLEEP = 5.0
"""Seconds between two wake-ups at the most: one that was asked for stays in memory until it comes."""
STOOD_STILL = 0.1
"""Seconds by which an alarm comes late where this whole process did, because the machine was busy or suspended."""
SECOND_LOOK = 0.05
"""Seconds until the clock is looked at again then: what servers said meanwhile is still unread, and was in time."""
TIME_TO_END = 1.0
"""Seconds between the last word of a reply and its end: a server that takes longer does not end it."""


class Nudge(events.Event):
    """Something that a call of this connection waits for is there."""


class ShutDown(events.Event):
    """The gateway is about to end: calls that are still under way are told so."""


@dataclass
class _Upstream:
    spec: tuple[tuple[str, int], bool]
    """((host, port), TLS)"""
    connection: UpstreamConnection
    taken: bool = False
    """It has served a call."""
    left: float = math.inf
    """When its last call had its answer; infinite while a call is using it."""


class GatewayLayer(HttpLayer):
    """One client connection: its streams, their upstream connections, and the clock that watches both."""

    def __init__(self, context: Context, mode: HTTPMode, state: State) -> None:
        super().__init__(context, mode)
        self.state = state
        self._upstreams: dict[Connection, _Upstream] = {}
        self._newborn: deque[PartStream] = deque()
        """Parts of a call that are still to begin."""
        self._part_id = 0
        self._wake_at = math.inf
        self._alarm: commands.RequestWakeup | None = None
        self._looks_twice = False
        """The alarm that is set is for a second look."""
        self.earliest = math.inf
        """The earliest deadline that a stream has set since the last look."""
        state.served.add(context.client)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if type(event) is events.DataReceived and event.connection in self.connections:
            yield from self.event_to_child(self.connections[event.connection], event)
        else:
            yield from self._rare_event(event)
        while self._newborn:
            stream = self._newborn.popleft()
            yield from self.event_to_child(stream, Tick(stream.stream_id))
        if self.earliest < self._wake_at:
            yield from self._set_alarm()

    def _rare_event(self, event: events.Event) -> CommandGenerator[None]:
        """Everything but data."""
        match event:
            case events.Start():
                if self.context.client.alpn not in (b"h2", b"h3"):
                    limit = self.state.rules.defaults.limits.headers
                    self.connections[self.context.client] = CallerHttp1(self.context.fork(), limit, new_request_id)
                yield from super()._handle_event(event)
            case events.Wakeup() if event.command is self._alarm:
                yield from self._alarm_rings()
            case Nudge():
                yield from self._look_at_the_clock()
            case PieceTaken():
                sender = self.streams.get(event.stream_id)
                if sender is not None:
                    yield from self.event_to_child(sender, event)
            case ShutDown():
                for stream in [*self.streams.values()]:
                    if isinstance(stream, GatewayStream):
                        yield from self.event_to_child(stream, LastCall(stream.stream_id))
                        if stream.connecting is not None:
                            yield from self.give_up_opening(stream.connecting)
            case events.ConnectionClosed() if event.connection is self.context.client:
                yield from self._caller_left(event)
            case events.ConnectionEvent() if event.connection not in self.connections:
                pass  # the last words of a connection that we have let go
            case events.CommandCompleted() if event.command not in self.command_sources:
                pass  # asked for by a connection that we have let go
            case _:
                yield from super()._handle_event(event)
                if isinstance(event, events.ConnectionClosed) and event.connection in self._upstreams:
                    self._forget(event.connection)

    # -- streams and the clock

    def make_stream(self, stream_id: int) -> CommandGenerator[None]:
        self.streams[stream_id] = GatewayStream(self.context.fork(), stream_id, self.state, self)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def fan_out(self, stream: ClockedStream) -> FanOut:
        """The parts of a call that is asked in parts."""
        assert isinstance(stream, GatewayStream)
        return FanOut(stream, self._adopt)

    def _adopt(self, make: Callable[[Context, int], PartStream]) -> PartStream:
        self._part_id -= 1  # the caller's streams count up
        stream = make(self.context.fork(), self._part_id)
        self.streams[self._part_id] = stream
        self._newborn.append(stream)
        return stream

    def _alarm_rings(self) -> CommandGenerator[None]:
        now = self.state.clock()
        stood_still = now - self._wake_at > STOOD_STILL
        self._alarm, self._wake_at = None, math.inf
        if stood_still and not self._looks_twice:
            self._looks_twice = True
            self.earliest = now + SECOND_LOOK
            return
        self._looks_twice = False  # a gateway that is always late still has to end what is late
        yield from self._look_at_the_clock()

    def _look_at_the_clock(self) -> CommandGenerator[None]:
        now = self.state.clock()
        for stream in [*self.streams.values()]:
            assert isinstance(stream, GatewayStream)
            if stream.connecting is not None:
                if now >= stream.deadline or stream.is_doomed:
                    yield from self.give_up_opening(stream.connecting)
            elif not stream.paused:
                yield from self.event_to_child(stream, Tick(stream.stream_id))
        self.earliest = min(
            (stream.wake for stream in self.streams.values() if isinstance(stream, GatewayStream)),
            default=math.inf,
        )

    def _give_up_doomed(self) -> CommandGenerator[None]:
        """The caller's connection is gone, and with it every wake-up: what still opens a connection for it must not
        wait for the next one."""
        for stream in [*self.streams.values()]:
            if isinstance(stream, GatewayStream) and stream.connecting is not None and stream.is_doomed:
                yield from self.give_up_opening(stream.connecting)

    def _caller_left(self, event: events.ConnectionClosed) -> CommandGenerator[None]:
        """Whatever fails between them and their caller, no call outlives its connection."""
        try:
            yield from super()._handle_event(event)
        except Exception:
            logger.opt(exception=True).error("the end of a connection was not understood: its calls are ended")
            yield commands.CloseConnection(self.context.client)
        for number, stream in [*self.streams.items()]:
            # Parts hear of it from the call that they are parts of.
            if number > 0 and isinstance(stream, GatewayStream) and not stream.is_doomed:
                left = RequestProtocolError(number, "the client disconnected", ErrorCode.CLIENT_DISCONNECTED)
                yield from self.event_to_child(stream, left)
        yield from self._give_up_doomed()

    def _set_alarm(self) -> CommandGenerator[None]:
        now = self.state.clock()
        # What the alarm is for, not when it comes: an alarm that is due must not be replaced by the next event's.
        self._wake_at = min(self.earliest, now + LONGEST_SLEEP)
        self._alarm = commands.RequestWakeup(max(self._wake_at - now, 0.001))
        yield self._alarm

    # -- upstream connections

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> CommandGenerator[None]:
        """An idle connection to the same place, or a new one. Never one that another call is using."""
        spec = (event.address, event.tls)
        yield from self._retire_left_behind()
        for connection, upstream in self._upstreams.items():
            if upstream.spec == spec and connection.connected and upstream.connection.idle:
                yield from self._complete(event, connection, None)
                return
        context = self.context.fork()
        context.server = Server(address=event.address)
        self.state.dialled.add(context.server)
        stack = tunnel.LayerStack()
        if event.tls:
            context.server.sni = event.address[0]
            context.server.alpn_offers = [b"http/1.1"]
            stack /= UpstreamTls(context)
        opener = UpstreamConnection(context)
        stack /= opener
        self._upstreams[context.server] = _Upstream(spec, opener)
        self.connections[context.server] = stack[0]
        self.waiting_for_establishment[context.server].append(event)
        yield from self.event_to_child(stack[0], events.Start())

    def register_connection(self, command: RegisterHttpConnection) -> CommandGenerator[None]:
        err = command.err
        if err:
            self._forget(command.connection)
            if isinstance(command.connection, Server) and command.connection.timestamp_tcp_setup is not None:
                err = TLS_FAILED  # the other side took the connection, and then it was not opened
        for waiting in self.waiting_for_establishment.pop(command.connection, []):
            yield from self._complete(waiting, command.connection, err)

    def _complete(self, command: GetHttpConnection, connection: Connection, err: str | None) -> CommandGenerator[None]:
        stream = self.command_sources.pop(command)
        reply = (None, err) if err else (connection, None)
        yield from self.event_to_child(stream, GetHttpConnectionCompleted(command, reply))

    def give_up_opening(self, command: GetHttpConnection) -> CommandGenerator[None]:
        """The other side did not take the connection in time."""
        for connection, waiting in [*self.waiting_for_establishment.items()]:
            # Two calls to one address wait with commands that are equal.
            if any(one is command for one in waiting):
                del self.waiting_for_establishment[connection]
                yield from self.retire(connection)
                yield from self._complete(command, connection, OPENING_TOOK_TOO_LONG)

    def retire(self, connection: Connection) -> CommandGenerator[None]:
        """Closes a connection whose reply nobody wants any more."""
        upstream = self._upstreams.get(connection)
        if upstream is not None:
            upstream.connection.retire()
            self._forget(connection)
            yield commands.CloseConnection(connection)

    def take(self, connection: Connection) -> bool:
        """Says that a call begins on a connection; True where it has served another one before."""
        upstream = self._upstreams[connection]
        before, upstream.taken, upstream.left = upstream.taken, True, math.inf
        return before

    def leave(self, connection: Connection) -> None:
        """Says that a call has its answer, though the reply may not have ended yet."""
        if connection in self._upstreams:
            self._upstreams[connection].left = self.state.clock()

    def caller_is_behind(self) -> bool:
        """True while the caller has not taken what it was sent."""
        return self.state.is_behind(self.context.client)

    def _retire_left_behind(self) -> CommandGenerator[None]:
        """Servers that never end a reply after its last word would gather connections, one per call."""
        past = self.state.clock() - TIME_TO_END
        for connection, upstream in [*self._upstreams.items()]:
            if upstream.left < past and not upstream.connection.idle:
                yield from self.retire(connection)

    def _forget(self, connection: Connection) -> None:
        self._upstreams.pop(connection, None)
        self.connections.pop(connection, None)
