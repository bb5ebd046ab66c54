"""The upstreams' side of one call: attempts, one after the other, until one answers (layer.py says what that is).

The request is intake.py's, the answer caller.py's, the reading of one reply reply.py's, the ends endings.py's. Once
the caller has the beginning of an answer, a failure is handed over all the same: the next target goes on from there,
and what it says a second time is skipped (wire/resume.py).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from loguru import logger
from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.proxy import commands, events
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

from addons.clock import LastCall
from addons.endings import EndingStream
from addons.exchange import Exchange, UpstreamCall
from addons.reply import SILENT
from addons.sending import PieceTaken
from addons.state import new_call_id
from wire.answer import Opening, Streamed, Whole
from wire.errors import (
    ConnectFailed,
    Cut,
    Fault,
    TimedOut,
    TlsFailed,
    UpstreamFault,
)
from wire.resume import Joint

OPENING_TOOK_TOO_LONG = "opening took too long"
"""What a GetHttpConnection is answered with when its time is up."""
TLS_FAILED = "TLS failed"
"""What a GetHttpConnection is answered with where the other side was reached and could not be trusted."""
AT_ONCE = 0.2
"""Seconds in which a connection that was idle breaks if its server had closed it already."""
_OF_UPSTREAM = (ResponseHeaders, ResponseData, ResponseEndOfMessage, ResponseProtocolError)


@dataclass
class AttemptFailedHook(commands.StartHook):
    """An attempt failed.

    The addon that answers leaves the next UpstreamCall, a pause or the final fault in the flow's exchange.
    """

    flow: http.HTTPFlow


@dataclass
class NextAttemptHook(commands.StartHook):
    """A pause between two attempts, or before the first, is over. To be answered in the same way."""

    flow: http.HTTPFlow


@dataclass
class Tick(HttpEvent):
    """The clock was looked at."""


class GatewayStream(EndingStream):
    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        try:
            if type(event) is ResponseData:
                yield from self.server_state(event)
            elif isinstance(event, Tick):
                yield from self._tick()
            elif isinstance(event, PieceTaken):
                yield from self.piece_taken(event)
            elif isinstance(event, LastCall):
                yield from self._shut_down()
            else:
                yield from super()._handle_event(event)
        except Exception:
            yield from self._crashed()

    def _crashed(self) -> CommandGenerator[None]:
        """A bug of ours in the middle of a call. mitmproxy would log it and leave the caller waiting for ever."""
        request_id = self.exchange.request_id if self.exchange is not None else ""
        logger.opt(exception=True).error("the layer failed, {}: the call is ended", request_id)
        yield from self.end_after_bug()

    def end_after_bug(self) -> CommandGenerator[None]:
        yield from self._let_go()
        if self.exchange is not None:
            self.state.let_go(self.exchange)
        fault = Fault("The gateway had an internal error; its log has the details.")
        if self._headers_sent or (self.flow.response is None and self.server_state != self.state_done):
            yield from self.answer_with(fault)
            return
        if self.exchange is not None:
            self.exchange.fault = self.exchange.fault or fault
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
        exchange = self.exchange
        if exchange is None or not (exchange.upstream or exchange.pause or exchange.parts):
            yield from self.answer_with(Fault("The gateway has no decision for this call."))
            return
        if exchange.request is not None and exchange.request.stream:
            self._set_comment(self.state.clock())
        if exchange.parts:
            self._set_ends(math.inf)  # each part looks at the clock itself
            self.server_state = self.state_pause
            self._fan = self.switchboard.fan_out(self)
            self._fan.begin()
        else:
            yield from self._proceed(exchange)

    def _proceed(self, exchange: Exchange) -> CommandGenerator[None]:
        """Does what was decided: asks the next target, waits, or tells the caller that nobody is left."""
        while True:
            if exchange.pause is not None:
                if not exchange.pause.over:
                    self.server_state = self.state_pause
                    self._set_deadline(exchange.pause.until, "")
                    return
                yield NextAttemptHook(self.flow)
                if not (yield from self._is_wanted()):
                    return
                continue
            call = exchange.upstream
            if call is None:
                yield from self.answer_with(exchange.fault or Fault("The gateway has no decision for this call."))
                return
            if self.state.clock() >= self._comment_at:
                yield from self._say_waiting(exchange)
                if self.is_doomed:
                    return
            fault = yield from self._attempt(exchange, call)
            if fault is None or not (yield from self._note_failure(exchange, fault)):
                return

    def _fail(self, fault: Fault) -> CommandGenerator[None]:
        """The present attempt failed: the next one, until one holds or none is left."""
        assert self.exchange is not None
        if (yield from self._note_failure(self.exchange, fault)):
            yield from self._proceed(self.exchange)

    def _note_failure(self, exchange: Exchange, fault: Fault) -> CommandGenerator[bool]:
        """Has it decided what comes after a failed attempt; False where nobody waits for the answer any more."""
        fault.message = self.state.clean(fault.message)  # an upstream may quote the key that we sent
        if fault.detail:
            fault.detail = self.state.clean(fault.detail)
        exchange.attempts[-1].fault = fault
        exchange.note_said()
        yield from self._let_go()
        exchange.upstream = None
        self.server_state = self.state_pause
        yield AttemptFailedHook(self.flow)
        return (yield from self._is_wanted())

    def _is_wanted(self) -> CommandGenerator[bool]:
        """False where the caller left, or the call was killed by hand, while a hook was running."""
        return not (self.is_doomed or (yield from self.check_killed(True)))

    def _attempt(self, exchange: Exchange, call: UpstreamCall) -> CommandGenerator[Fault | None]:
        """Connects and sends; returns what went wrong with that, or None. The reply comes as events."""
        timeouts = exchange.rules.defaults.timeouts
        now = self.state.clock()
        attempt = exchange.attempts[-1]
        attempt.started, attempt.tried, attempt.awaited = now, True, False
        self._reply, self._rejected, self._joint = None, None, None
        self._rejection, self._rejection_size = [], 0
        self._held, self._speaks = [], False
        if exchange.begun:
            self._join(exchange, call)
        else:
            exchange.answer = self._new_answer(exchange, call)
            exchange.first_token = None
        self.connecting = GetHttpConnection((call.host, call.port), call.tls, None)
        self._set_deadline(min(now + timeouts.connect, self._ends), "")
        connection, err = yield self.connecting
        self.connecting = None
        if self.is_doomed:
            return None
        if err == OPENING_TOOK_TOO_LONG:
            if self.state.clock() >= self._ends:
                return self._out_of_time(exchange)
            return TimedOut("did not take the connection in time", kind="connect")
        if err == TLS_FAILED:
            return TlsFailed("could not be reached securely: its certificate or its TLS is not acceptable")
        if err is not None or not connection.connected:
            return ConnectFailed("could not be reached")
        self._connection = self.context.server = self.flow.server_conn = connection
        self._reused = self.switchboard.take(connection)
        self._sent_at = self.state.clock()
        first_token = self._sent_at + timeouts.first_token * call.first_token_times
        self._set_deadline(first_token, "did not begin to answer in time")
        self.server_state = self.state_wait_for_response_headers
        yield from self.send_call(call, connection)
        return None

    def _new_answer(self, exchange: Exchange, call: UpstreamCall) -> Streamed | Whole:
        request = exchange.request
        assert request is not None
        opening = Opening(new_call_id(), exchange.created, call.target.model, request, self.state.wall)
        return exchange.surface.streamed(opening) if request.stream else exchange.surface.whole(opening)

    def _join(self, exchange: Exchange, call: UpstreamCall) -> None:
        """The next attempt goes on with the answer that the caller has the beginning of."""
        answer = exchange.answer
        assert isinstance(answer, Streamed)
        exchange.attempts[-1].continues = True
        exchange.attempts[-1].chars_before = answer.said.chars
        answer.usage = None  # of the attempt that failed; its own record has it
        said = answer.said
        self._joint = Joint(said.text, "".join(said.reasoning), len(said.content), trusted=call.trusted)

    def _let_go(self) -> CommandGenerator[None]:
        """Gives up the upstream connection in the middle of its reply, and all parts."""
        if self._fan is not None:
            yield from self._fan.cancel()
        connection, self._connection = self._connection, None
        in_pieces, self._in_pieces, self._upload = self._in_pieces, False, None
        self._set_deadline(math.inf, self._late)
        if connection is not None:
            if in_pieces:  # closed in good order, what it was sent would wait for a server that may never read
                self.state.cut(self.context.client, connection)
            yield from self.switchboard.retire(connection)
            # What it said while we waited for something would be taken for the words of the next one.
            kept = [event for event in self._paused_event_queue if not isinstance(event, _OF_UPSTREAM)]
            self._paused_event_queue = deque(kept)

    def state_pause(self, _event: events.Event) -> CommandGenerator[None]:
        """Between two attempts, or before the first: no upstream is ours."""
        yield from ()

    # -- what breaks

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> CommandGenerator[None]:
        if self.flow_is_over:
            return
        if isinstance(event, RequestProtocolError):
            yield from self._caller_left(event.message)
        elif self._connection is not None:
            yield from self._upstream_broke(event.message)

    def _upstream_broke(self, message: str) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        # A server that closes an idle connection does so at once; one that worked on the call must not get it twice.
        at_once = self.state.clock() - self._sent_at < AT_ONCE
        fresh_try = self._reused and at_once and self._reply is None and self._rejected is None
        if fresh_try and exchange.upstream is not None:
            # The server closed an idle connection just as we used it: it has not seen the call.
            yield from self._let_go()
            fault = yield from self._attempt(exchange, exchange.upstream)
            if fault is not None:
                yield from self._fail(fault)
            return
        yield from self._attempt_ended(Cut(message, kind="reset"))

    def _attempt_ended(self, fault: UpstreamFault) -> CommandGenerator[None]:
        """A failure that did not come out of the reply itself."""
        assert self.exchange is not None
        if self._rejected is not None:
            # Its status says more than that its error page broke off.
            known = self._read_rejection(self._rejected)
            yield from self._fail(known if isinstance(known, UpstreamFault) else fault)
        elif self._reply is not None:
            yield from self._take([fault])
        else:
            yield from self._fail(fault)

    # -- time

    def _tick(self) -> CommandGenerator[None]:
        now = self.state.clock()
        exchange = self.exchange
        if exchange is not None and self.client_state != self.state_done and now >= self._ends:
            yield from self._request_is_late()
            return
        if exchange is None or exchange.ended:
            return
        if exchange.upstream is None and exchange.pause is None and self._fan is None:
            return
        if self.flow.error is not None and self.flow.error.msg == mitmproxy_flow.Error.KILLED_MESSAGE:
            yield from self._let_go()
            yield from self.check_killed(True)
        elif exchange.pause is not None and (now >= self.deadline or exchange.pause.over):
            self._set_deadline(math.inf, self._late)
            yield NextAttemptHook(self.flow)
            if (yield from self._is_wanted()):
                yield from self._proceed(exchange)
        elif exchange.pause is None and now >= self._ends:
            yield from self._attempt_ended(self._out_of_time(exchange))
        elif exchange.pause is None and now >= self.deadline and self._fan is None:
            yield from self._too_late(exchange, now)
        elif now >= self._comment_at:
            yield from self._say_waiting(exchange)
        elif now >= self._show_at:
            yield from self._show()

    def _too_late(self, exchange: Exchange, now: float) -> CommandGenerator[None]:
        """The present attempt's deadline is over."""
        timeouts = exchange.rules.defaults.timeouts
        if exchange.begun and self._speaks and self.switchboard.caller_is_behind():
            # It is the caller who is slow: as long as it does not read, we do not read on either.
            self._set_deadline(now + timeouts.idle, SILENT)
            return
        if self._speaks:
            yield from self._attempt_ended(TimedOut(self._late, kind="idle"))
            return
        assert exchange.upstream is not None
        patience = exchange.upstream.patience
        lives = self._heard_at > self._sent_at and self._heard_at + timeouts.first_token > now
        if patience is not None and lives and now < self._sent_at + patience:
            # It has the call and says so: a server that queues is not a dead one.
            at = min(self._heard_at + timeouts.first_token, self._sent_at + patience)
            self._set_deadline(at, self._late)
            return
        yield from self._attempt_ended(TimedOut(self._late))

    def _out_of_time(self, exchange: Exchange) -> TimedOut:
        """The fault of a call that took too long as a whole: nobody else is asked."""
        exchange.plan = ()
        self._ends = math.inf
        return TimedOut("took longer than the whole call may take", kind="total")
