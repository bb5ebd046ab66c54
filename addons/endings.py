"""The ends of a call that are not good ones: a final fault, a caller who left, a gateway that is stopped.

The trap: what was sent already decides how an end can be told. Before the headers it is a response of its own; in a
stream of events it is the last frame; in a binary answer no words can stand, so the connection breaks.
"""

from __future__ import annotations

import math

from mitmproxy import flow as mitmproxy_flow
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseProtocolError
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook

from addons.http1 import fault_response
from addons.sending import SendingStream
from wire.answer import Streamed
from wire.errors import Fault, ShuttingDown, fault_frame


class EndingStream(SendingStream):
    def answer_with(self, fault: Fault) -> CommandGenerator[None]:
        """The final fault: as a response, or, where headers are already out, as the stream's last words."""
        self.leave_upstream()
        exchange = self.exchange
        if exchange is not None:
            self.state.let_go(exchange)
        if self._headers_sent:
            if exchange is not None:
                exchange.fault = exchange.fault or fault
            if self._is_binary():
                yield from self._break_off(fault)
            elif self.headers_out:
                yield from self.send(self._last_words(fault))
                yield from self.end_stream()
            else:
                self.ahead.append(self._last_words(fault))
                self.ends_after_headers = True
            return
        if self.flow.response is None:
            if exchange is not None:
                exchange.fault = exchange.fault or fault
            extra = exchange.headers() if exchange is not None else {}
            self.flow.response = fault_response(fault, exchange.request_id if exchange else "", extra)
        yield from self.send_response()

    def _break_off(self, fault: Fault) -> CommandGenerator[None]:
        """The end of an answer in which no words can stand: its caller must see that it is not complete."""
        self.client_state = self.server_state = self.state_errored
        self.flow.error = mitmproxy_flow.Error(fault.message)
        yield HttpErrorHook(self.flow)
        self.flow.live = False
        if self.flow.request.http_version == "HTTP/1.0":  # there the end of the connection is the answer's
            self.state.cut(self.context.client, self.context.client)
        yield SendHttp(ResponseProtocolError(self.stream_id, fault.message, ErrorCode.KILL), self.context.client)
        yield from self._drop()

    def _last_words(self, fault: Fault) -> bytes:
        if self.exchange is None:
            return fault_frame(fault)
        answer = self.exchange.answer
        if self.exchange.begun and isinstance(answer, Streamed):
            return answer.fail(fault)
        return self.exchange.surface.last_words(fault)

    def _shut_down(self) -> CommandGenerator[None]:
        """The gateway's time is over: whoever still waits for an answer is told so."""
        exchange = self.exchange
        if exchange is None or exchange.ended or self.flow_is_over or self.server_state == self.state_done:
            return
        yield from self._let_go()
        exchange.fault = ShuttingDown(
            "The gateway was stopped before the answer was complete. Try again.", retry_after=5
        )
        if self.client_state == self.state_done:
            yield from self.answer_with(exchange.fault)
            return
        self.flow.response = fault_response(exchange.fault, exchange.request_id)
        yield from self._refuse_body()

    def _caller_left(self, message: str) -> CommandGenerator[None]:
        yield from self._let_go()
        if self.exchange is not None:
            self.state.let_go(self.exchange)
            over = self.exchange.ended  # what its states say may be ahead of what has been told
        else:
            over = self.server_state == self.state_done or self.client_state == self.state_errored
        self.client_state = self.server_state = self.state_errored
        self._ends = self._comment_at = self._show_at = math.inf
        if not over:
            self.flow.error = mitmproxy_flow.Error(message)
            yield HttpErrorHook(self.flow)
        self.flow.live = False
        yield from self._drop()
