"""A call that gave up on the server takes nothing of its limits, whatever becomes of its question: the server may read
that late, or not at all, or answer into the void."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import addons.counters_redis
from addons.counters import Spent, StoreAway
from addons.counters_redis import PATIENCE, RedisStore
from addons.stores import open_store
from rules.quota import Charge, parse_limit
from tests.servers import RedisServer

SOON = 3.0
"""Seconds within which nothing is left of a call that was given up, once the server goes on."""
CLOCKS = [-86_400.0, -3600.0, -0.4, 0.4, 3600.0, 86_400.0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.empty()


def charge(written: str, amount: int = 1, guess: int = 0) -> Charge:
    return Charge(f"all/{written}", parse_limit(written), amount, "for all clients together", False, guess)


CHARGES = [
    charge("5/minute"),
    charge("500 tokens/hour", 100, guess=90),
    charge("0.5 USD/day", 100_000_000, guess=1),
    charge("2 parallel"),
]
NOTHING = [0, 0, 0, 0]
ONE = [1, 100, 100_000_000, 1]


class Line:
    """A way to a server, on which what is said over the connections that there are can be held up, and goes on later
    even where whoever said it has hung up."""

    def __init__(self, port: int) -> None:
        self._far = port
        self._there: list[asyncio.Event] = []
        self._back: list[asyncio.Event] = []
        self.port = 0
        self.open = 0
        """Connections that nobody has hung up at the near end."""

    def hold_questions(self) -> None:
        for goes_on in self._there:
            goes_on.clear()

    def hold_answers(self) -> None:
        for goes_on in self._back:
            goes_on.clear()

    def let_on(self) -> None:
        for goes_on in (*self._there, *self._back):
            goes_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._far)
        there, back = asyncio.Event(), asyncio.Event()
        there.set()
        back.set()
        self._there.append(there)
        self._back.append(back)
        answers = asyncio.create_task(self._pass_on(far_reader, writer, back))
        await self._pass_on(reader, far_writer, there)
        self.open -= 1
        await answers

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await on.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def line_to(server: RedisServer) -> AsyncIterator[Line]:
    line = Line(server.port)
    async with await asyncio.start_server(line.serve, "127.0.0.1", 0) as listening:
        line.port = int(listening.sockets[0].getsockname()[1])
        try:
            yield line
        finally:
            line.let_on()


def store_at(port: int) -> RedisStore:
    store = open_store(f"redis://127.0.0.1:{port}/0")
    assert isinstance(store, RedisStore)
    return store


def run(server: RedisServer, work: Callable[[RedisStore], Awaitable[None]]) -> None:
    """Has work done with a store of its own."""

    async def main() -> None:
        store = store_at(server.port)
        try:
            await work(store)
        finally:
            server.thaw()
            await store.close()

    asyncio.run(main())


def run_with_line(server: RedisServer, work: Callable[[RedisStore, Line], Awaitable[None]]) -> None:
    """Has work done with a store of its own, and the line that it speaks over."""

    async def main() -> None:
        async with line_to(server) as line:
            store = store_at(line.port)
            try:
                await work(store, line)
            finally:
                await store.close()

    asyncio.run(main())


async def used(store: RedisStore) -> list[int]:
    return [at.used for at in await store.look(CHARGES)]


async def is_given_up(asked: Awaitable[Spent]) -> None:
    with pytest.raises(StoreAway, match="no answer within"):
        await asked


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + SOON
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def counts(server: RedisServer) -> set[str]:
    """The keys that hold anything."""
    with server.client() as client:
        client.ping()  # what came to it before was read before
        keys = {key.decode() for key in client.keys("*")}
        return {key for key in keys if client.type(key) != b"hash" or any(int(n) for n in client.hvals(key))}


def counted_anything(server: RedisServer) -> bool:
    with server.client() as client:
        client.delete("{unigate}:since")
    return bool(counts(server))


# -- the server stops, and goes on


@pytest.mark.parametrize("longer", [0.0, 0.5])
@pytest.mark.parametrize("calls", [1, 200])
def test_a_call_that_was_given_up_takes_nothing_when_the_server_goes_on(
    server: RedisServer, calls: int, longer: float
) -> None:
    async def work(store: RedisStore) -> None:
        await store.renew()
        server.freeze()
        await asyncio.gather(*(is_given_up(store.spend(CHARGES, f"l{i}")) for i in range(calls)))
        await asyncio.sleep(longer)
        server.thaw()
        assert not counted_anything(server)
        assert await used(store) == NOTHING

    run(server, work)


@pytest.mark.parametrize("connected", [False, True])
def test_a_call_that_was_given_up_before_the_server_s_clock_was_known_takes_nothing(
    server: RedisServer, connected: bool
) -> None:
    async def work(store: RedisStore) -> None:
        other = store_at(server.port)
        await other.renew()  # the server learns the scripts
        await other.close()
        if connected:
            assert await store.is_there()
        server.freeze()
        await asyncio.gather(*(is_given_up(store.spend(CHARGES, f"l{i}")) for i in range(3)))
        server.thaw()
        await asyncio.sleep(PATIENCE)
        assert not counted_anything(server)
        assert (await store.spend(CHARGES, "later")).admitted
        assert await used(store) == ONE

    run(server, work)


def test_it_takes_nothing_from_a_server_that_has_lost_the_scripts_either(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        await store.renew()
        with server.client() as client:
            client.script_flush()
        server.freeze()
        await is_given_up(store.spend(CHARGES, "a"))
        server.thaw()
        await asyncio.sleep(PATIENCE)
        assert not counted_anything(server)

    run(server, work)


# -- what is said late


def test_a_question_that_is_read_long_after_all_is_well_again_takes_nothing(server: RedisServer) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        await store.renew()
        line.hold_questions()
        await is_given_up(store.spend(CHARGES, "a"))
        await store.renew()
        assert (await store.spend(CHARGES, "b")).admitted
        line.let_on()
        await asyncio.sleep(PATIENCE)
        assert await used(store) == ONE

    run_with_line(server, work)


def test_what_the_server_counted_in_time_is_given_back_when_its_answer_comes_late(server: RedisServer) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        await store.renew()
        line.hold_answers()
        await asyncio.gather(*(is_given_up(store.spend(CHARGES, f"l{i}")) for i in range(2)))
        assert await used(store) == [2 * amount for amount in ONE], "nobody knows yet that they were counted"
        line.let_on()

        async def is_given_back() -> bool:
            return await used(store) == NOTHING

        await until(is_given_back)
        assert not counted_anything(server)

    run_with_line(server, work)


def test_what_was_counted_is_given_back_also_where_the_answer_comes_in_the_moment_of_giving_up(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def a_moment_too_short(work: Awaitable[Any], patience: float = PATIENCE) -> Any:
        await work
        raise StoreAway(f"no answer within {patience} s")

    async def work(store: RedisStore) -> None:
        await store.renew()
        with monkeypatch.context() as moment:
            moment.setattr(addons.counters_redis, "in_time", a_moment_too_short)
            await is_given_up(store.spend(CHARGES, "a"))

        async def is_given_back() -> bool:
            return await used(store) == NOTHING

        await until(is_given_back)
        assert not counted_anything(server)

    run(server, work)


def test_what_was_counted_is_given_back_also_where_the_call_ends_in_the_moment_of_the_answer(
    server: RedisServer,
) -> None:
    async def work(store: RedisStore) -> None:
        async def first() -> None:
            await store.spend(CHARGES, "a")
            other.cancel()

        both = asyncio.create_task(first()), asyncio.create_task(store.spend(CHARGES, "b"))
        other = both[1]
        await asyncio.wait(both)
        assert other.cancelled()
        await store.renew()
        assert await used(store) == ONE

    run(server, work)


def test_what_was_forgotten_meanwhile_is_not_given_back_to_others(server: RedisServer) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        await store.renew()
        line.hold_answers()
        await is_given_up(store.spend(CHARGES, "a"))
        with server.client() as client:
            client.flushall()
        assert (await store.spend(CHARGES, "b")).admitted
        line.let_on()
        await asyncio.sleep(PATIENCE)
        assert await used(store) == ONE

    run_with_line(server, work)


def test_looking_late_gives_nothing_back(server: RedisServer) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        assert (await store.spend(CHARGES, "a")).admitted
        line.hold_answers()
        with pytest.raises(StoreAway):
            await store.look(CHARGES)
        line.let_on()
        await asyncio.sleep(PATIENCE)
        assert await used(store) == ONE

    run_with_line(server, work)


def test_a_renewal_that_is_read_late_holds_no_place_of_a_call_that_is_over(server: RedisServer) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        spent = await store.spend(CHARGES, "a")
        taken = [one._replace(amount=took) for one, took in zip(CHARGES, spent.taken, strict=True)]
        line.hold_questions()
        with pytest.raises(StoreAway):
            await store.renew()
        await store.settle(taken, spent.slots, [0, 0, 0, 0], "a")
        line.let_on()
        await asyncio.sleep(PATIENCE)
        assert await used(store) == NOTHING
        assert not counted_anything(server)

    run_with_line(server, work)


def test_what_a_call_used_that_ended_behind_a_question_given_up_is_told_once_the_server_answers(
    server: RedisServer,
) -> None:
    async def work(store: RedisStore, line: Line) -> None:
        spent = await store.spend(CHARGES, "a")
        taken = [one._replace(amount=took) for one, took in zip(CHARGES, spent.taken, strict=True)]
        line.hold_questions()
        other = asyncio.create_task(store.spend(CHARGES, "b"))
        await asyncio.sleep(PATIENCE / 10)
        with pytest.raises(StoreAway):
            await store.settle(taken, spent.slots, [1, 30, 5, 1], "a")
        await is_given_up(other)
        for _ in range(2):  # told once
            await store.renew()
            assert await used(store) == [1, 30, 5, 0]

    run_with_line(server, work)


def test_answers_that_never_come_are_waited_for_over_few_connections(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addons.counters_redis, "PATIENCE", 0.05)

    async def work(store: RedisStore, line: Line) -> None:
        await store.renew()
        given_up = 0
        while given_up < 30:
            line.hold_answers()
            try:
                await store.spend([charge("1000/minute")], "a")
            except StoreAway:
                given_up += 1
        await asyncio.sleep(0.1)
        assert 2 <= line.open <= 18

    run_with_line(server, work)


# -- clocks


@pytest.mark.parametrize("ahead", CLOCKS)
def test_clocks_that_differ_or_are_set_turn_no_call_away(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Ours is set here; for what they say of each other it is the same."""

    async def work(store: RedisStore) -> None:
        for _ in range(3):
            assert (await store.spend([charge("100/minute")], "a")).admitted
            monkeypatch.setattr(addons.counters_redis, "monotonic", lambda: time.monotonic() + ahead)
        with server.client() as client:
            client.config_resetstat()
        for _ in range(5):
            assert (await store.spend([charge("100/minute")], "a")).admitted
        assert (server.calls("evalsha"), server.calls("time")) == (5, 5), "the scripts look at the clock, nobody else"
        assert (await store.look([charge("100/minute")]))[0].used == 8

    run(server, work)


@pytest.mark.parametrize("ahead", CLOCKS)
def test_a_call_that_was_given_up_takes_nothing_after_clocks_were_set_either(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    async def work(store: RedisStore) -> None:
        await store.renew()
        monkeypatch.setattr(addons.counters_redis, "monotonic", lambda: time.monotonic() + ahead)
        await store.renew()
        server.freeze()
        await is_given_up(store.spend(CHARGES, "a"))
        server.thaw()
        assert not counted_anything(server)

    run(server, work)


def test_a_call_takes_nothing_while_the_server_s_clock_stood_still_either(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a machine which was suspended: by its clock the question is in time."""

    async def work(store: RedisStore) -> None:
        await store.renew()
        server.freeze()
        monkeypatch.setattr(addons.counters_redis, "monotonic", lambda: time.monotonic() + 3600)
        await is_given_up(store.spend(CHARGES, "a"))
        server.thaw()

        async def is_given_back() -> bool:
            return await used(store) == NOTHING

        await until(is_given_back)
        assert not counted_anything(server)

    run(server, work)


def test_a_question_that_came_late_because_we_were_busy_is_asked_again(server: RedisServer) -> None:
    """Nobody has given up: the time in which we did nothing is not held against the server."""

    def busy() -> None:
        time.sleep(2 * PATIENCE)
        server.thaw()

    async def work(store: RedisStore) -> None:
        await store.renew()
        server.freeze()
        asyncio.get_running_loop().call_later(0.02, busy)
        assert (await store.spend(CHARGES, "a")).admitted
        assert await used(store) == ONE

    run(server, work)
