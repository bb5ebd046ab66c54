"""HTTP/1 on both sides of a call, where mitmproxy's own reader leaves gaps.

Measured on 12.2.3: it reads request and response heads without any limit; trailers raise NotImplementedError and leave
the connection hanging; a request it cannot read is answered in HTML, or not at all; a client that leaves in the middle
of its head gets the head, key included, into the log; and each HTTP chunk becomes an event of its own. Here all that
arrived in one read becomes one event, which is what lets a burst of tokens cost one pass instead of fifty.
"""

from __future__ import annotations

import logging
import math
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
    ResponseData,
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
MAX_CHUNK_HEAD = 64 * 1024
"""Bytes of a chunk's size line, or of trailers. Data never waits in the buffer: what waits is one of these."""
MAX_IGNORED = 16 * 1024 * 1024
"""Bytes read past after a refusal that ends the connection: closed while they come, it would take the answer along."""
MAX_AHEAD = 4 * 1024 * 1024
"""Bytes that a caller may send on before its present call is answered."""


def _as_made(_data: http.MessageData) -> None:
    """Takes a message's fields as they are."""


# mitmproxy looks at the type of each field of each message that is made, three messages a call, unless Python runs
# with -O: an eighth of a whole call's processor time, for a check of its own code.
http.MessageData.__post_init__ = _as_made  # type: ignore[method-assign]


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
        if not ended and len(connection.buf) > MAX_CHUNK_HEAD:
            trouble = "a chunk's head is too large"
        break
    if pieces:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        yield ReceiveHttp(connection.ReceiveData(connection.stream_id, data))
        if connection.state == connection.done:
            return None  # given up because of these data: what follows them must not reach the next attempt
    if ended:
        yield ReceiveHttp(connection.ReceiveEndOfMessage(connection.stream_id))
        is_request = isinstance(connection, Http1Server)
        yield from connection.mark_done(request=is_request, response=not is_request)
    return trouble


def fault_response(fault: Fault, request_id: str, extra: dict[str, str] | None = None) -> http.Response:
    """OpenAI's error object as a response."""
    headers = {"content-type": "application/json", "x-request-id": request_id} | (extra or {})
    if fault.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(fault.retry_after)))
    if fault.final:
        headers["x-should-retry"] = "false"
    return http.Response.make(fault.status, fault_body(fault), headers)


class CallerHttp1(Http1Server):
    """The caller's side. Whatever cannot be read is answered with OpenAI's error object, then the connection closes."""

    def __init__(self, context: Context, head_limit: int, make_request_id: Callable[[], str]) -> None:
        super().__init__(context)
        self._head_limit = head_limit
        self._make_request_id = make_request_id
        self._ignored = 0
        self._framed: http.Response | None = None
        self._chunked = False

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
        head = _next_head(self)
        if head is None:
            return
        try:
            self.request = http1.read_request_head(head)
            size = http1.expected_http_body_size(self.request)
        except ValueError:
            self.request = None
            yield from self._refuse(BadRequest("The request could not be read: it is not valid HTTP."))
            return
        yield ReceiveHttp(RequestHeaders(self.stream_id, self.request, size == 0))
        if self.state == self.ignore:
            return  # the stream has refused it by now
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
                yield from self._refuse(BadRequest("The request's body could not be read: its chunks are broken."))
            else:
                yield commands.CloseConnection(self.conn)
            yield from self._tell_stream("the request's body could not be read", ErrorCode.GENERIC_CLIENT_ERROR)

    def wait(self, event: events.Event) -> CommandGenerator[None]:
        yield from super().wait(event)
        if len(self.buf) > MAX_AHEAD:
            self.buf = type(self.buf)()
            yield commands.CloseConnection(self.conn)

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        return self._handle_event(event)  # nothing here ever waits, so there is no pause to keep books about

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        if isinstance(event, ResponseData):
            assert self.response is not None
            if self._framed is not self.response:  # asked once per response: every piece of a stream comes this way
                self._framed = self.response
                self._chunked = "chunked" in self.response.headers.get("transfer-encoding", "").lower()
            if event.data:
                data = b"%x\r\n%s\r\n" % (len(event.data), event.data) if self._chunked else event.data
                yield commands.SendData(self.conn, data)
        elif isinstance(event, ResponseProtocolError) and self.response is None and event.code.http_status_code():
            yield from self._refuse(BadRequest(event.message))
        else:
            yield from super().send(event)
            if isinstance(event, ResponseHeaders) and event.response.status_code < 200:
                self.response = None  # "100 Continue" is not the answer yet

    def _refuse(self, fault: Fault) -> CommandGenerator[None]:
        if self.conn.state & ConnectionState.CAN_WRITE:
            request_id = self._make_request_id()
            response = fault_response(fault, request_id, {"connection": "close"})
            yield commands.SendData(self.conn, http1.assemble_response(response))
            # What follows is the line itself: of a body that is longer than was said, it is a piece of a prompt.
            why = fault.message.partition(": b")[0]
            yield commands.Log(f"{fault.status} an unreadable request, {request_id} - {why}", logging.WARNING)
            yield commands.CloseTcpConnection(self.conn, half_close=True)
        self.buf = type(self.buf)()
        self.state = self.ignore

    def _tell_stream(self, message: str, code: ErrorCode) -> CommandGenerator[None]:
        yield ReceiveHttp(RequestProtocolError(self.stream_id, message, code))

    def ignore(self, event: events.Event) -> CommandGenerator[None]:
        self._ignored += len(self.buf)
        self.buf = type(self.buf)()
        if isinstance(event, events.ConnectionClosed) or self._ignored > MAX_IGNORED:
            yield commands.CloseConnection(self.conn)


def _next_head(connection: Http1Connection) -> list[bytes] | None:
    """The lines of the next head once it is there. Empty lines before it are skipped, as RFC 9112 section 2.2 asks."""
    while True:
        lines = connection.buf.maybe_extract_lines()
        if lines is None:
            return None
        if lines:
            return [bytes(line) for line in lines]


@dataclass
class CallData(HttpEvent):
    """A whole request, head and body, ready to be written: one event and one write instead of three."""

    head: bytes
    body: bytes
    more: bool = False
    """The rest of the body follows in pieces."""


@dataclass
class CallPiece(HttpEvent):
    """A piece of a request's body."""

    data: bytes


@dataclass
class CallEnd(HttpEvent):
    """There was the last piece."""


_OUR_REQUEST = http.Request.make("POST", "http://upstream/")
"""All that the reader of a reply must know of its request: it is a POST, and the connection stays open."""


class UpstreamHttp1(Http1Client):
    """The upstream's side."""

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        return self._handle_event(event)

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        if isinstance(event, CallData):
            self.stream_id = event.stream_id
            self.request = _OUR_REQUEST
            yield commands.SendData(self.conn, event.head + event.body)
            if not event.more:
                yield from self.mark_done(request=True)
        elif isinstance(event, CallPiece):
            yield commands.SendData(self.conn, event.data)
        elif isinstance(event, CallEnd):
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
                response = self._next_response()
                if response is None:
                    return
                size = http1.expected_http_body_size(self.request, response)
            except ValueError:
                yield from self._give_up("sent what is not an HTTP response")
                return
            assert self.stream_id is not None
            self.response = response
            self.body_reader = make_body_reader(size)
            self.state = self.read_body
            yield ReceiveHttp(ResponseHeaders(self.stream_id, response, size == 0))
            yield from self.state(event)
        elif self.stream_id is not None:
            yield from self._give_up("closed the connection without an answer")
        else:
            yield commands.CloseConnection(self.conn)

    def _next_response(self) -> http.Response | None:
        """Raises ValueError. 100 and 103 announce only: the response is still to come."""
        while True:
            check_head_size(self, MAX_REPLY_HEAD)
            head = _next_head(self)
            if head is None:
                return None
            response = http1.read_response_head(head)
            if response.status_code >= 200:
                return response

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.ConnectionClosed) and self.conn.error is not None:
            # Not the end of a body that has no length: its TLS broke.
            yield from self._give_up("broke the connection off")
            return
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

    http1: UpstreamHttp1 | None = None
    """None until the connection is open, TLS included."""

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        assert isinstance(event, events.Start)
        err: str | None = yield commands.OpenConnection(self.context.server)
        if not err:
            self.http1 = UpstreamHttp1(self.context)
            self._handle_event = self.http1.handle_event  # type: ignore[method-assign]
            yield from self._handle_event(event)
        yield RegisterHttpConnection(self.context.server, err)

    @property
    def idle(self) -> bool:
        return self.http1 is not None and self.http1.idle

    def retire(self) -> None:
        """Nothing of what is still to be read reaches the call any more."""
        if self.http1 is not None:
            self.http1.state = self.http1.done
