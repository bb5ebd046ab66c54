"""A store that goes away: nobody waits for it, what it missed it is told later, and the log says so twice."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest
from loguru import logger

import addons.counters_away
from addons.counters import Known, Spent, StoreAway
from addons.counters_away import Watched
from addons.counters_memory import MemoryStore
from rules.quota import Charge, Standing, parse_limit
from rules.recall import Recalled

CALL = Charge("all/5/minute", parse_limit("5/minute"), 1, "")
TOKENS = Charge("all/500 tokens/minute", parse_limit("500 tokens/minute"), 100, "")


class Elsewhere(MemoryStore):
    """A store that can be out of reach, as one in another process can."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.mute = False
        """It does not say whether it is there, and answers everything else."""
        self.looks = 0
        self.asked: list[str] = []
        self.held: set[str] = set()
        self.since = "1"
        self.recalled: list[tuple[str, list[tuple[str, dict[int, int]]]]] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.gone:
            raise StoreAway("no route to it")

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        self._ask("spend")
        self.held.add(lease)
        return await super().spend(charges, lease)

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        self.release(lease)
        self._ask("settle")
        await super().settle(charges, slots, used, lease)

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        self._ask("look")
        return await super().look(charges)

    async def renew(self) -> Known:
        self._ask("renew")
        return Known(self.since, time.time())

    async def is_there(self) -> bool:
        self.looks += 1
        return not self.gone and not self.mute

    async def recall(self, since: str, ledger: str, part: Sequence[Recalled], *, last: bool) -> str:
        self._ask("recall")
        self.recalled.append((ledger, [(charge.key, slots) for charge, slots in part]))
        return "ok"

    def release(self, lease: str) -> None:
        self.held.discard(lease)


def run(work: Callable[[Elsewhere, Watched], Awaitable[None]], *, gone: bool = False) -> str:
    """Has work done with a watched store; returns what the log said meanwhile."""
    log = io.StringIO()
    handler = logger.add(log, level="INFO", format="{level}: {message}")

    async def main() -> None:
        store = Elsewhere()
        store.gone = gone
        watched = Watched(store, lambda: 0.5, "calls pass without limits")
        await watched.start()
        await work(store, watched)
        await watched.close()

    try:
        asyncio.run(main())
    finally:
        logger.remove(handler)
    return log.getvalue()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addons.counters_away, "LOOK_EVERY", 0.05)


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_a_store_that_is_there_is_asked_and_nothing_is_said_of_it() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        spent = await watched.spend([CALL], "a")
        assert spent.admitted
        assert (await watched.look([CALL]))[0].used == 1
        await watched.settle([CALL], spent.slots, [1], "a")
        assert not watched.away
        assert store.asked == ["renew", "spend", "look", "settle"]

    assert run(work) == ""


def test_once_it_has_failed_nobody_asks_it_but_the_one_that_looks() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        store.gone = True
        for _ in range(20):
            with pytest.raises(StoreAway, match="no route to it"):
                await watched.spend([CALL], "a")
            with pytest.raises(StoreAway):
                await watched.look([CALL])
        assert watched.away
        assert store.asked == ["renew", "spend"]
        await until(lambda: store.asked.count("renew") > 3)
        store.gone = False
        await until(lambda: not watched.away)
        assert (await watched.spend([CALL], "b")).admitted

    assert run(work) == (
        "WARNING: the store of the limits is away (no route to it): calls pass without limits\n"
        "INFO: the store of the limits is back\n"
    )


@pytest.mark.parametrize("first", ["look", "settle", "renew"])
def test_whoever_meets_it_first_says_that_it_is_away(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addons.counters_away, "RENEW_EVERY", 0.02 if first == "renew" else 20.0)

    async def work(store: Elsewhere, watched: Watched) -> None:
        spent = await watched.spend([CALL], "a")
        store.gone = True
        if first == "look":
            with pytest.raises(StoreAway):
                await watched.look([CALL])
        elif first == "settle":
            with pytest.raises(StoreAway):
                await watched.settle([CALL], spent.slots, [1], "a")
        await until(lambda: watched.away)

    assert run(work).count("is away") == 1


def test_one_that_is_away_from_the_start_keeps_nobody_from_starting() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        assert watched.away
        store.gone = False
        await until(lambda: not watched.away)

    assert run(work, gone=True).count("\n") == 2


def test_what_calls_used_meanwhile_is_told_when_it_is_back_and_their_places_are_free_at_once() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        spent = await watched.spend([TOKENS], "a")
        other = await watched.spend([TOKENS], "b")
        store.gone = True
        with pytest.raises(StoreAway):
            await watched.spend([TOKENS], "c")
        await watched.settle([TOKENS], spent.slots, [30], "a")
        await watched.settle([TOKENS], other.slots, [170], "b")
        assert store.held == set()
        store.gone = False
        await until(lambda: not watched.away)
        assert (await watched.look([TOKENS]))[0].used == 200

    run(work)


def test_leases_are_renewed_while_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addons.counters_away, "RENEW_EVERY", 0.02)

    async def work(store: Elsewhere, watched: Watched) -> None:
        await until(lambda: store.asked.count("renew") > 4)
        assert not watched.away

    assert run(work) == ""


def test_one_that_goes_away_while_nobody_calls_is_known_to_be_and_to_be_back() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        for _ in range(3):
            store.gone = True
            await until(lambda: watched.away)
            store.gone = False
            await until(lambda: not watched.away)

    assert run(work).count("\n") == 6


def test_while_all_is_well_it_is_looked_for_by_a_question_that_costs_it_nothing() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        await until(lambda: store.looks > 4)
        assert not watched.away
        assert store.asked == ["renew"]  # of the start

    assert run(work) == ""


def test_one_that_misses_a_look_is_asked_once_more_before_it_is_said_to_be_away() -> None:
    async def work(store: Elsewhere, watched: Watched) -> None:
        store.mute = True
        await until(lambda: store.asked.count("renew") > 4)
        assert not watched.away

    assert run(work) == ""


def test_it_is_looked_for_at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addons.counters_away, "LOOK_EVERY", 0.1)

    async def work(store: Elsewhere, watched: Watched) -> None:
        looks = store.looks
        await asyncio.sleep(0.35)
        assert store.looks - looks <= 4

    assert run(work) == ""
