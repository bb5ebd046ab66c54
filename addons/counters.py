"""What a store of limits' counts is, whoever keeps it: memory (counters_memory.py), or a Redis server that several
gateways share (counters_redis.py). Which there are: stores.py.

A store admits a call to all of its limits or to none, in one step: nothing else is counted in between.

Stores are storages of the library `limits`: its connections and its registry of URL schemes (`storage_from_string`)
are theirs. Its strategies are not used. Each of them asks about one limit at a time, so a call that the
second limit refuses has used up some of the first; its moving window keeps an entry for every unit, which for tokens
and NANOS would be millions; and its sliding counter is an approximation that lets more than the limit pass. What our
stores add is the one ability that the three lack: several limits in one step, by amounts, in windows that slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rules.quota import Charge, Standing


class StoreAway(Exception):
    """The store did not answer, or not in time."""


class Spent(NamedTuple):
    """What became of a call's charges."""

    admitted: bool
    standings: tuple[Standing, ...]
    """One for each charge. Not admitted: `used` is what it was, and those with a `wait` are why."""
    slots: tuple[int, ...] = ()
    """Where each charge was counted, if it was admitted; 0 of a limit on calls at once."""
    taken: tuple[int, ...] = ()
    """How much each charge took, if it was admitted (quota.share): less than its amount where that is guessed."""


class Known(NamedTuple):
    """What a store outside of this process knows of itself."""

    since: str
    """When it began to count, by its clock (Unix time). Another moment: it has forgotten what it counted before."""
    now: float
    """By its clock."""


class Store(Protocol):
    """Raises StoreAway."""

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        """Counts all charges, or none where one does not fit; how much each takes: quota.share. What takes nothing
        always fits. A limit on calls at once gives the lease a place; of one on tokens or money the store remembers
        what is set aside until the call is settled.
        """
        ...

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        """Replaces what was charged by what was used, and frees what the lease holds. The charges' amounts are those
        that they took (Spent.taken).

        Less than was charged is taken out of the slot it was counted in; more is counted now, for now it was used.
        """
        ...

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        """Where limits stand, and when the charges would fit; nothing is counted."""
        ...

    async def close(self) -> None: ...
