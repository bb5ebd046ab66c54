"""The ledger: every call and every attempt, kept in a database. Writing it never slows or fails a call.

Rows wait in a queue for a thread, which writes them together twice a second. Where the database is away they go on
waiting; when too many do, the oldest are dropped, and counted.

The trap: the thread shares the interpreter with all calls, and each time that it takes its lock and gives it back the
calls lose more than the work itself takes. So the rows of a call are made where it ends, and the thread has little more
to do than to hand them to the database, in few pieces.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from threading import Event, Thread

from loguru import logger

from addons.account import Account
from addons.ledger_faults import LedgerAway, Refused
from addons.ledger_rows import Ids, Written, written
from addons.ledger_store import LedgerStore
from addons.lines import one_line
from rules.terms import Ledger as LedgerTerms

BOUND = 20_000
"""Calls that may wait."""
TEXTS = 256 * 1024 * 1024
"""Bytes that their prompts and answers may take, where those are kept: then fewer of them may wait."""
PAUSE = 0.5
"""Seconds between two batches, unless as much as a batch waits."""
BATCH = 1000
BACKOFF = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds to the next try after the first, the second, … failure."""
CHECK = 60.0
"""Seconds between two looks at what is too old or too much."""
LAST = 3.0
"""Seconds that the end waits for what is still to be written."""


class Ledger:
    """Takes accounts at any time, and writes them in batches, in a thread of its own."""

    def __init__(self, terms: LedgerTerms, wall: Callable[[], float] = time.time) -> None:
        self.terms = terms
        self.written = 0
        """Calls that stand in the database."""
        self._wall = wall
        self._waiting: deque[Written] = deque()
        self._bound = min(BOUND, max(1, TEXTS // (2 * terms.content))) if terms.content else BOUND
        self._many = min(BATCH, self._bound)
        self._taken: list[Written] = []
        """What the thread has in hand."""
        self._moving = False
        """It may have one more, which is in neither of the two."""
        self._dropped = 0
        """Because too many waited, or no row could be made of them."""
        self._refused = 0
        """By the database."""
        self._work = Event()
        """Something is to be done."""
        self._hurry = Event()
        """It is to be done at once."""
        self._stopping = False
        self._gives_up = False
        self._part = BATCH
        """How many of those are written together."""
        self._check_at = 0.0
        """When it is next looked whether too much is kept, of the monotonic clock."""
        self._quiet_until = 0.0
        """When it is next said that a row was refused."""
        self._lost_before = 0
        """Calls that were lost before the database was away."""
        self._failures = 0
        self._why = ""
        """Why the database is away."""
        self._store = LedgerStore(terms.url)
        self._ids = Ids(random.getrandbits(32))
        self._thread = Thread(target=self._run, name="ledger", daemon=True)

    @property
    def lost(self) -> int:
        """Calls that will not stand in the database."""
        return self._dropped + self._refused

    @property
    def away(self) -> bool:
        """Whether nothing can be written at the moment."""
        return self._failures > 0 or (self._thread.ident is not None and not self._thread.is_alive())

    @property
    def backlog(self) -> int:
        """Calls that are still to be written."""
        # In the order in which they pass: none is missed while it moves on.
        return len(self._waiting) + self._moving + len(self._taken)

    def start(self) -> None:
        """Never raises: where the database is away, rows wait."""
        self._work.set()
        self._thread.start()

    def put(self, account: Account) -> None:
        """Never waits, never raises."""
        try:
            rows = written(account, self._ids, self._wall())
        except Exception as error:
            self._dropped += 1
            self._complain(f"{type(error).__name__} in {account.request_id}")
            return
        waiting = self._waiting
        waiting.append(rows)
        # After the append: if the thread has just found the queue empty, it is told; if not, it will see this one too.
        count = len(waiting)
        if count == 1:
            self._work.set()
        elif count >= self._many:
            if count > self._bound:
                waiting.popleft()
                self._dropped += 1
            elif count == self._many:
                self._hurry.set()

    async def stop(self) -> None:
        """Returns when what was put is written, or cannot be within a few seconds."""
        self._stopping = True
        self._hurry.set()
        self._work.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, LAST)
        self._gives_up = True
        if self.backlog:
            logger.warning("the ledger lost the last {} call(s): {}", self.backlog, self._why or "they came too late")

    # -- in the thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            logger.opt(exception=True).error("the ledger's thread failed; calls are not kept any more")
        finally:
            self._store.close()

    def _serve(self) -> None:
        opened = False
        while not self._gives_up:
            if self._stopping and opened and not self.backlog:
                return
            if self._failures:
                self._rest()
            elif opened and not self._stopping:
                if not self.backlog:
                    self._work.wait(max(0.0, self._check_at - time.monotonic()))
                self._hurry.wait(PAUSE)
            self._work.clear()
            self._hurry.clear()
            try:
                self._store.open()
                opened = True
                self._write_all()
                self._keep_small()
                self._is_there()
            except (LedgerAway, Refused) as error:
                self._is_away(str(error))

    def _rest(self) -> None:
        """After a failure: until the next try."""
        until = time.monotonic() + BACKOFF[min(self._failures, len(BACKOFF)) - 1]
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._hurry.wait(left)
            self._hurry.clear()
        if self._stopping:
            time.sleep(0.05)

    def _write_all(self) -> None:
        """What waits, as long as that is a batch or more. Raises LedgerAway; the next call then goes on."""
        while not self._gives_up:
            if not self._taken:
                self._take()
            full = len(self._taken) >= self._many
            self._write_taken()
            if not full:
                return

    def _take(self) -> None:
        waiting, taken = self._waiting, self._taken
        for _ in range(min(self._many, len(waiting))):
            self._moving = True
            try:
                taken.append(waiting.popleft())
            except IndexError:  # too many waited, and were dropped
                break
        self._moving = False
        self._part = BATCH

    def _write_taken(self) -> None:
        taken = self._taken
        while taken and not self._gives_up:
            part = taken[: self._part]
            try:
                self._store.write(part, again=self._failures > 0)
            except Refused as error:
                # One row that cannot be written must not keep the others from it.
                if len(part) > 1:
                    self._part = len(part) // 2
                    continue
                self._refused += 1
                self._complain(str(error))
            else:
                self.written += len(part)
            del taken[: len(part)]
            self._part = min(BATCH, self._part * 2)

    def _keep_small(self) -> None:
        """One step of it, when it is due: writing has its turn between two of them."""
        if self._stopping or time.monotonic() < self._check_at:
            return
        try:
            if self._store.expire(self._wall() - self.terms.keep) or self._store.shrink(self.terms.size):
                return
        except (LedgerAway, Refused) as error:  # if the database is away, the next row will say so
            logger.warning("the ledger cannot delete old calls: {}", error)
        self._check_at = time.monotonic() + CHECK

    # -- what is said of it, once for each change

    def _complain(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + CHECK
            logger.warning("the ledger cannot keep a call ({}); {} lost so far", why, self.lost)

    def _is_away(self, why: str) -> None:
        if not self._failures:
            logger.warning("the ledger cannot be written, and up to {} calls wait: {}", self._bound, why)
            self._lost_before = self.lost
        self._failures += 1
        self._why = why

    def _is_there(self) -> None:
        if self._failures:
            logger.warning("the ledger is written again; {} call(s) were lost", self.lost - self._lost_before)
        self._failures, self._why = 0, ""
        if self._store.replaced:
            told = "the ledger's file was moved, removed or replaced; from now on calls are kept in the one at {}"
            logger.warning(told, one_line(self._store.replaced))
            self._store.replaced = ""
