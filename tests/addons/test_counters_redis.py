"""The store in Redis: it gives the answers that the one in memory gives, in one round trip, and never keeps a call
waiting."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.counters import Spent, StoreAway
from addons.counters_memory import MemoryStore
from addons.counters_redis import LEASE, PATIENCE, RedisStore, in_time
from addons.stores import open_store
from rules.quota import A_PLACE, MAX_AMOUNT, Charge, Limit, parse_limit
from tests.certificates import own_certificate
from tests.gateway import ROOT
from tests.servers import RedisServer, behind_tls
from tests.standins import until

LIMITS = ("7/minute", "20/hour", "500 tokens/minute", "2000 tokens/90s", "0.003 USD/hour", "3 parallel")
AWHILE = (0.0, 0.001, 0.4, 1.0, 3.7, 11.0, 61.0, 70.0, 400.0, 3700.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.empty()


def run(server: RedisServer, work: Callable[[RedisStore], Awaitable[None]]) -> None:
    """Has work done with a store of its own."""

    async def main() -> None:
        store = open_store(server.url)
        assert isinstance(store, RedisStore)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def charge(written: str, amount: int = 1, key: str = "", guess: int = 0) -> Charge:
    return Charge(f"all/{key or written}", parse_limit(written), amount, "for all clients together", False, guess)


def as_taken(charges: list[Charge], spent: Spent) -> list[Charge]:
    return [one._replace(amount=took, guess=0) for one, took in zip(charges, spent.taken, strict=True)]


def close_to(one: Spent, other: Spent) -> bool:
    """Equal, but for the last bits of times."""

    def plain(spent: Spent) -> list[float]:
        return [number for at in spent.standings for number in (at.used, at.wait, at.reset, at.aside)]

    alike = len(one.standings) == len(other.standings) and all(
        a == b or math.isclose(a, b, abs_tol=1e-6) for a, b in zip(plain(one), plain(other), strict=True)
    )
    return alike and (one.admitted, one.slots, one.taken) == (other.admitted, other.slots, other.taken)


# -- the law


@pytest.mark.parametrize("seed", range(12))
def test_the_same_history_has_the_same_answers_in_redis_and_in_memory(server: RedisServer, seed: int) -> None:
    chance = random.Random(seed)

    async def both(store: RedisStore) -> None:
        now = 1.7e9 + chance.random()
        memory = MemoryStore()
        memory.counts.clock = lambda: now
        open_calls: list[tuple[list[Charge], Spent, str]] = []
        for step in range(250):
            now += chance.choice(AWHILE) if chance.random() < 0.6 else 0.0
            now -= chance.choice((2.0, 5000.0)) if chance.random() < 0.02 else 0.0  # a clock is set back
            store.now = now
            await store.renew()
            if open_calls and chance.random() < 0.45:
                charges, spent, lease = open_calls.pop(chance.randrange(len(open_calls)))
                used = [chance.choice((0, each.amount // 2, each.amount, each.amount * 3)) for each in charges]
                await memory.settle(charges, spent.slots, used, lease)
                await store.settle(charges, spent.slots, used, lease)
                continue
            written = chance.sample(LIMITS, chance.randint(1, len(LIMITS)))
            charges = [guessed(text, chance) for text in written]
            lease = f"lease-{step}"
            expected, found = await memory.spend(charges, lease), await store.spend(charges, lease)
            assert close_to(found, expected), (step, written, found, expected)
            assert close_to(Spent(True, await store.look(charges)), Spent(True, await memory.look(charges)))
            if expected.admitted:
                open_calls.append((as_taken(charges, expected), expected, lease))

    run(server, both)


def amount(written: str, chance: random.Random) -> int:
    limit = parse_limit(written)
    if limit.kind in ("requests", "parallel"):
        return 1
    return chance.choice((0, limit.amount // 50, limit.amount // 3, limit.amount, limit.amount + 1))


def guessed(written: str, chance: random.Random) -> Charge:
    one = charge(written, amount(written, chance))
    return one._replace(guess=chance.randint(0, one.amount - 1)) if one.sets_aside and chance.random() < 0.7 else one


# -- one step


def test_a_call_that_one_limit_refuses_takes_nothing_of_the_others(server: RedisServer) -> None:
    many, few = charge("100/minute"), charge("1/minute")

    async def work(store: RedisStore) -> None:
        assert (await store.spend([many, few], "a")).admitted
        refused = await store.spend([many, few], "b")
        assert (refused.admitted, refused.slots) == (False, ())
        assert [at.used for at in refused.standings] == [1, 1]
        assert refused.standings[0].wait == 0 < refused.standings[1].wait < 62

    run(server, work)


def test_two_hundred_at_once_are_admitted_up_to_the_limit_exactly(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        spent = await asyncio.gather(*(store.spend([charge("50/minute")], f"l{i}") for i in range(200)))
        assert sum(one.admitted for one in spent) == 50

    run(server, work)


def test_a_call_costs_one_round_trip_and_all_of_them_share_a_connection(server: RedisServer) -> None:
    charges = [charge(text) for text in LIMITS]

    async def work(store: RedisStore) -> None:
        await store.spend(charges, "first")  # the server learns the scripts
        with server.client() as client:
            client.config_resetstat()
        await asyncio.gather(*(store.spend(charges, f"l{i}") for i in range(40)))
        assert server.calls("evalsha") == 40
        assert server.calls("eval") == server.calls("script") == server.calls("multi") == 0
        with server.client() as client:
            assert len(client.client_list()) == 2  # ours, and this one

    run(server, work)


def test_what_was_estimated_too_high_fits_again_and_what_was_too_low_is_counted(server: RedisServer) -> None:
    tokens = charge("500 tokens/minute", 500)

    async def work(store: RedisStore) -> None:
        spent = await store.spend([tokens], "a")
        assert not (await store.spend([charge("500 tokens/minute", 1)], "b")).admitted
        await store.settle([tokens], spent.slots, [120], "a")
        assert (await store.look([tokens]))[0].used == 120
        spent = await store.spend([charge("500 tokens/minute", 300)], "c")
        await store.settle([charge("500 tokens/minute", 300)], spent.slots, [700], "c")
        assert (await store.look([tokens]))[0].used == 820

    run(server, work)


def test_what_was_estimated_rightly_needs_no_further_word(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        spent = await store.spend([charge("5/minute")], "a")
        with server.client() as client:
            client.config_resetstat()
        await store.settle([charge("5/minute")], spent.slots, [1], "a")
        assert server.calls("evalsha") == 0

    run(server, work)


def test_the_largest_amounts_are_counted_to_the_last_one(server: RedisServer) -> None:
    limit = Limit("usd", MAX_AMOUNT, 3600.0, "much")
    most, one = (Charge("all/much", limit, amount, "") for amount in (MAX_AMOUNT - 1, 1))

    async def work(store: RedisStore) -> None:
        assert (await store.spend([most], "a")).standings[0].used == MAX_AMOUNT - 1
        assert (await store.spend([one], "b")).standings[0].used == MAX_AMOUNT
        assert not (await store.spend([one], "c")).admitted

    run(server, work)


def test_nothing_stays_in_the_server_for_longer_than_it_counts(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        await store.spend([charge("5/minute"), charge("2 parallel")], "a")
        with server.client() as client:
            left = {key.decode(): client.ttl(key) for key in client.keys("*")}
        assert left.pop("{unigate}:since") == -1, "but for the moment at which it began to count"
        assert set(left) == {"{unigate}:all/5/minute", "{unigate}:all/2 parallel"}
        assert all(60 <= seconds <= 62 for seconds in left.values())

    run(server, work)


def test_the_time_is_the_server_s_own(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        spent = await store.spend([charge("60/minute")], "a")
        with server.client() as client:
            assert abs(client.time()[0] - spent.slots[0]) <= 1

    run(server, work)


def test_a_call_that_ends_after_all_was_forgotten_takes_nothing_from_others(server: RedisServer) -> None:
    """Its slot may have been opened again since, by calls that did not give anything back."""
    tokens = charge("5000 tokens/day", 600)

    async def work(store: RedisStore) -> None:
        before = await store.spend([tokens], "a")
        with server.client() as client:
            client.flushall()
        others = await store.spend([charge("5000 tokens/day", 1000)], "b")
        assert others.slots == before.slots
        await store.settle([tokens], before.slots, [10], "a")
        assert (await store.look([tokens]))[0].used == 1000

    run(server, work)


def test_a_call_that_does_not_wait_for_the_answer_takes_nothing(server: RedisServer) -> None:
    charges = [charge("5/minute"), charge("500 tokens/minute", 300, guess=200), charge("2 parallel")]

    async def work(store: RedisStore) -> None:
        first = await store.spend(charges, "first")
        await store.settle(as_taken(charges, first)[1:2], first.slots[1:2], [300], "first")
        for way in ("at once", "on its way"):
            asked = asyncio.create_task(store.spend(charges, way))
            await asyncio.sleep(0 if way == "at once" else 0.0001)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        await store.renew()
        assert [at.used for at in await store.look(charges)] == [1, 300, 1]
        assert not (await store.spend([charge("5/minute", 5)], "too many")).admitted

    run(server, work)


# -- what is set aside


def test_what_is_set_aside_keeps_guesses_out_until_it_is_settled(server: RedisServer) -> None:
    one = charge("500 tokens/minute", 400, guess=399)

    async def work(store: RedisStore) -> None:
        first = await store.spend([one], "a")
        refused = await store.spend([one], "b")
        assert (refused.admitted, refused.standings[0].wait, refused.standings[0].aside) == (False, A_PLACE, 400)
        await store.settle(as_taken([one], first), first.slots, [400], "a")
        second = await store.spend([one], "b")
        assert (second.taken, second.standings[0].used) == ((100,), 500)
        assert not (await store.spend([one], "c")).admitted
        await store.settle(as_taken([one], second), second.slots, [10], "b")
        assert (await store.spend([one], "c")).taken == (90,)

    run(server, work)


def test_what_a_killed_gateway_set_aside_keeps_guesses_out_for_no_longer_than_a_lease(server: RedisServer) -> None:
    one = charge("500 tokens/hour", 400, guess=399)

    async def work(store: RedisStore) -> None:
        gone = RedisStore(f"unigate+{server.url}")
        store.now = gone.now = 1.7e9
        assert (await gone.spend([one], "theirs")).admitted
        for _ in range(3):
            store.now += LEASE - 1
            gone.now = store.now
            await gone.renew()
            assert not (await store.spend([one], "ours")).admitted, "it is still there"
        store.now += LEASE + 0.001
        assert (await store.spend([one], "ours")).taken == (100,), "what it may have used stays counted"
        await gone.close()

    run(server, work)


def test_nothing_that_is_set_aside_stays_in_the_server_for_longer_than_a_lease(server: RedisServer) -> None:
    one = charge("500 tokens/hour", 400, guess=399)

    async def work(store: RedisStore) -> None:
        spent = await store.spend([one], "a")
        with server.client() as client:
            assert 60 <= client.ttl("{unigate}:aside/all/500 tokens/hour") <= 61
            await store.settle(as_taken([one], spent), spent.slots, [400], "a")
            assert not client.exists("{unigate}:aside/all/500 tokens/hour")

    run(server, work)


# -- calls at once


def test_places_that_are_not_renewed_come_back_after_a_minute_and_others_stay(server: RedisServer) -> None:
    place = charge("2 parallel")

    async def work(store: RedisStore) -> None:
        gone = RedisStore(f"unigate+{server.url}")  # a gateway that was killed
        store.now = gone.now = 1.7e9
        assert (await gone.spend([place], "theirs")).admitted
        assert (await store.spend([place], "ours")).admitted
        store.now += LEASE - 1
        refused = await store.spend([place], "third")
        assert (refused.admitted, refused.standings[0].wait) == (False, A_PLACE)
        await store.renew()
        store.now += 1.001
        assert (await store.spend([place], "third")).admitted
        assert not (await store.spend([place], "fourth")).admitted
        await store.settle([place], (0,), (1,), "ours")
        assert (await store.spend([place], "fourth")).admitted
        await gone.close()

    run(server, work)


def test_a_call_that_goes_on_has_its_place_again_after_a_restart_of_the_server(server: RedisServer) -> None:
    place = charge("1 parallel")

    async def work(store: RedisStore) -> None:
        await store.spend([place], "a")
        with server.client() as client:
            client.flushall()
        await store.renew()
        assert not (await store.spend([place], "b")).admitted

    run(server, work)


def test_many_leases_are_renewed_at_once(server: RedisServer) -> None:
    place = charge("2000 parallel")

    async def work(store: RedisStore) -> None:
        await asyncio.gather(*(store.spend([place], f"l{i}") for i in range(1200)))
        with server.client() as client:
            client.flushall()
            client.config_resetstat()
        await store.renew()
        assert (await store.look([place]))[0].used == 1200
        assert server.calls("evalsha") == 3 + 1

    run(server, work)


# -- trouble


def test_a_server_that_forgot_the_scripts_is_told_again(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        await store.spend([charge("5/minute")], "a")
        with server.client() as client:
            client.script_flush()
        spent = await asyncio.gather(*(store.spend([charge("5/minute")], f"l{i}") for i in range(8)))
        assert sum(one.admitted for one in spent) == 4

    run(server, work)


def test_a_server_that_is_gone_or_silent_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def fails(store: RedisStore) -> float:
        began = time.monotonic()
        results = await asyncio.gather(
            *(store.spend([charge("5/minute")], f"l{i}") for i in range(300)), return_exceptions=True
        )
        assert all(isinstance(result, StoreAway) for result in results)
        return time.monotonic() - began

    with RedisServer(tmp_path) as server:

        async def work(store: RedisStore) -> None:
            assert (await store.spend([charge("5/minute")], "a")).admitted
            server.freeze()
            took = await fails(store)
            server.thaw()
            assert PATIENCE * 0.9 < took < PATIENCE + 1
            await store.renew()
            server.kill()
            assert await fails(store) < PATIENCE + 1
            server.start()
            assert (await store.spend([charge("5/minute")], "b")).standings[0].used == 1

        run(server, work)


def test_whether_a_server_is_there_is_known_in_time_and_holds_up_no_question(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:

        async def work(store: RedisStore) -> None:
            before = server.calls("ping")
            assert await store.is_there()
            assert server.calls("ping") == before + 1
            server.freeze()
            began = time.monotonic()
            look = asyncio.create_task(store.is_there())
            await asyncio.sleep(0)
            with pytest.raises(StoreAway):
                await store.spend([charge("5/minute")], "a")
            assert not look.done()  # nobody waits for it: it has longer than a call would wait
            assert not await look
            assert PATIENCE * 1.8 < time.monotonic() - began < 2 * PATIENCE + 1
            server.thaw()
            assert await store.is_there()
            server.kill()
            assert not await store.is_there()
            server.start()
            assert await store.is_there()

        run(server, work)


def test_an_answer_that_is_there_is_not_late_because_we_were_busy() -> None:
    async def main() -> None:
        async def quick() -> str:
            await asyncio.sleep(0.01)
            return "answer"

        asyncio.get_running_loop().call_later(0.005, time.sleep, 3 * PATIENCE)
        assert await in_time(quick()) == "answer"
        with pytest.raises(StoreAway, match="no answer within 250 ms"):
            await in_time(asyncio.sleep(10))

    asyncio.run(main())


def test_a_server_that_refuses_to_count_is_away_and_says_why(server: RedisServer) -> None:
    async def work(store: RedisStore) -> None:
        with server.client() as client:
            client.set("{unigate}:all/5/minute", "not a count of ours")
        with pytest.raises(StoreAway, match="WRONGTYPE"):
            await store.spend([charge("5/minute")], "a")
        assert (await store.spend([charge("6/minute")], "a")).admitted

    run(server, work)


def test_a_server_that_may_be_read_and_not_written_is_away(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as replica, replica.client() as client:
        client.replicaof("127.0.0.1", 1)

        async def work(store: RedisStore) -> None:
            for asked in (store.spend([charge("5/minute")], "a"), store.renew()):
                with pytest.raises(StoreAway, match="read only"):
                    await asked

        run(replica, work)


def test_a_password_opens_the_server_and_is_in_no_error(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "open sesame!") as server:

        async def work(store: RedisStore) -> None:
            assert (await store.spend([charge("5/minute")], "a")).admitted

        async def wrong(store: RedisStore) -> None:
            with pytest.raises(StoreAway) as caught:
                await store.spend([charge("5/minute")], "a")
            assert "sesame" not in str(caught.value)

        plain = server.url
        server.url = plain.replace("//", "//:open%20sesame!@")
        run(server, work)
        server.url = plain.replace("//", "//:closed%20sesame!@")
        run(server, wrong)


def test_over_tls_a_server_is_asked_only_if_its_certificate_is_trusted(server: RedisServer, tmp_path: Path) -> None:
    certificate = own_certificate(tmp_path)

    async def ask(url: str) -> bool:
        store = open_store(url)
        try:
            return (await store.spend([charge("5/minute")], "a")).admitted
        finally:
            await store.close()

    async def main() -> None:
        async with behind_tls(server.port, certificate) as port:
            for scheme in ("rediss", "valkeys"):
                assert await ask(f"{scheme}://localhost:{port}/0?ssl_ca_certs={certificate}")
            for stranger in (f"localhost:{port}/0", f"127.0.0.1:{port}/0?ssl_ca_certs={certificate}"):
                with pytest.raises(StoreAway, match="certificate verify failed"):
                    await ask(f"rediss://{stranger}")
            with pytest.raises(StoreAway, match="Connection closed"):
                await ask(f"redis://localhost:{port}/0")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("redis://localhost", {"host": "localhost", "port": 6379, "db": 0}),
        ("valkey://localhost:7000/2", {"host": "localhost", "port": 7000, "db": 2}),
        ("redis://[::1]", {"host": "::1", "port": 6379, "db": 0}),
        ("rediss://me:pass@redis.example/1", {"host": "redis.example", "port": 6379, "db": 1, "username": "me"}),
    ],
)
def test_an_address_is_read_as_it_is_written(url: str, way: dict[str, Any]) -> None:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    pool = store.bridge.get_connection().connection_pool  # type: ignore[attr-defined]
    options = pool.connection_kwargs
    assert {"db": 0, **options} | way == {"db": 0, **options}
    assert (pool.connection_class.__name__ == "SSLConnection") == url.startswith("rediss")
    assert options.get("password") == ("pass" if "pass" in url else None)


def test_the_server_of_a_test_ends_with_it_also_where_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from tests.gateway import ROOT
from tests.servers import RedisServer
from tests.standins import until
server = RedisServer(pathlib.Path({str(tmp_path)!r}))
server.start()
print(server.port, flush=True)
sys.stdin.read()
"""
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdin is not None
    with starter.stdout, starter.stdin:
        port = int(starter.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        starter.kill()
        starter.wait(10)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    assert until(lambda: not listens())
