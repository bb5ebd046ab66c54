"""Where limits are counted, as a person writes it; what is wrong is said with its line, and no password with it."""

from __future__ import annotations

import pytest

from rules.load import RulesError, load_rules
from rules.stores import passwords_in, store

FILE = """
providers: {sandbox: {dialect: sandbox}}
rules: [{name: all, use: [sandbox/echo]}]
limits:
  store: "STORE"
"""


@pytest.mark.parametrize(
    "written",
    [
        "memory",
        "redis://127.0.0.1:6379/0",
        "redis://redis",
        "rediss://me:open%20sesame@redis.example:6380/15?ssl_ca_certs=/etc/ca.pem",
        "valkey://[::1]:6379",
        "valkeys://valkey.example",
    ],
)
def test_memory_and_the_address_of_a_server_are_taken_as_they_are(written: str) -> None:
    assert store(written) == written
    assert store(f"  {written} ") == written


@pytest.mark.parametrize("written", ["", "  "])
def test_a_variable_that_is_not_set_leaves_memory(written: str) -> None:
    assert store(written) == "memory"


HOW = "written redis://HOST:6379/0"
ONE_HOST = "one host"
NUMBER = "a database's number"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("disk", HOW),
        ("127.0.0.1:6379", HOW),
        ("http://127.0.0.1:6379", HOW),
        ("memcached://127.0.0.1", HOW),
        ("redis", HOW),
        ("redis://127.0.0.1:sesame", HOW),
        ("redis://[::1", HOW),
        ("redis://open sesame@host", HOW),
        ("redis:///0", ONE_HOST),
        ("redis://:sesame@", ONE_HOST),
        ("redis://host:0", ONE_HOST),
        ("redis://one,two", ONE_HOST),
        ("redis://one:6379,two:6379", HOW),
        ("redis://host/sesame", NUMBER),
        ("redis://host/123456", NUMBER),
        ("redis://host/0/1", NUMBER),
        ("redis://host#sesame", NUMBER),
        ("redis://host?password=sesame", "only those of TLS"),
        ("rediss://host?ssl_ca_certs=a&socket_timeout=9", "only those of TLS"),
        ("rediss://host?ssl_sesame=a", "ssl_ca_certs, ssl_ca_path, ssl_certfile"),
        ("rediss://host?ssl_cert_reqs=sesame", "required (left out, too), optional, or none"),
        ("redis://host?ssl_ca_certs=a", "write rediss://"),
        ("valkey://host?ssl_ca_certs=a", "write valkeys://"),
    ],
)
def test_anything_else_is_refused_with_its_line_and_without_repeating_it(written: str, said: str) -> None:
    with pytest.raises(RulesError) as caught:
        load_rules(FILE.replace("STORE", written), {}, profiles=[])
    (fault,) = caught.value.faults
    assert (fault.line, fault.where) == (5, "limits.store")
    assert said in fault.message
    assert "sesame" not in fault.message


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("memory", []),
        ("redis://host:6379/0", []),
        ("redis://me@host", []),
        ("redis://:sesame@host", ["sesame", "sesame"]),
        ("redis://me:open%20sesame@host", ["open%20sesame", "open sesame"]),
        ("rediss://:open@host?ssl_keyfile=a&ssl_password=sesame", ["open", "open", "sesame", "sesame"]),
        ("postgresql+psycopg://me:se@me@host/ledger", ["se@me", "se@me"]),
        ("postgresql:///ledger?host=/run&password=sesame", ["sesame", "sesame"]),
        ("postgresql://[::1/ledger", []),
        ("sqlite:///ledger.sqlite", []),
    ],
)
def test_the_password_is_found_as_it_is_written_and_as_it_is_meant(url: str, passwords: list[str]) -> None:
    assert list(passwords_in(url)) == passwords


def test_passwords_of_the_store_and_of_the_ledger_are_secrets_of_the_file() -> None:
    text = FILE.replace("STORE", "redis://:sesame-one@host") + "ledger: {url: 'postgresql://me:sesame-two@host/l'}\n"
    rules = load_rules(text, {}, profiles=[])
    assert {"sesame-one", "sesame-two"} <= set(rules.secrets)
