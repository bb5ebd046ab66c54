"""A store of limits that has forgotten what it counted is told what the ledger knows of it.

A Redis server that was emptied, or started again without what it had, says since when it counts (counters.Known). All
calls that were over before that moment are told from the ledger, as far as windows of an hour or more are about them;
shorter ones are right again by themselves. What was under way at that moment is lost: nobody knows whether the server
counted it before or after. A budget that is a few calls too large is better than calls that are counted twice.

Several gateways may tell the same: what one ledger knows is counted once, and what several ledgers know is added up.
The clocks of gateways that share a ledger have to agree within MARGIN.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from loguru import logger

from addons.counters import Known, StoreAway
from addons.counters_away import Watched
from addons.ledger_faults import LedgerAway

if TYPE_CHECKING:
    from addons.past import Past

LEAST: Final = 3600.0
"""Seconds of the shortest window that the store is reminded of."""
SETTLED: Final = 1.5
"""Seconds until the ledgers of all gateways have what was over before the store began to count."""
MARGIN: Final = 1.0
"""Seconds before that moment of which nothing is told: clocks differ, and an answer takes its time."""
AGAIN: Final = 60.0
"""Seconds until it is tried again, where the ledger could not be read."""
_PART = 50
"""Limits that are told at once."""


class Reminder:
    """For one gateway, one ledger and one store. `see` starts the work, and never waits for it."""

    def __init__(self, past: Past, store: Watched, wall: Callable[[], float] = time.time) -> None:
        self._past = past
        self._store = store
        self._wall = wall
        self._done = ""
        """The last moment (Known.since) before which there is nothing left to tell."""
        self._not_before = 0.0
        self._work: asyncio.Task[None] | None = None

    def see(self, known: Known) -> None:
        """The store says of itself that it counts since a moment."""
        busy = self._work is not None and not self._work.done()
        if known.since != self._done and not busy and self._wall() >= self._not_before:
            self._work = asyncio.create_task(self._tell(known, self._wall()))

    async def stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))

    async def _tell(self, known: Known, seen: float) -> None:
        """`seen`: when the store said so, Unix time."""
        try:
            name = await self._past.name()
            if name is None:
                return  # there is no ledger yet, so there was none before
            if await self._is_told(known, seen, name):
                self._done = known.since
            else:
                self._not_before = self._wall() + AGAIN
        except StoreAway:
            pass  # the store has said so; when it is back it is seen again
        except LedgerAway as error:
            logger.warning("the ledger cannot be read, so limits remember nothing of it: {}", error)
            self._not_before = self._wall() + AGAIN
        except Exception:
            self._not_before = self._wall() + AGAIN
            logger.opt(exception=True).error("the store of the limits could not be told what it forgot")

    async def _is_told(self, known: Known, seen: float, name: str) -> bool:
        """Whether there is nothing left to tell. Raises StoreAway."""
        if await self._store.recall(known.since, name, (), last=False) == "told":
            return True
        began = float(known.since)
        await asyncio.sleep(max(0.0, began + SETTLED - known.now - (self._wall() - seen)))
        offset = seen - known.now
        past = await self._past.amounts(offset, began + offset - MARGIN, LEAST)
        parts = [past.found[start : start + _PART] for start in range(0, len(past.found), _PART)] or [[]]
        for number, part in enumerate(parts, 1):
            said = await self._store.recall(known.since, name, part, last=past.whole and number == len(parts))
            if said != "ok":
                return said == "told"
        if past.found:
            count = len(past.found)
            logger.info(
                "the store of the limits knew nothing of earlier calls; the ledger told it of {} limit(s)", count
            )
        return past.whole
