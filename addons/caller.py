"""The answer of one call, as its caller gets it, and the call's end.

What happens before it, the attempts at upstreams, is stream.py's. The trap: a layer stands in its own context, and a
state is a method of its own object, so a call that is over keeps its megabytes unless it is taken apart.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import DropStream, SendHttp
from mitmproxy.proxy.layers.http._events import ResponseData, ResponseHeaders
from mitmproxy.proxy.layers.http._hooks import HttpResponseHeadersHook, HttpResponseHook

from addons.clock import Fan, Switchboard
from addons.exchange import Exchange
from addons.intake import IntakeStream
from addons.state import State
from wire.answer import Streamed
from wire.sse import comment

MAX_KEPT = 1024 * 1024
"""Bytes of a streamed answer that are kept for whoever looks at the flow."""
SHOWN_EVERY = 1.0
"""Seconds between two looks at a growing answer, for mitmweb."""
WAITING = comment(b"waiting for the model")


@dataclass
class AnswerGrowsHook(commands.StartHook):
    """There is more of a streamed answer to see. Nothing waits for it; a viewer redraws the flow after any hook."""

    flow: http.HTTPFlow
    blocking = False


class CallerStream(IntakeStream):
    _fan: Fan | None = None
    """Where the call is asked in parts: those."""

    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id, state, switchboard)
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
    def flow_is_over(self) -> bool:
        return self.server_state is _over

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

    def _set_comment(self, now: float) -> None:
        exchange = self.exchange
        if exchange is not None and not self._is_binary():
            self._comment_at = now + exchange.rules.defaults.timeouts.keep_alive
            self.switchboard.earliest = min(self.switchboard.earliest, self._comment_at)

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
            if not self.exchange.ended:
                self._end_untold(self.exchange)
            self.state.let_go(self.exchange)  # whatever way led here, no place is held any more
            self.state.limiter.forget(self.exchange)
        self._fan = None
        if self.flow.response is not None and self.flow.response.status_code == 200 and not self._is_shown():
            self.flow.response.data.content = b""  # sent: whoever keeps the flow need not keep megabytes
        self.context.layers.clear()
        self.client_state = self.server_state = _over

    def _end_untold(self, exchange: Exchange) -> None:
        """A call is over of whose end no hook was told: it is accounted all the same."""
        self.state.account_for(self.flow)

    def state_done(self, _event: events.Event) -> CommandGenerator[None]:
        """The upstream's end of message may come after the answer's: nothing waits for it."""
        yield from ()


def _over(_event: events.Event) -> CommandGenerator[None]:
    """The state of a call that has ended: nothing that still comes matters."""
    yield from ()
