"""Which addresses are asked on a caller's behalf: public ones, however they are written, and what the file opens."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.addresses import is_opened, is_public, parsed, unwrapped

INNER = [
    *["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"],
    *["127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255"],
    *["192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7"],
    *["203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"],
]
OUTER = [
    *["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"],
    *["168.63.129.15", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"],
    *["198.17.255.255", "198.20.0.0", "223.255.255.255", "8.8.8.8"],
]


@pytest.mark.parametrize("text", INNER)
def test_an_inner_address_is_not_public_however_ipv6_wraps_it(text: str) -> None:
    address = ip_address(text)
    assert not is_public(address)
    wrapped = int(address)
    for form in (
        f"::ffff:{text}",
        f"::{text}",
        f"64:ff9b::{text}",
        f"64:ff9b:1::{text}",
        str(ip_address((0x2002 << 112) | (wrapped << 80))),
        str(ip_address((0x20010000 << 96) | (wrapped ^ 0xFFFFFFFF))),
        f"fe80::5efe:{text}",
    ):
        assert not is_public(ip_address(form)), form


@pytest.mark.parametrize("text", OUTER)
def test_the_neighbours_of_inner_networks_are_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert is_public(ip_address(f"::ffff:{text}"))
    assert is_public(ip_address(f"64:ff9b::{text}"))


@pytest.mark.parametrize(
    "text",
    [
        *["::", "::1", "::2", "100::1", "fc00::1", "fdff::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "5f00::1"],
        *["2001::1", "2001:20::1", "2001:db8::1", "2002:101:101::1", "3fff::1", "64:ff9b:1::101:101", "4000::1"],
    ],
)
def test_what_no_one_on_the_internet_has_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["2001:200::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "3ffe::1"])
def test_addresses_that_were_given_out_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_private_or_special(address: object) -> None:
    inner = unwrapped(ip_address(str(address)))
    if is_public(inner):
        assert inner.is_global
        special = ("is_multicast", "is_reserved", "is_loopback", "is_link_local", "is_unspecified")
        assert not any(getattr(inner, name) for name in special)


@pytest.mark.parametrize(
    ("host", "address", "allow", "opened"),
    [
        ("images.inner", "10.1.2.3", [], False),
        ("images.inner", "10.1.2.3", ["images.inner"], True),
        ("IMAGES.inner.", "10.1.2.3", ["images.inner"], True),
        ("more.images.inner", "10.1.2.3", ["images.inner"], False),
        ("x", "10.1.2.3", ["10.1.0.0/16"], True),
        ("x", "10.2.2.3", ["10.1.0.0/16"], False),
        ("x", "::ffff:10.1.2.3", ["10.1.0.0/16"], True),
        ("x", "fd00::7", ["10.1.0.0/16", "fd00::/64"], True),
        ("x", "fd01::7", ["other", "fd00::/64"], False),
    ],
)
def test_the_file_opens_hosts_and_networks(host: str, address: str, allow: list[str], opened: bool) -> None:
    assert is_opened(host, ip_address(address), allow) is opened


def test_an_address_is_read_without_its_interface() -> None:
    assert parsed("fe80::1%eth0") == ip_address("fe80::1")
    assert parsed("1.2.3.4") == ip_address("1.2.3.4")
    assert parsed("somewhere") is None
