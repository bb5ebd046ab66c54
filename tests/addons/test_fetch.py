"""Images fetched by URL: what comes in, what is too much or no image, and what is left behind."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time

import pytest
import uvloop

from addons.fetch import MOST_IMAGES, Fetcher, host_of
from rules.schema import Images
from tests.addons.doors import until
from tests.addons.fetching import HERE, JPEG, OPEN, PNG, WEBP, MiB, Names, data_url, fetch, sends, serving, why
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
