"""The clients of a file as those whose keys are asked for.

Keys are asked for as soon as there is a token or a client, also one that nobody can be because its variable is not set:
a gateway that somebody meant to close must not stand open for want of a variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from pydantic import SecretStr

from rules.access import DIGEST, Client, Holder, Keys, digest_of, is_digest
from rules.conditions import glob, literal
from rules.paths import meant
from rules.quota import parse_limits
from rules.schema import RulesFile
from rules.terms import Caller
from rules.values import split_keys

_UNIX_EPOCH = date(1970, 1, 1).toordinal()


def required(file: RulesFile) -> bool:
    """Whether a call needs a key."""
    auth = file.proxy.auth
    return bool(auth.tokens or file.clients) if auth.enabled is None else auth.enabled


def keys_of(file: RulesFile) -> Keys:
    return Keys(
        (token.get_secret_value() for token in file.proxy.auth.tokens),
        ((key, _holder(name, row)) for name, row in file.clients.items() for key in written(row)),
        required=required(file),
        keyless=(_holder(name, file.clients[name]).client for name in idle(file)),
    )


def written(caller: Caller) -> tuple[str, ...]:
    """A client's keys, in plain or as digests; an empty one is none."""
    return tuple(_each((caller.key, *caller.keys) if caller.key is not None else caller.keys))


def idle(file: RulesFile) -> tuple[str, ...]:
    """The names of the clients that nobody can be, for want of a key."""
    return tuple(name for name, row in file.clients.items() if not written(row))


SHORTEST = 8
"""Characters of a key that nobody guesses soon."""


def guessable(file: RulesFile) -> tuple[str, ...]:
    """Who has a key that is shorter than it should be. What a digest stands for is not known."""
    return tuple(
        holder for holder, keys in _held(file) if any(len(key) < SHORTEST and not is_digest(key) for key in keys)
    )


def repeated(file: RulesFile) -> tuple[str, ...]:
    """Who has the same key twice."""
    return tuple(holder for holder, keys in _held(file) if len({digest_of(key) for key in keys}) < len(keys))


def _held(file: RulesFile) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(who it is, for people; their keys)"""
    yield "proxy.auth.tokens", tuple(_each(file.proxy.auth.tokens))
    for name, row in file.clients.items():
        yield f"client {name}", written(row)


def secrets_of(file: RulesFile) -> Iterator[str]:
    """Every key of a caller, and every digest in both of its spellings: what must never be seen outside."""
    for key in (*_each(file.proxy.auth.tokens), *(key for row in file.clients.values() for key in written(row))):
        if is_digest(key):
            yield from dict.fromkeys((key[len(DIGEST) :].strip(), digest_of(key).hex()))
        else:
            yield key


def _each(keys: Iterable[SecretStr]) -> Iterator[str]:
    for key in keys:
        for part in split_keys(key.get_secret_value()):
            yield part.strip()


def _holder(name: str, row: Caller) -> Holder:
    client = Client(
        name,
        tags=row.tags,
        models=glob((*row.models, *map(literal, row.models))) if row.models is not None else None,
        endpoints=meant(row.endpoints) if row.endpoints is not None else None,
        limits=parse_limits(row.limits) if row.limits is not None else None,
    )
    if row.expires is None:
        return Holder(client, disabled=row.disabled)
    ends = (row.expires.toordinal() + 1 - _UNIX_EPOCH) * 86400.0
    return Holder(client, ends, row.expires.isoformat(), row.disabled)
