"""What a call is told that a limit turns away: OpenAI's words and errors, as far as it has them (openai_api section 4).

A limit that several clients share speaks of all of them together, and never of money: how much there was to spend, and
how much of it is gone, is not for each of them to know.
"""

from __future__ import annotations

import math

from rules.limits import Refusal, go_duration
from rules.quota import NANOS, Limit
from wire.errors import Fault, LimitReached, NeverFits, QuotaUsedUp, TokensReached

_SHORT = {1: ("second", "S"), 60: ("min", "M"), 3600: ("hour", "H"), 86400: ("day", "D")}
"""Seconds -> OpenAI's word, and the end of its abbreviation: requests per min (RPM)."""
_LONG = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
SOON = 1.0
"""Seconds to wait for calls under way, of which nobody knows when they end."""


def fault_of(refusal: Refusal, model: str, *, under_way: int = 0) -> Fault:
    """`model` as the caller named it; `under_way`: of what is used of it, what calls took that are not over."""
    charge, standing = refusal.charge, refusal.standing
    limit, wait = charge.limit, standing.wait
    where = f"for `{model[:200]}` {charge.scope}"
    match limit.kind:
        case "parallel":
            return LimitReached(
                f"Rate limit reached {where}: {_calls(standing.used)} under way at once, and the limit is "
                f"{limit.amount}. Please try again when one of them is over.",
                retry_after=SOON,
            )
        case "usd":
            return _budget(refusal, where, under_way)
        case "tokens" if math.isinf(wait):
            return NeverFits(
                f"Request too large {where} on {_measure(limit)}: Limit {limit.amount}, Requested {charge.amount}. "
                "The prompt alone is larger than the limit; it must be shorter."
            )
        case "tokens" if standing.used - under_way + charge.amount <= limit.amount:
            return TokensReached(
                f"Rate limit reached {where} on {_measure(limit)}: Limit {limit.amount}, Used "
                f"{standing.used - under_way}, Requested {charge.amount}, and {under_way} are set aside for calls that "
                "are under way. Please try again when one of them is over.",
                retry_after=SOON,
            )
        case _:
            kind = LimitReached if limit.kind == "requests" else TokensReached
            return kind(
                f"Rate limit reached {where} on {_measure(limit)}: Limit {limit.amount}, Used {standing.used}, "
                f"Requested {charge.amount}. Please try again in {go_duration(wait)}.",
                retry_after=wait,
            )


def _budget(refusal: Refusal, where: str, under_way: int) -> Fault:
    charge, standing = refusal.charge, refusal.standing
    limit = charge.limit
    if standing.used - under_way + charge.amount <= limit.amount:
        return LimitReached(
            f"Rate limit reached {where} on money: calls that are under way may use up what is left of the budget. "
            "Please try again when one of them is over.",
            retry_after=SOON,
        )
    spent = (
        f"{_usd(standing.used)} of {_usd(limit.amount)} USD {_per(limit)} are spent or set aside for calls under way"
    )
    said = "it is used up" if charge.shared else f"{spent}, and this one may cost {_usd(charge.amount)} USD"
    return QuotaUsedUp(
        f"The budget {where} has no room for this call: {said}. There is room again in {go_duration(standing.wait)}.",
        retry_after=standing.wait,
    )


def _calls(count: int) -> str:
    return "1 call is" if count == 1 else f"{count} calls are"


def _measure(limit: Limit) -> str:
    """As `requests per min (RPM)`, `tokens per 90 minutes`."""
    short = _SHORT.get(int(limit.seconds)) if limit.seconds.is_integer() else None
    if short is None:
        return f"{limit.kind} {_per(limit)}"
    return f"{limit.kind} per {short[0]} ({limit.kind[0].upper()}P{short[1]})"


def _per(limit: Limit) -> str:
    """As `per day`, `per 90 minutes`."""
    for seconds, unit in _LONG:
        if limit.seconds % seconds == 0:
            count = int(limit.seconds // seconds)
            return f"per {unit[:-1]}" if count == 1 else f"per {count} {unit}"
    return f"per {limit.seconds:g} seconds"


def _usd(nanos: int) -> str:
    """Two decimals, or as many as there are."""
    whole, decimals = f"{nanos // NANOS}", f"{nanos % NANOS:09}".rstrip("0")
    return f"{whole}.{decimals:0<2}"
