"""The upstreams' side of one call: attempts, one after the other, until one answers (layer.py says what that is).

The caller's side is caller.py's. A reply is read into values (wire/), held back until there is content, then written.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from loguru import logger
from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnection, SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook

from addons.caller import CallerStream, Switchboard
from addons.exchange import Attempt, Exchange, UpstreamCall
from addons.http1 import CallData, fault_response
from addons.state import State, new_call_id
from wire.answer import StreamedAnswer, WholeAnswer
from wire.errors import ConnectFailed, Cut, Fault, Garbled, TimedOut, UpstreamFault, fault_frame, rejection
from wire.openai import Delta, Finished, Reading, Reply, is_content

MAX_REJECTION = 64 * 1024
"""Bytes of an error body that are read; the rest says nothing new."""
OPENING_TOOK_TOO_LONG = "opening took too long"
"""What a GetHttpConnection is answered with when its time is up."""
AT_ONCE = 0.2
"""Seconds in which a connection that was idle breaks if its server had closed it already."""
SILENT = "fell silent in the middle of its answer"
_OF_UPSTREAM = (ResponseHeaders, ResponseData, ResponseEndOfMessage, ResponseProtocolError)


@dataclass
class AttemptFailedHook(commands.StartHook):
    """An attempt failed and the caller has seen nothing of it.

    The addon that answers leaves the next UpstreamCall in the flow's exchange, or sets flow.response.
    """

    flow: http.HTTPFlow


@dataclass
class Tick(HttpEvent):
    """The clock was looked at."""


class GatewayStream(CallerStream):
    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id, state, switchboard)
        self._connection: Connection | None = None
        self._reused = False
        self._sent_at = 0.0
        self._reply: Reply | None = None
        self._rejection: list[bytes] = []
        self._rejection_size = 0
        self._rejected: http.Response | None = None
        self._held: list[Reading] = []
        self._committed = False

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            if type(event) is ResponseData:
                yield from self.server_state(event)
            elif isinstance(event, Tick):
                yield from self._tick()
            else:
                yield from super()._handle_event(event)
        except Exception:
            yield from self._crashed()

    def _crashed(self) -> CommandGenerator[None]:
        """A bug of ours in the middle of a call. mitmproxy would log it and leave the caller waiting for ever."""
        request_id = self.exchange.request_id if self.exchange is not None else ""
        logger.opt(exception=True).error("the layer failed, {}: the call is ended", request_id)
        yield from self._let_go()
        if self.exchange is not None:
            self.exchange.upstream = None
            self.exchange.waiting.clear()
        if self._headers_sent or (self.flow.response is None and self.server_state != self.state_done):
            yield from self._answer_with(Fault("The gateway had an internal error; its log has the details."))
            return
        yield SendHttp(ResponseProtocolError(self.stream_id, "killed", ErrorCode.KILL), self.context.client)
        yield from self._drop()

    def check_killed(self, emit_error_hook: bool) -> CommandGenerator[bool]:
        killed: bool = yield from super().check_killed(emit_error_hook)
        if killed:
            yield from self._let_go()
            yield from self._drop()
        return killed

    # -- attempts

    def first_attempt(self) -> CommandGenerator[None]:
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
                if self._client_gone():
                    return
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
        self._sent_at = self.state.clock()
        yield SendHttp(CallData(self.stream_id, call.head(), call.body), connection)
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
            return
        head = {name.lower(): value for name, value in response.headers.fields}
        if head.get(b"content-encoding", b"identity").lower() != b"identity":
            yield from self._fail(Garbled("compressed its reply although it was asked not to"))
        else:
            self._reply = exchange.upstream.read(head.get(b"content-type", b"").decode("latin-1"))
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
                self._set_deadline(now + exchange.rules.defaults.timeouts.idle, SILENT)
            if exchange.answer.done:
                self._leave_upstream()
                yield from self._send_whole(exchange, data)
            return
        self._held += readings
        if any(is_content(reading) or isinstance(reading, Finished) for reading in self._held):
            held, self._held = self._held, []
            self._committed = True
            yield from self._send_headers(exchange.headers())
            yield from self._write(exchange, held)
            self._see_to_alarm()  # the deadline came nearer: from the first word on it is about silence

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
            self._late = SILENT
            return
        if fault is not None:
            exchange.attempts[-1].fault = exchange.attempts[-1].fault or fault
            exchange.fault = fault
            yield from self._let_go()
        self._leave_upstream()
        yield from self._end_stream()

    def _leave_upstream(self) -> None:
        """The answer is complete. What the upstream may still send is its connection's own business."""
        if self._connection is not None:
            self.switchboard.leave(self._connection)
        self._connection = None
        self._set_deadline(math.inf, self._late)
        self._ends = self._comment_at = self._show_at = math.inf
        self.server_state = self.state_done

    # -- endings other than good ones

    def _answer_with(self, fault: Fault) -> CommandGenerator[None]:
        """The final fault: as a response, or, where headers are already out, as the stream's last words."""
        self._leave_upstream()
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
        if self.flow_is_over:
            return
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
        # A server that closes an idle connection does so at once; one that worked on the call must not get it twice.
        at_once = self.state.clock() - self._sent_at < AT_ONCE
        fresh_try = self._reused and at_once and self._reply is None and self._rejected is None
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
            if self._committed and self.switchboard.caller_is_behind():
                # It is the caller who is slow: as long as it does not read, we do not read on either.
                self._set_deadline(now + exchange.rules.defaults.timeouts.idle, SILENT)
                return
            yield from self._attempt_ended(TimedOut(self._late))
        elif now >= self._comment_at:
            yield from self._say_waiting(exchange)
        elif now >= self._show_at:
            yield from self._show()

    def _out_of_time(self, exchange: Exchange) -> TimedOut:
        """The fault of a call that took too long as a whole: nobody else is asked."""
        exchange.waiting.clear()
        self._ends = math.inf
        return TimedOut("took longer than the whole call may take")


def _fault_in(readings: list[Reading]) -> Fault | None:
    """The fault that ends these readings, if one does: what comes after the end of an answer is not part of it."""
    for reading in readings:
        if isinstance(reading, Fault):
            return reading
        if isinstance(reading, Finished):
            return None
    return None
