"""Limits counted in this process's memory.

The trap is that nothing may wait: a call is admitted in the hook that reads it, and settled in the one that ends it.
So the counting itself (Counts) is plain functions, and the store is the library's way in to it. The keys are those of
clients, limits and patterns of the rules file: there are only so many, and a window in which nothing is used goes. None
is ever thrown out before that to make room, as a cache would do it: a budget must not be forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from limits.aio.storage import MemoryStorage

from addons.counters import Spent
from rules.quota import A_PLACE, Charge, Standing, Window, fits, share, standing

_FEW = 64
"""Windows that are not worth looking through for empty ones."""


class Counts:
    """What is used of limits. For one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._windows: dict[str, Window] = {}
        self._places: dict[str, set[str]] = {}
        """Of limits on calls at once: the leases."""
        self._aside: dict[str, int] = {}
        """Of limits on tokens and money: what calls that are under way took."""
        self._many = _FEW

    def __len__(self) -> int:
        """How many limits something is remembered of."""
        return len(self._windows) + len(self._places)

    def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        """As Store.spend."""
        now = self.clock()
        if len(self._windows) >= self._many:
            self._sweep(now)
        windows: list[Window | None] = []
        taken: list[int] = []
        for charge in charges:
            if charge.limit.seconds:
                window = self._windows.get(charge.key) or self._window(charge)
                windows.append(window)
                used = window.used(now)
            else:
                windows.append(None)
                used = self._taken(charge)
            takes = share(charge, used, self._aside.get(charge.key, 0))
            if takes is None:
                return Spent(False, self.look(charges))
            taken.append(takes)
        standings: list[Standing] = []
        slots: list[int] = []
        for charge, counted, takes in zip(charges, windows, taken, strict=True):
            if counted is None:
                places = self._places.setdefault(charge.key, set())
                places.add(lease)
                standings.append(Standing(len(places), 0.0, 0.0))
                slots.append(0)
            else:
                slot = counted.add(takes, now)
                if charge.sets_aside:
                    self._aside[charge.key] = self._aside.get(charge.key, 0) + takes
                standings.append(Standing(counted.total, 0.0, counted.gone_at(slot) - now if counted.total else 0.0))
                slots.append(slot)
        return Spent(True, tuple(standings), tuple(slots), tuple(taken))

    def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        """As Store.settle."""
        now = self.clock()
        for charge, slot, really in zip(charges, slots, used, strict=True):
            if charge.sets_aside:
                self._free(charge)
            if charge.limit.seconds == 0:
                places = self._places.get(charge.key, set())
                places.discard(lease)
                if not places:
                    self._places.pop(charge.key, None)
            elif really < charge.amount:
                window = self._windows.get(charge.key)
                if window is not None:
                    window.give_back(charge.amount - really, slot)
            elif really > charge.amount:
                self.add(charge, really - charge.amount, now)

    def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        """As Store.look."""
        now = self.clock()
        return tuple(
            standing(
                charge,
                self._windows.get(charge.key) or Window(charge.limit.seconds),
                now,
                self._aside.get(charge.key, 0),
            )
            if charge.limit.seconds
            else self._standing(charge)
            for charge in charges
        )

    def add(self, charge: Charge, amount: int, at: float) -> None:
        """Counts what was used at a moment, be there room for it or not."""
        window = self._window(charge)
        window.used(at)  # what is too old goes here too, as it does in Redis: a clock may be set back afterwards
        window.add(amount, at)

    def recall(self, charge: Charge, slots: Mapping[int, int]) -> None:
        """Counts what was used in the past: slot -> amount."""
        window = self._window(charge)
        for slot, amount in slots.items():
            window.recall(amount, slot)

    def _free(self, charge: Charge) -> None:
        left = self._aside.get(charge.key, 0) - charge.amount
        if left > 0:
            self._aside[charge.key] = left
        else:
            self._aside.pop(charge.key, None)

    def _taken(self, charge: Charge) -> int:
        return len(self._places.get(charge.key, ()))

    def _standing(self, charge: Charge) -> Standing:
        taken = self._taken(charge)
        return Standing(taken, 0.0 if fits(charge, taken) else A_PLACE, 0.0)

    def _window(self, charge: Charge) -> Window:
        window = self._windows.get(charge.key)
        if window is None:
            window = self._windows[charge.key] = Window(charge.limit.seconds)
        return window

    def _sweep(self, now: float) -> None:
        self._windows = {key: window for key, window in self._windows.items() if window.used(now)}
        self._many = max(_FEW, 2 * len(self._windows))


class MemoryStore(MemoryStorage):
    """A Store (counters.py). What it does is done at once; `counts` does the same without a coroutine."""

    STORAGE_SCHEME = ["unigate+memory"]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **options: str) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self.counts = Counts(time.monotonic)

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        return self.counts.spend(charges, lease)

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        self.counts.settle(charges, slots, used, lease)

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        return self.counts.look(charges)

    async def reset(self) -> int | None:
        """Forgets all counts, as the library has it; returns of how many limits."""
        forgotten = len(self.counts)
        self.counts = Counts(self.counts.clock)
        await super().reset()
        return forgotten

    async def close(self) -> None:
        """There is nothing to close."""
