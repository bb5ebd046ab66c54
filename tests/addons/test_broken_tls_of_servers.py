"""Servers over TLS whose record layer breaks, or who say that it did: they are given up at once, and what they sent until
then is not taken for all of it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.addons.calls import GARBAGE, clean_log, read_until
from tests.addons.media import SPEAK, big_form, send_form
from tests.certificates import own_certificate
from tests.gateway import Gateway, patient
from tests.standins import DeepSeekStandIn
from tests.standins.media import MediaStandIn
from tests.standins.raw import chunk, chunked_head, head

BEGIN = chunked_head("text/event-stream")
WORD = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"Fi"},"finish_reason":null}]}\n\n')
AT_ONCE = 5.0
"""Seconds, on a machine under load; what is waited for otherwise takes 20."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture(autouse=True)
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


class BrokenServer:
    """Sends this in answer to each call, and then a record that nobody can read; does not close."""

    def __init__(self, certificate: Path, said: bytes = b"", *, wants_certificate: bool = False) -> None:
        self._said = said
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if wants_certificate:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self.told: list[bytes] = []
        """What calls began with."""
        self.gone = threading.Event()
        """A caller has closed the connection of a call."""
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(accepted)

    def _start(self, accepted: socket.socket) -> None:
        self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
        self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        accepted.settimeout(8)
        wire = accepted.dup()
        with (
            wire,
            accepted,
            contextlib.suppress(OSError, AssertionError),
            self._context.wrap_socket(accepted, server_side=True) as connection,
        ):
            request = read_until(connection, b"\r\n\r\n")
            if not request.startswith(b"POST"):
                connection.sendall(head("200 OK", {"content-length": "2"}) + b"{}")
                return
            self.told.append(request)
            connection.sendall(self._said)
            wire.sendall(GARBAGE)
            while wire.recv(65536):
                pass
            self.gone.set()

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join()


@contextlib.contextmanager
def targets(*urls: str) -> Iterator[Gateway]:
    """A gateway that asks these servers in turn."""
    providers = ", ".join(
        f"p{number}: {{dialect: openai, urls: [{url}], key: sk-ds-test}}" for number, url in enumerate(urls)
    )
    use = ", ".join(f"p{number}/deepseek-flash" for number in range(len(urls)))
    text = f"""
providers: {{{providers}}}
rules: [{{name: all, use: [{use}]}}]
defaults: {{timeouts: {{{patient()}}}, failover: {{attempts: 1, mid_stream: error}}}}
"""
    with Gateway(text) as gateway, clean_log(gateway):
        began = time.monotonic()
        yield gateway
        assert time.monotonic() - began < AT_ONCE
        assert "TLS Error" not in gateway.log.getvalue()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("said", [b"", BEGIN], ids=["before its headers", "after its headers"])
def test_a_record_that_breaks_before_the_answer_is_passed_over_at_once(
    certificate: Path, said: bytes, stream: bool
) -> None:
    with (
        BrokenServer(certificate, said) as server,
        DeepSeekStandIn("sk-ds-test", reply=["Fine"], thinking=False) as good,
        targets(server.url, good.url) as gateway,
    ):
        answer = gateway.chat(stream=stream)
        assert answer.status_code == 200
        assert "Fine" in answer.text
        assert server.told
        assert server.gone.wait(2), "its connection is closed"


def test_a_record_that_breaks_in_the_middle_of_a_stream_ends_it_with_an_error(certificate: Path) -> None:
    with BrokenServer(certificate, BEGIN + WORD) as server, targets(server.url) as gateway:
        answer = gateway.chat(stream=True)
        assert '"content":"Fi"' in answer.text
        assert "broke the connection off" in answer.text
        assert server.gone.wait(2), "its connection is closed"


def test_a_server_that_says_after_the_handshake_what_it_does_not_like_is_passed_over_at_once(certificate: Path) -> None:
    with (
        BrokenServer(certificate, wants_certificate=True) as server,
        DeepSeekStandIn("sk-ds-test", reply=["Fine"], thinking=False) as good,
        targets(server.url, good.url) as gateway,
    ):
        assert "Fine" in gateway.chat().text


def test_sound_without_a_length_is_not_complete_where_a_record_broke(certificate: Path) -> None:
    said = head("200 OK", {"content-type": "audio/mpeg"}) + b"ID3" + bytes(5000)
    with BrokenServer(certificate, said) as server, targets(server.url) as gateway, gateway.client() as client:
        with (
            client.stream("POST", "/v1/audio/speech", content=SPEAK) as answer,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            for _ in answer.iter_raw():
                pass
        gateway.until(lambda: "502 POST /v1/audio/speech" in gateway.log.getvalue(), "it counts as broken off")


def test_a_record_that_breaks_while_a_file_is_sent_does_not_lose_the_call(certificate: Path) -> None:
    raw, digest = big_form(3_000_000)
    with (
        BrokenServer(certificate) as server,
        MediaStandIn() as good,
        targets(server.url, good.url) as gateway,
    ):
        answer = send_form(gateway, raw)
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.text)["text"] == "Heard well."
        assert good.seen[0].digest() == digest
