"""Which limits a call falls under, what it is let in with, and what it is told where it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rules.access import Client
from rules.conditions import glob
from rules.quota import Charge, Limit, Standing, parse_limit
from rules.terms import Quotas


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call will take, before it is known."""

    tokens: int
    """The prompt's and the answer's."""
    certain: int
    """That part of them which it takes in any case: the prompt's."""
    usd: int
    """NANOS, at the target that is asked first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a file, compiled."""

    overall: tuple[Limit, ...] = ()
    each_client: tuple[Limit, ...] = ()
    models: tuple[tuple[str, Callable[[str], bool], tuple[Limit, ...]], ...] = ()
    """(pattern, whether a name fits it, limits)"""

    def of(self, client: Client, model: str) -> Iterator[tuple[str, str, Limit]]:
        """(key, scope in words, limit) of all that a call falls under."""
        for limit in self.overall:
            yield f"all/{limit.written}", "all clients", limit
        for limit in self.each_client if client.limits is None else client.limits:
            yield f"client/{client.name}/{limit.written}", f"client {client.name}", limit
        for pattern, fits, limits in self.models:
            if limits and fits(model):
                for limit in limits:
                    yield f"model/{pattern}/{limit.written}", f"model {pattern}", limit


def limits_of(quotas: Quotas) -> Limits:
    return Limits(
        tuple(map(parse_limit, quotas.overall)),
        tuple(map(parse_limit, quotas.each_client)),
        tuple((pattern, glob((pattern,)), tuple(map(parse_limit, texts))) for pattern, texts in quotas.models.items()),
    )


def charges_of(limits: Limits, client: Client, model: str, estimate: Estimate) -> tuple[Charge, ...]:
    """What a call takes of each limit that it falls under."""
    return tuple(Charge(key, limit, _amount(limit, estimate), scope) for key, scope, limit in limits.of(client, model))


def _amount(limit: Limit, estimate: Estimate) -> int:
    match limit.kind:
        case "requests" | "parallel":
            return 1
        case "tokens":
            # A guess at the answer's length must not keep a call out for ever; a prompt that is too long does.
            return max(min(estimate.tokens, limit.amount), estimate.certain)
        case "usd":
            return min(estimate.usd, limit.amount)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The limit that a call does not fit."""

    charge: Charge
    standing: Standing


def refusal(charges: Sequence[Charge], standings: Sequence[Standing]) -> Refusal | None:
    """Of the limits that a call does not fit the one for which it would have to wait the longest; None: it fits."""
    over = [
        Refusal(charge, standing)
        for charge, standing in zip(charges, standings, strict=True)
        if standing.wait > 0 or standing.wait == math.inf
    ]
    return max(over, key=lambda one: one.standing.wait, default=None)


@dataclass(slots=True, eq=False)
class Allowance:
    """What a call has taken of its limits, to be settled when it is over."""

    charges: tuple[Charge, ...]
    taken: tuple[int, ...]
    """The slot of its window that each charge was counted in (quota.Window)."""
    lease: str
    """Under which its places among the calls at once are held."""
    headers: dict[str, str] = field(default_factory=dict)
    """`x-ratelimit-*`, for the answer."""
    settled: bool = False
