"""Who is calling: the key that a request brings, and whose it is.

Keys are compared as digests and in constant time, every known key each time: neither a key's length nor its place in
the list can be timed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from urllib.parse import urlsplit

from rules.quota import Limit

ANONYMOUS = "anonymous"
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who may call."""

    name: str
    """Appears in logs and is what the condition `client` is asked about; never the key."""
    tags: Mapping[str, str] = field(default=_NOTHING, hash=False)
    """Kept in the ledger with each of its calls."""
    models: Callable[[str], bool] | None = None
    """Which names of models it may use; None: all."""
    endpoints: frozenset[str] | None = None
    """Which paths it may call, without their /v1; None: all."""
    limits: tuple[Limit, ...] | None = None
    """Of its own; None: those of each client."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Nobody we know."""

    shown: str | None
    """The key, cut so that its owner knows it and nobody else can use it; None where there was none."""


class Keys:
    """The keys that are accepted. Empty and not required: everybody may call, as `anonymous`."""

    def __init__(self, tokens: tuple[str, ...], *, required: bool) -> None:
        self.required = required
        self._digests = {_digest(token.strip()): client_name(token.strip()) for token in tokens}

    def identify(self, key: str | None) -> Client | Denied:
        if not self.required:
            return Client(ANONYMOUS)
        if key is None or not key.strip():
            return Denied(None)
        given = _digest(key.strip())
        found: str | None = None
        for digest, name in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return Client(found) if found is not None else Denied(cut_key(key.strip()))


def bearer(authorization: str | None) -> str | None:
    """The key of an `Authorization: Bearer ...` header."""
    if authorization is None:
        return None
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def client_name(key: str) -> str:
    """A name for a key that was given none: the beginning of its digest."""
    return f"key-{_digest(key).hex()[:8]}"


def cut_key(key: str) -> str:
    """At most the beginning of a key, as OpenAI's own 401 shows it."""
    return f"{key[:3]}***" if len(key) >= 12 else "***"


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach. An empty host means all interfaces."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local_origin(origin: str) -> bool:
    """True for a page that this machine serves itself. Without keys, any other page open in a browser here is refused:
    it could send calls in its visitor's name, and somebody pays for them."""
    try:
        return is_loopback(urlsplit(origin).hostname or "?")
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
