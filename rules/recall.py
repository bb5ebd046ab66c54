"""What limits are told of calls that are over, where whoever counted them has forgotten it: after a restart.

The past is asked for in spans. The time of the shortest window is asked for in the slots of that window, what lies
before it in those of the next longer one, and so on: a million calls come back as a few thousand sums. In a longer
window than its own a sum stands where its latest call does. A call stands where it was over, for by then it had used
all that it used. So a limit may remember something a little longer than it counts, and never less than was used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rules.quota import SLOTS, Charge, Limit

KNOWN: Final = 10_000
"""Pairs of a client and a model whose limits are kept at hand: callers may have made up their models' names."""


class Span(NamedTuple):
    """A stretch of the past. Unix time."""

    begin: float
    """Where a slot begins."""
    end: float
    width: float
    """Seconds of a slot."""


class Sum(NamedTuple):
    """Calls of one client to one model that were over within one slot."""

    last: float
    """When the last of them was over, Unix time."""
    client: str
    model: str
    """As they asked for it."""
    requests: int
    tokens: int
    usd: int
    """NANOS."""


def spans(windows: Iterable[float], now: float, offset: float, until: float = math.inf) -> Iterator[Span]:
    """What has to be known for windows of so many seconds, the latest first. `now` is Unix time, `offset` what has to
    be taken from that to get the time of the clock that counts. Nothing is asked that was over at `until` or later.
    """
    end = until
    for seconds in sorted(windows):
        width = seconds / SLOTS
        begin = (math.floor((now - offset) / width) - SLOTS) * width + offset
        if begin < end:
            yield Span(begin, end, width)
            end = begin


@dataclass(slots=True, eq=False)
class Recall:
    """What is to be counted of the past."""

    charges: Callable[[str, str], Iterable[Charge]]
    """(client, model) -> the limits that they fall under, each with a charge."""
    offset: float
    """As for spans()."""
    now: float
    """Unix time; what seems to come after it is counted now."""
    least: float = 0.0
    """Windows of fewer seconds are not counted."""
    found: dict[str, Recalled] = field(default_factory=dict)
    """Key of a charge -> what stands in its window."""
    _known: dict[tuple[str, str], tuple[Charge, ...]] = field(default_factory=dict)

    def add(self, one: Sum) -> None:
        now = self.now - self.offset
        at = min(one.last - self.offset, now)
        for charge in self._of(one.client, one.model):
            amount, width = _used(charge.limit, one), charge.limit.seconds / SLOTS
            slot = math.floor(at / width)
            if amount and slot >= math.floor(now / width) - SLOTS:
                recalled = self.found.get(charge.key)
                if recalled is None:
                    recalled = self.found[charge.key] = Recalled(charge, {})
                recalled.slots[slot] = recalled.slots.get(slot, 0) + amount

    def _of(self, client: str, model: str) -> tuple[Charge, ...]:
        known = self._known.get((client, model))
        if known is None:
            all_of_them = self.charges(client, model)
            known = tuple(one for one in all_of_them if one.limit.seconds and one.limit.seconds >= self.least)
            if len(self._known) < KNOWN:
                self._known[client, model] = known
        return known


class Recalled(NamedTuple):
    """What stands in the window of one limit."""

    charge: Charge
    slots: dict[int, int]
    """slot -> amount"""


def _used(limit: Limit, one: Sum) -> int:
    match limit.kind:
        case "requests":
            return one.requests
        case "tokens":
            return one.tokens
        case "usd":
            return one.usd
        case _:
            return 0
