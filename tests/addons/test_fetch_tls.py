"""Images fetched over TLS: from the server that its certificate names, or not at all."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from addons.fetch import Fetcher
from rules.schema import Images
from tests.addons.doors import until
from tests.addons.fetching import HERE, OPEN, PNG, MiB, Names, data_url, fetch, moves, sends, serving, why
from tests.certificates import own_certificate
from tests.standins.raw import Send, Wait, head, whole


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For images.test, of nobody's authority."""
    return own_certificate(tmp_path_factory.mktemp("tls"), "images.test")


@contextmanager
def secure(certificate: Path, answer: bytes) -> Iterator[tuple[int, list[str | None]]]:
    """A TLS server for one connection: its port, and the name that it was asked for."""
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: named.append(name)

    def serve() -> None:
        try:
            plain, _ = listener.accept()
            plain.settimeout(5)
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                connection.sendall(answer)
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], named
        finally:
            thread.join()


def trusting(certificate: Path) -> Fetcher:
    names = Names(images_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    return Fetcher(resolve=names, make_tls=lambda: ssl.create_default_context(cafile=str(certificate)))


def test_https_is_checked_against_the_name_and_not_the_address(certificate: Path) -> None:
    with secure(certificate, whole(PNG)) as (port, named):
        url = f"https://images.test:{port}/"
        assert fetch(url, fetcher=trusting(certificate))[0] == {url: data_url(PNG)}
        assert named == ["images.test"]


UNSAFE = "its server could not be reached securely: its certificate or its TLS is not acceptable"


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1"])
def test_a_certificate_for_another_name_is_refused(host: str, certificate: Path) -> None:
    with secure(certificate, whole(PNG)) as (port, _):
        assert why(f"https://{host}:{port}/", fetcher=trusting(certificate)) == UNSAFE


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with secure(certificate, whole(PNG)) as (port, _):
        assert why(f"https://images.test:{port}/") == UNSAFE


def test_a_server_without_tls_is_not_asked_over_https() -> None:
    with serving([Send(b"HTTP/1.1 400 Bad Request\r\n\r\n")]) as (server, _):
        assert why(f"https://images.test:{server.port}/") == UNSAFE


def test_a_redirect_from_https_to_http_is_refused(certificate: Path) -> None:
    with serving(sends(PNG)) as (server, url), secure(certificate, b"".join([head("302 Found", {"Location": url})])) as (port, _):  # fmt: skip
        said = why(f"https://images.test:{port}/", fetcher=trusting(certificate))
        assert said == "it is redirected from https to something less safe"
        assert server.connections_made == 0


def test_a_redirect_from_http_to_https_is_followed(certificate: Path) -> None:
    with (
        secure(certificate, whole(PNG)) as (port, _),
        serving(moves(f"https://images.test:{port}/")) as (_, url),
    ):
        assert fetch(url, fetcher=trusting(certificate))[0] == {url: data_url(PNG)}


def test_a_handshake_that_hangs_leaves_no_connection_behind() -> None:
    async def run() -> None:
        policy = Images.model_validate({**OPEN, "wait": "300ms"})
        url = f"https://images.test:{server.port}/"
        _, unfetched = await Fetcher(resolve=Names(**HERE)).fetch([url], policy, MiB)
        assert unfetched == {url: "it did not come within 0.3 seconds."}
        await until(lambda: not server.open_connections)

    with serving([Wait(30)]) as (server, _):
        uvloop.run(asyncio.wait_for(run(), 5))
    gc.collect()  # a connection that is left would be warned of here
