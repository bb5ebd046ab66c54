"""The request of one call: read within limits, or refused while it comes.

The trap: a caller that is answered while it is still sending may never see the answer, because closing on unread data
resets the connection. So what comes is read past, up to a bound in bytes and in time.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod

from mitmproxy import flow as mitmproxy_flow
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import SendHttp, validate_request
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpRequestHeadersHook, HttpRequestHook

from addons.clock import ClockedStream, Switchboard
from addons.http1 import fault_response
from addons.state import State, new_request_id
from wire.errors import BadRequest, Fault, TooLarge

MAX_DISCARDED = 256 * 1024 * 1024
"""Bytes of an unwanted request body that are read past, so that its sender gets to see the answer."""
TIME_TO_SEND_ON = 30.0
"""Seconds in which a caller who has its answer already may go on sending its request."""
TIME_TO_HEAR = 5.0
"""Seconds that a caller who was too slow has for taking note of it."""


class IntakeStream(ClockedStream):
    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id, state, switchboard)
        self._body: list[bytes] = []
        self._body_size = 0
        self._expects_continue = False

    @abstractmethod
    def first_attempt(self) -> CommandGenerator[None]:
        """The request is complete and nobody has answered it yet."""

    @abstractmethod
    def _drop(self) -> CommandGenerator[None]:
        """The end of a call that did not get to the end of its answer."""

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
