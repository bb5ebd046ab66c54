"""Where limits stand, as /gateway/status shows it.

A named client sees its own: what all of them have spent together is none of its business. Whoever else may look, with a
key that has no name or where no key is needed, sees what several clients share, and any client's that it asks for.
"""

from __future__ import annotations

from itertools import chain, islice

from addons.exchange import Exchange
from addons.limiter import Limiter
from rules.access import ANONYMOUS, UNNAMED
from rules.limits import whose
from rules.quota import NANOS, Charge, Standing
from rules.snapshot import Rules
from wire.errors import BadRequest
from wire.openai import Json

MOST = 500
"""Limits that are shown at once."""


async def limits_shown(limiter: Limiter, exchange: Exchange, wanted: str | None) -> list[Json]:
    """`wanted`: a client's name, or None for whoever asks. Raises BadRequest for a name that nobody has."""
    rules, client = exchange.rules, exchange.client
    assert client is not None
    charges = rules.limits.of_client(client)
    if client.name not in rules.file.clients:
        if wanted is not None:
            _check_known(wanted, rules)
            client = rules.keys.named(wanted)
        charges = chain(rules.limits.shared(), rules.limits.of_client(client))
    shown = list(islice(charges, MOST))
    standings = await limiter.look(shown) if shown else ()
    if standings is None:
        return [_row(charge, None) for charge in shown]
    return [_row(charge, at) for charge, at in zip(shown, standings, strict=True)]


def _check_known(name: str, rules: Rules) -> None:
    names = rules.file.clients
    if name not in names and name != ANONYMOUS and not name.startswith(UNNAMED):
        there = f"there are {', '.join(list(names)[:20])}" if names else "there are none in the rules"
        raise BadRequest(f"No client is called '{name[:100]}'; {there}.", param="client")


def _row(charge: Charge, at: Standing | None) -> Json:
    """`used` and `reset_seconds` are null while the store of the counts is away."""
    limit = charge.limit
    scope, name = whose(charge)
    worth = NANOS if limit.kind == "usd" else 1
    return {
        "scope": scope,
        "name": name or None,
        "limit": limit.written,
        "amount": limit.amount / worth if worth > 1 else limit.amount,
        "used": None if at is None else at.used / worth if worth > 1 else at.used,
        "reset_seconds": None if at is None else round(at.reset, 3),
    }
