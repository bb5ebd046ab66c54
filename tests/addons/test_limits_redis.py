"""Gateways that count their limits in one Redis server: together they admit what one would, and its death stops nobody."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from addons.counters_away import RENEW_EVERY
from tests.gateway import Gateway, GatewayProcess
from tests.servers import RedisServer
from tests.standins import HoldAfter, OllamaStandIn, until

PASSWORD = "open-sesame-0123"
LONGEST = 10.0
"""Seconds that a call may take on a busy machine. Its server has much longer: whoever waits for that one is found out."""
SOON = 6.0
"""Seconds within which it is known, on a busy machine, that a server came or went; two are what it takes. Much less
than RENEW_EVERY."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Reading the certificates of a machine for every client would take longer than the calls."""
LIMITS = {
    "fifty": "50/minute",
    "money": "0.25 USD/hour",
    "tokens": "600 tokens/minute",
    "place": "1 parallel",
    "shown": "7/hour",
    "many": "1000/minute, 5000/hour, 100 USD/day",
    "counted": "1000/minute, 5000/hour",
    "stalled": "50/hour, 5000 tokens/hour, 1 USD/day, 2 parallel",
}
"""model -> what it may be asked for."""


def rules(ollama: OllamaStandIn, redis: RedisServer, if_away: str = "open", password: str = PASSWORD) -> str:
    limits = ", ".join(f"{model}: [{limits}]" for model, limits in LIMITS.items())
    return f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}], parallel: 500}}}}
rules: [{{name: all, use: ["ollama/{{model}}"]}}]
limits: {{models: {{{limits}}}, store: "redis://:{password}@127.0.0.1:{redis.port}/0", if_away: {if_away}}}
prices: [{{model: ollama/*, from: 2026-01-01, request: 0.01}}]
defaults: {{refresh: 200ms}}
"""


class World(NamedTuple):
    ollama: OllamaStandIn
    redis: RedisServer
    gateways: tuple[GatewayProcess, ...]


@contextmanager
def running(folder: Path, *texts: str) -> Iterator[tuple[GatewayProcess, ...]]:
    """Gateways with these rules."""
    with ExitStack() as stack:
        started = []
        for number, text in enumerate(texts):
            own = folder / f"gateway-{number}"
            own.mkdir()
            started.append(stack.enter_context(GatewayProcess(text, own)))
        for one in started:
            assert until(lambda one=one: health(one.url)["models"], 10), one.log  # type: ignore[misc]
        yield tuple(started)
        for one in started:
            assert PASSWORD not in one.log
            assert "Traceback" not in one.log


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn([*LIMITS], reply=["Hello", " there", "."]) as server:
        yield server


@pytest.fixture(scope="module")
def world(ollama: OllamaStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two gateways that share a Redis server, for all tests that leave them alive."""
    folder = tmp_path_factory.mktemp("world")
    with RedisServer(folder, "--requirepass", PASSWORD) as redis:
        text = rules(ollama, redis)
        with running(folder, text, text) as gateways:
            yield World(ollama, redis, gateways)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, "--requirepass", PASSWORD) as server:
        yield server


def health(url: str, path: str = "/health") -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(url + path, trust_env=False, verify=NO_TLS, timeout=10).json()
    return answer


def status(url: str) -> dict[str, Any]:
    return health(url, "/gateway/status")


@dataclass(frozen=True)
class Got:
    status: int
    body: dict[str, Any]
    headers: httpx.Headers
    took: float


def ask(urls: Sequence[str], calls: int, model: str = "fifty") -> list[Got]:
    """Calls at once, by turns to each of the gateways."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}

    async def one(client: httpx.AsyncClient, number: int) -> Got:
        began = time.monotonic()
        answer = await client.post(f"{urls[number % len(urls)]}/v1/chat/completions", json=body)
        return Got(answer.status_code, answer.json(), answer.headers, time.monotonic() - began)

    async def all_of_them() -> list[Got]:
        bounds = httpx.Limits(max_connections=calls)
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=30, limits=bounds) as client:
            return await asyncio.gather(*(one(client, number) for number in range(calls)))

    return asyncio.run(all_of_them())


def statuses(got: Sequence[Got]) -> Counter[int]:
    return Counter(one.status for one in got)


def used(redis: RedisServer, model: str) -> int:
    """What stands in the window of a model with one limit."""
    with redis.client(PASSWORD) as client:
        (key,) = client.keys(f"*:model/{model}/*")
        return sum(int(amount) for amount in client.hvals(key))


# -- together as one


def test_two_gateways_admit_together_exactly_what_the_limit_says(world: World) -> None:
    got = ask([one.url for one in world.gateways], 200, "fifty")
    assert statuses(got) == {200: 50, 429: 150}
    refused = next(one for one in got if one.status == 429)
    assert refused.body["error"]["message"].startswith("Rate limit reached for `fifty`")
    assert "Limit 50, Used 50, Requested 1" in refused.body["error"]["message"]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < float(refused.headers["retry-after"]) <= 62
    assert all(health(one.url)["limits"] == "connected" for one in world.gateways)
    assert used(world.redis, "fifty") == 50


def test_money_is_one_budget_for_all_of_them(world: World) -> None:
    urls = [one.url for one in world.gateways]
    assert statuses(ask(urls, 60, "money")) == {200: 25, 429: 35}
    assert until(lambda: used(world.redis, "money") == 250_000_000)
    assert [one.body["error"]["code"] for one in ask(urls, 2, "money")] == ["insufficient_quota"] * 2


def test_each_gateway_shows_what_all_of_them_have_used(world: World) -> None:
    assert ask([world.gateways[0].url], 1, "shown")[0].status == 200
    for one in world.gateways:
        rows = {row["name"]: row for row in status(one.url)["limits"]}
        assert list(rows) == [*LIMITS]
        assert (rows["shown"]["amount"], rows["shown"]["used"]) == (7, 1)
        assert 3500 < rows["shown"]["reset_seconds"] <= 3660


def test_tokens_are_counted_as_they_were_used_wherever_it_was(world: World) -> None:
    got = ask([one.url for one in world.gateways], 100, "tokens")
    really = sum(one.body["usage"]["total_tokens"] for one in got if one.status == 200)
    assert statuses(got).keys() == {200, 429}
    assert 0 < really <= 600
    assert until(lambda: used(world.redis, "tokens") == really), (used(world.redis, "tokens"), really)


@pytest.mark.parametrize(("model", "questions"), [("counted", 1), ("many", 2)])
def test_a_call_costs_one_round_trip_and_one_when_it_is_over_where_it_set_something_aside(
    world: World, model: str, questions: int
) -> None:
    one = [world.gateways[0].url]
    ask(one, 1, model)
    time.sleep(0.1)  # what it took is settled
    with world.redis.client(PASSWORD) as client:
        client.config_resetstat()
    began = time.monotonic()
    for _ in range(20):
        assert ask(one, 1, model)[0].status == 200
    renewals = 2 * (1 + (time.monotonic() - began) // RENEW_EVERY)  # of both gateways
    most = 20 * questions
    assert until(lambda: most <= world.redis.calls("evalsha", PASSWORD) <= most + renewals)
    assert world.redis.calls("eval", PASSWORD) == world.redis.calls("multi", PASSWORD) == 0


def test_the_places_of_a_gateway_that_was_killed_come_back(world: World, tmp_path: Path) -> None:
    ollama, redis, (other, _) = world
    with running(tmp_path, rules(ollama, redis)) as (doomed,):
        ollama.plan(HoldAfter(1))

        def hold() -> None:
            with suppress(httpx.TransportError):
                ask([doomed.url], 1, "place")

        held = threading.Thread(target=hold)
        held.start()
        try:
            assert until(lambda: ollama.in_flight == 1)
            refused = ask([other.url], 1, "place")[0]
        finally:
            doomed.process.kill()
            held.join(20)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "1 call is under way at once, and the limit is 1" in refused.body["error"]["message"]
        assert ask([other.url], 1, "place")[0].status == 429
        with redis.client(PASSWORD) as client:
            (key,) = client.keys("*:model/place/*")
            ((lease, ends),) = client.zrange(key, 0, -1, withscores=True)
            assert 0 < ends - client.time()[0] <= 61  # the longest that it is held
            client.zincrby(key, -61, lease)
        assert ask([other.url], 1, "place")[0].status == 200
        assert until(lambda: ask([other.url], 1, "place")[0].status == 200)


# -- away


def test_a_server_that_dies_under_load_and_comes_back_holds_up_no_call(
    ollama: OllamaStandIn, own_redis: RedisServer, tmp_path: Path
) -> None:
    got: dict[str, list[Got]] = {}
    over = threading.Event()
    texts = (rules(ollama, own_redis, "open"), rules(ollama, own_redis, "closed"))
    with running(tmp_path, *texts) as both, ExitStack() as stack:
        urls = [one.url for one in both]

        def load(url: str) -> None:
            while not over.is_set():
                got[url] += ask([url], 5)

        def all_more(calls: int) -> bool:
            began = {url: len(got[url]) for url in urls}
            return until(lambda: all(len(got[url]) > began[url] + calls for url in urls), 20)

        for url in urls:
            got[url] = []
            caller = threading.Thread(target=load, args=(url,))
            caller.start()
            stack.callback(caller.join, 30)
        stack.callback(over.set)

        assert all_more(30)
        own_redis.kill()
        assert until(lambda: all(health(url)["limits"] == "away" for url in urls), 10)
        assert [health(url)["status"] for url in urls] == ["degraded", "unhealthy"]
        assert all_more(10)
        before = {url: len(got[url]) for url in urls}
        assert all_more(10)
        passed, refused = (got[url][before[url] :] for url in urls)
        assert statuses(passed).keys() == {200}
        assert statuses(refused).keys() == {503}
        assert refused[0].body["error"]["code"] == "limits_unavailable"
        assert refused[0].headers["retry-after"] == "1"
        own_redis.start()
        assert until(lambda: all(health(url)["limits"] == "connected" for url in urls), 10)
        assert all_more(10)
        stack.close()

        assert all(statuses(got[url]).keys() <= {200, 429, 503} for url in urls)
        assert max(one.took for url in urls for one in got[url]) < LONGEST
        with own_redis.client(PASSWORD) as client:
            client.flushall()
        assert statuses(ask(urls, 120)) == {200: 50, 429: 70}
        for one in both:
            assert one.log.count("store of the limits is away") == one.log.count("limits is back") >= 1


def test_a_server_that_goes_while_nobody_calls_is_known_to_be_away_within_seconds(
    ollama: OllamaStandIn, own_redis: RedisServer
) -> None:
    with Gateway(rules(ollama, own_redis)) as gateway:

        def becomes(said: str, what: str) -> None:
            gateway.until(lambda: health(gateway.url)["limits"] == said, f"{said} when it {what}", SOON)

        becomes("connected", "was there")
        for _ in range(2):
            own_redis.kill()
            becomes("away", "was killed")
            own_redis.start()
            becomes("connected", "was started again")
            own_redis.freeze()
            try:
                becomes("away", "stopped answering")
            finally:
                own_redis.thaw()
            becomes("connected", "answered again")
        assert statuses(ask([gateway.url], 60)) == {200: 50, 429: 10}


def test_a_gateway_starts_without_its_store_and_finds_it_later(ollama: OllamaStandIn, own_redis: RedisServer) -> None:
    own_redis.kill()
    with Gateway(rules(ollama, own_redis)) as gateway:
        gateway.until(lambda: bool(health(gateway.url)["models"]), "it knows its models")
        assert health(gateway.url)["limits"] == "away"
        assert statuses(ask([gateway.url], 60)) == {200: 60}
        assert {(row["used"], row["reset_seconds"]) for row in status(gateway.url)["limits"]} == {(None, None)}
        own_redis.start()
        gateway.until(lambda: health(gateway.url)["limits"] == "connected", "it finds its store")
        assert statuses(ask([gateway.url], 60)) == {200: 50, 429: 10}


def test_a_server_that_only_stops_answering_holds_up_nobody_for_long(
    ollama: OllamaStandIn, own_redis: RedisServer
) -> None:
    with Gateway(rules(ollama, own_redis)) as gateway:
        assert ask([gateway.url], 1)[0].status == 200
        own_redis.freeze()
        try:
            got = ask([gateway.url], 60)
        finally:
            own_redis.thaw()
        assert statuses(got) == {200: 60}
        assert max(call.took for call in got) < LONGEST


@pytest.mark.parametrize(("if_away", "answers"), [("open", 200), ("closed", 503)])
def test_a_call_that_a_stopped_server_was_asked_about_is_not_counted_when_it_goes_on(
    ollama: OllamaStandIn, own_redis: RedisServer, if_away: str, answers: int
) -> None:
    def counted() -> dict[str, int]:
        """What is counted, and the places and estimates that are held, by the end of their keys."""
        with own_redis.client(PASSWORD) as client:
            keys = {key: key.decode().partition(":")[2] for key in client.keys("*:*model/stalled/*")}
            sums = {
                name: sum(map(int, client.hvals(key))) if client.type(key) == b"hash" else client.zcard(key)
                for key, name in keys.items()
            }
        return {name: count for name, count in sums.items() if count}

    with Gateway(rules(ollama, own_redis, if_away)) as gateway:
        assert ask([gateway.url], 1, "stalled")[0].status == 200
        gateway.until(lambda: len(counted()) == 3, "nothing is set aside")
        before = counted()
        own_redis.freeze()
        try:
            got = ask([gateway.url], 1, "stalled")
        finally:
            own_redis.thaw()
        assert statuses(got) == {answers: 1}
        gateway.until(lambda: health(gateway.url)["limits"] == "connected", "its store is back")
        assert counted() == before
        assert ask([gateway.url], 1, "stalled")[0].status == 200
        gateway.until(lambda: counted() == {name: 2 * count for name, count in before.items()}, "one more is counted")


def test_the_password_is_seen_nowhere(ollama: OllamaStandIn, own_redis: RedisServer) -> None:
    with Gateway(rules(ollama, own_redis, password="a-wrong-password")) as gateway:
        assert "a-wrong-password" in gateway.rules.secrets
        assert gateway.chat(model="fifty").status_code == 200
        with gateway.client() as client:
            shown = client.get("/health").text + client.get("/gateway/status").text
        assert '"limits":"away"' in shown
        log = gateway.log.getvalue()
        assert "the store of the limits is away" in log
        assert "a-wrong-password" not in log + shown
