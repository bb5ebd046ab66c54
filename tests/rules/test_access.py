"""Who may call, and what is seen of a key: nearly nothing."""

from __future__ import annotations

import hmac
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.access import (
    ANONYMOUS,
    Client,
    Denied,
    Holder,
    Keys,
    bearer,
    client_name,
    digest_of,
    is_digest,
    is_local_origin,
    is_loopback,
)

LONG = "sk-0123456789abcdef"
NOW = 1.8e9


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
    clients = [keys.identify(key, NOW) for key in ("one-key", "two-key", "three-key")]
    assert clients == [Client(client_name(key)) for key in ("one-key", "two-key", "three-key")]
    assert len(set(clients)) == 3


@pytest.mark.parametrize("key", ["one", "one-key-", "-one-key", "ONE-KEY", "one-key,two-key", "one\tkey", "*", "\x00"])
def test_an_unknown_key_is_denied(key: str) -> None:
    assert isinstance(Keys(("one-key", "two-key"), required=True).identify(key, NOW), Denied)


@pytest.mark.parametrize("key", [None, "", "   "])
def test_no_key_is_denied_and_nothing_is_shown_of_it(key: str | None) -> None:
    assert Keys(("one-key",), required=True).identify(key, NOW) == Denied(given=False)


@pytest.mark.parametrize("key", [None, "", "one-key", "wrong"])
def test_everybody_may_call_where_no_key_is_required(key: str | None) -> None:
    for tokens in ((), ("one-key",)):
        assert Keys(tokens, required=False).identify(key, NOW) == Client(ANONYMOUS)


@pytest.mark.parametrize("key", [None, "", "x"])
def test_nobody_may_call_where_keys_are_required_and_there_are_none(key: str | None) -> None:
    assert isinstance(Keys((), required=True).identify(key, NOW), Denied)


def test_space_around_a_key_does_not_count() -> None:
    keys = Keys(("  one-key ",), required=True)
    assert keys.identify("one-key", NOW) == keys.identify(" one-key\t", NOW) == Client(client_name("one-key"))


@pytest.mark.parametrize("key", ["schlüssel-ß", "鍵", "🔑", "\ud800", "e\u0301"])
def test_keys_of_any_script_work(key: str) -> None:
    keys = Keys((key,), required=True)
    assert isinstance(keys.identify(key, NOW), Client)
    assert isinstance(keys.identify(key + "x", NOW), Denied)


def test_keys_that_only_look_alike_are_different_keys() -> None:
    assert isinstance(Keys(("\u00e9",), required=True).identify("e\u0301", NOW), Denied)


def test_a_key_is_found_by_its_digest_and_that_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(("first", "second"), required=True)
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys.identify("second", NOW)
    keys.identify("wrong", NOW)
    second, wrong = digest_of("second"), digest_of("wrong")
    assert compared == [(second, second), (b"", wrong)]


def test_a_thousand_clients_cost_a_call_no_more_than_one() -> None:
    def took(keys: Keys, key: str) -> float:
        def once() -> float:
            begun = time.perf_counter()
            for _ in range(500):
                keys.identify(key, NOW)
            return time.perf_counter() - begun

        return min(once() for _ in range(5))

    holders = [(f"key-number-{number}", Holder(Client(f"c{number}"))) for number in range(1000)]
    few, many = Keys(holders=holders[:1], required=True), Keys(holders=holders, required=True)
    assert took(many, "key-number-0") < 5 * took(few, "key-number-0")
    assert took(many, "nobody-has-this") < 5 * took(few, "nobody-has-this")


# --- named clients

MIDNIGHT = 20424 * 86400.0
"""Between 2025-12-01 and the day after it."""


def held(key: str = "a-key-0123456", **more: Any) -> Keys:
    return Keys(holders=[(key, Holder(Client("notebook", tags={"team": "red"}), **more))], required=True)


def test_a_named_client_is_known_by_each_of_its_keys_in_plain_and_as_digests() -> None:
    holder = Holder(Client("notebook", tags={"team": "red"}))
    keys = Keys(("loose",), [("one", holder), (f"sha256:{digest_of('two').hex()}", holder)], required=True)
    assert keys.identify("one", NOW) == keys.identify(" two ", NOW) == holder.client
    assert keys.identify("loose", NOW) == Client(client_name("loose"))
    assert isinstance(keys.identify("three", NOW), Denied)


@pytest.mark.parametrize("digest", [f"sha256:{digest_of('two').hex()}", f" SHA256: {digest_of('two').hex().upper()} "])
def test_a_digest_is_never_a_key_itself(digest: str) -> None:
    for keys in (Keys((digest,), required=True), held(digest)):
        assert isinstance(keys.identify(digest, NOW), Denied)
        assert isinstance(keys.identify(digest.strip(), NOW), Denied)
        assert isinstance(keys.identify("two", NOW), Client)
    assert Keys((digest,), required=True).identify("two", NOW) == Client(client_name("two"))


@pytest.mark.parametrize(
    "digest", ["sha256:", "sha256:12", f"sha256:{'g' * 64}", f"sha256:{'0' * 65}", f"SHA256:{'0' * 63}"]
)
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    assert is_digest(digest)
    with pytest.raises(ValueError, match="a digest is sha256: and 64 hex digits"):
        digest_of(digest)


def test_the_keys_of_a_disabled_client_are_denied_in_words_for_their_holder() -> None:
    denied = held(disabled=True).identify("a-key-0123456", NOW)
    assert denied == Denied(given=True, because="client 'notebook' is disabled")


def test_a_key_is_good_to_the_end_of_its_last_day_in_utc() -> None:
    keys = held(ends=MIDNIGHT, expires="2025-12-01")
    assert isinstance(keys.identify("a-key-0123456", MIDNIGHT - 0.001), Client)
    for moment in (MIDNIGHT, MIDNIGHT + 1e9):
        assert keys.identify("a-key-0123456", moment) == Denied(
            given=True, because="client 'notebook' could call until 2025-12-01 (UTC)"
        )


def test_who_has_no_key_of_a_client_is_not_told_of_it() -> None:
    for keys in (held(disabled=True), held(ends=0.0, expires="1969-12-31")):
        assert keys.identify("another-key-0", NOW) == Denied(given=True)


def test_a_client_is_found_by_its_name_too_and_a_name_without_a_key_may_do_everything() -> None:
    keys = held()
    assert keys.named("notebook").tags == {"team": "red"}
    assert keys.named("somebody") == Client("somebody")


@given(st.text(min_size=1))
def test_all_keys_that_nobody_knows_are_denied_alike(key: str) -> None:
    denied = Keys(("one-key",), required=True).identify(key, NOW)
    assert denied == Denied(given=bool(key.strip()))


def test_a_client_is_named_by_the_beginning_of_a_digest_and_nothing_of_the_key() -> None:
    assert client_name("abc") == "key-ba7816bf"
    keys = Keys((LONG,), required=True)
    assert LONG not in f"{keys!r} {vars(keys)} {keys.identify(LONG, NOW)!r} {keys.identify(LONG + 'x', NOW)!r}"


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
