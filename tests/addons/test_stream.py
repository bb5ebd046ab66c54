"""One call's clocks and its caller: every wait ends in time, and who leaves is let go of at once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from addons import inventory
from tests.addons.calls import Answer, Http2, ask_on, clean_log, raw_request, read_until, unanswered, world
from tests.certificates import own_certificate
from tests.gateway import Gateway, patient
from tests.standins import DeepSeekStandIn, RawServer, raw
from tests.standins.raw import Expect, Flood, Script, Send, Wait, chunk, chunked_head, head

SLACK = 2.5
"""Seconds that an ending may come late."""


@contextmanager
def targets(*urls: str, timeouts: str | None = None, look: float = 0.2) -> Iterator[Gateway]:
    """A gateway that asks these servers in turn, and gives up its own looks at them after so many seconds.

    Its end waits for its last looks, and most of these servers hang.
    """
    facts = "dialect: openai, profile: deepseek, key: sk-ds-test, patience: 300ms"
    providers = ", ".join(f"p{number}: {{{facts}, urls: [{url}]}}" for number, url in enumerate(urls))
    use = ", ".join(f"p{number}/deepseek-flash" for number in range(len(urls)))
    text = f"""
providers: {{{providers}}}
rules: [{{name: all, use: [{use}]}}]
defaults: {{timeouts: {{{timeouts or patient()}}}, failover: {{attempts: 1, mid_stream: error}}}}
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory, "STEP", look)
        patch.setattr(inventory, "PATIENCE", look)
        with Gateway(text) as gateway, clean_log(gateway):
            yield gateway


def ask(gateway: Gateway, stream: bool = False) -> tuple[Answer, float]:
    """An answer and the seconds that it took."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
    began = time.monotonic()
    answer = ask_on(connection, "any", stream)
    connection.close()
    return answer, time.monotonic() - began


def open_numbers(server: RawServer) -> set[int]:
    """The connections that are open now; the gateway's own look at a server is one of them."""
    return {connection.number for connection in list(server._connections)}


def word(text: str) -> bytes:
    return chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % text.encode())


END = chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n') + b"0\r\n\r\n"
BEGIN = chunked_head("text/event-stream")


# ---------------------------------------------------------------------------------------------------------
# Clocks


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_connection_that_hangs_while_it_opens_is_given_up_in_time(stream: bool) -> None:
    with (
        unanswered(looked_at=False) as url,
        DeepSeekStandIn("sk-ds-test", reply=["Fine"], thinking=False) as good,
        targets(url, good.url, timeouts=patient(connect="300ms")) as gateway,
    ):
        answer, took = ask(gateway, stream)
        assert (answer.status, answer.text) == (200, "Fine")
        assert 0.3 <= took < 0.3 + SLACK


WAITS: dict[str, tuple[Script, str, str]] = {
    "for the first word": ([Expect(), Wait(5)], patient(first_token="400ms"), "did not begin to answer"),
    "for the first word after headers": (
        [Expect(), Send(BEGIN), Wait(5)],
        patient(first_token="400ms"),
        "did not begin to answer",
    ),
    "for the first word among signs of life": (
        [Expect(), Send(BEGIN), Flood(chunk(b": keep-alive\n\n"), 5, 0.02)],
        patient(first_token="400ms"),
        "did not begin to answer",
    ),
    "for the first word among empty deltas": (
        [Expect(), Send(BEGIN), Flood(word(""), 5, 0.02)],
        patient(first_token="400ms"),
        "did not begin to answer",
    ),
    "for the next word": ([Expect(), Send(BEGIN + word("a")), Wait(5)], patient(idle="400ms"), "fell silent"),
    "for the end of a trickle": (
        [Expect(), Send(BEGIN), Flood(word("a"), 5, 0.05)],
        patient(total="400ms"),
        "longer than the whole call may take",
    ),
    "as a whole": ([Expect(), Wait(5)], patient(total="400ms"), "longer than the whole call may take"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", WAITS.values(), ids=WAITS.keys())
def test_no_wait_is_longer_than_its_limit(case: tuple[Script, str, str], stream: bool) -> None:
    script, timeouts, words = case
    with RawServer(script) as server, targets(server.url, timeouts=timeouts) as gateway:
        answer, took = ask(gateway, stream)
        assert 0.4 <= took < 0.4 + SLACK
        assert answer.error["code"] == "upstream_timeout"
        assert words in answer.error["message"]
        assert answer.status == (200 if answer.streamed else 504)
        (calls,) = [seen.connection for seen in server.seen if seen.method == "POST"]
        gateway.until(lambda: calls not in open_numbers(server), "the slow server is let go", SLACK)


def test_a_connection_that_hangs_while_it_opens_counts_into_the_whole_time() -> None:
    with unanswered(looked_at=False) as url, targets(url, timeouts=patient(total="400ms")) as gateway:
        answer, took = ask(gateway)
        assert 0.4 <= took < 0.4 + SLACK
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_slow_trickle_lives_as_long_as_each_piece_is_in_time(stream: bool) -> None:
    script: Script = [Expect(), Send(BEGIN)]
    for number in range(4):
        script = [*script, Send(word(str(number))), Wait(0.3)]
    with (
        RawServer([*script, Send(END)]) as server,
        targets(server.url, timeouts=patient(first_token="900ms", idle="900ms")) as gateway,
    ):
        answer, _ = ask(gateway, stream)
        assert (answer.text, answer.finish) == ("0123", ["stop"])


def test_words_are_handed_on_as_they_come() -> None:
    script: Script = [Expect(), Send(BEGIN + word("one")), Wait(0.3), Send(word("two") + END)]
    with (
        RawServer(script) as server,
        targets(server.url) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as client,
    ):
        client.sendall(raw_request(stream=True))
        received = b""
        while b'"one"' not in received:
            received += client.recv(65536)
        assert b'"two"' not in received
        while b"[DONE]" not in received:
            received += client.recv(65536)


def test_the_gateway_sleeps_while_it_waits() -> None:
    """A clock that is looked at again and again would burn a processor for every call that waits."""
    timeouts = patient(total="500ms", keep_alive="100ms")
    with unanswered(looked_at=False) as url, targets(url, timeouts=timeouts) as gateway:
        looks = 0
        clock = gateway.state.clock

        def counting() -> float:
            nonlocal looks
            looks += 1
            return clock()

        gateway.state.clock = counting
        with socket.create_connection(("127.0.0.1", gateway.port)) as lazy:
            lazy.sendall(raw_request(stream=True)[:-5])  # its request never ends
            answer, _ = ask(gateway, True)
            assert answer.error["code"] == "upstream_timeout"
            time.sleep(0.2)
        assert looks < 200


def test_a_request_that_never_ends_is_answered_when_the_whole_time_is_over() -> None:
    with world(timeouts=patient(total="300ms")) as servers, clean_log(servers.gateway):
        with socket.create_connection(("127.0.0.1", servers.gateway.port), 5) as client:
            began = time.monotonic()
            client.sendall(raw_request()[:-5])
            received = read_until(client, b"did not arrive in time")
            assert time.monotonic() - began < 0.3 + SLACK
            assert received.startswith(b"HTTP/1.1 400 ")
        servers.gateway.until(lambda: not servers.gateway.state.in_flight(), "the call is over")


def test_a_stream_gets_its_comments_while_one_connection_after_the_other_hangs() -> None:
    times = patient(connect="300ms", keep_alive="150ms")
    with (
        unanswered(looked_at=False) as one,
        unanswered(looked_at=False) as two,
        targets(one, two, timeouts=times) as gateway,
    ):
        answer, _ = ask(gateway, True)
        assert (answer.status, answer.done) == (200, 1)
        assert answer.comments >= 1


# ---------------------------------------------------------------------------------------------------------
# Servers behind TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


class TlsServer:
    """Answers one call on each of its connections; may hesitate before the handshake, but on the first, a look."""

    def __init__(self, certificate: Path, hesitation: float = 0.0) -> None:
        self.seen: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._hesitation = hesitation
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with self._listener:
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    accepted, _ = self._listener.accept()
                    self._start(self._serve, accepted)

    def _serve(self, accepted: socket.socket) -> None:
        accepted.settimeout(2)
        with accepted, contextlib.suppress(OSError):
            if self.seen:
                self._over.wait(self._hesitation)
            with self._context.wrap_socket(accepted, server_side=True) as connection:
                request = read_until(connection, b"\r\n\r\n")
                self.seen.append(request)
                if request.startswith(b"POST"):
                    connection.sendall(BEGIN + word("one") + END)
                    self._over.wait(1)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def __enter__(self) -> Self:
        self._listener.settimeout(0.05)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_calls_of_one_http_2_caller_open_their_tls_connections_side_by_side(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        TlsServer(certificate, hesitation=0.05) as server,
        targets(server.url, look=2.0) as gateway,
        Http2(gateway) as client,
    ):
        numbers = [client.ask("any", number % 2 == 0) for number in range(6)]
        client.read(lambda: len(client.ended) == 6)
        assert [client.answer(number).text for number in numbers] == ["one"] * 6


def test_a_server_whose_certificate_is_not_trusted_is_passed_over_and_never_told_a_key(certificate: Path) -> None:
    with (
        TlsServer(certificate) as server,
        DeepSeekStandIn("sk-ds-test", reply=["Fine"], thinking=False) as good,
        targets(server.url, good.url) as gateway,
    ):
        answer, _ = ask(gateway)
        assert answer.text == "Fine"
        assert server.seen == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_handshake_that_hangs_is_given_up_in_time(
    certificate: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        TlsServer(certificate, hesitation=5) as server,
        targets(server.url, timeouts=patient(connect="300ms"), look=2.0) as gateway,
    ):
        gateway.until(lambda: len(server.seen) == 1, "the gateway has looked at the server")
        answer, took = ask(gateway, stream)
        assert 0.3 <= took < 0.3 + SLACK
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert "did not take the connection in time" in answer.error["message"]


def test_a_chain_of_bad_targets_is_walked_to_the_one_that_answers() -> None:
    with (
        RawServer(raw.closed_at_once()) as closes,
        RawServer([Expect(), Send(head("429 Too Many", {"Content-Length": "0", "Retry-After": "7"}))]) as limits,
        RawServer([Expect(), Send(chunked_head() + chunk(b"data: x\n\n") + b"0\r\n\r\n")]) as mumbles,
        DeepSeekStandIn("sk-ds-test", reply=["Fine"], thinking=False) as good,
        targets(closes.url, limits.url, mumbles.url, good.url) as gateway,
    ):
        for stream in (False, True):
            answer, _ = ask(gateway, stream)
            assert (answer.status, answer.text) == (200, "Fine")
        # The one that named a time is not asked again before it.
        gateway.until(lambda: gateway.log.getvalue().count("4 attempts") == 1, "the log counts the attempts")
        gateway.until(lambda: gateway.log.getvalue().count("3 attempts") == 1, "the log counts the attempts")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_server_that_never_ends_its_reply_after_the_answer_s_end_is_let_go(stream: bool) -> None:
    ended = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    with (
        RawServer([Expect(), Send(BEGIN + word("a") + chunk(ended)), Wait(9)]) as server,
        targets(server.url, timeouts=patient(idle="300ms")) as gateway,
        Http2(gateway) as client,
    ):
        number = client.ask("any", stream=stream)
        client.read(lambda: number in client.ended)
        answer = client.answer(number)
        assert (answer.text, answer.finish, answer.done) == ("a", ["stop"], int(stream))
        (calls,) = [seen.connection for seen in server.seen if seen.method == "POST"]
        gateway.until(lambda: calls not in open_numbers(server), "its connection is closed, the caller's is not", 1.0)
