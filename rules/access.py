"""Who is calling: the key that a request brings, and whose it is.

A key is found by its SHA-256 digest, which is looked up and then compared in constant time. The look-up tells an
attacker nothing by its time: the digest of a guess is not his to refine byte by byte, a digest that is like a known one
comes of no key that is like the known one, and Python hashes bytes with a key of its own. Comparing every known digest
each time would hide no more, and would cost each call a tenth of a millisecond for a thousand clients.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from urllib.parse import urlsplit

from rules.quota import Limit

ANONYMOUS = "anonymous"
UNNAMED = "key-"
"""How the names begin that keys get which nobody has named."""
DIGEST = "sha256:"
"""Before the digest of a key that stands in the file in place of the key itself."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
_HEX = frozenset("0123456789abcdef")


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
    """Which paths it may call, as rules/paths.py reads them; None: nothing is said of it."""
    limits: tuple[Limit, ...] | None = None
    """Of its own; None: those of each client."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a key, and whether it is accepted."""

    client: Client
    ends: float = math.inf
    """Unix time from which it is not."""
    expires: str = ""
    """The last day on which it is, for people."""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """Nobody we know, or somebody whose key is not accepted at this moment. It has nothing of the key."""

    given: bool
    """False: there was no key."""
    because: str = ""
    """Why a key that we know is not accepted. For its holder alone: it names the client."""


class Keys:
    """The keys that are accepted. Not required: everybody may call, as `anonymous`."""

    def __init__(
        self,
        tokens: Iterable[str] = (),
        holders: Iterable[tuple[str, Holder]] = (),
        *,
        required: bool,
        keyless: Iterable[Client] = (),
    ) -> None:
        """`tokens` are keys without a name, `holders` (key, who has it); keys in plain, or as their digests. `keyless`
        are clients that nobody can be for now."""
        self.required = required
        unnamed = ((token, Holder(Client(client_name(token)))) for token in tokens)
        self._known = {
            digest: (digest, holder)
            for digest, holder in ((digest_of(written), holder) for written, holder in (*unnamed, *holders))
        }
        clients = (*keyless, *(holder.client for _, holder in self._known.values()))
        self._clients = {client.name: client for client in clients}

    def identify(self, key: str | None, moment: float) -> Client | Denied:
        """`moment`: now, in Unix time."""
        if not self.required:
            return _ANYBODY
        key = (key or "").strip()
        if not key:
            return Denied(given=False)
        given = _digest(key)
        digest, holder = self._known.get(given, _UNKNOWN)
        if not hmac.compare_digest(digest, given):
            return Denied(given=True)
        name = f"client '{holder.client.name}'"
        if holder.disabled:
            return Denied(given=True, because=f"{name} is disabled")
        if moment >= holder.ends:
            return Denied(given=True, because=f"{name} could call until {holder.expires} (UTC)")
        return holder.client

    def named(self, name: str) -> Client:
        """The client of that name, with what it may do; of a name that nobody has, one that may do everything."""
        return self._clients.get(name) or Client(name)


_ANYBODY = Client(ANONYMOUS)
_UNKNOWN = (b"", Holder(_ANYBODY))


def bearer(authorization: str | None) -> str | None:
    """The key of an `Authorization: Bearer ...` header."""
    if authorization is None:
        return None
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def client_name(key: str) -> str:
    """A name for a key that was given none: the beginning of its digest. Raises ValueError, as digest_of()."""
    return f"{UNNAMED}{digest_of(key).hex()[:8]}"


def digest_of(written: str) -> bytes:
    """The digest of a key, or the one that stands in its place (`sha256:` and 64 hex digits); space around it does not
    count. Raises ValueError for a digest that is none."""
    written = written.strip()
    if not is_digest(written):
        return _digest(written)
    digits = written[len(DIGEST) :].strip().lower()
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise ValueError("a digest is sha256: and 64 hex digits, as `unigate keys new` prints it")
    return bytes.fromhex(digits)


def is_digest(written: str) -> bool:
    """Whether a digest stands where a key could. Never taken for a key: it is no secret, and would be one then."""
    return written.strip().lower().startswith(DIGEST)


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
