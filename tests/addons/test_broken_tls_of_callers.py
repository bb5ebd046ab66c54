"""Callers over TLS whose record layer breaks: nothing of what follows can be read or written, so it is the end of the
connection, and of each call on it. Each is accounted once, for what it used, and holds nothing any more."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from mitmproxy.proxy import events
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http._base import HttpEvent

from addons.account import Account
from addons.http1 import CallerHttp1
from addons.stream import GatewayStream
from tests.addons.calls import (
    CALLER_KEY,
    GARBAGE,
    UPSTREAM_KEY,
    Http2,
    clean_log,
    dial,
    idle_nodes,
    payload,
    raw_request,
    read_until,
    rest_no_more,
    trusting,
)
from tests.addons.ledgers import read, settled
from tests.gateway import Gateway, patient
from tests.standins import CutAfter, DeepSeekStandIn, HoldAfter, Normal, Plan, Silence, until

LIMITS = ("100 parallel", "100000/day", "100M tokens/day", "10000 USD/day")
WORDS = [f"word{number} " for number in range(30)]


@dataclass
class Place:
    """A gateway whose caller has limits of each kind, a server with a price, and what calls came to."""

    gateway: Gateway
    server: DeepSeekStandIn
    accounts: list[Account] = field(default_factory=list)

    def standings(self) -> dict[str, tuple[int, int]]:
        """Limit -> (used, what calls under way have set aside)."""
        limits = self.gateway.rules.limits
        client = self.gateway.rules.keys.named("notebook")
        charges = [*limits.of_client(client)]
        found = self.gateway.run(self.gateway.state.limiter.look(charges))
        assert found is not None
        return {charge.limit.written: (one.used, one.aside) for charge, one in zip(charges, found, strict=True)}


@pytest.fixture(scope="module", params=["error", "continue"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    ledger = tmp_path_factory.mktemp("records") / "ledger.sqlite"
    with (
        DeepSeekStandIn(UPSTREAM_KEY, reply=WORDS, thinking=False) as server,
        Gateway(f"""
providers:
  cloud: {{dialect: openai, profile: deepseek, urls: [{server.url}], key: {UPSTREAM_KEY}, parallel: 100}}
clients:
  notebook: {{key: {CALLER_KEY}, limits: [{", ".join(LIMITS)}]}}
prices:
  - {{model: cloud/deepseek-flash, from: 2026-01-01, input: 1, output: 1000}}
ledger: {{url: "sqlite:///{ledger}"}}
rules: [{{name: all, use: [cloud/deepseek-flash]}}]
defaults:
  timeouts: {{{patient()}}}
  breaker: {{failures: 1000000}}
  failover: {{attempts: 1, mid_stream: {request.param}, backoff: 10ms}}
  refresh: 500ms
""") as gateway,
    ):
        place = Place(gateway, server)
        told: list[Account] = []
        gateway.state.watchers += (place.accounts.append, told.append)
        yield place
        settled(gateway)
        kept, _ = read(f"sqlite:///{ledger}")
        assert Counter(row["request_id"] for row in kept) == Counter(account.request_id for account in told)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    server = shared.server
    server.release()
    server._plans.clear()
    server.seen.clear()
    server.always, server.aborted, server.pace = None, 0, 0.0
    rest_no_more(shared.gateway)
    shared.accounts.clear()
    yield shared
    idle_nodes(shared.gateway)


class Tls:
    """A caller over TLS whose records are made where they can be seen."""

    def __init__(self, gateway: Gateway, *, calls: int, stream: bool) -> None:
        assert calls == 1
        self.socket = dial(gateway)
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting().wrap_bio(self._came, self._goes, server_hostname="api.openai.com")
        self._do(self.tls.do_handshake)
        self.read = b""
        self.send(raw_request("m", stream))

    def _do[T](self, what: Callable[[], T]) -> T:
        while True:
            try:
                done = what()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(65536)
                assert data, "the gateway closed the connection"
                self._came.write(data)
            else:
                self.flush()
                return done

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def flush(self) -> None:
        if self._goes.pending:
            self.socket.sendall(self._goes.read())

    def read_words(self, count: int) -> None:
        while self.read.count(b'"word') + self.read.count(b":word") < count:
            self.read += self._do(lambda: self.tls.read(65536))

    def alert(self) -> None:
        """What the gateway said is broken on its way: the caller's TLS says so, and ends."""
        self._came.write(GARBAGE)
        with suppress(ssl.SSLError):
            while self.tls.read(65536):
                pass
        self.flush()

    def alert_and_close(self) -> None:
        self.alert()
        self.socket.close()

    def say_goodbye_and_close(self) -> None:
        self.say_goodbye()
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def say_goodbye(self) -> None:
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class ManyInOne(Http2):
    """A caller over HTTP/2."""

    def __init__(self, gateway: Gateway, *, calls: int, stream: bool) -> None:
        super().__init__(gateway)
        self.numbers = [self.ask("m", stream) for _ in range(calls)]

    def __enter__(self) -> Self:
        return self

    def read_words(self, count: int) -> None:
        self.read(lambda: all(self.bodies[number].count(b'"word') >= count for number in self.numbers))


CALLERS: dict[str, tuple[type[Tls] | type[ManyInOne], int]] = {"HTTP/1.1": (Tls, 1), "HTTP/2": (ManyInOne, 3)}


def is_told_of_the_end(caller: Tls | ManyInOne) -> None:
    """Fails unless the gateway closes the connection, whatever it says before."""
    with closing(socket.socket(fileno=socket.dup(caller.socket.fileno()))) as wire:
        wire.settimeout(2)
        with suppress(ConnectionResetError):
            while wire.recv(65536):
                pass


@contextmanager
def accounted(place: Place, calls: int, *, quiet: bool = True) -> Iterator[None]:
    """Fails unless so many calls end meanwhile, each with one account, and the limits count what these say."""
    gateway, before = place.gateway, place.standings()
    begin = len(gateway.log.getvalue())
    with clean_log(gateway) if quiet else nullcontext():
        yield
        gateway.until(lambda: not gateway.state.in_flight(), "no call is under way", 2.0)
        gateway.until(lambda: len(place.accounts) >= calls, "the calls are accounted", 2.0)
        idle_nodes(gateway)
    assert len(place.accounts) == len({account.request_id for account in place.accounts}) == calls
    after = place.standings()
    assert [aside for _, aside in after.values()] == [0, 0, 0, 0]
    assert [after[limit][0] - before[limit][0] for limit in LIMITS] == [
        0,
        calls,
        sum(account.tokens.total for account in place.accounts),
        sum(account.cost for account in place.accounts),
    ]
    if quiet:
        said = [line for line in gateway.log.getvalue()[begin:].splitlines() if "TLS" in line]
        assert len(said) <= 1, said
        assert not any(word in line for line in said for word in ("WARNING", "ERROR")), said


@dataclass(frozen=True)
class Moment:
    """Where a call stands when the records break."""

    plan: Plan
    stream: bool = True
    words: int = 0
    pace: float = 0.0
    holds: bool = True
    """Its server waits there until it is let go."""


MOMENTS: dict[str, Moment] = {
    "before the answer": Moment(Silence(), stream=False),
    "before the answer of a stream": Moment(Silence()),
    "in the middle of a stream": Moment(HoldAfter(4), words=3),
    "in the middle of a stream that goes on": Moment(Normal(), words=1, pace=0.03, holds=False),
    "in the middle of a whole answer": Moment(HoldAfter(1), stream=False),
    "before a server cuts its stream": Moment(CutAfter(15), words=1, pace=0.03, holds=False),
}


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS.keys())
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_broken_record_ends_the_connection_and_each_call_of_it_is_accounted(
    place: Place, moment: Moment, caller: tuple[type[Tls] | type[ManyInOne], int]
) -> None:
    kind, calls = caller
    place.server.always, place.server.pace = moment.plan, moment.pace
    with accounted(place, calls), kind(place.gateway, calls=calls, stream=moment.stream) as client:
        assert until(lambda: len(place.server.chats) == calls)
        if moment.words:
            client.read_words(moment.words)
        elif isinstance(moment.plan, HoldAfter):
            assert until(lambda: place.server.holding == calls)
        write_to(client, GARBAGE)
        is_told_of_the_end(client)
        assert until(lambda: place.server.aborted == calls, 2.0), "the servers are let go at once"
    assert {account.status for account in place.accounts} == {499}
    for account in place.accounts:
        assert account.estimated == (account.tokens.total > 0)
        assert account.tokens.completion >= moment.words
        assert account.tokens.completion < len(WORDS)


def write_to(client: Tls | ManyInOne, data: bytes) -> None:
    """Past its TLS."""
    with closing(socket.socket(fileno=socket.dup(client.socket.fileno()))) as wire:
        wire.sendall(data)


ENDS = {
    "an alert": Tls.alert,
    "an alert, and then closes": Tls.alert_and_close,
    "a goodbye": Tls.say_goodbye,
    "a goodbye, and then closes": Tls.say_goodbye_and_close,
    "the end of the connection": Tls.close,
}


@pytest.mark.parametrize("leave", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    "moment", ["before the answer", "in the middle of a stream", "before a server cuts its stream"]
)
def test_a_caller_whose_own_tls_ends_it_with(place: Place, moment: str, leave: Callable[[Tls], None]) -> None:
    there = MOMENTS[moment]
    place.server.always, place.server.pace = there.plan, there.pace
    with accounted(place, 1), Tls(place.gateway, calls=1, stream=there.stream) as client:
        assert until(lambda: len(place.server.chats) == 1)
        client.read_words(there.words)
        leave(client)
        if client.socket.fileno() >= 0:
            is_told_of_the_end(client)
        assert until(lambda: place.server.aborted == 1, 2.0)
    assert place.accounts[0].status == 499


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS.keys())
def test_a_record_that_breaks_as_the_server_cuts_leaves_one_account(
    place: Place, caller: tuple[type[Tls] | type[ManyInOne], int]
) -> None:
    kind, calls = caller
    place.server.always, place.server.pace = CutAfter(5), 0.05
    with accounted(place, calls), kind(place.gateway, calls=calls, stream=True) as client:
        client.read_words(2)
        place.gateway.stand_still(0.4)  # both are read at the same time
        write_to(client, GARBAGE)
        is_told_of_the_end(client)
    assert len(place.accounts) == calls


@pytest.mark.parametrize("cuts", [False, True], ids=["", "and servers that cut"])
def test_a_call_in_parts_whose_callers_records_break_has_one_account(place: Place, cuts: bool) -> None:
    place.server.always, place.server.pace = CutAfter(15) if cuts else None, 0.03
    with accounted(place, 1), ManyInOne(place.gateway, calls=0, stream=True) as client:
        client.numbers = [client.ask(body=payload("m", True, n=3))]
        client.read_words(4)
        write_to(client, GARBAGE)
        is_told_of_the_end(client)
        assert until(lambda: place.server.aborted == 3, 2.0)
    (account,) = place.accounts
    assert [one.outcome for one in account.tried] == ["left"] * 3


def test_records_that_break_between_two_calls_end_the_connection(place: Place) -> None:
    with accounted(place, 1), Tls(place.gateway, calls=1, stream=False) as client:
        client.read_words(1)
        write_to(client, GARBAGE)
        is_told_of_the_end(client)
    assert place.accounts[0].status == 200


def test_records_that_break_in_the_middle_of_a_request_end_it(place: Place) -> None:
    with clean_log(place.gateway), Tls(place.gateway, calls=1, stream=False) as client:
        client.read_words(1)
        client.send(raw_request("m", stream=False)[:-10])
        place.gateway.until(lambda: len(place.gateway.state.in_flight()) == 1, "the call has begun")
        write_to(client, GARBAGE)
        is_told_of_the_end(client)
        place.gateway.until(lambda: len(place.accounts) == 2, "both calls are accounted", 2.0)
    assert [account.status for account in place.accounts] == [200, 499]


# -- whatever the reason: a call that ends without an account gets one


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _breaks_at(mark: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something between the call and its caller fails, and mitmproxy drops what was under way."""
    send = CallerHttp1.send

    def breaks(self: CallerHttp1, event: HttpEvent) -> CommandGenerator[None]:
        if mark in getattr(event, "data", b""):
            raise RuntimeError("the way to the caller is broken")
        return send(self, event)

    monkeypatch.setattr(CallerHttp1, "send", breaks)


@pytest.mark.parametrize("mark", [b"word3", b'"error"', b"[DONE]"])
def test_a_call_that_was_dropped_in_the_middle_is_accounted_when_its_caller_leaves(
    place: Place, mark: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.always = CutAfter(10) if mark == b'"error"' else None
    _breaks_at(mark, monkeypatch)
    log = place.gateway.log
    begin = len(log.getvalue())
    with accounted(place, 1, quiet=False), dial(place.gateway) as client:
        client.sendall(raw_request("m", stream=True))
        place.gateway.until(lambda: "crashed" in log.getvalue()[begin:], "it was dropped")
        client.close()
    assert place.accounts[0].tokens.completion > 0


@pytest.mark.parametrize("words", [0, 3])
def test_a_call_that_nobody_tells_of_its_callers_end_is_accounted(
    place: Place, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: CallerHttp1, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.ConnectionClosed):
            raise RuntimeError("the caller's end is not understood")
        return handle(self, event)

    handle = CallerHttp1.handle_event
    monkeypatch.setattr(CallerHttp1, "handle_event", breaks)
    place.server.always = HoldAfter(4) if words else Silence()
    with accounted(place, 1, quiet=False), dial(place.gateway) as client:
        client.sendall(raw_request("m", stream=True))
        assert until(lambda: len(place.server.chats) == 1)
        if words:
            read_until(client, b"word2")
        reset(client)
        assert until(lambda: place.server.aborted == 1, 2.0)
    assert place.accounts[0].status == 499


def test_a_bug_of_ours_that_lets_nothing_be_said_is_accounted_as_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: GatewayStream) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch, accounted(place, 1, quiet=False), dial(place.gateway) as client:
        patch.setattr(GatewayStream, "send_response", breaks)
        client.sendall(raw_request("m", stream=False))
        assert client.recv(65536) == b""
    assert place.accounts[0].status == 500
    assert place.accounts[0].tokens.completion == len(WORDS)
