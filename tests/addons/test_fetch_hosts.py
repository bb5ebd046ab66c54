"""Where images are fetched from, and that nothing inner is ever reached: addresses, URLs and redirects."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.fetch import Unfetchable, resolve, take_apart
from tests.addons.fetching import JPEG, PNG, Names, data_url, fetch, moves, sends, serving, why
from tests.standins import RawServer


async def nowhere(host: str, _port: int) -> list[str]:
    raise OSError(f"no such host: {host}")


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
