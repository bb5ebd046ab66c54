"""What a caller is told when no target could answer: one error that names each attempt, in plain words.

No internals in it: no address, no key, nothing of an upstream's own words but what wire/errors.py lets through.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from addons.exchange import Exchange
from wire.errors import (
    BadRequest,
    ConnectFailed,
    ContextTooLong,
    Fault,
    ModelMissing,
    ModelNotFound,
    Overloaded,
    RateLimited,
    Resting,
    TimedOut,
    UpstreamFault,
    restated,
)

MOST_TELLING = (RateLimited, Overloaded, TimedOut, ConnectFailed, UpstreamFault)
"""Whose status the caller gets: the first kind that was met."""


def story(exchange: Exchange) -> list[str]:
    """Each thing that was tried, and what came of it."""
    faults = [(attempt.target.name, attempt.fault) for attempt in exchange.attempts if attempt.fault is not None]
    tried = {name for name, fault in faults if not isinstance(fault, Resting)}
    faults = [(name, fault) for name, fault in faults if not (isinstance(fault, Resting) and name in tried)]
    told = Counter(f"{name} {fault.message}" for name, fault in faults)
    times = {1: "", 2: ", twice"}
    return [f"{what}{times.get(count, f', {count} times')}" for what, count in told.items()]


def last_words(exchange: Exchange, why: str = "") -> Fault:
    """The final fault. `why` an answer that broke off was not continued."""
    return _broken_off(exchange, why) if exchange.begun else _no_target_left(exchange)


def in_callers_words(exchange: Exchange, fault: Fault) -> Fault:
    """A fault about the translated request, as one about the request that the caller wrote."""
    request = exchange.request
    return restated(fault, partial(exchange.surface.param, request)) if request is not None else fault


def _no_target_left(exchange: Exchange) -> Fault:
    """The final fault of a call of which the caller has seen nothing."""
    kept = [attempt.fault for attempt in exchange.attempts if attempt.fault is not None]
    if kept and all(isinstance(fault, BadRequest) for fault in kept):
        if isinstance(kept[0], ContextTooLong):
            kept[0].param = exchange.surface.prompt
        return in_callers_words(exchange, kept[0])
    words = story(exchange)
    skipped = exchange.decision.skipped if exchange.decision is not None else ()
    asked = {attempt.target.name for attempt in exchange.attempts}
    words += [
        f"{skip.target} was skipped: {skip.why}" for skip in skipped if not skip.as_meant and skip.target not in asked
    ]
    if kept and all(isinstance(fault, ModelMissing | BadRequest) for fault in kept):
        model = exchange.request.model[:200] if exchange.request is not None else ""
        return ModelNotFound(
            f"The model `{model}` does not exist or you do not have access to it ({'; '.join(words)}).",
            param="model",
        )
    tried = [fault for fault in kept if not isinstance(fault, Resting)] or kept
    for faults, kind in ((faults, kind) for faults in (tried, kept) for kind in MOST_TELLING):
        telling = [fault for fault in faults if isinstance(fault, kind) and not isinstance(fault, ModelMissing)]
        if telling:
            waits = [fault.retry_after for fault in kept if fault.retry_after is not None]
            return type(telling[0])(
                f"No target could answer: {'; '.join(words)}.", retry_after=min(waits) if waits else None
            )
    return UpstreamFault(f"No target could answer: {'; '.join(words)}.")


def _broken_off(exchange: Exchange, why: str) -> Fault:
    """The final fault of a call whose caller has the beginning of an answer. `why` it was not continued."""
    broke = next(attempt.fault for attempt in exchange.attempts if attempt.first_token and attempt.fault is not None)
    kind = type(broke) if isinstance(broke, UpstreamFault) else UpstreamFault
    reason = f" It was not continued: {why}." if why else ""
    return kind(f"The answer broke off: {'; '.join(story(exchange))}.{reason}")
