"""HTTP/1 on both sides of a call, where mitmproxy's own reader leaves gaps.

Measured on 12.2.3: it reads request and response heads without any limit; trailers raise NotImplementedError and leave
the connection hanging; a request it cannot read is answered in HTML, or not at all; a client that leaves in the middle
of its head gets the head, key included, into the log; and each HTTP chunk becomes an event of its own. Here all that
arrived in one read becomes one event, which is what lets a burst of tokens cost one pass instead of fifty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import h11
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import HttpClient, RegisterHttpConnection
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestHeaders,
    RequestProtocolError,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import (
    Http1Client,
    Http1Connection,
    Http1Server,
    make_body_reader,
)

from wire.errors import BadRequest, Fault, HeadersTooLarge, fault_body

MAX_REPLY_HEAD = 256 * 1024
"""Bytes of an upstream's response head; the largest honest ones are a few KiB."""


class HeadTooLarge(ValueError):
    """A head grew beyond its limit before it ended."""


def check_head_size(connection: Http1Connection, limit: int) -> None:
    """Raises HeadTooLarge. Looks into the buffer only where it is larger than the limit, which is almost never."""
    if len(connection.buf) <= limit:
        return
    end = bytes(connection.buf).find(b"\r\n\r\n")
    if end < 0 or end > limit:
        raise HeadTooLarge


def read_joined_body(connection: Http1Connection, event: events.Event) -> CommandGenerator[str | None]:
    """Http1Connection.read_body with one data event per read. Returns what was wrong with the body, or None."""
    assert connection.stream_id is not None
    pieces: list[bytes] = []
    trouble: str | None = None
    ended = False
    while True:
        try:
            if isinstance(event, events.DataReceived):
                read = connection.body_reader(connection.buf)
            else:
                read = connection.body_reader.read_eof()
        except h11.ProtocolError as error:
            trouble = str(error)
            break
        if isinstance(read, h11.Data):
            if read.data:
                pieces.append(bytes(read.data))
            continue
        ended = isinstance(read, h11.EndOfMessage)  # its trailers are of no use to either side
        break
    if pieces:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        yield ReceiveHttp(connection.ReceiveData(connection.stream_id, data))
    if ended:
        yield ReceiveHttp(connection.ReceiveEndOfMessage(connection.stream_id))
        is_request = isinstance(connection, Http1Server)
        yield from connection.mark_done(request=is_request, response=not is_request)
    return trouble


def fault_response(fault: Fault, request_id: str, extra: dict[str, str] | None = None) -> http.Response:
    """OpenAI's error object as a response."""
    headers = {"content-type": "application/json", "x-request-id": request_id} | (extra or {})
    if fault.retry_after is not None:
        headers["retry-after"] = str(max(1, round(fault.retry_after)))
    return http.Response.make(fault.status, fault_body(fault), headers)


class CallerHttp1(Http1Server):
    """The caller's side. Whatever cannot be read is answered with OpenAI's error object, then the connection closes."""

    def __init__(self, context: Context, head_limit: int, make_request_id: Callable[[], str]) -> None:
        super().__init__(context)
        self._head_limit = head_limit
        self._make_request_id = make_request_id

    def read_headers(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(self.conn)
            return
        try:
            check_head_size(self, self._head_limit)
        except HeadTooLarge:
            limit = f"{self._head_limit // 1024} KiB"
            yield from self._refuse(HeadersTooLarge(f"The request's headers are larger than {limit}."))
            return
        head = self.buf.maybe_extract_lines()
        if not head:
            return
        try:
            self.request = http1.read_request_head([bytes(line) for line in head])
            size = http1.expected_http_body_size(self.request)
        except ValueError as error:
            self.request = None
            yield from self._refuse(BadRequest(f"The request could not be read: {error}."))
            return
        yield ReceiveHttp(RequestHeaders(self.stream_id, self.request, size == 0))
        self.body_reader = make_body_reader(size)
        self.state = self.read_body
        yield from self.state(event)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(self.conn)
            yield from self._tell_stream("the client disconnected", ErrorCode.CLIENT_DISCONNECTED)
            return
        trouble = yield from read_joined_body(self, event)
        if trouble is not None:
            if self.response is None:
                yield from self._refuse(BadRequest(f"The request's body could not be read: {trouble}."))
            else:
                yield commands.CloseConnection(self.conn)
            yield from self._tell_stream("the request's body could not be read", ErrorCode.GENERIC_CLIENT_ERROR)

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        if isinstance(event, ResponseProtocolError) and self.response is None and event.code.http_status_code():
            yield from self._refuse(BadRequest(event.message))
        else:
            yield from super().send(event)

    def _refuse(self, fault: Fault) -> CommandGenerator[None]:
        if self.conn.state & ConnectionState.CAN_WRITE:
            response = fault_response(fault, self._make_request_id(), {"connection": "close"})
            yield commands.SendData(self.conn, http1.assemble_response(response))
            yield commands.CloseConnection(self.conn)
        self.state = self.ignore

    def _tell_stream(self, message: str, code: ErrorCode) -> CommandGenerator[None]:
        yield ReceiveHttp(RequestProtocolError(self.stream_id, message, code))

    def ignore(self, _event: events.Event) -> CommandGenerator[None]:
        self.buf = type(self.buf)()
        yield from ()


@dataclass
class CallData(HttpEvent):
    """A whole request, head and body, ready to be written: one event and one write instead of three."""

    head: bytes
    body: bytes


_OUR_REQUEST = http.Request.make("POST", "http://upstream/")
"""All that the reader of a reply must know of its request: it is a POST, and the connection stays open."""


class UpstreamHttp1(Http1Client):
    """The upstream's side."""

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        if isinstance(event, CallData):
            self.stream_id = event.stream_id
            self.request = _OUR_REQUEST
            yield commands.SendData(self.conn, event.head + event.body)
            yield from self.mark_done(request=True)
        else:
            yield from super().send(event)

    @property
    def idle(self) -> bool:
        """True between calls: only then may the connection be used for another one."""
        return self.stream_id is None and self.state == self.read_headers and not self.buf

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self.request is not None:
            try:
                check_head_size(self, MAX_REPLY_HEAD)
                head = self.buf.maybe_extract_lines()
                if not head:
                    return
                self.response = http1.read_response_head([bytes(line) for line in head])
                size = http1.expected_http_body_size(self.request, self.response)
            except ValueError:
                yield from self._give_up("sent what is not an HTTP response")
                return
            if self.response.status_code < 200:
                self.response = None  # 100 and 103 announce; the response is still to come
                yield from self.read_headers(event)
                return
            assert self.stream_id is not None
            yield ReceiveHttp(ResponseHeaders(self.stream_id, self.response, size == 0))
            self.body_reader = make_body_reader(size)
            self.state = self.read_body
            yield from self.state(event)
        elif self.stream_id is not None:
            yield from self._give_up("closed the connection without an answer")
        else:
            yield commands.CloseConnection(self.conn)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        trouble = yield from read_joined_body(self, event)
        if trouble is not None:
            yield from self._give_up(
                "broke the connection off" if isinstance(event, events.ConnectionClosed) else "sent a broken body"
            )

    def _give_up(self, message: str) -> CommandGenerator[None]:
        self.state = self.done  # the closing comes back as an event, and must not fail the next attempt
        yield commands.CloseConnection(self.conn)
        assert self.stream_id is not None
        yield ReceiveHttp(ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR))


class UpstreamConnection(HttpClient):
    """Opens one upstream connection and speaks HTTP/1.1 on it, whatever the caller speaks."""

    child_layer: UpstreamHttp1

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        assert isinstance(event, events.Start)
        err: str | None = yield commands.OpenConnection(self.context.server)
        if not err:
            self.child_layer = UpstreamHttp1(self.context)
            self._handle_event = self.child_layer.handle_event  # type: ignore[method-assign]
            yield from self._handle_event(event)
        yield RegisterHttpConnection(self.context.server, err)

    @property
    def idle(self) -> bool:
        return self.child_layer.idle
