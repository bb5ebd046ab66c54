"""Which addresses the gateway asks on a caller's behalf: public ones, and what the rules file opens besides.

A caller who may name a URL could otherwise reach what only this machine can: its own ports, the neighbours behind the
firewall, a cloud's metadata service that hands out keys. The traps: a name says nothing of where it leads, so only
resolved addresses are judged, and the connection goes to the very address that was; IPv6 wraps IPv4 addresses in
several ways; and some addresses that look public are a cloud's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

type Address = IPv4Address | IPv6Address

_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' and clouds' inner networks
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's inner services, to its virtual machines
        "169.254.0.0/16",  # link-local: the metadata services of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_GLOBAL_6 = IPv6Network("2000::/3")
"""All that was ever given out."""
_NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocols' own, Teredo among them: it wraps IPv4 addresses
        "2001:db8::/32",
        "2002::/16",  # 6to4, which wraps IPv4 addresses as well
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 writes IPv4 addresses: public if the inner one is."""


def unwrapped(address: Address) -> Address:
    """The IPv4 address that packets to this one come to in the end, where it only stands for one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may be meant by it."""
    inner = unwrapped(address)
    if isinstance(inner, IPv4Address):
        return not any(inner in network for network in _NOT_PUBLIC_4)
    return inner in _GLOBAL_6 and not any(inner in network for network in _NOT_PUBLIC_6)


def is_opened(host: str, address: Address, allow: Iterable[str]) -> bool:
    """Whether the rules file names the host, the address or its network (schema.py: Images.allow)."""
    name = host.lower().rstrip(".")
    inner = unwrapped(address)
    for entry in allow:
        if entry == name:
            return True
        try:
            network = ip_network(entry)
        except ValueError:
            continue
        if inner in network or address in network:
            return True
    return False


def parsed(text: str) -> Address | None:
    """An address as a resolver gives it, its interface left out; None where it is none."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
