"""What the tests of crowds share: calls that run beside each other, and a look at what the gateway knows of its targets.

A caller of this file is a socket: it says when its call has been sent, and can wait, read on or leave at any moment.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

from tests.addons.calls import Answer, ask_on, dial, raw_request, read_answer
from tests.gateway import Gateway, patient
from tests.standins import DeepSeekStandIn, OllamaStandIn


def room_for_all(failover: str) -> str:
    """`defaults` of rules under which nobody waits for a time limit, whoever fails is asked again, and all find a place
    in the queue."""
    return f"""
defaults:
  timeouts: {{{patient()}}}
  failover: {{{failover}}}
  breaker: {{failures: 1000000}}
  admission: {{queue: 1000, wait: 20s}}
  refresh: 500ms
"""


def as_new(*servers: DeepSeekStandIn | OllamaStandIn) -> None:
    """What a former test told them to do, and what they saw of it, is forgotten."""
    for server in servers:
        server.release()
        server._plans.clear()
        server.seen.clear()
        server.always, server.aborted = None, 0


class Caller:
    """One call on a connection of its own."""

    def __init__(self, gateway: Gateway, model: str = "m", stream: bool = False) -> None:
        self.socket = dial(gateway)
        self.received = b""
        self.socket.sendall(raw_request(model, stream))

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.received:
            data = self.socket.recv(65536)
            assert data, self.received
            self.received += data
        return self.received

    def answer(self) -> Answer:
        """Reads to the end of the answer."""
        head, _, body = self.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            self.read_until(b"\r\n0\r\n\r\n")
            body = _joined(self.received.partition(b"\r\n\r\n")[2])
        else:
            while len(body) < int(headers["content-length"]):
                data = self.socket.recv(65536)
                assert data, self.received
                body += data
        return read_answer(int(first.split()[1]), headers, body)

    def leave(self, how: str = "close") -> None:
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _joined(chunked: bytes) -> bytes:
    data = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        length = int(size, 16)
        data, chunked = data + chunked[:length], chunked[length + 2 :]
    return data


def ask(gateway: Gateway, model: str = "m", stream: bool = False, **more: object) -> Answer:
    """One call, read to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
    try:
        return ask_on(connection, model, stream, **more)
    finally:
        connection.close()


def ask_many(gateway: Gateway, count: int, model: str = "m", *, at_a_time: int | None = None) -> list[Answer]:
    """Calls beside each other, every second one streamed; their answers in the order of the calls."""
    with ThreadPoolExecutor(at_a_time or count) as pool:
        return [*pool.map(lambda number: ask(gateway, model, number % 2 == 1), range(count))]


def rows(gateway: Gateway) -> list[dict[str, Any]]:
    """What /gateway/status says about the targets."""

    async def look() -> list[dict[str, Any]]:
        return gateway.state.nodes.rows()

    return gateway.run(look())


def row(gateway: Gateway, target: str, url: str | None = None) -> dict[str, Any]:
    """That of one target; on one of its servers, where it has several."""
    found = [one for one in rows(gateway) if one["target"] == target and url in (None, one["url"])]
    assert len(found) == 1, (target, url, rows(gateway))
    return found[0]


def waiting(gateway: Gateway, target: str, url: str | None = None) -> int:
    return int(row(gateway, target, url)["waiting"])


def at_rest(gateway: Gateway) -> bool:
    """No call holds a place or waits for one."""
    return not gateway.state.in_flight() and all(one["in_flight"] == one["waiting"] == 0 for one in rows(gateway))


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Something that goes on while a test does something else; it has ended at the end, or the test fails."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised anew where the test can see it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def times_in_log(gateway: Gateway, words: str, since: int = 0) -> int:
    return gateway.log.getvalue()[since:].count(words)
