"""Which limits a call falls under, what it is let in with, and what it is told of where they stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import LRUCache

from rules.access import Client
from rules.conditions import glob, model_name
from rules.quota import NANOS, Charge, Limit, Standing, fits, parse_limits
from rules.schema import RulesFile
from rules.terms import Quotas

REMEMBERED = 1024
"""Pairs of a client and a model."""
LONGEST_REMEMBERED = 256
"""Characters of a model's name."""


class Estimate(NamedTuple):
    """What a call will take, before it is known."""

    tokens: int
    """The prompt's and the answer's."""
    certain: int
    """That part of them which it takes in any case: the prompt's."""
    usd: int
    """NANOS, at the target that is asked first; 0 where that costs nothing."""
    certain_usd: int
    """That part of them: the prompt's and the request's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a file, compiled."""

    overall: tuple[Limit, ...] = ()
    each_client: tuple[Limit, ...] = ()
    models: tuple[tuple[str, Callable[[str], bool], tuple[Limit, ...]], ...] = ()
    """(pattern, whether a name fits it, limits)"""

    remembered: LRUCache[tuple[str, str], tuple[Charge, ...]] = field(
        default_factory=lambda: LRUCache(REMEMBERED), compare=False, repr=False
    )
    """(client's name, model) -> what of() gave. A cache, and for one thread."""

    def of(self, client: Client, model: str) -> tuple[Charge, ...]:
        """All limits that a call falls under, as charges of one each. For the calls' own thread."""
        key = (client.name, model if self.models else "")
        found: tuple[Charge, ...] | None = self.remembered.get(key)
        if found is None:
            found = tuple(self.all_of(client, model))
            if len(key[1]) <= LONGEST_REMEMBERED:
                self.remembered[key] = found
        return found

    def all_of(self, client: Client, model: str) -> Iterator[Charge]:
        """The same, and nothing is remembered."""
        yield from self._of_all()
        yield from self.of_client(client)
        spelled = model_name(model)  # with the tag that it has anyway: one model, however it is asked for
        for pattern, is_meant, limits in self.models:
            if is_meant(model) or is_meant(spelled) or is_meant(spelled.removesuffix(":latest")):
                yield from _of_model(pattern, limits)

    def of_client(self, client: Client) -> Iterator[Charge]:
        """Those that are its alone."""
        for limit in self.each_client if client.limits is None else client.limits:
            yield Charge(f"client/{client.name}/{limit.written}", limit, 1, f"in client {client.name}")

    def shared(self) -> Iterator[Charge]:
        """Those that several clients fall under together."""
        yield from self._of_all()
        for pattern, _, limits in self.models:
            yield from _of_model(pattern, limits)

    def _of_all(self) -> Iterator[Charge]:
        for limit in self.overall:
            yield Charge(f"all/{limit.written}", limit, 1, "for all clients together", True)


def whose(charge: Charge) -> tuple[str, str]:
    """Of a limit: `all`, `client` or `model`, and the client's name or the pattern; empty for all."""
    scope = charge.key.partition("/")[0]
    return scope, charge.key[len(scope) + 1 : -len(charge.limit.written) - 1]


def _of_model(pattern: str, limits: Sequence[Limit]) -> Iterator[Charge]:
    for limit in limits:
        yield Charge(f"model/{pattern}/{limit.written}", limit, 1, f"for all calls to `{pattern}` together", True)


def limits_of(quotas: Quotas) -> Limits:
    return Limits(
        parse_limits(quotas.overall),
        parse_limits(quotas.each_client),
        tuple((pattern, glob((pattern,)), parse_limits(texts)) for pattern, texts in quotas.models.items()),
    )


def charges_of(applying: Sequence[Charge], estimate: Callable[[], Estimate]) -> tuple[Charge, ...]:
    """What a call takes of each limit that it falls under (Limits.of). Only where one of them is on what is not known
    before is the call estimated."""
    known: Estimate | None = None
    charges: list[Charge] = []
    for one in applying:
        key, limit, _, scope, shared, _ = one
        if limit.kind == "requests" or limit.kind == "parallel":
            charges.append(one)
            continue
        if known is None:
            known = estimate()
        whole, certain = (known.usd, known.certain_usd) if limit.kind == "usd" else (known.tokens, known.certain)
        least = max(1, certain) if whole else 0  # however little it is, it does not pass a limit that is used up
        # A guess at the answer's length must not keep a call out for ever; a prompt that is too long does.
        amount = max(min(whole, limit.amount), least)
        charges.append(Charge(key, limit, amount, scope, shared, amount - least))
    return tuple(charges)


def used_of(charge: Charge, tokens: int, usd: int) -> int:
    """What a call that is over has used of a limit; `usd` in NANOS. A request counts even where it failed."""
    match charge.limit.kind:
        case "requests":
            return charge.amount
        case "tokens":
            return tokens
        case "usd":
            return usd
        case _:  # parallel: its place is free again
            return 0


def limits_in(file: RulesFile) -> Iterator[Limit]:
    """All that stand in a file, whoever they are for."""
    quotas = file.limits
    per_client = (row.limits or () for row in file.clients.values())
    for texts in (quotas.overall, quotas.each_client, *quotas.models.values(), *per_client):
        yield from parse_limits(texts)


class Refusal(NamedTuple):
    """The limit that a call does not fit."""

    charge: Charge
    standing: Standing


def refusal(charges: Sequence[Charge], standings: Sequence[Standing]) -> Refusal:
    """Of the limits that a call did not fit the one for which it would have to wait the longest. `standings` are those
    before it; one of them at least has no room for it.
    """
    over = (
        Refusal(charge, standing)
        for charge, standing in zip(charges, standings, strict=True)
        if not fits(charge, standing.used, standing.aside)
    )
    return max(over, key=lambda one: one.standing.wait)


@dataclass(slots=True, eq=False)
class Allowance:
    """What a call has taken of its limits, to be settled when it is over."""

    charges: tuple[Charge, ...]
    """With the amounts that they really took."""
    taken: tuple[int, ...]
    """The slot of its window that each charge was counted in (quota.Window)."""
    lease: str
    """Under which its places among the calls at once are held."""
    headers: dict[str, str] = field(default_factory=dict)
    """`x-ratelimit-*`, for the answer."""
    settled: bool = False


def limit_headers(
    charges: Sequence[Charge], standings: Sequence[Standing], *, admitted: bool = False
) -> dict[str, str]:
    """`x-ratelimit-*` of a call, of requests and of tokens, and `x-gateway-budget-*`, of money that is this client's
    alone: each of the limit that has the smallest part of it left. What a call that was admitted may cost is not taken
    off the money: that it has not spent yet.
    """
    least: dict[str, tuple[float, int, int, float]] = {}
    for charge, standing in zip(charges, standings, strict=True):
        limit = charge.limit
        is_money = limit.kind == "usd"
        if limit.kind in _HEADERS or (is_money and not charge.shared):
            before = standing.used - charge.amount if is_money and admitted else standing.used
            left = max(0, limit.amount - before)
            share = left / limit.amount
            if limit.kind not in least or share < least[limit.kind][0]:
                least[limit.kind] = share, limit.amount, left, standing.reset
    said: dict[str, str] = {}
    for kind, (_, amount, left, reset) in least.items():
        if kind == "usd":
            said[BUDGET_LIMIT], said[BUDGET_LEFT] = dollars(amount), dollars(left)
            continue
        of_limit, of_left, of_reset = _HEADERS[kind]
        said[of_limit], said[of_left], said[of_reset] = str(amount), str(left), go_duration(reset)
    return said


_HEADERS = {
    kind: (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")
    for kind in ("requests", "tokens")
}


BUDGET_LIMIT, BUDGET_LEFT = "x-gateway-budget-limit-usd", "x-gateway-budget-remaining-usd"


def dollars(nanos: int) -> str:
    """Two decimals, or as many as there are."""
    whole, decimals = f"{nanos // NANOS}", f"{nanos % NANOS:09}".rstrip("0")
    return f"{whole}.{decimals:0<2}"


def go_duration(seconds: float) -> str:
    """As Go writes durations, and so OpenAI's headers: `12ms`, `7.66s`, `6m0s`, `1h2m1s`; from a minute on in whole
    seconds. Never too short a time, but for what is less than a microsecond."""
    milliseconds = math.ceil(seconds * 1000 - 0.001)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(-(-milliseconds // 1000), 60)
    return f"{minutes}m{rest}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60}m{rest}s"


def spoken(seconds: float) -> str:
    """The same for people, in two units at the most: `7.66s`, `1m1s`, `6m`, `23h58m`, `24h`. From an hour on to the
    nearest minute."""
    if seconds < 3600 - 1:
        text = go_duration(seconds)
        return text.removesuffix("m0s") + "m" if text.endswith("m0s") else text
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"
