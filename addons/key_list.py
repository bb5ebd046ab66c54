"""Who may call, and how much, as `unigate keys list` shows it: for people, and for scripts.

Of a key there is never more than the beginning of its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rules.access import client_name, digest_of
from rules.callers import written
from rules.paths import OPENAI
from rules.schema import RulesFile
from rules.terms import Caller

SHOWN = 8
"""Hex digits of a digest: enough to tell keys apart."""
_IN_WORDS = {"active": "may call", "disabled": "disabled", "expired": "expired", "no_key": "has no key"}


@dataclass(frozen=True, slots=True)
class Listed:
    """Somebody who may call, or could. The names of the fields are those of `--json`: scripts rely on them."""

    client: str
    named: bool
    """False: a key of `API_KEYS` or `proxy.auth.tokens`."""
    state: Literal["active", "disabled", "expired", "no_key"]
    keys: tuple[str, ...]
    """The beginnings of their digests."""
    limits: tuple[str, ...]
    """As the file has them; those of each client, where it has none of its own."""
    models: tuple[str, ...] | None = None
    """None: all."""
    endpoints: tuple[str, ...] | None = None
    """None: all, the gateway's own pages too."""
    tags: Mapping[str, str] = field(default_factory=dict)
    expires: str | None = None
    """The last day on which it may call, in UTC."""
    disabled: bool = False


def listed(file: RulesFile, today: str) -> Iterator[Listed]:
    """Everybody whom the file knows: first the clients, in its order."""
    for name, row in file.clients.items():
        keys = tuple(digest_of(key).hex()[:SHOWN] for key in written(row))
        yield Listed(
            client=name,
            named=True,
            state=_state(row, keys, today),
            keys=keys,
            limits=row.limits if row.limits is not None else file.limits.each_client,
            models=row.models,
            endpoints=row.endpoints if row.endpoints is not None else (OPENAI,),
            tags=row.tags,
            expires=row.expires.isoformat() if row.expires is not None else None,
            disabled=row.disabled,
        )
    for token in file.proxy.auth.tokens:
        key = token.get_secret_value()
        digest = digest_of(key).hex()[:SHOWN]
        yield Listed(client_name(key), named=False, state="active", keys=(digest,), limits=file.limits.each_client)


def table(found: Sequence[Listed]) -> dict[str, list[str]]:
    """head -> cells, for people: what is several stands below each other, for a terminal is narrow. Endpoints, tags and
    days are left out where no client has any."""
    columns = {
        "client": [row.client for row in found],
        "state": [_IN_WORDS[row.state] if row.named else "unnamed" for row in found],
        "digest": ["\n".join(row.keys) for row in found],
        "models": [_several(row.models) for row in found],
        "endpoints": [_several(row.endpoints) for row in found],
        "limits": ["\n".join(row.limits) for row in found],
        "tags": ["\n".join(f"{name}: {text}" for name, text in row.tags.items()) for row in found],
        "expires": [row.expires or "" for row in found],
    }
    usual = {"endpoints": {OPENAI, "all"}, "tags": {""}, "expires": {""}}
    return {head: cells for head, cells in columns.items() if head not in usual or not usual[head].issuperset(cells)}


def _several(names: Sequence[str] | None) -> str:
    return "all" if names is None else "\n".join(names)


def _state(row: Caller, keys: Sequence[str], today: str) -> Literal["active", "disabled", "expired", "no_key"]:
    if row.disabled:
        return "disabled"
    if row.expires is not None and row.expires.isoformat() < today:
        return "expired"
    return "active" if keys else "no_key"
