"""A store of limits that may be out of reach: it is asked while it answers, and looked after while it does not.

Once it has failed, nobody waits for it: every call hears at once that it is away. Whether it is there is looked for
once a second, by this class alone: a gateway without calls would not know that it is away, and nobody else asks whether
it is back. Two lines in the log tell of it, one at each change.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from loguru import logger

from addons.counters import Known, Spent, Store, StoreAway
from addons.lines import one_line
from rules.quota import Charge, Standing
from rules.recall import Recalled

LOOK_EVERY: Final = 1.0
"""Seconds between two looks, a fifth more or less by chance: gateways should not all come at once."""
RENEW_EVERY: Final = 20.0
"""Seconds between two renewals of the leases: a third of their life."""
_KEPT = 10_000
"""Settlements that wait for its return."""


class SharedStore(Store, Protocol):
    """A Store outside of this process. Raises StoreAway."""

    async def renew(self) -> Known:
        """Holds the places of calls under way for longer."""
        ...

    async def is_there(self) -> bool:
        """Whether it answers at all: costs it as good as nothing, and raises nothing."""
        ...

    async def recall(self, since: str, ledger: str, part: Sequence[Recalled], *, last: bool) -> str:
        """Counts what a ledger knows of the time before `since`, each part once however often it is told."""
        ...

    def release(self, lease: str) -> None:
        """Its places are not held for longer any more; the store itself need not be told at once."""
        ...


class Watched:
    """A Store. Raises StoreAway at once while it is away."""

    def __init__(self, store: SharedStore, chance: Callable[[], float], meanwhile: str) -> None:
        """`meanwhile` says in the log what becomes of calls while it is away."""
        self._store = store
        self._chance = chance
        self._meanwhile = meanwhile
        self._why: str | None = None  # only its words: an error that was raised holds on to the calls it came through
        self._lost = asyncio.Event()
        self._owed: deque[tuple[Sequence[Charge], Sequence[int], Sequence[int], str]] = deque(maxlen=_KEPT)
        self._watching: asyncio.Task[None] | None = None
        self._renew_at = 0.0
        """When the leases are renewed next, of the monotonic clock."""
        self._since = ""
        """What it said of itself when it was last seen (Known.since)."""
        self.remind: Callable[[Known], None] = lambda known: None
        """Is told what it says of itself, whenever it is seen."""

    @property
    def away(self) -> bool:
        return self._why is not None

    async def start(self) -> None:
        """Looks whether it is there, and goes on looking. One that is not does not keep us from starting."""
        await self._look()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._store.close()

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        self._check()
        try:
            return await self._store.spend(charges, lease)
        except StoreAway as error:
            self._gone(error)
            raise

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        """While it is away it is told later; only what may have reached it is not told twice."""
        if self.away:
            self._store.release(lease)
            self._owed.append((charges, slots, used, lease))
            return
        try:
            await self._store.settle(charges, slots, used, lease)
        except StoreAway as error:
            self._gone(error)
            raise

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        self._check()
        try:
            return await self._store.look(charges)
        except StoreAway as error:
            self._gone(error)
            raise

    async def recall(self, since: str, ledger: str, part: Sequence[Recalled], *, last: bool) -> str:
        """As SharedStore.recall."""
        self._check()
        try:
            return await self._store.recall(since, ledger, part, last=last)
        except StoreAway as error:
            self._gone(error)
            raise

    def _check(self) -> None:
        if self._why is not None:
            raise StoreAway(self._why)

    async def _watch(self) -> None:
        while True:
            pause = LOOK_EVERY * (0.8 + 0.4 * self._chance())
            if self.away:
                await asyncio.sleep(pause)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), pause)
                if self.away or (time.monotonic() < self._renew_at and await self._store.is_there()):
                    continue
            await self._look()  # it says why it is away; and one that only missed a look is there

    async def _look(self) -> None:
        try:
            known = await self._store.renew()
            self._renew_at = time.monotonic() + RENEW_EVERY
            if known.since != self._since:  # what calls took of it is forgotten, and what they used with it
                self._since = known.since
                self._owed.clear()
            while self._owed:
                await self._store.settle(*self._owed.popleft())
        except StoreAway as error:
            self._gone(error)
        else:
            self._is_back()
            self.remind(known)

    def _gone(self, error: StoreAway) -> None:
        if self._why is None:
            self._why = one_line(str(error))
            self._lost.set()
            logger.warning("the store of the limits is away ({}): {}", self._why, self._meanwhile)

    def _is_back(self) -> None:
        if self._why is not None:
            self._why = None
            self._lost.clear()
            logger.info("the store of the limits is back")
