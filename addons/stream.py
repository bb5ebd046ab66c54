"""One call inside the failover layer (layer.py says what that is): its states, from the request to the last byte."""

from __future__ import annotations

import math
import time
from collections import deque
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

from addons.exchange import Attempt, Exchange, UpstreamCall
from addons.http1 import CallData, fault_response
from addons.state import State, new_call_id, new_request_id
from wire.answer import StreamedAnswer, WholeAnswer
from wire.errors import (
    BadRequest,
    ConnectFailed,
    Cut,
    Fault,
    Garbled,
    TimedOut,
    TooLarge,
    UpstreamFault,
    fault_frame,
    rejection,
)
from wire.openai import Delta, Finished, Reading, Reply, is_content
from wire.sse import comment

MAX_REJECTION = 64 * 1024
"""Bytes of an error body that are read; the rest says nothing new."""
MAX_DISCARDED = 256 * 1024 * 1024
"""Bytes of an unwanted request body that are read past, so that its sender gets to see the answer."""
MAX_KEPT = 1024 * 1024
"""Bytes of a streamed answer that are kept for whoever looks at the flow."""
TIME_TO_HEAR = 5.0
"""Seconds that a caller who was too slow has for taking note of it."""
WHILE_PAUSED = 0.05
"""Seconds between two looks at a stream that waits for a hook."""
OPENING_TOOK_TOO_LONG = "opening took too long"
"""What a GetHttpConnection is answered with when its time is up."""
SHOWN_EVERY = 1.0
"""Seconds between two looks at a growing answer, for mitmweb."""
WAITING = comment(b"waiting for the model")
_OF_UPSTREAM = (ResponseHeaders, ResponseData, ResponseEndOfMessage, ResponseProtocolError)


@dataclass
class AttemptFailedHook(commands.StartHook):
    """An attempt failed and the caller has seen nothing of it.

    The addon that answers leaves the next UpstreamCall in the flow's exchange, or sets flow.response.
    """

    flow: http.HTTPFlow


@dataclass
class AnswerGrowsHook(commands.StartHook):
    """There is more of a streamed answer to see. Nothing waits for it; a viewer redraws the flow after any hook."""

    flow: http.HTTPFlow
    blocking = False


@dataclass
class Tick(HttpEvent):
    """The clock was looked at."""


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


class GatewayStream(HttpStream):
    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id)
        self.state = state
        self.switchboard = switchboard
        self.exchange: Exchange | None = None
        self.connecting: GetHttpConnection | None = None
        """The command that waits for a connection, while one is being opened."""
        self.deadline = math.inf
        """When the present attempt counts as failed."""
        self._ends = math.inf
        """When the call as a whole has taken too long."""
        self._comment_at = math.inf
        """When the caller of a stream has heard nothing for long enough."""
        self._late = "did not begin to answer in time"
        self._body: list[bytes] = []
        self._body_size = 0
        self._connection: Connection | None = None
        self._reused = False
        self._reply: Reply | None = None
        self._rejection: list[bytes] = []
        self._rejection_size = 0
        self._rejected: http.Response | None = None
        self._held: list[Reading] = []
        self._headers_sent = False
        self._committed = False
        self._expects_continue = False
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._show_at = math.inf
        """When whoever looks at the flow should see what the answer has come to."""

    @property
    def paused(self) -> bool:
        return self._paused is not None

    @property
    def wake(self) -> float:
        """When the clock should be looked at next."""
        if self.connecting is not None:
            return self.deadline
        wake = min(self.deadline, self._ends, self._comment_at, self._show_at)
        return max(wake, self.state.clock() + WHILE_PAUSED) if self.paused else wake

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if type(event) is ResponseData:
            yield from self.server_state(event)
        elif isinstance(event, Tick):
            yield from self._tick()
        else:
            yield from super()._handle_event(event)

    # -- the request

    def state_wait_for_request_headers(self, event: RequestHeaders) -> CommandGenerator[None]:
        self._expects_continue = "expect" in event.request.headers
        yield from super().state_wait_for_request_headers(event)
        if self.client_state != self.state_consume_request_body:
            return
        self.exchange = self.state.exchanges.get(self.flow)
        if self.exchange is not None:
            self._set_ends(self.exchange.started + self.exchange.rules.defaults.timeouts.total)
        if self.flow.response is not None:
            yield from self._refuse_body()

    def _refuse_body(self) -> CommandGenerator[None]:
        """Answers before the body was read, and reads past the rest: a reset would take the answer with it."""
        self._body.clear()
        if self._expects_continue and not self.flow.request.is_http2 and self.flow.response is not None:
            # The body may never come, and then the next request would be taken for it.
            self.flow.response.headers["connection"] = "close"
        self.client_state = self.state_discard_request_body
        yield from self.send_response()

    def state_consume_request_body(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestData):
            self._body_size += len(event.data)
            limit = self.state.rules.defaults.limits.body
            if self._body_size > limit:
                exchange = self.exchange
                fault = TooLarge(f"The request body is larger than {limit.human_readable()}.")
                self.flow.response = fault_response(fault, exchange.request_id if exchange else "")
                if exchange is not None:
                    exchange.fault = fault
                yield from self._refuse_body()
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
                yield from self._first_attempt()

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

    # -- attempts

    def _first_attempt(self) -> CommandGenerator[None]:
        if self.exchange is None or self.exchange.upstream is None:
            yield from self._answer_with(Fault("The gateway has no decision for this call."))
            return
        if self.exchange.request is not None and self.exchange.request.stream:
            self._set_comment(self.state.clock())
        fault = yield from self._attempt(self.exchange, self.exchange.upstream)
        if fault is not None:
            yield from self._fail(fault)

    def _fail(self, fault: Fault) -> CommandGenerator[None]:
        """An attempt failed and the caller has seen nothing of it: the next one, until one holds or none is left."""
        exchange = self.exchange
        assert exchange is not None
        failed: Fault | None = fault
        while failed is not None:
            failed.message = self.state.clean(failed.message)  # an upstream may quote the key that we sent
            exchange.attempts[-1].fault = failed
            yield from self._let_go()
            exchange.upstream = None
            response = self.flow.response  # there is one already where headers went out early
            yield AttemptFailedHook(self.flow)
            if self._client_gone() or (yield from self.check_killed(True)):
                return
            call = exchange.upstream
            if self.flow.response is not response or call is None:
                yield from self._answer_with(exchange.fault or failed)
                return
            if self.state.clock() >= self._comment_at:
                yield from self._say_waiting(exchange)
            failed = yield from self._attempt(exchange, call)

    def _attempt(self, exchange: Exchange, call: UpstreamCall) -> CommandGenerator[Fault | None]:
        """Connects and sends; returns what went wrong with that, or None. The reply comes as events."""
        timeouts = exchange.rules.defaults.timeouts
        now = self.state.clock()
        exchange.attempts.append(Attempt(call.target, now))
        exchange.answer = self._new_answer(exchange, call)
        exchange.first_token = None
        self._held, self._reply, self._rejected = [], None, None
        self._rejection, self._rejection_size = [], 0
        self.connecting = GetHttpConnection((call.host, call.port), call.tls, None)
        self._set_deadline(min(now + timeouts.connect, self._ends), "did not take the connection in time")
        connection, err = yield self.connecting
        self.connecting = None
        if self._client_gone():
            return None
        if err == OPENING_TOOK_TOO_LONG:
            return self._out_of_time(exchange) if self.state.clock() >= self._ends else TimedOut(self._late)
        if err is not None or not connection.connected:
            return ConnectFailed("could not be reached")
        self._connection = self.context.server = self.flow.server_conn = connection
        self._reused = self.switchboard.take(connection)
        self._set_deadline(self.state.clock() + timeouts.first_token, "did not begin to answer in time")
        self.server_state = self.state_wait_for_response_headers
        yield SendHttp(CallData(self.stream_id, self._head(call), call.body), connection)
        return None

    def _new_answer(self, exchange: Exchange, call: UpstreamCall) -> StreamedAnswer | WholeAnswer:
        assert exchange.request is not None
        if not exchange.request.stream:
            return WholeAnswer(call_id=new_call_id(), created=exchange.created, model=call.target.model)
        return StreamedAnswer(
            call_id=new_call_id(),
            created=exchange.created,
            model=call.target.model,
            include_usage=exchange.request.include_usage,
        )

    @staticmethod
    def _head(call: UpstreamCall) -> bytes:
        """Written from nothing, so that nothing of the caller's can leak; the only place where the key is seen."""
        host = f"[{call.host}]" if ":" in call.host else call.host
        authority = host if call.port == (443 if call.tls else 80) else f"{host}:{call.port}"
        authorization = f"authorization: Bearer {call.target.key}\r\n" if call.target.key else ""
        return (
            f"POST {call.path} HTTP/1.1\r\n"
            f"host: {authority}\r\n"
            "content-type: application/json\r\n"
            f"accept: {call.accept}\r\n"
            "accept-encoding: identity\r\n"
            "user-agent: unigate\r\n"
            f"{authorization}"
            f"content-length: {len(call.body)}\r\n\r\n"
        ).encode()

    def _let_go(self) -> CommandGenerator[None]:
        """Gives up the upstream connection in the middle of its reply."""
        connection, self._connection = self._connection, None
        self._set_deadline(math.inf, self._late)
        if connection is not None:
            yield from self.switchboard.retire(connection)
            # What it said while we waited for something would be taken for the words of the next one.
            kept = [event for event in self._paused_event_queue if not isinstance(event, _OF_UPSTREAM)]
            self._paused_event_queue = deque(kept)

    # -- the reply

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        assert exchange.upstream is not None
        response = event.response
        if response.status_code != 200:
            self._rejected = response
            self.server_state = self.state_read_rejection
        elif response.headers.get("content-encoding", "identity").lower() != "identity":
            yield from self._fail(Garbled("compressed its reply although it was asked not to"))
        else:
            self._reply = exchange.upstream.read(response.headers.get("content-type", ""))
            self.server_state = self.state_read_reply

    def state_read_rejection(self, event: events.Event) -> CommandGenerator[None]:
        assert self._rejected is not None
        if isinstance(event, ResponseData):
            self._rejection.append(event.data)
            self._rejection_size += len(event.data)
        if isinstance(event, ResponseEndOfMessage) or self._rejection_size > MAX_REJECTION:
            whole = isinstance(event, ResponseEndOfMessage)
            if whole:
                self._connection = None  # read to its end: it may serve again
            body = b"".join(self._rejection)[:MAX_REJECTION]
            yield from self._fail(
                rejection(self._rejected.status_code, body, self._rejected.headers.get("retry-after"))
            )

    def state_read_reply(self, event: events.Event) -> CommandGenerator[None]:
        assert self._reply is not None
        if isinstance(event, ResponseData):
            readings = self._reply.feed(event.data)
        elif isinstance(event, ResponseEndOfMessage):
            self._connection = None
            readings = self._reply.close()
        else:
            return
        if readings:
            yield from self._take(readings)

    def _take(self, readings: list[Reading]) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        assert exchange.answer is not None
        if self._committed:
            yield from self._write(exchange, readings)
            return
        fault = _fault_in(readings)
        if fault is not None:
            yield from self._fail(fault)
            return
        now = self.state.clock()
        if exchange.first_token is None and any(is_content(reading) for reading in readings):
            exchange.first_token = now
        if isinstance(exchange.answer, WholeAnswer):
            data = exchange.answer.write(readings)
            if exchange.first_token is not None:
                self._set_deadline(
                    now + exchange.rules.defaults.timeouts.idle, "fell silent in the middle of its answer"
                )
            if exchange.answer.done:
                yield from self._send_whole(exchange, data)
            return
        self._held += readings
        if any(is_content(reading) or isinstance(reading, Finished) for reading in self._held):
            held, self._held = self._held, []
            self._committed = True
            yield from self._send_headers(exchange.headers())
            yield from self._write(exchange, held)
            self._see_to_alarm()  # the deadline came nearer: from the first word on it is about silence

    def _send_whole(self, exchange: Exchange, data: bytes) -> CommandGenerator[None]:
        yield from self._leave_upstream()
        headers = {"content-type": WholeAnswer.content_type} | exchange.headers()
        self.flow.response = http.Response.make(200, data, headers)
        yield from self.send_response()

    def _say_waiting(self, exchange: Exchange) -> CommandGenerator[None]:
        """Headers that go out early cannot name the target: who answers is not known yet."""
        if not self._headers_sent:
            unknown = ("x-gateway-target", "x-gateway-dropped")
            yield from self._send_headers({k: v for k, v in exchange.headers().items() if k not in unknown})
        yield from self._send(WAITING)

    def _send_headers(self, said: dict[str, str]) -> CommandGenerator[None]:
        if self._headers_sent:
            return
        self._headers_sent = True
        headers = {
            "content-type": StreamedAnswer.content_type,
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
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=False), self.context.client)

    def _write(self, exchange: Exchange, readings: list[Reading]) -> CommandGenerator[None]:
        """The hot path: readings of a stream that has begun."""
        answer = exchange.answer
        assert isinstance(answer, StreamedAnswer)
        fault = None if isinstance(readings[-1], Delta) else _fault_in(readings)
        if isinstance(fault, UpstreamFault):
            exchange.attempts[-1].fault = fault
            fault = type(fault)(f"{exchange.attempts[-1].target.name} {fault.message}")  # the caller is told who
            readings = [*(reading for reading in readings if not isinstance(reading, Fault)), fault]
        if fault is not None:
            fault.message = self.state.clean(fault.message)
        data = answer.write(readings)
        if data:
            yield from self._send(data)
        if not answer.done:
            # The deadline only moves away: the alarm that is set comes early and looks again.
            self.deadline = self.state.clock() + exchange.rules.defaults.timeouts.idle
            self._late = "fell silent in the middle of its answer"
            return
        if fault is not None:
            exchange.attempts[-1].fault = exchange.attempts[-1].fault or fault
            exchange.fault = fault
            yield from self._let_go()
        yield from self._leave_upstream()
        yield from self._end_stream()

    def _send(self, data: bytes) -> CommandGenerator[None]:
        if self.state.keep_bodies and self._kept_size < MAX_KEPT:
            self._kept.append(data)
            self._kept_size += len(data)
            if self._show_at == math.inf:
                self._show_at = self.state.clock() + SHOWN_EVERY
                self._see_to_alarm()
        self._set_comment(self.state.clock())
        yield SendHttp(ResponseData(self.stream_id, data), self.context.client)

    def _leave_upstream(self) -> CommandGenerator[None]:
        """The answer is complete. What the upstream may still send is its connection's own business."""
        if self._connection is not None:
            self.switchboard.leave(self._connection)
        self._connection = None
        self._set_deadline(math.inf, self._late)
        self._ends = self._comment_at = self._show_at = math.inf
        self.server_state = self.state_done
        yield from ()

    def _end_stream(self) -> CommandGenerator[None]:
        assert self.flow.response is not None
        self.flow.response.timestamp_end = time.time()
        if self._kept:
            self.flow.response.data.content = b"".join(self._kept)
            self._kept.clear()
        yield HttpResponseHook(self.flow)
        if (yield from self.check_killed(False)):
            return
        yield from self.flow_done()

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
        self.context.layers.clear()
        self.client_state = self.server_state = _over

    def state_done(self, _event: events.Event) -> CommandGenerator[None]:
        """The upstream's end of message may come after the answer's: nothing waits for it."""
        yield from ()

    # -- endings other than good ones

    def _answer_with(self, fault: Fault) -> CommandGenerator[None]:
        """The final fault: as a response, or, where headers are already out, as the stream's last words."""
        yield from self._leave_upstream()
        exchange = self.exchange
        if self._headers_sent:
            if exchange is not None:
                exchange.fault = exchange.fault or fault
            yield from self._send(fault_frame(fault))
            yield from self._end_stream()
            return
        if self.flow.response is None:
            if exchange is not None:
                exchange.fault = exchange.fault or fault
            extra = exchange.headers() if exchange is not None else {}
            self.flow.response = fault_response(fault, exchange.request_id if exchange else "", extra)
        yield from self.send_response()

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> CommandGenerator[None]:
        if isinstance(event, RequestProtocolError):
            yield from self._caller_left(event.message)
        elif self._connection is not None:
            yield from self._upstream_broke(event.message)

    def _caller_left(self, message: str) -> CommandGenerator[None]:
        yield from self._let_go()
        over = self.server_state == self.state_done or self.client_state == self.state_errored
        self.client_state = self.server_state = self.state_errored
        self._ends = self._comment_at = self._show_at = math.inf
        if not over:
            self.flow.error = mitmproxy_flow.Error(message)
            yield HttpErrorHook(self.flow)
        self.flow.live = False
        yield from self._drop()

    def _upstream_broke(self, message: str) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        fresh_try = self._reused and self._reply is None and self._rejected is None
        if fresh_try and exchange.upstream is not None:
            # The server closed an idle connection just as we used it: it has not seen the call.
            yield from self._let_go()
            exchange.attempts.pop()
            fault = yield from self._attempt(exchange, exchange.upstream)
            if fault is not None:
                yield from self._fail(fault)
            return
        yield from self._attempt_ended(Cut(message))

    def _attempt_ended(self, fault: UpstreamFault) -> CommandGenerator[None]:
        """A failure that did not come out of the reply itself."""
        if self._committed:
            assert self.exchange is not None
            yield from self._write(self.exchange, [fault])
            return
        if self._rejected is not None:
            # Its status says more than that its error page broke off.
            retry_after = self._rejected.headers.get("retry-after")
            known = rejection(self._rejected.status_code, b"".join(self._rejection), retry_after)
            fault = known if isinstance(known, UpstreamFault) else fault
        yield from self._fail(fault)

    # -- time

    def _set_deadline(self, at: float, late: str) -> None:
        self.deadline = at
        self._late = late
        self._see_to_alarm()

    def _set_ends(self, at: float) -> None:
        self._ends = at
        self._see_to_alarm()

    def _set_comment(self, now: float) -> None:
        if self.exchange is not None:
            self._comment_at = now + self.exchange.rules.defaults.timeouts.keep_alive
            self.switchboard.earliest = min(self.switchboard.earliest, self._comment_at)

    def _see_to_alarm(self) -> None:
        self.switchboard.earliest = min(self.switchboard.earliest, self.wake)

    def _tick(self) -> CommandGenerator[None]:
        now = self.state.clock()
        exchange = self.exchange
        if exchange is not None and self.client_state != self.state_done and now >= self._ends:
            yield from self._request_is_late()
            return
        if exchange is None or exchange.ended or exchange.upstream is None:
            return
        if self.flow.error is not None and self.flow.error.msg == mitmproxy_flow.Error.KILLED_MESSAGE:
            yield from self._let_go()
            yield from self.check_killed(True)
        elif now >= self._ends:
            yield from self._attempt_ended(self._out_of_time(exchange))
        elif now >= self.deadline:
            yield from self._attempt_ended(TimedOut(self._late))
        elif now >= self._comment_at:
            yield from self._say_waiting(exchange)
        elif now >= self._show_at:
            self._show_at = math.inf
            if self.flow.response is not None:
                self.flow.response.data.content = b"".join(self._kept)
                yield AnswerGrowsHook(self.flow)

    def _out_of_time(self, exchange: Exchange) -> TimedOut:
        """The fault of a call that took too long as a whole: nobody else is asked."""
        exchange.waiting.clear()
        self._ends = math.inf
        return TimedOut("took longer than the whole call may take")

    def _client_gone(self) -> bool:
        """True where the caller left while we were waiting for something: its leaving is the next event."""
        return any(isinstance(event, RequestProtocolError) for event in self._paused_event_queue)


def _fault_in(readings: list[Reading]) -> Fault | None:
    """The fault that ends these readings, if one does: what comes after the end of an answer is not part of it."""
    for reading in readings:
        if isinstance(reading, Fault):
            return reading
        if isinstance(reading, Finished):
            return None
    return None


def _over(_event: events.Event) -> CommandGenerator[None]:
    """The state of a call that has ended: nothing that still comes matters."""
    yield from ()
