"""Limits on what may be asked: how they are written, and how a window is counted.

A window slides: never more than the limit is admitted in *any* span of its length, not only in those that begin at
full minutes. It is counted in sixtieths, each of which leaves the count only when all of it is old enough; so the bound
is strict, an answer to "when again" is exact, and a day of calls takes sixty numbers. The stores of the counts are
addons/'s; that in memory counts in a Window, and any other one must give the same answers.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from rules.values import UNIT, is_short, unit_seconds

type Kind = Literal["requests", "tokens", "usd", "parallel"]

NANOS: Final = 10**9
"""Money is counted in billionths of a dollar, as whole numbers: sums are exact, in any order."""
SLOTS: Final = 60
MAX_AMOUNT: Final = 2**53 - 1
"""Of which all stores can count to the last one. In USD: nine million."""
A_PLACE: Final = 1.0
"""Seconds after which it is worth asking again for what calls under way hold: nobody knows when one of them ends."""

_WRITTEN = re.compile(
    r"(?P<amount>(?:\d{1,3}(?:[_,]\d{3})+|\d{1,19})(?:\.\d{1,9})?)\s*(?P<times>[kM]?)"
    r"\s*(?P<kind>requests?|calls?|tokens?|usd|parallel)?"
    r"(?:\s*(?:/|per\b)\s*(?:(?P<number>\d{1,9}(?:\.\d{1,3})?)\s*)?"
    rf"(?P<unit>{UNIT})?)?",
    re.IGNORECASE,
)
_LONGEST = 366 * 86400
_TIMES = {"": 1, "k": 1000, "m": 1_000_000}
_KINDS: dict[str, Kind] = {"r": "requests", "c": "requests", "t": "tokens", "u": "usd", "p": "parallel"}
_HOW = "write 100/minute, 200000 tokens/hour, 5 USD/day or 8 parallel"


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
        raise ValueError(f"{_why_none(text)}; {_HOW}")
    kind = _KINDS[(match["kind"] or "requests")[0].lower()]
    spans = match["number"] is not None or match["unit"] is not None
    if kind == "parallel" and spans:
        raise ValueError("a limit on calls at once has no window; write 8 parallel")
    if kind != "parallel" and not spans:
        raise ValueError(f"the window is missing; {_HOW}")
    amount = Decimal(match["amount"].replace("_", "").replace(",", "")) * _TIMES[match["times"].lower()]
    if amount == 0:
        raise ValueError("the amount must be above 0; leave the limit out (or its variable empty) for no limit")
    if kind == "usd":
        amount *= NANOS
    if amount != int(amount):
        raise ValueError(f"the amount must be a whole number of {'calls' if kind == 'parallel' else kind}")
    if amount > MAX_AMOUNT:
        raise ValueError(f"the amount must be below {MAX_AMOUNT // (NANOS if kind == 'usd' else 1):,}")
    seconds = float(match["number"] or 1) * unit_seconds(match["unit"]) if spans else 0.0
    if spans and not 1 <= seconds <= _LONGEST:
        raise ValueError("the window must be between a second and a year (366 days)")
    return Limit(kind, int(amount), seconds, " ".join(text.split()))


def _why_none(text: str) -> str:
    """What is wrong with a text that is no limit."""
    if not text or not is_short(text):
        return "not a limit"
    amount, slash, window = map(str.strip, text.partition("/"))
    why = ""
    if slash and not _WRITTEN.fullmatch(amount):
        why = f": '{amount}' is no amount"
    elif slash and not _WRITTEN.fullmatch(f"1/{window}"):
        why = f": '{window}' is no window, such as minute, 2h or 60 (seconds)"
    return f"'{text}' is not a limit{why}"


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Raises ValueError. A limit that is written twice is one: it has one count."""
    return tuple({limit.written: limit for limit in map(parse_limit, texts)}.values())


class Charge(NamedTuple):
    """What one call takes of one limit."""

    key: str
    """Whose count it is: the scope and the limit, as `client/notebook/100/minute`. Never a key or a prompt."""
    limit: Limit
    amount: int
    """An estimate where it cannot be known before: of tokens and of USD. What takes nothing always fits."""
    scope: str
    """For people: `in client notebook`, `for all clients together`."""
    shared: bool = False
    """Several clients count against it: what it says of money is none of this client's business."""
    guess: int = 0
    """That part of `amount` which it may well not use. It keeps room free from calls beside it, and turns nobody away
    where nothing is set aside for others."""

    @property
    def least(self) -> int:
        """What there must be room for in any case."""
        return self.amount - self.guess

    @property
    def sets_aside(self) -> bool:
        """Whether others have to know of it while its call is under way: more or less of it may really be used."""
        return self.amount > 0 and (self.limit.kind == "tokens" or self.limit.kind == "usd")


class Standing(NamedTuple):
    """Where one limit stands."""

    used: int
    """After the charge, if it was admitted."""
    wait: float
    """Seconds until the charge would fit, if nothing is set aside then; 0 where it did, `inf` where it never can."""
    reset: float
    """Seconds until nothing of it is used any more."""
    aside: int = 0
    """Of what is used, what calls took that are under way; told only of a limit that the charge does not fit."""


class Window:
    """How much of one limit is used, in the window that ends now. For one thread; times in seconds, of one clock."""

    __slots__ = ("_slot", "_slots", "total")

    def __init__(self, seconds: float) -> None:
        self._slot = seconds / SLOTS
        self._slots: deque[list[int]] = deque()  # [slot, amount], the oldest first
        self.total = 0

    def used(self, now: float) -> int:
        slots = self._slots
        if slots:
            gone = math.floor(now / self._slot) - SLOTS
            while slots and slots[0][0] < gone:
                self.total -= slots.popleft()[1]
        return self.total

    def add(self, amount: int, now: float) -> int:
        """Counts an amount; returns the slot that it stands in."""
        slot = math.floor(now / self._slot)
        slots = self._slots
        if slots and slots[-1][0] >= slot:
            slot = slots[-1][0]  # this one, or a later one where a clock was set back
            slots[-1][1] += amount
        else:
            slots.append([slot, amount])
        self.total += amount
        return slot

    def recall(self, amount: int, slot: int) -> None:
        """Counts what was used in the past in the slot of then, also where something was used since."""
        slots = self._slots
        place = len(slots)
        while place and slots[place - 1][0] > slot:
            place -= 1
        if place and slots[place - 1][0] == slot:
            slots[place - 1][1] += amount
        else:
            slots.insert(place, [slot, amount])
        self.total += amount

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
            at = self.gone_at(slot)
        return max(at, now)

    def empty_at(self, now: float) -> float:
        """When nothing will be used, if nothing is added: at the earliest `now`."""
        return max(self.gone_at(self._slots[-1][0]), now) if self.used(now) else now

    def gone_at(self, slot: int) -> float:
        """When what stands in a slot is too old to count."""
        return (slot + SLOTS + 1) * self._slot


def standing(charge: Charge, window: Window, now: float, aside: int = 0) -> Standing:
    """Where a limit stands before a charge is counted. `aside`: of what is used, what calls under way took."""
    used = window.used(now)
    reset = window.empty_at(now) - now
    if fits(charge, used, aside):
        return Standing(used, 0.0, reset)
    most = charge.limit.amount
    if charge.least > most:
        wait = math.inf
    elif aside and used - aside + charge.least <= most:
        wait = A_PLACE
    else:
        wait = window.fits_at(most - charge.least, now) - now
    return Standing(used, wait, reset, aside)


def share(charge: Charge, used: int, aside: int = 0) -> int | None:
    """How much a charge takes where so much is used already; None where it does not fit.

    What is only guessed turns nobody away, but at most one call at a time goes beyond its guess: it takes all the room
    that is left, so that the next one waits until it is known what it used. So a limit is passed by no more than what
    calls use beyond what they took.
    """
    if charge.amount == 0:
        return 0
    room = charge.limit.amount - used
    if charge.amount <= room:
        return charge.amount
    return room if charge.guess and not aside and charge.least <= room else None


def fits(charge: Charge, used: int, aside: int = 0) -> bool:
    """Whether a charge may be counted where so much is used already."""
    return share(charge, used, aside) is not None
