"""A Redis server that has forgotten what it counted is told by the ledgers, and no call is counted twice."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import addons.counters_away
import addons.past
import addons.reminder
from addons.counters_away import Watched
from addons.counters_redis import RedisStore
from addons.past import Past
from addons.reminder import MARGIN, Reminder
from addons.stores import open_store
from rules.snapshot import Rules
from tests.addons.calls import pieces
from tests.addons.desk import rules_of
from tests.addons.ledgers import settled, sqlite_url
from tests.addons.reports import new_ledger, row
from tests.gateway import Gateway
from tests.servers import RedisServer
from tests.standins import OllamaStandIn

LIMITS = "{overall: [100000/minute, 90000 tokens/hour, 9 USD/day], each_client: [900 tokens/2 hours, 5000/30 days]}"
SKEW = 3.7
"""Seconds that our clock is ahead of the server's."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(server)
    monkeypatch.setattr(addons.reminder, "SETTLED", 0.0)


def forget(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


class Door:
    """One of several gateways: a store, and a ledger that it may share."""

    def __init__(self, server: RedisServer, rules: Rules, url: str) -> None:
        store = open_store(server.url)
        assert isinstance(store, RedisStore)
        self.store = store
        self.watched = Watched(self.store, lambda: 0.5, "calls pass")
        self.rules, self.url = rules, url
        self.open()

    def open(self) -> None:
        """As after a restart: nothing is known of what was told."""
        self.reminder = Reminder(Past(self.rules, self.url, self.wall), self.watched, self.wall)
        self.watched.remind = self.reminder.see

    def wall(self) -> float:
        assert self.store.now is not None
        return self.store.now + SKEW

    async def see(self) -> None:
        """Looks at the store, and has told it what there is to tell."""
        await self.watched._look()
        if self.reminder._work is not None:
            await self.reminder._work

    async def close(self) -> None:
        await self.reminder.stop()
        await self.watched.close()


def run(doors: Sequence[Door], work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await work()
        finally:
            for door in doors:
                await door.close()

    asyncio.run(main())


def set_clock(doors: Sequence[Door], now: float) -> None:
    for door in doors:
        door.store.now = now


def call(over: float, tokens: int, cost: int, client: str = "a") -> dict[str, Any]:
    """A row of a ledger: of a call that was over at a moment of the server's clock, after two seconds."""
    return row(time=over + SKEW - 2, total_ms=2000, client=client, prompt_tokens=tokens, completion_tokens=0, cost=cost)


async def used(door: Door, client: str = "a") -> dict[str, int]:
    charges = door.rules.limits.of(door.rules.keys.named(client), "m")
    standings = await door.store.look(charges)
    return {charge.limit.written: at.used for charge, at in zip(charges, standings, strict=True)}


def test_long_windows_are_told_from_the_ledger_and_short_ones_are_not(server: RedisServer, tmp_path: Path) -> None:
    url, now = sqlite_url(tmp_path), 1.7e9
    rows = [call(now - 5, 70, 7), call(now - 4000, 200, 20), call(now - 7000, 500, 50, "b")]
    new_ledger(url, rows).dispose()
    door = Door(server, rules_of(LIMITS), url)

    async def work() -> None:
        set_clock([door], now)
        await door.see()
        assert await used(door) == {
            "100000/minute": 0, "90000 tokens/hour": 70, "9 USD/day": 77, "900 tokens/2 hours": 270, "5000/30 days": 2,
        }  # fmt: skip
        assert (await used(door, "b"))["900 tokens/2 hours"] == 500
        set_clock([door], now + 3300)
        assert (await used(door))["900 tokens/2 hours"] == 70
        set_clock([door], now + 40 * 86400)
        assert set((await used(door)).values()) == {0}

    run([door], work)


def test_a_store_that_has_forgotten_nothing_is_told_nothing(server: RedisServer, tmp_path: Path) -> None:
    url, now = sqlite_url(tmp_path), 1.7e9
    door = Door(server, rules_of(LIMITS), url)
    (of_day,) = [one for one in door.rules.limits.of(door.rules.keys.named("a"), "m") if one.limit.kind == "usd"]

    async def work() -> None:
        set_clock([door], now)
        new_ledger(url).dispose()
        await door.see()
        await door.watched.spend([of_day._replace(amount=500)], "x")
        new_ledger(url, [call(now - 10, 0, 500)]).dispose()  # written late
        for _ in range(2):
            set_clock([door], now + 60)
            await door.see()
            assert (await used(door))["9 USD/day"] == 500
            door.open()

    run([door], work)


def test_what_one_ledger_knows_is_counted_once_and_what_two_know_is_added_up(
    server: RedisServer, tmp_path: Path
) -> None:
    now, rules = 1.7e9, rules_of(LIMITS)
    (tmp_path / "other").mkdir()
    shared, other = sqlite_url(tmp_path), sqlite_url(tmp_path / "other")
    new_ledger(shared, [call(now - 5, 70, 7)]).dispose()
    new_ledger(other, [call(now - 5, 900, 90)]).dispose()
    doors = [Door(server, rules, url) for url in (shared, shared, other)]

    async def work() -> None:
        set_clock(doors, now)
        for _ in range(2):
            await asyncio.gather(*(door.see() for door in doors))
            for door in doors:
                door.open()
            assert (await used(doors[0]))["9 USD/day"] == 97

    run(doors, work)


def test_where_only_the_mark_was_thrown_out_nothing_is_counted_twice(server: RedisServer, tmp_path: Path) -> None:
    """A server that is told to make room throws out what it likes."""
    url, now = sqlite_url(tmp_path), 1.7e9
    new_ledger(url, [call(now + 1, 70, 500)]).dispose()
    door = Door(server, rules_of(LIMITS), url)
    charges = door.rules.limits.of(door.rules.keys.named("a"), "m")

    async def work() -> None:
        set_clock([door], now)
        await door.watched.spend([one._replace(amount=500) for one in charges if one.limit.kind == "usd"], "x")
        with server.client() as client:
            client.delete("{unigate}:since")
        set_clock([door], now + 7200)
        await door.see()
        assert (await used(door))["9 USD/day"] == 500
        assert (await used(door))["5000/30 days"] == 1, "this one was lost"

    run([door], work)


def test_a_ledger_that_cannot_be_read_is_asked_again_after_a_while(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, now = sqlite_url(tmp_path), 1.7e9
    new_ledger(url, [call(now - 5, 0, 7)] * 3000).dispose()
    door = Door(server, rules_of(LIMITS), url)

    async def work() -> None:
        set_clock([door], now)
        with monkeypatch.context() as patch:
            patch.setattr(addons.past, "PATIENCE", 0.0)
            await door.see()
        set_clock([door], now + 30)
        await door.see()
        assert (await used(door))["9 USD/day"] == 0
        set_clock([door], now + 61)
        await door.see()
        assert (await used(door))["9 USD/day"] == 7 * 3000

    run([door], work)


# -- the law


@dataclass(eq=False)
class Call:
    door: Door
    lease: str
    slots: tuple[int, ...]
    over: float = math.inf
    """When it was over, by the server's clock."""
    excused: bool = False
    """The server may have lost it: it was under way when all was forgotten, or just over."""


ESTIMATE, REAL = 2000, 1000
"""What a call takes of the budget, and what it uses."""


class Story:
    """Calls at two doors, of a server that forgets everything now and then."""

    def __init__(self, server: RedisServer, doors: Sequence[Door], chance: random.Random) -> None:
        self.server, self.doors, self.chance = server, doors, chance
        self.now = 1.7e9
        self.calls: list[Call] = []
        limits = doors[0].rules.limits.of(doors[0].rules.keys.named("a"), "m")
        (self.budget,) = [one._replace(amount=ESTIMATE) for one in limits if one.limit.written == "9 USD/day"]

    async def begin(self) -> None:
        door, lease = self.chance.choice(self.doors), f"call-{len(self.calls)}"
        spent = await door.watched.spend([self.budget], lease)
        assert spent.admitted
        self.calls.append(Call(door, lease, spent.slots))

    async def end(self) -> None:
        under_way = [one for one in self.calls if one.over == math.inf]
        if under_way:
            one = self.chance.choice(under_way)
            one.over = self.now
            await one.door.watched.settle([self.budget], one.slots, [REAL], one.lease)

    async def forget(self) -> None:
        forget(self.server)
        self.now += 0.001  # not twice at the same moment
        set_clock(self.doors, self.now)
        for one in self.calls:
            one.excused = one.excused or one.over > self.now - MARGIN - 0.1
        await self.see()

    async def see(self) -> None:
        for url in {door.url for door in self.doors}:
            known = (one for one in self.calls if one.door.url == url and one.over < math.inf)
            new_ledger(url, [call(one.over, 1, REAL) for one in known]).dispose()
        for door in self.chance.sample(self.doors, len(self.doors)):
            await door.see()

    async def standing(self) -> int:
        return (await used(self.doors[0]))[self.budget.limit.written]

    def bounds(self) -> tuple[int, int]:
        """Between which what the server has counted must be."""
        over = [one for one in self.calls if one.over < math.inf]
        least = sum(REAL for one in over if not one.excused)
        return least, len(over) * REAL + (len(self.calls) - len(over)) * ESTIMATE


@pytest.mark.parametrize("shared", [True, False], ids=["one ledger", "two ledgers"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_forgotten_no_call_counts_twice_and_what_was_over_before_is_counted(
    server: RedisServer, tmp_path: Path, seed: int, shared: bool
) -> None:
    (tmp_path / "other").mkdir()
    folders = (tmp_path, tmp_path if shared else tmp_path / "other")
    doors = [Door(server, rules_of(LIMITS), sqlite_url(folder)) for folder in folders]
    chance = random.Random(seed)
    story = Story(server, doors, chance)

    async def work() -> None:
        set_clock(doors, story.now)
        await story.see()
        steps = [story.begin, story.begin, story.begin, story.end, story.end, story.see, story.forget]
        for _ in range(160):
            story.now += chance.choice((0.0, 0.3, 2.0, 40.0, 300.0))
            set_clock(doors, story.now)
            await chance.choice(steps)()
            least, most = story.bounds()
            assert least <= await story.standing() <= most

    run(doors, work)


# -- at a gateway


def test_a_budget_outlives_a_server_that_forgets(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addons.counters_away, "RENEW_EVERY", 0.1)
    monkeypatch.setattr(addons.reminder, "MARGIN", 0.0)
    with OllamaStandIn(["m"], reply=pieces("Hello there")) as ollama:
        rules = f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}
rules: [{{name: all, use: [ollama/m]}}]
limits: {{overall: [3/hour, 1000/minute], store: "{server.url}"}}
ledger: {{url: "{sqlite_url(tmp_path)}"}}
"""
        with Gateway(rules) as gateway:
            assert [gateway.chat().status_code for _ in range(2)] == [200, 200]
            settled(gateway)
            forget(server)
            gateway.until(lambda: "the ledger told it of 1 limit(s)" in gateway.log.getvalue(), "it is told")
            assert [gateway.chat().status_code for _ in range(2)] == [200, 429]
        with Gateway(rules) as gateway:
            assert gateway.chat().status_code == 429
