"""Whether a target may be asked, and what comes after a failure: circuit breakers and the retry plan, as values.

The traps that shaped it, all seen in the field: breakers that never close again, a 404 for one model that condemns its
whole server, a half-open breaker that lets a whole crowd through, and retries that go on where nothing can get better.
Time and chance are arguments; whoever acts keeps the values (addons/nodes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

KINDS = frozenset(
    {
        "connect",
        "tls",
        "reset",
        "first_token",
        "idle",
        "model_missing",
        "key",
        "context",
        "stream_error",
        "malformed",
        "cut",
        "resources",
        "blank",
        "schema",
        "unsupported",
    }
)
"""The kinds of failure that a rules file can name, beside `status_503` and its like."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "timeout": ("first_token", "idle", "status_408", "status_504"),
}
"""Names for several kinds at once."""
DEFAULT_ON = (*sorted(KINDS - {"context"}), "status_3xx", "status_4xx", "status_5xx")
"""What leads to the next target where the file does not say. A prompt that is too long for one model is an error of the
caller's, unless the file says that a larger window may be paid for."""


def kinds_in(names: tuple[str, ...]) -> frozenset[str]:
    """The kinds behind the names of a file: groups opened, patterns such as `status_5xx` left as they are."""
    return frozenset(kind for name in names for kind in GROUPS.get(name, (name,)))


def is_among(kind: str, kinds: frozenset[str] | Mapping[str, float]) -> bool:
    """Whether a kind is one of these; `status_5xx` stands for every status from 500 to 599."""
    return kind in kinds or (kind.startswith("status_") and f"{kind[:8]}xx" in kinds)


# -- breakers


LONGEST_REST = 3600.0
"""Seconds that a server gets at the most when it names its rest itself: a year would never end."""


class Policy(NamedTuple):
    """When a breaker opens and for how long."""

    failures: float = 5.0
    """The score at which it opens; a failure adds its weight, a success halves it."""
    cool_down: float = 10.0
    """Seconds from its opening to the one call that may try again."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """closed: every call passes. open: none does. After the cool-down it is half open: one call passes, and decides."""

    score: float = 0.0
    until: float | None = None
    """When the cool-down is over; None while closed."""
    probing: bool = False
    """The one call of the half-open breaker is under way."""

    def state(self, now: float) -> Literal["closed", "open", "half_open"]:
        if self.until is None:
            return "closed"
        return "open" if now < self.until else "half_open"

    def allows(self, now: float) -> bool:
        return self.until is None or (now >= self.until and not self.probing)


CLOSED = Breaker()


def asked(breaker: Breaker) -> Breaker:
    """A call begins. Only for a breaker that allows it."""
    return breaker if breaker.until is None else replace(breaker, probing=True)


def succeeded(breaker: Breaker, policy: Policy) -> Breaker:
    """A call ended well. A breaker that was open closes, but stays on probation: its next failure opens it again.

    That is what a target that comes and goes costs: one failed call per cool-down, not `failures` of them. Yet one
    that fails every third call is worth asking: a success or two, and it takes several failures again.
    """
    if breaker.until is None:
        return breaker if breaker.score == 0 else CLOSED if breaker.score < 1 else Breaker(breaker.score / 2)
    return Breaker(score=max(0.0, policy.failures - 1))


def failed(breaker: Breaker, weight: float, now: float, policy: Policy, rest: float | None = None) -> Breaker:
    """A call failed. `rest`: seconds that the server itself asked for; it opens at once, for at least as long.

    A failure of weight 0 says nothing about the target; a half-open breaker then waits for another call to decide.
    """
    if rest is not None and rest > 0:
        until = max(now + min(rest, LONGEST_REST), breaker.until or 0.0)
        return Breaker(score=max(breaker.score, policy.failures - 1), until=until)
    if weight <= 0:
        return abandoned(breaker)
    if breaker.until is not None:
        # Late news of a call from before the opening does not lengthen the rest; the probe's failure does.
        return Breaker(policy.failures, max(breaker.until, now + policy.cool_down if now >= breaker.until else 0.0))
    score = breaker.score + weight
    if score >= policy.failures:
        return Breaker(policy.failures, now + policy.cool_down)
    return Breaker(score)


def abandoned(breaker: Breaker) -> Breaker:
    """A call ended without telling anything about the target: its caller went away."""
    return replace(breaker, probing=False) if breaker.probing else breaker


def revived(breaker: Breaker, now: float) -> Breaker:
    """Somebody else saw the server answer again: the next call may try at once."""
    return breaker if breaker.until is None or breaker.until <= now else replace(breaker, until=now)


OF_SERVER = frozenset({"connect", "tls", "key"})
"""Kinds that condemn a server with all its models. Any other one is about one model on it: a 404, a crash, silence."""
WEIGHTS: Mapping[str, float] = {
    "key": 1000.0,  # it will not get better by asking again
    "model_missing": 1.0,
    "status_429": 1.0,
    "status_4xx": 0.0,
    "context": 0.0,
    "unsupported": 0.0,
    "blank": 0.0,
    "schema": 0.0,
    "not_continued": 0.0,
    "busy": 0.0,
    "resting": 0.0,
    "total": 0.0,
}
"""What a failure adds to the score. Any other kind adds 1; 0: it says nothing about the target's health."""


def weight_of(kind: str, weights: Mapping[str, float]) -> float:
    """The weight of a kind; `weights` are those of the file, which come first, by exact name and then by pattern."""
    pattern = f"{kind[:8]}xx" if kind.startswith("status_") else kind
    for table in (weights, WEIGHTS):
        if kind in table:
            return table[kind]
        if pattern in table:
            return table[pattern]
    return 1.0


# -- the plan of one call


class Retry(NamedTuple):
    """How patient one call is."""

    attempts: int = 2
    """At one target."""
    on: frozenset[str] = kinds_in(DEFAULT_ON)
    backoff: float = 0.25
    """Seconds before the second attempt at one target; doubles with each further one."""
    wait: float = 30.0
    """Seconds that a call waits at the most for a target to be ready again."""


class Failure(NamedTuple):
    """A failed attempt, as far as it decides about the next one."""

    kind: str | None
    """None: the caller's own fault, which no target can mend."""
    retry_after: float | None = None
    """Seconds, where the target named them."""


ONCE = frozenset(
    {
        "tls",
        "key",
        "model_missing",
        "context",
        "unsupported",
        "blank",
        "schema",
        "first_token",
        "not_continued",
        "busy",
        "resting",
    }
)
"""Kinds after which the same target is not asked again in this call: it would say the same, or is too slow for it."""
LONGEST_BACKOFF = 10.0


@dataclass(frozen=True, slots=True)
class Candidate[T]:
    """A target in the plan of one call."""

    target: T
    pool: int = 0
    """Candidates of one pool can stand in for each other: a call that waits for one of them waits for all."""
    tries: int = 0
    failed: float = 0.0
    """When it failed last."""
    ready: float = 0.0
    """When it may be asked (again)."""
    told: bool = False
    """It named the time itself, in this call: it is worth waiting for, whoever else tries it then."""
    out: bool = False
    """Not to be asked in this call any more."""


class Ask(NamedTuple):
    """Ask this one now: its place in the plan."""

    place: int


class Wait(NamedTuple):
    """Nothing is ready; something is, then."""

    until: float


def goes_on(failure: Failure, retry: Retry) -> bool:
    """Whether another attempt may follow at all."""
    if failure.kind in ("busy", "resting", "not_continued"):
        return True
    return failure.kind is not None and is_among(failure.kind, retry.on)


def after[T](
    plan: tuple[Candidate[T], ...], place: int, failure: Failure, now: float, retry: Retry, chance: float
) -> tuple[Candidate[T], ...]:
    """The plan after a failed attempt at one of its candidates. `chance` in [0, 1) spreads the crowd."""
    one = plan[place]
    tries = one.tries + 1
    kind = failure.kind or ""
    final = (
        tries >= retry.attempts
        or kind in ONCE
        or (kind.startswith(("status_3", "status_4")) and kind not in _WORTH_WAITING)
    )
    rest = failure.retry_after
    if rest is None:
        rest = min(retry.backoff * 2 ** (tries - 1), LONGEST_BACKOFF) * (0.5 + chance / 2)
    told = failure.retry_after is not None
    changed = replace(one, tries=tries, failed=now, ready=now + rest, told=told, out=one.out or final)
    return (*plan[:place], changed, *plan[place + 1 :])


_WORTH_WAITING = frozenset({"status_408", "status_425", "status_429"})


def next_step[T](
    plan: tuple[Candidate[T], ...],
    now: float,
    ends: float,
    retry: Retry,
    free_at: Callable[[T], float],
    rest_until: float = 0.0,
) -> Ask | Wait | None:
    """What comes next: the first in order that is ready, or the time until one is, or None: nothing is left.

    One that was asked already comes after those that were not.

    `free_at` says when a target's breaker lets a call pass, at the latest `now` where it does so now. A target that is
    not ready is only waited for where no other one is, and only within the call's own time: one that failed in this
    very call, or told it to come again, for `retry.wait` from then on; one that rests because of other calls until
    `rest_until`.
    """
    soonest: float | None = None
    again: int | None = None
    for place, one in enumerate(plan):
        if one.out or (again is not None and one.tries >= plan[again].tries):
            continue
        at, limit = one.ready, one.failed + retry.wait
        if at <= now:
            at = free_at(one.target)
            if at <= now:
                if not one.tries:
                    return Ask(place)
                again = place
                continue
            if not one.told:
                limit = rest_until
        if at <= limit and (soonest is None or at < soonest):
            soonest = at
    if again is not None:
        return Ask(again)
    return None if soonest is None or soonest >= ends else Wait(soonest)
