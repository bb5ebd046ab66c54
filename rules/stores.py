"""Addresses of what several gateways may share: the Redis server that counts limits, and a ledger's database.

Both may hold a password, so neither is ever repeated in a complaint, and passwords_in() finds what must not be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

MEMORY = "memory"
SCHEMES = ("redis", "rediss", "valkey", "valkeys")
"""With an s at the end: over TLS."""
_HOW = "limits are counted in memory, or in a Redis server, written redis://HOST:6379/0, and rediss:// for TLS"
_SECRET = frozenset({"password", "passwd", "pwd", "sslpassword", "ssl_password"})
_OF_TLS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
    "ssl_check_hostname", "ssl_ciphers",
)  # fmt: skip
"""Options of redis-py (8) that a URL can say."""


def store(value: str) -> str:
    """Where limits are counted, as it is written; empty: in memory. Raises ValueError with words that repeat nothing of
    it."""
    text = value.strip()
    if text in ("", MEMORY):
        return MEMORY
    parts, port = _parts(text, _HOW)
    if parts.scheme not in SCHEMES or any(char.isspace() for char in text):
        raise ValueError(_HOW)
    if not parts.hostname or port == 0 or "," in parts.netloc:
        raise ValueError(f"it needs one host, and maybe a port: {_HOW}")
    database = parts.path.removeprefix("/")
    if parts.fragment or (database and not (database.isascii() and database.isdigit() and len(database) <= 5)):
        raise ValueError(f"after the host there is only a database's number: {_HOW}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not options.keys() <= {*_OF_TLS}:
        raise ValueError(f"of options only those of TLS are read, such as ?ssl_ca_certs=FILE: {', '.join(_OF_TLS)}")
    if options and parts.scheme in ("redis", "valkey"):
        raise ValueError(f"it has options of TLS, and is not over TLS: write {parts.scheme}s:// for that")
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ValueError("ssl_cert_reqs is required (left out, too), optional, or none: then nobody knows who answers")
    return text


LEDGER = "sqlite:///ledger.sqlite"
SQLITE = "sqlite:///"
_HOW_LEDGER = "a ledger is a SQLite file, written sqlite:///FILE, or a database, written postgresql://USER@HOST/NAME"


def ledger(value: str) -> str:
    """Where calls are kept, as it is written; empty: in a file of the usual name. Raises as store() does."""
    text = value.strip()
    if not text:
        return LEDGER
    parts, port = _parts(text, _HOW_LEDGER)
    if parts.scheme == "sqlite":
        file = text.removeprefix(SQLITE)
        if file == text or not file.strip("/") or file.endswith("/"):
            raise ValueError("a SQLite file is written sqlite:///FILE beside this one, or sqlite:////PATH/FILE")
        if ":memory:" in file or "?" in file or "#" in file:
            raise ValueError("a ledger in SQLite is a plain file, without options: sqlite:///FILE")
        return text
    if parts.scheme in ("postgres", "postgresql+psycopg2", "postgresql+asyncpg"):
        raise ValueError(f"PostgreSQL is written postgresql://: {_HOW_LEDGER}")
    if parts.scheme not in ("postgresql", "postgresql+psycopg") or port == 0 or any(char.isspace() for char in text):
        raise ValueError(_HOW_LEDGER)
    return text


def _parts(text: str, how: str) -> tuple[SplitResult, int | None]:
    """A URL taken apart, and its port; raises ValueError with these words."""
    try:
        parts = urlsplit(text)
        return parts, parts.port
    except ValueError:
        raise ValueError(how) from None


def passwords_in(url: str) -> Iterator[str]:
    """The password in a URL, as it is written there and as it is meant."""
    try:
        parts = urlsplit(url)
        given = [parts.password or "", *(text for name, text in parse_qsl(parts.query) if name.lower() in _SECRET)]
    except ValueError:
        return
    for text in filter(None, given):
        yield text
        yield unquote(text)
