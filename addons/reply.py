"""One reply of an upstream: read into values, held back until there is content, then written.

A rejection is read to its end, for it may say why. The deadline of an attempt is about its first content until that is
there, and about silence from then on: comments, empty deltas and blanks where JSON was asked are no content.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http._events import ResponseData, ResponseEndOfMessage, ResponseHeaders

from addons.caller import CallerStream
from addons.clock import Switchboard
from addons.exchange import Exchange
from addons.state import State
from wire.answer import Streamed, Whole
from wire.errors import Fault, Garbled
from wire.openai import FINISHED, Delta, Finished, Reading, Reply, is_content
from wire.rejections import rejection
from wire.relay import is_events
from wire.resume import Joint

MAX_REJECTION = 64 * 1024
"""Bytes of an error body that are read; the rest says nothing new."""
SILENT = "fell silent in the middle of its answer"


class ReplyStream(CallerStream):
    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id, state, switchboard)
        self._connection: Connection | None = None
        self._reused = False
        self._sent_at = 0.0
        self._reply: Reply | None = None
        self._joint: Joint | None = None
        self._rejection: list[bytes] = []
        self._rejection_size = 0
        self._rejected: http.Response | None = None
        self._held: list[Reading] = []
        self._speaks = False
        """The present attempt has given its first content."""
        self._heard_at = 0.0
        """When the present attempt last showed a sign of life that was not content."""
        self._upload: Iterator[bytes] | None = None
        """What is still to be sent of the request, where it goes in pieces."""

    @abstractmethod
    def _fail(self, fault: Fault) -> CommandGenerator[None]:
        """The present attempt failed."""

    @abstractmethod
    def _let_go(self) -> CommandGenerator[None]:
        """Gives up the upstream connection in the middle of its reply."""

    def state_wait_for_response_headers(self, event: ResponseHeaders) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        assert exchange.upstream is not None
        response = event.response
        exchange.attempts[-1].awaited = False
        self._heard_at = self.state.clock()
        if response.status_code != 200:
            self._rejected = response
            self.server_state = self.state_read_rejection
            return
        exchange.attempts[-1].accepted = True
        head = {name.lower(): value for name, value in response.headers.fields}
        if head.get(b"content-encoding", b"identity").lower() != b"identity":
            yield from self._fail(Garbled("compressed its reply although it was asked not to"))
        else:
            content_type = head.get(b"content-type", b"").decode("latin-1")
            self._reply = exchange.upstream.read(content_type)
            if exchange.upstream.relays and exchange.answer is not None:
                if self._headers_sent and not is_events(content_type):
                    # Comments are out, so a stream of events has begun, and nothing else may stand in it.
                    yield from self._fail(Garbled("did not answer in events although it was asked to"))
                    return
                exchange.answer.replied(content_type)
            self.server_state = self.state_read_reply

    def state_read_rejection(self, event: events.Event) -> CommandGenerator[None]:
        assert self._rejected is not None
        if isinstance(event, ResponseData):
            self._rejection.append(event.data)
            self._rejection_size += len(event.data)
        if isinstance(event, ResponseEndOfMessage) or self._rejection_size > MAX_REJECTION:
            whole = isinstance(event, ResponseEndOfMessage)
            if whole:
                self._reply_is_read()
            yield from self._fail(self._read_rejection(self._rejected))

    def _read_rejection(self, rejected: http.Response) -> Fault:
        body = b"".join(self._rejection)[:MAX_REJECTION]
        return rejection(rejected.status_code, body, rejected.headers.get("retry-after"), now=self.state.wall())

    def state_read_reply(self, event: events.Event) -> CommandGenerator[None]:
        assert self._reply is not None
        if isinstance(event, ResponseData):
            readings = self._reply.feed(event.data)
        elif isinstance(event, ResponseEndOfMessage):
            self._reply_is_read()
            readings = self._reply.close()
        else:
            return
        if readings:
            yield from self._take(readings)
        else:
            self._heard_at = self.state.clock()

    def _reply_is_read(self) -> None:
        """Its connection may serve again, if it has all of the request."""
        if self._upload is None:
            self._connection = None

    def _take(self, readings: list[Reading]) -> CommandGenerator[None]:
        exchange = self.exchange
        assert exchange is not None
        attempt = exchange.attempts[-1]
        first = readings[0]
        if len(readings) == 1 and type(first) is Delta:  # nearly always
            if first.delta:
                attempt.pieces += 1
        else:
            attempt.note(readings)
        if not self._speaks:
            if any(is_content(reading) for reading in readings):
                self._first_content(exchange)
            else:
                self._heard_at = self.state.clock()
        if self._joint is not None:
            given, readings = readings, self._joint.read(readings)
            if not readings:  # held back: it repeats what the caller has
                if any(is_content(reading) for reading in given):
                    self._set_idle(exchange)
                return
        if exchange.begun:
            yield from self._write(exchange, readings)
        else:
            yield from self._hold(exchange, readings)

    def _first_content(self, exchange: Exchange) -> None:
        self._speaks = True
        attempt = exchange.attempts[-1]
        self.state.attempt_heard(attempt)
        if exchange.first_token is None:
            exchange.first_token = attempt.first_token
        self._set_idle(exchange)
        self._see_to_alarm()  # the deadline came nearer: from the first word on it is about silence

    def _set_idle(self, exchange: Exchange) -> None:
        """The deadline only moves away: the alarm that is set comes early and looks again."""
        self.deadline = self.state.clock() + exchange.rules.defaults.timeouts.idle
        self._late = SILENT

    def _hold(self, exchange: Exchange, readings: list[Reading]) -> CommandGenerator[None]:
        """Readings of an answer of which the caller has seen nothing."""
        answer = exchange.answer
        assert answer is not None
        fault = _fault_in(readings)
        if fault is not None and not (isinstance(answer, Whole) and self._is_whole_without(answer, readings)):
            yield from self._fail(fault)
            return
        if isinstance(answer, Whole):
            exchange.attempts[-1].chars += _chars_in(readings)
            data = answer.write(readings if fault is None else [*_before(readings), FINISHED])
            if self._speaks:
                self._set_idle(exchange)
            if answer.done:
                self.state.attempt_done(exchange)
                if fault is not None or self._upload is not None:
                    yield from self._let_go()
                self.leave_upstream()
                exchange.conclude()
                yield from self.send_whole(exchange, data)
            return
        self._held += readings
        if self._speaks or any(isinstance(reading, Finished) for reading in self._held):
            held, self._held = self._held, []
            exchange.begun = True
            yield from self.send_headers(exchange.headers())
            yield from self._write(exchange, held)

    @staticmethod
    def _is_whole_without(answer: Whole, readings: list[Reading]) -> bool:
        """Whether all choices had ended before the fault: then nothing of the answer is missing."""
        return answer.complete and not any(is_content(reading) for reading in readings)

    def _write(self, exchange: Exchange, readings: list[Reading]) -> CommandGenerator[None]:
        """The hot path: readings of a stream that has begun."""
        answer = exchange.answer
        assert isinstance(answer, Streamed)
        last = readings[-1]
        if type(last) is Delta:
            data = answer.write(readings)
            if data:
                yield from self.send(data)
            self._set_idle(exchange)
            return
        fault = _fault_in(readings)
        if fault is not None:
            readings = _before(readings)
        data = answer.write(readings)
        if fault is not None and answer.complete:
            # Every choice had its finish_reason: what broke off was only the end of the end.
            data += answer.write([FINISHED])
        exchange.conclude()
        if data:
            yield from self.send(data)
        if answer.done:
            self.state.attempt_done(exchange)
            if fault is not None or self._upload is not None:
                yield from self._let_go()  # it may never end by itself
            self.leave_upstream()
            yield from self.end_stream()
        elif fault is not None:
            yield from self._fail(fault)
        elif any(is_content(reading) for reading in readings):
            self._set_idle(exchange)

    def leave_upstream(self) -> None:
        """The answer is complete. What the upstream may still send is its connection's own business."""
        if self._connection is not None:
            self.switchboard.leave(self._connection)
        self._connection, self._upload = None, None
        self._set_deadline(math.inf, self._late)
        self._ends = self._comment_at = self._show_at = math.inf
        self.server_state = self.state_done


def _fault_in(readings: list[Reading]) -> Fault | None:
    """The fault that ends these readings, if one does: what comes after the end of an answer is not part of it."""
    for reading in readings:
        if isinstance(reading, Fault):
            return reading
        if isinstance(reading, Finished):
            return None
    return None


def _chars_in(readings: list[Reading]) -> int:
    """Characters of text, reasoning and calls."""
    chars = 0
    for reading in readings:
        if isinstance(reading, Delta):
            for key, value in reading.delta.items():
                if isinstance(value, str):
                    chars += len(value)
                elif key == "tool_calls":
                    called = [call.get("function") or call.get("custom") or {} for call in value]
                    chars += sum(len(text) for one in called for text in one.values() if isinstance(text, str))
    return chars


def _before(readings: list[Reading]) -> list[Reading]:
    """What was said before the fault."""
    return [reading for reading in readings if not isinstance(reading, Fault)]
