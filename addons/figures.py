"""What some calls, or some attempts at a target, came to: figures that add up.

All money is whole NANOS of a USD and every sum is exact, so groups add up to their total to the last digit.

The trap: a call belongs to no one target. What came of the attempts at a target are figures of attempts: what is of
calls alone stays zero in them, and in figures of calls what is of attempts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from addons.marks import LENGTH, counted, seconds_in


@dataclass(slots=True)
class Figures:
    """Of calls, or of attempts. Money in NANOS."""

    prompt: int = 0
    """Tokens; `cached` ones are a part of them."""
    cached: int = 0
    completion: int = 0
    """Tokens; `reasoning` is a part of them."""
    reasoning: int = 0
    cost: int = 0
    """As far as prices are known: see `unpriced`."""
    failed_cost: int = 0
    """That part of `cost` that went into attempts which failed."""
    estimated: int = 0
    """Those some of whose tokens are an estimate."""
    unpriced: int = 0
    """Those that used a model without a price, or with one for tokens that nobody counted: they cost more than is
    known."""
    left: int = 0
    """Those whose callers did not wait for the end."""
    first_token: Counter[int] = field(default_factory=Counter)
    """bucket -> how many. What never came to a first token is not in it."""
    total: Counter[int] = field(default_factory=Counter)
    """bucket -> how many. A call that no target was asked for is not in it."""

    # Of attempts alone
    attempts: int = 0
    failed_attempts: int = 0

    # Of calls alone
    calls: int = 0
    compared: int = 0
    """What `compared_calls` of the calls would have cost at the model that the rules compare to."""
    compared_calls: int = 0
    cost_of_compared: int = 0
    """What those calls did cost."""
    answered: int = 0
    """By a target, be it that the answer broke off."""
    streamed: int = 0
    refused: int = 0
    """Answered with a 4xx of our own before any target was asked: a limit, a permission, a faulty request, …"""
    errors: int = 0
    """Answered with 400 or more, but neither `refused` nor `left`."""
    failed_over: int = 0
    """Answered although an attempt failed."""
    local_tokens: int = 0
    """Of calls that local models answered, where that was asked for; so `local_cost`, without failed attempts."""
    local_cost: int = 0

    def add(self, other: Figures) -> None:
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_token.update(other.first_token)
        self.total.update(other.total)

    def put(self, sums: Mapping[str, int]) -> None:
        """Adds figures by their names."""
        for name, value in sums.items():
            if value:
                setattr(self, name, getattr(self, name) + value)

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    @property
    def saved(self) -> int | None:
        """NANOS, of the calls that can be compared."""
        return self.compared - self.cost_of_compared if self.compared_calls else None

    @property
    def saved_share(self) -> float | None:
        """Of what those calls would have cost."""
        return None if self.saved is None or self.compared == 0 else self.saved / self.compared

    @property
    def error_share(self) -> float:
        """Of the calls that were not refused."""
        return share(self.errors, self.calls - self.refused)


_SUMMED = tuple(name for name in Figures.__dataclass_fields__ if name not in ("first_token", "total"))


MANY = 5000
"""Marks that are counted together: to count those of a few calls costs as much as to count a thousand."""
SPENT = ("prompt", "cached", "completion", "reasoning", "cost", "failed_cost")
"""What calls took, which is what their attempts took."""


@dataclass(slots=True)
class Pile:
    """Figures that grow, part by part."""

    figures: Figures = field(default_factory=Figures)
    _marks: list[str] = field(default_factory=list)
    """Not counted yet."""
    _length: int = 0

    def put(self, sums: Mapping[str, int], marks: str) -> None:
        """`marks`: of each of the calls, or of each of the attempts, in one string."""
        self.figures.put(sums)
        self._marks.append(marks)
        self._length += len(marks)
        if self._length >= MANY * LENGTH:
            self._count()

    def whole(self) -> Figures:
        self._count()
        return self.figures

    def _count(self) -> None:
        said = counted("".join(self._marks))
        self.figures.put(said.facts)
        self.figures.first_token.update(said.first)
        self.figures.total.update(said.total)
        self._marks.clear()
        self._length = 0


def sum_of(some: Iterable[Figures]) -> Figures:
    total = Figures()
    for one in some:
        total.add(one)
    return total


def share(part: int, whole: int) -> float:
    """0.0 of nothing."""
    return part / whole if whole else 0.0


def percentile(buckets: Counter[int], share: float) -> float | None:
    """The time, in seconds, within which this share of the calls were done; 5 % too much at most."""
    wanted = share * buckets.total()
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= wanted:
            return seconds_in(bucket)
    return None
