"""What a person writes for a server: its URL, or the name, address or network of hosts that may be asked.

Both are refused in words that fit what was written. A URL may hold a secret, in its place or by mistake, so it is only
repeated where it is plainly a host: one with short names in it, and nothing that a key could look like.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)
_BARE = re.compile(
    r"(?P<host>localhost|\d{1,3}(\.\d{1,3}){3}|[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}(?=:)"
    r"|[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,2}\.[a-z]{2,20})(?P<port>:\d{1,5})?(/|/v1/?)?",
    re.IGNORECASE,
)
"""A server without http://, one that cannot be a key."""
_URL = "a URL is http:// or https://, a host and maybe a port and a path"
_OPEN = "write a host name, an address, or a network such as 10.1.0.0/16"
_BITS = {False: 32, True: 128}


def url(value: str) -> str:
    """The URL of a server as it is; raises ValueError for what is none, or holds more than a server."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    extras = parts.query or parts.fragment or any(char.isspace() for char in value)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or extras:
        bare = _BARE.fullmatch(value)
        if bare is not None:
            near_by = bare["port"] or bare["host"].lower() == "localhost" or bare["host"].replace(".", "").isdigit()
            scheme = "http://" if near_by else "https://"
            raise ValueError(f"lacks {scheme}; did you mean {scheme}{value}?")
        raise ValueError(_URL)
    if parts.username or parts.password:
        raise ValueError("a URL holds no user name and no password; put the secret into `key`")
    return value


def listener(value: str) -> str:
    """The name or address of this machine that callers reach us at; empty: all of them. Raises ValueError."""
    text = value.strip()
    if text in ("", "localhost") or is_name(text):
        return text
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        raise ValueError(_why_no_listener(text)) from None
    return text


def _why_no_listener(text: str) -> str:
    if "/" in text:
        return "only a name or an address is written here, without http:// and without a path"
    if is_name(text.rpartition(":")[0]):
        return "the port has a key of its own; write it as `port`"
    return "write a name or an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of its addresses"


def is_name(text: str) -> bool:
    """Whether it could be a host's name, in ASCII."""
    return _HOST.fullmatch(text) is not None


def open_host(value: str) -> str:
    """A name in lower case, or an address or a network as ipaddress writes it; raises ValueError."""
    text = value.strip().lower().rstrip(".")
    try:
        return str(ip_network(text.strip("[]").replace("%", " ")))  # no interface of this machine's
    except ValueError:
        pass
    if not is_name(text) or text.replace(".", "").isdigit():
        raise ValueError(_why_not_open(text))
    return text


def _why_not_open(text: str) -> str:
    if "://" in text:
        return "of a URL only the host is written, without http:// and without a path"
    if "*" in text or "?" in text:
        return "patterns are not read here: write each host name in full, or a network such as 10.1.0.0/16"
    host, slash, rest = text.partition("/")
    if slash and rest.isdigit() and _is_address(host):
        bits = _BITS[":" in host]
        if int(rest[:9]) > bits:
            return f"a network of such addresses ends in /0 to /{bits}"
        return "a network ends in zeros, such as 10.1.0.0/16"
    if slash:
        return "of a URL only the host is written, without http:// and without a path"
    name, _, port = text.rpartition(":")
    if port.isdigit() and (_is_address(name.strip("[]")) or is_name(name)):
        return "the host is written without its port; it is open on each of them"
    return _OPEN


def _is_address(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
