"""Which web pages may call from a browser, by their origin.

A browser says where a page comes from as scheme://host[:port], in lower case and without the port that the scheme has
anyway, and it compares the answer's `access-control-allow-origin` with that text letter by letter. So what a person
writes is brought into that form when the file is loaded; one slash at the end, and no page would ever be let in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from rules.hosts import is_name

EVERY = "*"
_ORIGIN = "an origin is a scheme and a host, and a port where there is one, such as https://app.example"
_STARS = "a * stands for whole labels where the host begins, as in https://*.example.com, or for any port"
_PARTS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[^\]]*\]|[^:]*)(:(?P<port>[^:]*))?")
_PORTS = {"http": "80", "https": "443"}


def origin(value: str) -> str:
    """As a browser would write it, with its stars; raises ValueError for what no page's origin could be."""
    text = value.strip().lower()
    if text == EVERY:
        return text
    if text == "null":
        raise ValueError(
            "every page from a file or in a sandbox says null, whoever wrote it; serve the page from an address, such "
            "as http://localhost:3000"
        )
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise ValueError(f"{_ORIGIN}; this has no https:// or http://")
    if "@" in rest:
        raise ValueError("an origin holds no user name and no password")
    if re.search(r"[/?#]", rest):
        raise ValueError("an origin ends with the host or the port: leave out the slash and what follows it")
    parts = _PARTS.fullmatch(text)
    if parts is None or not parts["host"]:
        raise ValueError(_ORIGIN)
    return f"{scheme}://{_host(parts['host'])}{_port(parts['port'], scheme)}"


def _host(text: str) -> str:
    if text == EVERY:
        return text
    labels = text.removeprefix("*.")
    if "*" in labels:
        raise ValueError(_STARS)
    if not text.isascii():
        raise ValueError("the host is written in ASCII, as browsers send it, such as https://xn--bcher-kva.example")
    if text.startswith("[") or labels.replace(".", "").isdigit():
        try:
            if text.startswith(EVERY):
                raise ValueError
            address = ip_address(text.strip("[]"))
        except ValueError:
            raise ValueError("the host is neither a name nor an address") from None
        return f"[{address}]" if address.version == 6 else str(address)
    if not is_name(labels):
        raise ValueError(_ORIGIN)
    return text


def _port(text: str | None, scheme: str) -> str:
    if text is None or text == _PORTS.get(scheme):
        return ""
    if text != EVERY and not (text.isascii() and text.isdigit() and 0 < int(text[:9]) < 65536):
        raise ValueError("a port is a number from 1 to 65535, or * for any")
    return f":{text}" if text == EVERY else f":{int(text)}"


@dataclass(frozen=True, slots=True)
class Origins:
    """Those of `proxy.cors`, compiled."""

    every: bool
    plain: frozenset[str]
    starred: re.Pattern[str] | None

    def answer_to(self, page: str) -> str | None:
        """What an answer's `access-control-allow-origin` says to a page of this origin; None: it has none."""
        if self.every:
            return EVERY
        wanted = page.lower()  # apps that bring schemes of their own keep their capitals
        if wanted in self.plain or (self.starred is not None and self.starred.fullmatch(wanted)):
            return page
        return None


def origins_of(written: Iterable[str]) -> Origins:
    """From what origin() has made of them."""
    texts = frozenset(written)
    starred = [_pattern(text) for text in sorted(texts) if "*" in text and text != EVERY]
    return Origins(
        EVERY in texts,
        frozenset(text for text in texts if "*" not in text),
        re.compile("|".join(starred)) if starred else None,
    )


def _pattern(text: str) -> str:
    scheme, _, rest = text.partition("://")
    any_port = rest.endswith(":*")
    host = rest.removesuffix(":*") if any_port else rest
    begin = r"(?:[a-z0-9_-]+\.)*[a-z0-9_-]+" if host.startswith("*") else ""
    return f"{re.escape(scheme)}://{begin}{re.escape(host.removeprefix('*'))}{r'(?::[0-9]{1,5})?' if any_port else ''}"
