"""Where limits are counted: in memory, or in a Redis server that several gateways share. The table of stores is below.

A store admits a call to all of its limits or to none, in one step: nothing else is counted in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rules.quota import Charge, Standing


class StoreAway(Exception):
    """The store did not answer, or not in time."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What became of a call's charges."""

    admitted: bool
    standings: tuple[Standing, ...]
    """One for each charge."""
    slots: tuple[int, ...] = ()
    """Where each charge was counted, if it was admitted."""


class Store(Protocol):
    """Raises StoreAway."""

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        """Counts all charges, or none where one does not fit."""
        ...

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        """Replaces what was charged by what was used, and frees the places that the lease holds.

        Less than was charged is taken out of the slot it was counted in; more is counted now, for now it was used.
        """
        ...

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        """Where limits stand; nothing is counted."""
        ...

    async def close(self) -> None: ...
