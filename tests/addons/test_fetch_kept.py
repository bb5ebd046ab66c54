"""Images that were fetched are remembered for a while, within bounds."""

from __future__ import annotations

import pytest

from addons.fetch import KEPT, Fetcher, holds_for
from tests.addons.fetching import HERE, JPEG, PNG, Names, data_url, fetch, sends, serving, why
from tests.standins.raw import Expect, Send, head


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
