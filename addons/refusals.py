"""What a call is told that a limit turns away: OpenAI's words and errors, as far as it has them (openai_api section 4).

A limit that several clients share speaks of all of them together, and never of money: how much there was to spend, and
how much of it is gone, is not for each of them to know.
"""

from __future__ import annotations

import math

from rules.limits import Refusal, dollars, spoken
from rules.quota import Charge, Limit, Standing
from wire.errors import Fault, LimitReached, NeverFits, QuotaUsedUp, TokensReached

_SHORT = {1: ("second", "S"), 60: ("min", "M"), 3600: ("hour", "H"), 86400: ("day", "D")}
"""Seconds -> OpenAI's word, and the end of its abbreviation: requests per min (RPM)."""
_LONG = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
SOON = 1.0
"""Seconds to wait for calls under way, of which nobody knows when they end."""


def fault_of(refusal: Refusal, model: str) -> Fault:
    """`model` as the caller named it."""
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
            return _budget(refusal, where)
        case "tokens" if math.isinf(wait):
            return NeverFits(
                f"Request too large {where} on {_measure(limit)}: Limit {limit.amount}, Requested {charge.least}. "
                "The prompt alone is larger than the limit; it must be shorter."
            )
        case "tokens" if _may_come_back(refusal):
            return TokensReached(
                f"Rate limit reached {where} on {_measure(limit)}: Limit {limit.amount}, Used {_spent(standing)}, "
                f"Requested {charge.amount}, and {standing.aside} are set aside for calls that are under way. Please "
                "try again when one of them is over.",
                retry_after=SOON,
            )
        case _:
            kind = LimitReached if limit.kind == "requests" else TokensReached
            return kind(
                f"Rate limit reached {where} on {_measure(limit)}: Limit {limit.amount}, Used {standing.used}, "
                f"Requested {charge.least}. Please try again in {spoken(wait)}.",
                retry_after=wait,
            )


def _may_come_back(refusal: Refusal) -> bool:
    """Whether the call would fit if all that is set aside were free again."""
    charge, standing = refusal.charge, refusal.standing
    return standing.aside > 0 and _spent(standing) + charge.least <= charge.limit.amount


def _spent(standing: Standing) -> int:
    """What calls used that are over. What a long one set aside may be too old to be counted any more."""
    return max(0, standing.used - standing.aside)


def _budget(refusal: Refusal, where: str) -> Fault:
    charge, standing = refusal.charge, refusal.standing
    limit = charge.limit
    if math.isinf(standing.wait):
        costs = f"{_least_usd(charge)}, and the budget is {dollars(limit.amount)} USD {_per(limit)}"
        return NeverFits(
            f"Request too large {where} on money: with this prompt it costs "
            f"{'more than the whole budget' if charge.shared else costs}. A shorter one costs less."
        )
    if _may_come_back(refusal):
        return LimitReached(
            f"Rate limit reached {where} on money: calls that are under way may use up what is left of the budget. "
            "Please try again when one of them is over.",
            retry_after=SOON,
        )
    said = "it is used up"
    if not charge.shared:
        used = _spent(standing)
        said = f"{dollars(used)} of {dollars(limit.amount)} USD {_per(limit)} are spent"
        if used < limit.amount:
            said += f", and this one costs {_least_usd(charge)}"
    return QuotaUsedUp(
        f"The budget {where} has no room for this call: {said}. There is room again in {spoken(standing.wait)}.",
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


def _least_usd(charge: Charge) -> str:
    return f"at least {dollars(charge.least)} USD"
