"""The caller's side of one call: its request is read within limits, its answer is written, and it is let go in the end.

What happens between the two, the attempts at upstreams, is stream.py's. The trap: a caller that is answered while it is
still sending may never see the answer, because closing on unread data resets the connection. So what comes is read
past, up to a bound in bytes and in time.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, GetHttpConnection, HttpStream, SendHttp, validate_request
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)

from addons.exchange import Exchange
from addons.http1 import fault_response
from addons.state import State, new_request_id
from wire.answer import Streamed
from wire.errors import BadRequest, Fault, TooLarge
from wire.sse import comment

MAX_DISCARDED = 256 * 1024 * 1024
"""Bytes of an unwanted request body that are read past, so that its sender gets to see the answer."""
MAX_KEPT = 1024 * 1024
"""Bytes of a streamed answer that are kept for whoever looks at the flow."""
TIME_TO_SEND_ON = 30.0
"""Seconds in which a caller who has its answer already may go on sending its request."""
TIME_TO_HEAR = 5.0
"""Seconds that a caller who was too slow has for taking note of it."""
WHILE_CONNECTING = 0.5
"""Seconds between two looks at a stream that waits for a connection: its caller may have left meanwhile."""
WHILE_PAUSED = 0.05
"""Seconds between two looks at a stream that waits for a hook."""
SHOWN_EVERY = 1.0
"""Seconds between two looks at a growing answer, for mitmweb."""
WAITING = comment(b"waiting for the model")


@dataclass
class AnswerGrowsHook(commands.StartHook):
    """There is more of a streamed answer to see. Nothing waits for it; a viewer redraws the flow after any hook."""

    flow: http.HTTPFlow
    blocking = False


@dataclass
class LastCall(HttpEvent):
    """The gateway is about to end."""


class Fan(Protocol):
    """The parts of a call (parts.py)."""

    def begin(self) -> None:
        """Asks for the first of them."""
        ...

    def cancel(self) -> CommandGenerator[None]:
        """Gives all of them up."""
        ...


class Switchboard(Protocol):
    """What a stream needs of its layer."""

    earliest: float

    def retire(self, connection: Connection) -> CommandGenerator[None]:
        """Closes a connection whose reply nobody wants any more."""
        ...

    def take(self, connection: Connection) -> bool:
        """Says that a call begins on a connection; True where it has served another one before."""
        ...

    def leave(self, connection: Connection) -> None:
        """Says that a call has its answer, though the reply may not have ended yet."""
        ...

    def give_up_opening(self, command: GetHttpConnection) -> CommandGenerator[None]:
        """Ends the waiting for a connection."""
        ...

    def fan_out(self, stream: CallerStream) -> Fan:
        """The parts of a call that is asked in parts."""
        ...

    def caller_is_behind(self) -> bool:
        """True while the caller has not taken what it was sent: then we do not read from its upstream either."""
        ...


class CallerStream(HttpStream):
    _fan: Fan | None = None
    """Where the call is asked in parts: those."""

    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id)
        self.state = state
        self.switchboard = switchboard
        self.exchange: Exchange | None = None
        self.connecting: GetHttpConnection | None = None
        """The command that waits for a connection, while one is being opened."""
        self.deadline = math.inf
        """When the present attempt counts as failed."""
        self._late = ""
        """What it did wrong then."""
        self._ends = math.inf
        """When the call as a whole has taken too long."""
        self._comment_at = math.inf
        """When the caller of a stream has heard nothing for long enough."""
        self._show_at = math.inf
        """When whoever looks at the flow should see what the answer has come to."""
        self._body: list[bytes] = []
        self._body_size = 0
        self._expects_continue = False
        self._headers_sent = False
        self.headers_out = False
        """Not only decided on: they are on their way, so data may follow."""
        self.ahead: list[bytes] = []
        """Data that came while a hook still held the headers back."""
        self.ends_after_headers = False
        """The end came as well."""
        self._kept: list[bytes] = []
        self._kept_size = 0

    @property
    def paused(self) -> bool:
        return self._paused is not None

    @property
    def flow_is_over(self) -> bool:
        return self.server_state is _over

    @property
    def wake(self) -> float:
        """When the clock should be looked at next."""
        if self.connecting is not None:
            return min(self.deadline, self.state.clock() + WHILE_CONNECTING)
        wake = min(self.deadline, self._ends, self._comment_at, self._show_at)
        if self.exchange is not None and self.exchange.pause is not None and self.exchange.pause.over:
            wake = self.state.clock()  # it was told while it waited for a hook
        return max(wake, self.state.clock() + WHILE_PAUSED) if self.paused else wake

    @abstractmethod
    def first_attempt(self) -> CommandGenerator[None]:
        """The request is complete and nobody has answered it yet."""

    # -- the request

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        self._expects_continue = "expect" in event.request.headers
        yield from super().state_wait_for_request_headers(event)
        if self.client_state != self.state_consume_request_body:
            return
        self.exchange = self.state.exchanges.get(self.flow)
        if self.exchange is not None:
            self._set_ends(self.exchange.ends)
        if self.flow.response is not None:
            yield from self._refuse_body()

    def _refuse_body(self) -> CommandGenerator[None]:
        """Answers before the body was read, and reads past the rest: a reset would take the answer with it."""
        self._body.clear()
        if self._expects_continue and not self.flow.request.is_http2 and self.flow.response is not None:
            # The body may never come, and then the next request would be taken for it.
            self.flow.response.headers["connection"] = "close"
        self.client_state = self.state_discard_request_body
        self._set_ends(self.state.clock() + TIME_TO_SEND_ON)
        yield from self.send_response()

    def state_consume_request_body(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestData):
            self._body_size += len(event.data)
            limit = self.state.rules.defaults.limits.body
            if self._body_size > limit:
                yield from self._refuse_with(TooLarge(f"The request body is larger than {limit.human_readable()}."))
            elif self.exchange is not None and self.exchange.spool is not None:
                try:
                    self.exchange.spool.add(event.data)
                except Fault as fault:
                    yield from self._refuse_with(fault)
            else:
                self._body.append(event.data)
        elif isinstance(event, RequestEndOfMessage):
            self.flow.request.timestamp_end = time.time()
            self.flow.request.data.content = b"".join(self._body)
            self._body.clear()
            self.client_state = self.state_done
            yield HttpRequestHook(self.flow)
            if (yield from self.check_killed(True)):
                return
            if self.flow.response is not None:
                yield from self.send_response()
            else:
                yield from self.first_attempt()

    def _refuse_with(self, fault: Fault) -> CommandGenerator[None]:
        """Answers in the middle of the body."""
        exchange = self.exchange
        self.flow.response = fault_response(fault, exchange.request_id if exchange else "")
        if exchange is not None:
            exchange.fault = fault
        yield from self._refuse_body()

    def state_discard_request_body(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestData):
            self._body_size += len(event.data)
            if self._body_size > MAX_DISCARDED:
                yield from self._turn_away()
        elif isinstance(event, RequestEndOfMessage):
            self.client_state = self.state_done
            if self.server_state == self.state_done:
                yield from self.flow_done()

    def _request_is_late(self) -> CommandGenerator[None]:
        """The whole time of a call is over, and its request is still not here."""
        if self.client_state == self.state_discard_request_body:
            yield from self._turn_away()
            return
        exchange = self.exchange
        assert exchange is not None
        exchange.fault = BadRequest("The request did not arrive in time: its body is not complete.")
        self.flow.response = fault_response(exchange.fault, exchange.request_id)
        self._set_ends(self.state.clock() + TIME_TO_HEAR)
        yield from self._refuse_body()

    def _turn_away(self) -> CommandGenerator[None]:
        """Ends a call whose caller has its answer and does not stop sending."""
        self._ends = math.inf
        self.client_state = self.server_state = self.state_errored
        self.flow.live = False
        yield SendHttp(
            ResponseProtocolError(self.stream_id, "the request goes on and on", ErrorCode.KILL), self.context.client
        )
        yield from self._drop()

    def check_invalid(self, request: bool) -> CommandGenerator[bool]:
        """The stock answer quotes the header in question, which may hold a key, and goes to the log as well."""
        if not request or not validate_request(self.mode, self.flow.request, validate_inbound_headers=True):
            return False
        fault = BadRequest("The request is not valid HTTP: its method, its length or a header's name is not allowed.")
        self.flow.error = mitmproxy_flow.Error(fault.message)
        yield HttpRequestHeadersHook(self.flow)
        yield HttpErrorHook(self.flow)
        if self.flow.request.is_http2:
            response = fault_response(fault, new_request_id())
            yield SendHttp(ResponseHeaders(self.stream_id, response), self.context.client)
            yield SendHttp(ResponseData(self.stream_id, response.raw_content or b""), self.context.client)
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        else:
            error = ResponseProtocolError(self.stream_id, fault.message, ErrorCode.REQUEST_VALIDATION_FAILED)
            yield SendHttp(error, self.context.client)
        self.client_state = self.server_state = self.state_errored
        self.flow.live = False
        yield from self._drop()
        return True

    # -- the answer

    def send_whole(self, exchange: Exchange, data: bytes) -> CommandGenerator[None]:
        assert exchange.answer is not None
        said = {"content-type": exchange.answer.content_type} | exchange.headers()
        fields = [(name.encode(), value.encode()) for name, value in said.items()]
        fields.append((b"content-length", b"%d" % len(data)))
        now = time.time()
        # What Response.make() does, less its conversions.
        self.flow.response = http.Response(
            b"HTTP/1.1", 200, b"OK", http.Headers(fields), data, None, timestamp_start=now, timestamp_end=now
        )
        yield from self.send_response()

    def _say_waiting(self, exchange: Exchange) -> CommandGenerator[None]:
        """Headers that go out early cannot name the target: who answers is not known yet."""
        if not self._headers_sent:
            unknown = ("x-gateway-target", "x-gateway-dropped")
            yield from self.send_headers({k: v for k, v in exchange.headers().items() if k not in unknown})
        if self.flow_is_over or self.server_state == self.state_done:
            return  # while a hook held the headers back, the parts of the call have come to its end
        if self.headers_out:
            yield from self.send(WAITING)
        else:  # a part of the call has begun to speak, and a hook holds its headers back
            self._set_comment(self.state.clock())

    def _content_type(self) -> str:
        answer = self.exchange.answer if self.exchange is not None else None
        return answer.content_type if answer is not None else Streamed.content_type

    def send_headers(self, said: dict[str, str]) -> CommandGenerator[None]:
        if self._headers_sent:
            return
        self._headers_sent = True
        headers = {
            "content-type": self._content_type(),
            "cache-control": "no-cache",
        } | said
        version = self.flow.request.http_version
        if version == "HTTP/1.1":
            headers["transfer-encoding"] = "chunked"
        elif version == "HTTP/1.0":
            headers["connection"] = "close"
        response = http.Response.make(200, b"", headers)
        response.headers.pop("content-length", None)
        response.timestamp_start = time.time()
        response.data.content = None
        self.flow.response = response
        yield HttpResponseHeadersHook(self.flow)
        if self.flow_is_over:
            return
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)
        self.headers_out = True
        ahead, self.ahead = self.ahead, []
        for data in ahead:
            yield from self.send(data)
        if self.ends_after_headers:
            yield from self.end_stream()

    def send(self, data: bytes) -> CommandGenerator[None]:
        if self.state.keep_bodies and self._kept_size < MAX_KEPT and self._is_shown():
            self._kept.append(data)
            self._kept_size += len(data)
            if self._show_at == math.inf:
                self._show_at = self.state.clock() + SHOWN_EVERY
                self._see_to_alarm()
        self._set_comment(self.state.clock())
        yield SendHttp(ResponseData(self.stream_id, data), self.context.client)

    def _is_binary(self) -> bool:
        """Whether nothing but the answer may be in the answer."""
        exchange = self.exchange
        if exchange is None or exchange.request is None:
            return False
        return exchange.request.binary or (exchange.answer is not None and exchange.answer.binary)

    def _is_shown(self) -> bool:
        answer = self.exchange.answer if self.exchange is not None else None
        return answer is None or answer.shown

    def _show(self) -> CommandGenerator[None]:
        """Lets whoever looks at the flow see what the answer has come to."""
        self._show_at = math.inf
        if self.flow.response is not None:
            self.flow.response.data.content = b"".join(self._kept)
            yield AnswerGrowsHook(self.flow)

    def end_stream(self) -> CommandGenerator[None]:
        assert self.flow.response is not None
        self.flow.response.timestamp_end = time.time()
        if self._kept:
            self.flow.response.data.content = b"".join(self._kept)
            self._kept.clear()
        elif not self._is_shown():
            self.flow.response.data.content = b""  # mitmweb's page fails over None
        yield HttpResponseHook(self.flow)
        if (yield from self.check_killed(False)):
            return
        yield from self.flow_done()

    # -- the end

    def flow_done(self) -> CommandGenerator[None]:
        yield from super().flow_done()
        self._break_circles()

    def _drop(self) -> CommandGenerator[None]:
        """The end of a call that did not get to the end of its answer."""
        yield DropStream(self.stream_id)
        self._break_circles()

    def _break_circles(self) -> None:
        """A layer stands in its own context, and a state is a method of its own object.

        Left like that, a call and its megabytes stay until the garbage collector comes by, which under load is late.
        """
        if self.exchange is not None:
            self.state.let_go(self.exchange)  # whatever way led here, no place is held any more
            self.state.limiter.forget(self.exchange)
        self._fan = None
        if self.flow.response is not None and self.flow.response.status_code == 200 and not self._is_shown():
            self.flow.response.data.content = b""  # sent: whoever keeps the flow need not keep megabytes
        self.context.layers.clear()
        self.client_state = self.server_state = _over

    def state_done(self, _event: events.Event) -> CommandGenerator[None]:
        """The upstream's end of message may come after the answer's: nothing waits for it."""
        yield from ()

    @property
    def is_doomed(self) -> bool:
        """True where what ends the call came while we were waiting for something: it is the next event."""
        return any(isinstance(event, RequestProtocolError | LastCall) for event in self._paused_event_queue)

    # -- time

    def _set_deadline(self, at: float, late: str) -> None:
        self.deadline = at
        self._late = late
        self._see_to_alarm()

    def _set_ends(self, at: float) -> None:
        self._ends = at
        self._see_to_alarm()

    def _set_comment(self, now: float) -> None:
        exchange = self.exchange
        if exchange is not None and not self._is_binary():
            self._comment_at = now + exchange.rules.defaults.timeouts.keep_alive
            self.switchboard.earliest = min(self.switchboard.earliest, self._comment_at)

    def _see_to_alarm(self) -> None:
        self.switchboard.earliest = min(self.switchboard.earliest, self.wake)


def _over(_event: events.Event) -> CommandGenerator[None]:
    """The state of a call that has ended: nothing that still comes matters."""
    yield from ()
