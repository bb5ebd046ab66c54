"""Who may call, and what is seen of a key: nearly nothing."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.access import ANONYMOUS, Client, Denied, Keys, bearer, client_name, cut_key, is_local_origin, is_loopback

LONG = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("", None),
        ("   ", None),
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER abc", "abc"),
        ("  Bearer    abc  ", "abc"),
        ("Bearer a b", "a b"),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Basic dXNlcjpwYXNz", None),
        ("Bearerabc", None),
        ("abc", None),
        ("Token Bearer abc", None),
        ("Bearer schlüssel", "schlüssel"),
    ],
)
def test_the_key_is_taken_from_a_bearer_header_only(header: str | None, key: str | None) -> None:
    assert bearer(header) == key


def test_every_known_key_is_let_in_under_its_own_name() -> None:
    keys = Keys(("one-key", "two-key", "three-key"), required=True)
    clients = [keys.identify(key) for key in ("one-key", "two-key", "three-key")]
    assert clients == [Client(client_name(key)) for key in ("one-key", "two-key", "three-key")]
    assert len(set(clients)) == 3


@pytest.mark.parametrize("key", ["one", "one-key-", "-one-key", "ONE-KEY", "one-key,two-key", "one\tkey", "*", "\x00"])
def test_an_unknown_key_is_denied(key: str) -> None:
    assert isinstance(Keys(("one-key", "two-key"), required=True).identify(key), Denied)


@pytest.mark.parametrize("key", [None, "", "   "])
def test_no_key_is_denied_and_nothing_is_shown_of_it(key: str | None) -> None:
    assert Keys(("one-key",), required=True).identify(key) == Denied(None)


@pytest.mark.parametrize("key", [None, "", "one-key", "wrong"])
def test_everybody_may_call_where_no_key_is_required(key: str | None) -> None:
    for tokens in ((), ("one-key",)):
        assert Keys(tokens, required=False).identify(key) == Client(ANONYMOUS)


@pytest.mark.parametrize("key", [None, "", "x"])
def test_nobody_may_call_where_keys_are_required_and_there_are_none(key: str | None) -> None:
    assert isinstance(Keys((), required=True).identify(key), Denied)


def test_space_around_a_key_does_not_count() -> None:
    keys = Keys(("  one-key ",), required=True)
    assert keys.identify("one-key") == keys.identify(" one-key\t") == Client(client_name("one-key"))


@pytest.mark.parametrize("key", ["schlüssel-ß", "鍵", "🔑", "\ud800", "e\u0301"])
def test_keys_of_any_script_work(key: str) -> None:
    keys = Keys((key,), required=True)
    assert isinstance(keys.identify(key), Client)
    assert isinstance(keys.identify(key + "x"), Denied)


def test_keys_that_only_look_alike_are_different_keys() -> None:
    assert isinstance(Keys(("\u00e9",), required=True).identify("e\u0301"), Denied)


@pytest.mark.parametrize("key", ["first", "second", "third", "wrong"])
def test_every_digest_is_compared_whichever_fits(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(("first", "second", "third"), required=True)
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys.identify(key)
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("key", "shown"),
    [("", "***"), ("abc", "***"), ("sk-45678901", "***"), ("sk-456789012", "sk-***"), (LONG, "sk-***")],
)
def test_only_the_beginning_of_a_long_key_is_shown(key: str, shown: str) -> None:
    assert cut_key(key) == shown


@given(st.text(min_size=1))
def test_at_most_a_quarter_of_a_denied_key_is_shown(key: str) -> None:
    denied = Keys(("one-key",), required=True).identify(key)
    assert isinstance(denied, Denied)
    if denied.shown is not None:
        assert denied.shown.endswith("***")
        assert len(denied.shown.removesuffix("***")) * 4 <= len(key.strip())


def test_space_does_not_make_a_short_key_a_long_one() -> None:
    assert Keys(("one-key",), required=True).identify("abc" + " " * 20) == Denied("***")


def test_a_client_is_named_by_the_beginning_of_a_digest_and_nothing_of_the_key() -> None:
    assert client_name("abc") == "key-ba7816bf"
    keys = Keys((LONG,), required=True)
    assert LONG not in f"{keys!r} {vars(keys)} {keys.identify(LONG)!r} {keys.identify(LONG + 'x')!r}"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "[::1]", "0:0:0:0:0:0:0:1"]
)
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "[::]",
        "192.168.1.5",
        "10.0.0.1",
        "8.8.8.8",
        "fe80::1",
        "example.com",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "127.1",
        "0177.0.0.1",
        "*",
        " ",
        "[]",
        "127.0.0.1:8080",
        "2130706433",
    ],
)
def test_everything_else_counts_as_open_to_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("origin", "local"), [
    ("http://localhost", True), ("https://localhost:3000", True), ("http://127.0.0.2:1", True), ("http://[::1]:5173", True),
    ("https://example.com", False), ("http://localhost.example.com", False), ("http://127.0.0.1.example.com", False),
    ("null", False), ("", False), ("http://[", False), ("file://", False),
])  # fmt: skip
def test_only_a_page_of_this_machine_has_a_local_origin(origin: str, local: bool) -> None:
    assert is_local_origin(origin) is local
