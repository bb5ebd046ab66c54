"""A request that is sent in pieces, while its answer may come already.

The trap: mitmproxy writes whatever a layer sends and waits for nobody, so a file sent at once would lie in the write
buffer of a slow server as a whole. So the next piece goes out when the last one was taken, and in between everything
that a reply can do is seen: a refusal at the first byte, a broken connection, a server that does not read.
"""

from __future__ import annotations

from dataclasses import dataclass

from mitmproxy.connection import Connection
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent

from addons.exchange import UpstreamCall
from addons.http1 import CallData, CallEnd, CallPiece
from addons.reply import ReplyStream
from wire.upload import PIECE

STUCK = "stopped taking the request"


@dataclass
class PieceTaken(HttpEvent):
    """An upstream has taken what it was sent of a request."""

    connection: Connection


class SendingStream(ReplyStream):
    _in_pieces = False
    """The present attempt's request goes in pieces, or is as large as several: it may not all be taken yet."""

    def send_call(self, call: UpstreamCall, connection: Connection) -> CommandGenerator[None]:
        """Sends a request, or the beginning of one."""
        self._in_pieces = call.upload is not None or len(call.body) > PIECE
        exchange = self.exchange
        assert exchange is not None
        if call.upload is None:
            yield SendHttp(CallData(self.stream_id, call.head(), call.body), connection)
            if self._in_pieces:
                self.state.when_taken(self.context.client, connection, PieceTaken(self.stream_id, connection))
            else:  # that much a connection takes at once
                exchange.attempts[-1].awaited = True
            return
        assert exchange.spool is not None
        self._upload = call.upload.pieces(exchange.spool.read)
        yield SendHttp(CallData(self.stream_id, call.head(), b"", more=True), connection)
        yield from self._send_piece(call, connection)

    def piece_taken(self, event: PieceTaken) -> CommandGenerator[None]:
        call = self.exchange.upstream if self.exchange is not None else None
        if call is None or event.connection is not self._connection:
            return
        if self._upload is not None:
            yield from self._send_piece(call, event.connection)
        else:
            self._all_is_taken()

    def _all_is_taken(self) -> None:
        assert self.exchange is not None
        self.exchange.attempts[-1].awaited = self._reply is None and self._rejected is None

    def _send_piece(self, call: UpstreamCall, connection: Connection) -> CommandGenerator[None]:
        assert self._upload is not None
        assert self.exchange is not None
        timeouts = self.exchange.rules.defaults.timeouts
        now = self.state.clock()
        piece = next(self._upload, None)
        if piece is None:
            self._upload = None
            self._sent_at = now  # from now on it can be waited for
            self._set_wait(now + timeouts.first_token * call.first_token_times, "did not begin to answer in time")
            self._all_is_taken()
            yield SendHttp(CallEnd(self.stream_id), connection)
            return
        self._set_wait(now + timeouts.idle, STUCK)
        yield SendHttp(CallPiece(self.stream_id, piece), connection)
        self.state.when_taken(self.context.client, connection, PieceTaken(self.stream_id, connection))

    def _set_wait(self, at: float, late: str) -> None:
        """The deadline of a server that has not begun to answer. One that has is watched for silence."""
        if not self._speaks:
            self._set_deadline(at, late)
