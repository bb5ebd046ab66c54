"""Images fetched by URL: what comes in, what is refused, and that nothing inner is ever reached.

Servers are real, on loopback. The resolver is ours: `images.test` leads to loopback, which the policy opens for that
one address, so what is refused is refused by the same checks as on the internet.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from addons.fetch import KEPT, MOST_IMAGES, Fetcher, Resolve, Unfetchable, holds_for, host_of, resolve, take_apart
from rules.schema import Images
from tests.addons.doors import until
from tests.standins import RawServer
from tests.standins.raw import (
    Close,
    Expect,
    Flood,
    Reset,
    Script,
    Send,
    Wait,
    chunk,
    chunked_head,
    cut_chunk,
    endless_headers,
    gzipped,
    head,
    huge_header,
    interim,
    until_eof,
    whole,
    with_trailers,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 100
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + b"w" * 100
MiB = 2**20
OPEN: dict[str, Any] = {"allow": ["127.0.0.1"]}
"""A policy for which one address of this machine is as good as a public one."""


def data_url(body: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"


class Names:
    """A resolver: name -> its addresses, one list after the other where several are given, the last for good."""

    def __init__(self, **names: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self._names: dict[str, list[list[str]]] = {
            name.replace("_", "."): [[given] if isinstance(given, str) else [*given] for given in turns]
            for name, turns in names.items()
        }
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        turns = self._names.get(host)
        if turns is None:
            return await resolve(host, port) if host[0].isdigit() or ":" in host else []
        return turns.pop(0) if len(turns) > 1 else turns[0]


HERE = {"images_test": [["127.0.0.1"]]}


async def nowhere(host: str, _port: int) -> list[str]:
    raise OSError(f"no such host: {host}")


def fetch(
    *urls: str,
    policy: Mapping[str, Any] | None = None,
    names: Resolve | None = None,
    most: int = 64 * MiB,
    fetcher: Fetcher | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """In the loop that the gateway uses."""
    used = fetcher or Fetcher(resolve=names or Names(**HERE))
    return uvloop.run(used.fetch(urls, Images.model_validate({**OPEN, **(policy or {})}), most))


def why(url: str, **more: Any) -> str:
    """The words for the one image that could not be had."""
    fetched, unfetched = fetch(url, **more)
    assert fetched == {}
    assert list(unfetched) == [url]
    assert unfetched[url].endswith(".")
    return unfetched[url].removesuffix(".")


@contextmanager
def serving(*scripts: Script) -> Iterator[tuple[RawServer, str]]:
    """A server and its address under the name that the resolver knows."""
    with RawServer(*scripts) as server:
        yield server, f"http://images.test:{server.port}"


def sends(body: bytes, kind: str = "image/png", **headers: str) -> Script:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [Expect(), Send(head("200 OK", {"Content-Type": kind, "Content-Length": str(len(body)), **named}) + body)]


def moves(location: str, status: str = "302 Found") -> Script:
    return [Expect(), Send(head(status, {"Location": location, "Content-Length": "0"}))]


# -- what comes in


@pytest.mark.parametrize(("body", "kind"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")])
@pytest.mark.parametrize("said", ["image/png", "application/octet-stream", "text/html"])
def test_the_bytes_say_what_an_image_is_and_not_its_server(body: bytes, kind: str, said: str) -> None:
    with serving(sends(body, said)) as (_, url):
        assert fetch(f"{url}/a") == ({f"{url}/a": data_url(body, kind)}, {})


@pytest.mark.parametrize("script", [
    [Expect(), Send(chunked_head("image/png") + b"".join(chunk(PNG[n : n + 1]) for n in range(len(PNG))) + b"0\r\n\r\n")],
    until_eof(PNG),
    interim(PNG),
    with_trailers(PNG, {"X-Sum": "1"}),
    [Expect(), *(Send(bytes([byte])) for byte in whole(PNG))],
])  # fmt: skip
def test_an_image_comes_in_any_framing(script: Script) -> None:
    with serving(script) as (_, url):
        assert fetch(url)[0] == {url: data_url(PNG)}


def test_several_images_come_at_once_and_each_but_once() -> None:
    slow: Script = [Wait(0.5), *sends(PNG)]
    with serving(slow) as (server, url):
        urls = [f"{url}/{number}" for number in range(8)]
        began = time.monotonic()
        fetched, unfetched = fetch(*urls, *urls)
        assert time.monotonic() - began < 3
        assert (list(fetched), unfetched) == (urls, {})
        assert len(server.seen) == 8


def test_nothing_is_sent_but_what_an_image_needs() -> None:
    with serving(sends(PNG)) as (server, url):
        fetch(f"{url}/ä b/%41?q=ü&sig=a%2Fb#part")
        (seen,) = server.seen
    assert (seen.method, seen.path) == ("GET", "/%C3%A4%20b/%41?q=%C3%BC&sig=a%2Fb")
    assert dict(seen.headers) | {"host": ""} == {
        "host": "", "user-agent": "unigate", "accept": "image/png, image/jpeg, image/webp",
        "accept-encoding": "identity", "connection": "close",
    }  # fmt: skip
    assert seen.body == b""


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(sends(PNG)) as (_, url), RawServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert fetch(url)[0] == {url: data_url(PNG)}
        assert proxy.connections_made == 0


def test_of_several_addresses_the_next_is_tried_where_one_is_away() -> None:
    with serving(sends(PNG)) as (_, url):
        names = Names(images_test=[["127.0.0.9", "127.0.0.1"]])
        assert fetch(url, names=names, policy={"allow": ["127.0.0.0/28"]})[0] == {url: data_url(PNG)}


# -- where we do not connect


INNER = [
    "127.0.0.1", "127.8.8.8", "localhost", "localhost.", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::1]",
    "[2001:0:53aa:64c:0:0:80ff:fffe]", "[fe80::1]", "[fd00::1]", "[ff02::1]",
    "2130706433", "0x7f000001", "0x7F.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "00.0.0.0",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "[::ffff:169.254.169.254]", "100.64.0.1", "100.100.100.200",
    "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
]  # fmt: skip


@pytest.mark.parametrize("host", INNER)
def test_an_inner_address_is_refused_however_it_is_written(host: str) -> None:
    with RawServer(sends(PNG)) as server:
        said = why(f"http://{host}:{server.port}/", policy={"allow": []}, names=resolve)
        assert said.startswith("its host is not a public one;")
        assert server.connections_made == 0


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1%lo", "10.0.0.1", "64:ff9b::a00:1"]
)
def test_a_name_that_leads_to_an_inner_address_is_refused(address: str) -> None:
    with RawServer(sends(PNG)) as server:
        names = Names(innocent_test=[[address]])
        said = why(f"http://innocent.test:{server.port}/", policy={"allow": []}, names=names)
        assert said.startswith("its host is not a public one;")
        assert server.connections_made == 0


def test_of_a_name_with_inner_and_opened_addresses_only_the_opened_ones_are_asked() -> None:
    with RawServer(sends(PNG)) as opened:
        names = Names(both_test=[["127.0.0.7", "127.0.0.1"]])
        url = f"http://both.test:{opened.port}/"
        with socket.socket() as inner:
            inner.bind(("127.0.0.7", opened.port))
            inner.listen()
            inner.settimeout(0.2)
            assert fetch(url, names=names)[0] == {url: data_url(PNG)}
            with pytest.raises(TimeoutError):
                inner.accept()


def test_the_address_that_was_checked_is_the_one_that_is_asked() -> None:
    """A name that leads to a public address first, and to an inner one when it is looked up again."""
    with serving(sends(PNG)) as (server, url), socket.socket() as inner:
        inner.bind(("127.0.0.7", server.port))
        inner.listen()
        inner.settimeout(0.2)
        names = Names(images_test=[["127.0.0.1"], ["127.0.0.7"]])
        assert fetch(url, names=names)[0] == {url: data_url(PNG)}
        assert names.asked == ["images.test"]
        with pytest.raises(TimeoutError):
            inner.accept()


def test_a_redirect_to_the_same_name_is_checked_anew() -> None:
    with serving(moves("/again"), sends(PNG)) as (server, url):
        names = Names(images_test=[["127.0.0.1"], ["127.0.0.7"]])
        assert why(url, names=names).startswith("its host is not a public one;")
        assert names.asked == ["images.test", "images.test"]
        assert server.connections_made == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("host", ["127.0.0.7", "[::1]", "2130706439", "169.254.169.254", "inner.test"])
def test_a_redirect_to_an_inner_address_is_refused(host: str, status: str) -> None:
    with socket.socket() as inner:
        inner.bind(("127.0.0.7", 0))
        inner.listen()
        inner.settimeout(0.05)
        location = f"http://{host}:{inner.getsockname()[1]}/secret"
        with serving(moves(location, status)) as (_, url):
            names = Names(images_test=[["127.0.0.1"]], inner_test=[["127.0.0.7"]])
            assert why(url, names=names).startswith("its host is not a public one;")
        with pytest.raises(TimeoutError):
            inner.accept()


@pytest.mark.parametrize("port", [1, 22, 25, 81, 442, 1023])
def test_ports_of_other_services_are_not_asked(port: int) -> None:
    names = Names(public_test=[["93.184.215.14"]])
    assert why(f"http://public.test:{port}/", names=names) == f"its port {port} is not one of the web's"


@pytest.mark.parametrize("allow", [["images.test"], ["127.0.0.1"], ["127.0.0.0/8"], ["::1", "127.0.0.1/32"]])
def test_what_the_rules_open_may_be_asked(allow: list[str]) -> None:
    with serving(sends(PNG)) as (_, url):
        assert fetch(url, policy={"allow": allow})[0] == {url: data_url(PNG)}


@pytest.mark.parametrize("allow", [[], ["test"], ["images.tes"], ["127.0.0.2"], ["10.0.0.0/8"]])
def test_what_the_rules_do_not_open_may_not(allow: list[str]) -> None:
    with serving(sends(PNG)) as (server, url):
        said = why(url, policy={"allow": allow})
        assert said == "its host is not a public one; the gateway's operator may open it (defaults.images.allow)"
        assert server.connections_made == 0


def test_a_host_that_nobody_knows_is_said_to_be_unknown() -> None:
    assert why("http://images.test/", names=nowhere) == "its host cannot be found"


def test_nothing_is_fetched_where_the_rules_say_so() -> None:
    with serving(sends(PNG)) as (server, url):
        assert why(url, policy={"fetch": False}) == "this gateway fetches no images"
        assert server.connections_made == 0


# -- URLs that are none


@pytest.mark.parametrize(("url", "words"), [
    ("http://user:pass@images.test/", "holds a user name or a password"),
    ("http://user@images.test/", "holds a user name or a password"),
    ("http://@images.test/", "holds a user name or a password"),
    ("http://images.test:pass@127.0.0.1/", "holds a user name"),
    ("http://", "not well-formed"),
    ("http:///path", "not well-formed"),
    ("http://:80/", "not well-formed"),
    ("http://images.test:0/", "not well-formed"),
    ("http://images.test:99999/", "not well-formed"),
    ("http://images.test:x/", "not well-formed"),
    ("http://[::1", "not well-formed"),
    ("http://[fe80::1%25lo]/", "not well-formed"),
    ("http://a..b/", "not well-formed"),
    ("http://.test/", "not well-formed"),
    (f"http://{'a' * 64}.test/", "not well-formed"),
    (f"http://{'a.' * 130}test/", "not well-formed"),
    ("http://exa mple.test/", "not well-formed"),
    ("http://127.0.0.1%2f@images.test/", "holds a user name"),
    ("http://%31%32%37.0.0.1/", "not well-formed"),
    ("http://images.test\\@127.0.0.1/", "holds a user name"),
    ("http://ima\u2100ges.test/", "not well-formed"),
    ("ftp://images.test/", "only http and https"),
    ("http://images.test/" + "x" * 17000, "longer than 16384"),
])  # fmt: skip
def test_a_url_that_is_odd_is_refused(url: str, words: str) -> None:
    with pytest.raises(Unfetchable, match=words):
        take_apart(url)


@pytest.mark.parametrize(("url", "host", "port", "target", "authority"), [
    ("http://images.test", "images.test", 80, "/", "images.test"),
    ("HTTPS://Images.TEST.:8443/a/../b?c=d", "images.test", 8443, "/a/../b?c=d", "images.test:8443"),
    ("https://b\u00fccher.test:443/\u00fc", "xn--bcher-kva.test", 443, "/%C3%BC", "xn--bcher-kva.test"),
    ("http://[2606:4700:0::1]:81/", "2606:4700::1", 81, "/", "[2606:4700::1]:81"),
    ("http://images.test/a\r\nHost: evil", "images.test", 80, "/aHost:%20evil", "images.test"),
])  # fmt: skip
def test_a_url_is_taken_apart_once(url: str, host: str, port: int, target: str, authority: str) -> None:
    place = take_apart(url)
    assert (place.host, place.port, place.target, place.authority) == (host, port, target, authority)


@given(st.text())
def test_any_text_is_a_place_or_is_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://images.test/{text}", f"http://images.test:{text}"):
        try:
            place = take_apart(url)
        except Unfetchable:
            continue
        assert place.target.isascii()
        assert place.target.isprintable()
        assert " " not in place.target
        assert place.host.isascii()


# -- redirects


def test_a_redirect_is_followed_wherever_it_leads() -> None:
    with RawServer(sends(JPEG)) as other:
        names = Names(images_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
        with serving(moves("/b/c"), moves("d?e=f#g"), moves(f"//other.test:{other.port}/last")) as (server, url):
            assert fetch(f"{url}/a", names=names)[0] == {f"{url}/a": data_url(JPEG, "image/jpeg")}
            assert [seen.path for seen in server.seen] == ["/a", "/b/c", "/b/d?e=f"]
        assert other.seen[0].path == "/last"


@pytest.mark.parametrize("redirects", [0, 1, 3])
def test_redirects_have_an_end(redirects: int) -> None:
    with serving(moves("/again")) as (server, url):
        assert why(url, policy={"redirects": redirects}) == f"it is redirected more than {redirects} times"
        assert server.connections_made == redirects + 1


@pytest.mark.parametrize(("location", "words"), [
    ("http://user:pass@images.test/", "its URL holds a user name or a password"),
    ("file:///etc/passwd", "its URL is not well-formed"),
    ("gopher://images.test/", "only http and https URLs are fetched"),
    ("http://[", "it is redirected to a URL that is not well-formed"),
    ("http://\xfc\xff.test/", "its host cannot be found"),
])  # fmt: skip
def test_a_redirect_that_is_odd_is_refused(location: str, words: str) -> None:
    async def names(host: str, _port: int) -> list[str]:
        if host != "images.test":
            raise OSError
        return ["127.0.0.1"]

    with serving(moves(location)) as (_, url):
        assert why(url, names=names) == words


# -- what is too much


def test_an_image_whose_length_says_too_much_is_not_read() -> None:
    with serving([Expect(), Send(head(headers={"Content-Length": str(2 * MiB)})), Flood(PNG, 5)]) as (_, url):
        began = time.monotonic()
        assert why(url, policy={"bytes": MiB}) == "it is larger than 1.0MiB"
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("start", [
    head() + PNG,
    chunked_head("image/png") + chunk(PNG),
    head(headers={"Content-Length": "400"}) + PNG,
])  # fmt: skip
def test_an_image_that_does_not_end_is_given_up(start: bytes) -> None:
    flood = chunk(bytes(60_000)) if b"chunked" in start else bytes(60_000)
    with serving([Expect(), Send(start), Flood(flood, 5)]) as (server, url):
        began = time.monotonic()
        if b"Content-Length" in start:  # what follows belongs to no answer
            assert fetch(url, policy={"bytes": MiB})[0][url].startswith("data:image/png")
        else:
            assert why(url, policy={"bytes": MiB}) == "it is larger than 1.0MiB"
        assert time.monotonic() - began < 3
        assert server.connections_made == 1


@pytest.mark.parametrize(
    "script",
    [
        [Expect(), Send(chunked_head("image/png") + chunk(PNG)), Flood(chunk(b"x") * 1000, 5)],
        [Expect(), Flood(head("103 Early Hints") * 1000, 5)],
    ],
    ids=["chunks", "interim answers"],
)
def test_a_server_that_sends_scraps_keeps_nobody_waiting(script: Script) -> None:
    longest = 0.0

    async def look(url: str) -> str:
        nonlocal longest
        fetching = asyncio.create_task(Fetcher(resolve=Names(**HERE)).fetch([url], Images.model_validate(OPEN), MiB))
        while not fetching.done():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)
        return fetching.result()[1][url]

    with serving(script) as (_, url):
        assert uvloop.run(look(url)) == "its server sends it in too many small pieces."
    assert longest < 0.2


def test_an_image_of_exactly_the_limit_is_taken() -> None:
    body = PNG.ljust(1000, b"x")
    with serving(sends(body)) as (_, url):
        assert fetch(url, policy={"bytes": 1000})[0] == {url: data_url(body)}
        assert why(url, policy={"bytes": 999}) == "it is larger than 999B"


@pytest.mark.parametrize("length", ["9" * 19, "9" * 30, "9" * 5000, "-1", "1, 2", "ten"])
def test_an_absurd_length_is_no_answer(length: str) -> None:
    with serving([Expect(), Send(head(headers={"Content-Length": length}) + PNG)]) as (_, url):
        assert why(url) in ("it is larger than 20.0MiB", "its server broke off, or did not answer in HTTP")


def test_the_images_of_one_request_share_their_room() -> None:
    body = PNG.ljust(60_000, b"x")
    with serving(sends(body)) as (_, url):
        urls = [f"{url}/{number}" for number in range(3)]
        fetched, unfetched = fetch(*urls, most=130_000)
        assert len(fetched) == 2
        assert [*unfetched.values()] == ["the images of this request are too large together."]


def test_only_so_many_images_are_fetched_for_one_request() -> None:
    with serving(sends(PNG)) as (server, url):
        urls = [f"{url}/{number}" for number in range(MOST_IMAGES + 2)]
        fetched, unfetched = fetch(*urls)
        assert ([*fetched], [*unfetched]) == (urls[:MOST_IMAGES], urls[MOST_IMAGES:])
        assert {*unfetched.values()} == {f"no more than {MOST_IMAGES} images are fetched for one request."}
        assert server.connections_made == MOST_IMAGES


@pytest.mark.parametrize("script", [
    gzipped(PNG + bytes(50 * MiB), "image/png"),
    sends(gzip.compress(PNG), Content_Encoding="GZIP"),
    sends(PNG, Content_Encoding="identity, gzip"),
])  # fmt: skip
def test_nothing_compressed_is_taken(script: Script) -> None:
    with serving(script) as (_, url):
        assert why(url) == "its server sent it compressed although it was asked not to"


def test_an_answer_may_say_that_it_is_not_encoded() -> None:
    with serving(sends(PNG, Content_Encoding=" Identity ")) as (_, url):
        assert fetch(url)[0] == {url: data_url(PNG)}


@pytest.mark.parametrize("script", [
    [Expect(), Wait(30)],
    [Expect(), Send(b"HTTP/1.1 200 OK\r\n"), Flood(b"X: y\r\n", 10, 0.05)],
    [Expect(), Send(head("100 Continue")), Flood(head("100 Continue"), 10, 0.05)],
    [Expect(), Send(head(headers={"Content-Length": "1000"}) + PNG[:20]), Flood(b"x", 10, 0.05)],
    [Expect(), Send(chunked_head("image/png") + chunk(PNG)), Flood(chunk(b"x"), 10, 0.05)],
    [Wait(30)],
])  # fmt: skip
def test_a_slow_server_ends_with_the_time_for_all_images(script: Script) -> None:
    with serving(script) as (server, slow), serving(sends(PNG)) as (_, quick):
        began = time.monotonic()
        fetched, unfetched = fetch(slow, quick, policy={"wait": "400ms"})
        assert 0.35 < time.monotonic() - began < 3
        assert (fetched, unfetched) == ({quick: data_url(PNG)}, {slow: "it did not come within 0.4 seconds."})
        assert server.connections_made == 1


def test_a_lookup_that_hangs_ends_with_the_time_for_all_images() -> None:
    async def hangs(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(30)
        return []

    assert why("http://images.test/", names=hangs, policy={"wait": "200ms"}) == "it did not come within 0.2 seconds"


# -- what is no image


@pytest.mark.parametrize(("body", "words"), [
    (b"GIF89a" + b"g" * 100, "it is a GIF; send a PNG, JPEG or WebP image"),
    (b"<html>", "it is not a PNG, JPEG or WebP image"),
    (b"", "it is not a PNG, JPEG or WebP image"),
    (b"\x89PN", "it is not a PNG, JPEG or WebP image"),
])  # fmt: skip
def test_other_files_are_refused_whatever_their_server_calls_them(body: bytes, words: str) -> None:
    with serving(sends(body, "image/png")) as (_, url):
        assert why(url) == words


def test_a_file_that_is_no_image_is_not_read_to_its_end() -> None:
    with serving([Expect(), Send(head() + b"<html>"), Flood(b"page" * 1000, 5, 0.01)]) as (_, url):
        began = time.monotonic()
        assert why(url) == "it is not a PNG, JPEG or WebP image"
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(("script", "words"), [
    (sends(PNG)[:1], "its server broke off, or did not answer in HTTP"),
    ([Expect(), Send(head("404 No") + PNG)], "its server answered with status 404"),
    ([Expect(), Send(head("204 No Content"))], "its server answered with status 204"),
    ([Expect(), Send(head("302 Found") + PNG)], "its server answered with status 302"),
    ([Expect(), Send(head("304 Not Modified"))], "its server answered with status 304"),
    ([Expect(), Send(b"SSH-2.0-OpenSSH_9\r\n")], "its server broke off, or did not answer in HTTP"),
    ([Expect(), Send(head(headers={"Content-Length": "500"}) + PNG), Close()], "its server broke off, or did not answer in HTTP"),
    (cut_chunk(PNG), "its server broke off, or did not answer in HTTP"),
    ([Expect(), Send(chunked_head() + b"zz\r\n")], "its server broke off, or did not answer in HTTP"),
    (huge_header(200_000), "its server broke off, or did not answer in HTTP"),
    (endless_headers(5), "its server broke off, or did not answer in HTTP"),
    ([Expect(), Send(head("101 Switching", {"Upgrade": "x"}))], "its server broke off, or did not answer in HTTP"),
    ([Expect(), Send(head(headers={"Transfer-Encoding": "gzip, chunked"}))], "its server broke off, or did not answer in HTTP"),
])  # fmt: skip
def test_an_answer_that_is_none_is_told_in_words(script: Script, words: str) -> None:
    with serving(script) as (_, url):
        assert why(url) == words


def test_a_connection_that_breaks_is_told_in_words() -> None:
    with serving([Expect(), Send(head() + PNG), Wait(0.1), Reset()]) as (_, url):
        assert why(url) == "its server broke the connection"


def test_a_server_that_is_away_is_told_in_words() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        assert why(f"http://images.test:{reserved.getsockname()[1]}/") == "its server could not be reached"


# -- what is remembered


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_image_is_remembered_for_a_while() -> None:
    clock = Clock()
    fetcher = Fetcher(resolve=Names(**HERE), clock=clock)
    with serving(sends(PNG), sends(JPEG)) as (server, url):
        for _ in range(2):
            assert fetch(url, fetcher=fetcher)[0] == {url: data_url(PNG)}
        assert server.connections_made == 1
        clock.now += 61
        assert fetch(url, fetcher=fetcher)[0] == {url: data_url(JPEG, "image/jpeg")}


def test_what_is_remembered_takes_its_room_as_well() -> None:
    fetcher = Fetcher(resolve=Names(**HERE))
    with serving(sends(PNG)) as (server, url):
        fetch(url, fetcher=fetcher)
        assert fetch(url, fetcher=fetcher, most=100)[1] == {url: "the images of this request are too large together."}
        assert server.connections_made == 2


def test_what_could_not_be_had_is_asked_for_again() -> None:
    fetcher = Fetcher(resolve=Names(**HERE))
    with serving([Expect(), Send(head("500 No"))], sends(PNG)) as (_, url):
        assert why(url, fetcher=fetcher) == "its server answered with status 500"
        assert fetch(url, fetcher=fetcher)[0] == {url: data_url(PNG)}


@pytest.mark.parametrize(("said", "seconds"), [
    (b"", 60), (b"public", 60), (b"max-age=5", 5), (b"public, Max-Age=86400", 300), (b"max-age=0", 0), (b"max-age=\"7\"", 7),
    (b"no-store", 0), (b"max-age=60, No-Cache", 0), (b"s-maxage=9", 60), (b"max-age=x", 60),
])  # fmt: skip
def test_a_server_says_for_how_long_its_image_holds(said: bytes, seconds: float) -> None:
    assert holds_for(said) == seconds


def test_an_image_that_holds_for_no_time_is_not_remembered() -> None:
    fetcher = Fetcher(resolve=Names(**HERE))
    with serving(sends(PNG, Cache_Control="no-store"), sends(JPEG)) as (_, url):
        assert fetch(url, fetcher=fetcher)[0] == {url: data_url(PNG)}
        assert fetch(url, fetcher=fetcher)[0] == {url: data_url(JPEG, "image/jpeg")}


def test_what_is_remembered_is_bounded() -> None:
    fetcher = Fetcher(resolve=Names(**HERE))
    body = PNG.ljust(KEPT // 4, b"x")
    with serving(sends(body)) as (server, url):
        for number in (0, 1, 2, 3, 0):
            fetch(f"{url}/{number}", fetcher=fetcher)
        assert server.connections_made == 5
        fetch(f"{url}/0", fetcher=fetcher)
        assert server.connections_made == 5


def test_an_image_too_large_to_be_remembered_is_fetched_all_the_same() -> None:
    body = PNG.ljust(KEPT, b"x")
    with serving(sends(body)) as (_, url):
        assert len(fetch(url, policy={"bytes": "1GiB"}, most=2 * KEPT)[0][url]) > KEPT


# -- what is left behind


def test_a_bug_of_ours_is_not_taken_for_a_fault_of_the_image() -> None:
    async def broken(_host: str, _port: int) -> list[str]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fetch("http://images.test/", names=broken)


def test_a_fetch_that_is_called_off_leaves_nothing_behind() -> None:
    async def run() -> None:
        fetcher = Fetcher(resolve=Names(**HERE))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await fetcher.fetch([url], Images.model_validate(OPEN), MiB)
        assert len(asyncio.all_tasks()) == 1
        await until(lambda: not server.open_connections)

    with serving([Expect(), Wait(30)]) as (server, url):
        uvloop.run(asyncio.wait_for(run(), 5))


@pytest.mark.parametrize("url", ["http://a.test:8080/secret?sig=abc", "http://u:p@a.test/"])
def test_no_more_than_the_host_of_a_url_is_for_the_log(url: str) -> None:
    assert host_of(url) == "a.test"
    assert host_of("http://[") == host_of("http://") == "nowhere"


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For images.test, of nobody's authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "images.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


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
