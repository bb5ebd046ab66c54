"""Limits on what may be asked: how they are written, which of them a call falls under, and how a window is counted.

A window slides: never more than the limit is admitted in *any* span of its length, not only in those that begin at
full minutes. It is counted in sixtieths, each of which leaves the count only when all of it is old enough; so the bound
is strict, an answer to "when again" is exact, and a day of calls takes sixty numbers. The stores of the counts are
addons/'s.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

type Kind = Literal["requests", "tokens", "usd", "parallel"]

NANOS: Final = 10**9
"""Money is counted in billionths of a dollar, as whole numbers: sums are exact, in any order."""
SLOTS: Final = 60

_WRITTEN = re.compile(
    r"(?P<amount>\d[\d_,]{0,18}(?:\.\d{1,9})?)\s*(?P<times>[kM]?)\s*(?P<kind>requests?|calls?|tokens?|usd|parallel)?"
    r"(?:\s*(?:/|per)\s*(?:(?P<number>\d{1,9}(?:\.\d{1,3})?)\s*)?(?P<unit>seconds?|s|minutes?|min|m|hours?|h|days?|d)?)?",
    re.IGNORECASE,
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_KINDS: dict[str, Kind] = {"r": "requests", "c": "requests", "t": "tokens", "u": "usd", "p": "parallel"}
_HOW = "a limit is written like 100/minute, 200000 tokens/hour, 5 USD/day or 8 parallel"


@dataclass(frozen=True, slots=True)
class Limit:
    """So much in so long."""

    kind: Kind
    amount: int
    """Of requests, tokens or calls at once; of USD in NANOS."""
    seconds: float
    """The window; 0 for calls at once."""
    written: str
    """As the file has it, for people."""


def parse_limit(text: str) -> Limit:
    """Raises ValueError with words for whoever wrote it."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError(_HOW)
    kind = _KINDS[(match["kind"] or "requests")[0].lower()]
    amount = float(match["amount"].replace("_", "").replace(",", ""))
    amount *= {"": 1, "k": 1000, "m": 1_000_000}[match["times"].lower()]
    spans = match["number"] is not None or match["unit"] is not None
    if (kind == "parallel") == spans:
        raise ValueError(f"calls at once have no window, and all else has one: {_HOW}")
    seconds = float(match["number"] or 1) * _SECONDS[(match["unit"] or "s")[0].lower()] if spans else 0.0
    counted = round(amount * NANOS) if kind == "usd" else int(amount)
    if counted < 1 or (spans and not 1 <= seconds <= 366 * 86400) or (kind != "usd" and counted != amount):
        raise ValueError(f"a limit is a number above 0 in a window of a second to a year: {_HOW}")
    return Limit(kind, counted, seconds, " ".join(text.split()))


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call takes of one limit."""

    key: str
    """Whose count it is: the scope and the limit, as `client/notebook/100/minute`. Never a key or a prompt."""
    limit: Limit
    amount: int
    """An estimate where it cannot be known before: of tokens and of USD."""
    scope: str
    """For people: `client notebook`, `model gpt-*`, `all clients`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one limit stands."""

    used: int
    """After the charge, if it was admitted."""
    wait: float
    """Seconds until the charge would fit; 0 where it did, `inf` where it never can."""
    reset: float
    """Seconds until nothing of it is used any more."""


class Window:
    """How much of one limit is used, in the window that ends now. For one thread; times in seconds, of one clock."""

    __slots__ = ("_slot", "_slots", "total")

    def __init__(self, seconds: float) -> None:
        self._slot = seconds / SLOTS
        self._slots: deque[list[int]] = deque()  # [slot, amount], the oldest first
        self.total = 0

    def used(self, now: float) -> int:
        gone = int(now / self._slot) - SLOTS
        slots = self._slots
        while slots and slots[0][0] < gone:
            self.total -= slots.popleft()[1]
        return self.total

    def add(self, amount: int, now: float) -> int:
        """Counts an amount; returns the slot that it stands in."""
        slot = int(now / self._slot)
        slots = self._slots
        if slots and slots[-1][0] >= slot:
            slot = slots[-1][0]  # a clock that was set back
            slots[-1][1] += amount
        else:
            slots.append([slot, amount])
        self.total += amount
        return slot

    def give_back(self, amount: int, slot: int) -> None:
        """Takes an amount out of the slot that it was counted in, if that is still there."""
        for place in reversed(self._slots):
            if place[0] == slot:
                taken = min(amount, place[1])
                place[1] -= taken
                self.total -= taken
                return

    def fits_at(self, room: int, now: float) -> float:
        """When no more than `room` will be used, if nothing is added: at the earliest `now`."""
        left = self.used(now)
        at = now
        for slot, amount in self._slots:
            if left <= room:
                break
            left -= amount
            at = (slot + SLOTS + 1) * self._slot
        return at
