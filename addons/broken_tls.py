"""TLS whose records break: the end of the connection, and of all that it carries.

The trap: mitmproxy only logs a record that cannot be read, and goes on. What is then sent raises, above the layers that
send it, and leaves them in the middle of a call; the connection stays open, with nothing more to be read from it. And
where the other side has said what was wrong, that connection's end is taken for one that was told of before.
"""

from __future__ import annotations

import logging

from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer, TLSLayer
from OpenSSL import SSL

AT_A_TIME = 65535
"""Bytes that are taken out of a connection's TLS at once."""


class _Breakable(TLSLayer):
    """Hands down the end of the connection, once, whatever ended it; `conn.error` says what broke, if that is why."""

    _broken = False
    _end_told = False
    """The layers below know of the end."""

    def receive_data(self, data: bytes) -> CommandGenerator[None]:
        if self._broken:
            return
        if data:
            self.tls.bio_write(data)
        plaintext, ends, trouble = bytearray(), False, None
        while True:
            try:
                plaintext += self.tls.recv(AT_A_TIME)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                ends = True
                break
            except SSL.Error as error:
                trouble = error
                break
        yield from self.tls_interact()  # after recv(), which may have something to say: an alert, or new keys
        if plaintext:
            yield from self.event_to_child(events.DataReceived(self.conn, bytes(plaintext)))
        if trouble is not None:
            yield from self._break(trouble)
        elif ends:
            self.conn.state &= ~ConnectionState.CAN_READ
        if trouble is not None or ends:
            yield from self.receive_close()

    def receive_close(self) -> CommandGenerator[None]:
        if not self._end_told:
            self._end_told = True
            yield from self.event_to_child(events.ConnectionClosed(self.conn))

    def send_data(self, data: bytes) -> CommandGenerator[None]:
        if self._broken:
            return
        try:
            yield from super().send_data(data)
        except SSL.Error as error:  # of its own; what is done with a command raises nothing here
            yield from self._break(error)  # who sends is in the middle of something, and hears of the end afterwards

    def _break(self, error: SSL.Error) -> CommandGenerator[None]:
        if not self._broken:
            self._broken = True
            self.conn.error = _reason(error)
            whose = "caller" if self.conn is self.context.client else "server"
            yield commands.Log(f"the TLS of a {whose} broke, its connection is closed: {self.conn.error}", logging.INFO)
            yield commands.CloseConnection(self.tunnel_connection)


class CallerTls(_Breakable, ClientTLSLayer):
    """The caller's side."""


class UpstreamTls(_Breakable, ServerTLSLayer):
    """The upstream's side."""


def _reason(error: SSL.Error) -> str:
    match error.args:
        case ([*_, (_, _, str(reason))],):
            return reason
        case _:
            return "it cannot go on"
