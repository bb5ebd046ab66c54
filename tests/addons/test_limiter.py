"""Admission and settlement, without a network: estimates that learn, stores elsewhere, and a memory that is restored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from addons import gateway as life
from addons.account import Account, account_of
from addons.counters import Spent, StoreAway
from addons.counters_away import Watched
from addons.counters_memory import Counts
from addons.exchange import Attempt, Exchange
from addons.ledger import Ledger
from addons.ledger_store import Past
from addons.limiter import Limiter, Size, size_of
from rules.conditions import Facts, Seen
from rules.decide import decide
from rules.load import load_rules
from rules.quota import NANOS, Charge, Standing
from rules.snapshot import Rules
from tests.addons.calls import pieces
from tests.addons.ledgers import account, read, settled, sqlite_url
from tests.gateway import Gateway
from tests.standins import OllamaStandIn
from wire.completions import check_completion
from wire.embeddings import check_embeddings
from wire.errors import Fault, LimitReached, LimitsUnknown, QuotaUsedUp, TokensReached
from wire.openai import ChatRequest, usage_object
from wire.parts import Part

NOW = 1_000_000.0
"""Unix time when the clock is 0."""
SERVERS = {"ollama": Seen(frozenset({"m:latest", "hourly:latest"}), reached=True)}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now


def rules_of(limits: str, clients: str = "{}") -> Rules:
    return load_rules(
        f"""
providers:
  ollama: {{dialect: ollama, urls: [http://127.0.0.1:9]}}
  far: {{dialect: openai, urls: [http://127.0.0.1:9], key: sk-far}}
rules:
  - {{name: paid, when: {{model: paid}}, use: [far/paid]}}
  - {{name: both, when: {{model: both}}, use: [ollama/m, far/paid, far/unpriced]}}
  - {{name: hourly, when: {{model: hourly}}, use: [ollama/hourly, ollama/m]}}
  - {{name: all, use: ["ollama/{{model}}"]}}
prices:
  - {{model: far/paid, from: 1970-01-01, input: 1, output: 10}}
  - {{model: ollama/hourly, from: 1970-01-01, hour: 2}}
clients: {clients}
limits: {limits}
""",
        {},
        profiles=(),
    )


class Desk:
    """A limiter, and calls that come to it."""

    def __init__(self, limits: str, clients: str = "{}") -> None:
        self.clock = Clock()
        self.rules = rules_of(limits, clients)
        self.limiter = Limiter(self.rules, self.clock, self.clock.wall, lambda: 0.5)
        self.calls = 0

    def call(self, *, client: str = "a", model: str = "m", chars: int = 400, **body: Any) -> Exchange:
        """One that has been decided about, and not yet been admitted."""
        self.calls += 1
        return Exchange(
            request_id=f"req_{self.calls}",
            rules=self.rules,
            started=self.clock.now,
            created=0,
            client=self.rules.keys.named(client),
            to_model=True,
            request=ChatRequest(body={"model": model, **body}, model=model, prompt_chars=chars),
            decision=decide(self.rules, Facts(model=model, servers=SERVERS)),
        )

    def admit(self, **call: Any) -> Exchange:
        exchange = self.call(**call)
        assert self.limiter.admit(exchange) is None
        return exchange

    def refused(self, **call: Any) -> Fault:
        with pytest.raises(Fault) as caught:
            self.limiter.admit(self.call(**call))
        return caught.value

    def served(self, exchange: Exchange, prompt: int = 100, completion: int = 50, **more: Any) -> None:
        """Its first target answers it, and counts."""
        assert exchange.decision is not None
        exchange.attempts.append(
            Attempt(
                exchange.decision.targets[0],
                self.clock.now,
                tried=True,
                accepted=True,
                usage=usage_object(prompt, completion),
                **({"completed": True} | more),
            )
        )
        self.over(exchange)

    def over(self, exchange: Exchange) -> None:
        account = account_of(exchange, status=200, now=self.clock.now, wall=self.clock.wall())
        self.limiter.settle(exchange, account)

    def used(self, client: str = "a", model: str = "m") -> list[int]:
        counts = self.limiter.counts
        assert counts is not None
        return [one.used for one in counts.look(self.rules.limits.of(self.rules.keys.named(client), model))]


# -- estimates


def test_a_call_takes_an_estimate_and_is_settled_with_what_it_used() -> None:
    desk = Desk("{each_client: [10000 tokens/minute, 5/minute, 2 parallel]}")
    exchange = desk.admit(chars=400)
    assert desk.used() == [100 + 500, 1, 1]
    desk.served(exchange, 90, 7)
    assert desk.used() == [97, 1, 0]


def test_settling_twice_or_forgetting_afterwards_changes_nothing() -> None:
    desk = Desk("{each_client: [10000 tokens/minute, 5/minute, 2 parallel]}")
    exchange = desk.admit()
    desk.served(exchange, 90, 7)
    desk.over(exchange)
    desk.limiter.forget(exchange)
    assert desk.used() == [97, 1, 0]


def test_a_call_that_nobody_settled_gives_everything_back() -> None:
    desk = Desk("{each_client: [10000 tokens/minute, 5/minute, 2 parallel, 1 USD/day]}")
    exchange = desk.admit(model="paid")
    desk.limiter.forget(exchange)
    desk.over(exchange)
    assert desk.used() == [0, 0, 0, 0]


def test_what_a_call_took_stands_where_a_target_worked_for_it_and_nobody_can_say_how_much() -> None:
    desk = Desk("{each_client: [10000 tokens/minute, 5/minute, 2 parallel]}")
    exchange = desk.admit(chars=400)
    assert exchange.decision is not None
    exchange.attempts.append(Attempt(exchange.decision.targets[0], 0.0, tried=True, accepted=True))
    desk.limiter.forget(exchange)
    assert desk.used() == [600, 1, 0], "its place is free"


def test_without_limits_a_call_has_no_allowance_and_its_answer_still_teaches() -> None:
    desk = Desk("{}")
    exchange = desk.admit()
    desk.served(exchange, 100, 40)
    assert (exchange.allowance, exchange.headers().keys() & {"x-ratelimit-limit-requests"}) == (None, set())
    assert desk.limiter.estimates.expect("ollama/m", 400).answer == 40 + 4 * 20


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 600),
        ({"max_tokens": 20}, 120),
        ({"max_completion_tokens": 30, "max_tokens": 20}, 130),
        ({"max_tokens": 0}, 100),
        ({"n": 3}, 1800),
        ({"n": 3, "max_tokens": 20}, 360),
    ],
)
def test_the_callers_own_words_bound_an_estimate(body: dict[str, int], tokens: int) -> None:
    desk = Desk("{each_client: 10000 tokens/minute}")
    desk.admit(chars=400, **body)
    assert desk.used() == [tokens]


def test_each_kind_of_request_says_how_much_may_be_answered() -> None:
    completion = check_completion({"model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 9})
    assert size_of(completion) == Size(sent=3, answers=6, at_most=9)
    assert size_of(check_completion({"model": "m", "prompt": "a"})) == Size(1, 1, 16)
    assert size_of(check_embeddings({"model": "m", "input": ["a", "b"]})) == Size(1, 0, None)


def test_money_is_estimated_at_the_target_that_is_asked_first() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    desk.admit(model="paid", chars=400)
    assert desk.used() == [(100 * 1 + 500 * 10) * NANOS // 10**6]
    desk.admit(model="m", chars=400)
    assert desk.used() == [(100 * 1 + 500 * 10) * NANOS // 10**6], "one of ours costs nothing"


def spent(desk: Desk) -> None:
    """All of a budget."""
    desk.served(desk.admit(model="paid"), 10**6, 10**6)


def test_a_call_to_a_free_model_does_not_go_on_to_a_paid_one_when_the_budget_is_used_up() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    before = desk.admit(model="both").decision
    assert before is not None
    assert [target.name for target in before.targets] == ["ollama/m", "far/paid", "far/unpriced"]
    spent(desk)
    after = desk.admit(model="both").decision
    assert after is not None
    assert [target.name for target in after.targets] == ["ollama/m", "far/unpriced"]
    assert [(one.target, one.why) for one in after.skipped] == [("far/paid", "a budget is used up")]
    assert isinstance(desk.refused(model="paid"), QuotaUsedUp)


def test_a_machine_that_costs_by_the_hour_is_not_free() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    desk.admit(model="hourly")
    assert desk.used() == [1], "a billionth: how long it works is not known"
    spent(desk)
    assert isinstance(desk.refused(model="hourly"), QuotaUsedUp)


def test_only_an_answer_that_one_target_gave_alone_and_counted_teaches() -> None:
    desk = Desk("{}")
    unknown = desk.limiter.estimates.expect("ollama/m", 400)
    parts = desk.call()
    assert parts.request is not None
    parts.parts = (Part(parts.request, choice=0), Part(parts.request, choice=1))
    for exchange, more in (
        (parts, {}),
        (desk.call(), {"completed": False}),
        (desk.call(), {"continues": True}),
        (desk.call(), {"usage": None, "pieces": 3}),
    ):
        attempt: dict[str, Any] = dict(more)
        usage = attempt.pop("usage", usage_object(3000, 9000))
        assert exchange.decision is not None
        exchange.attempts.append(
            Attempt(exchange.decision.targets[0], 0.0, tried=True, accepted=True, usage=usage,
                    **({"completed": True} | attempt))
        )  # fmt: skip
        desk.over(exchange)
    assert desk.limiter.estimates.expect("ollama/m", 400) == unknown


# -- the law


@pytest.mark.parametrize("seed", range(6))
def test_what_is_used_is_at_most_the_limit_and_what_calls_used_beyond_their_estimates(seed: int) -> None:
    """Whatever comes, in whatever order it ends: the sum of what was used in a window is bounded."""
    chance = random.Random(seed)
    desk = Desk("{each_client: [5000 tokens/minute, 30/minute, 6 parallel]}")
    under_way: list[Exchange] = []
    beyond = taken = 0
    for _ in range(400):
        desk.clock.now += chance.random() / 10
        if under_way and chance.random() < 0.5:
            exchange = under_way.pop(chance.randrange(len(under_way)))
            assert exchange.allowance is not None
            charged = exchange.allowance.charges[0].amount
            really = chance.choice((0, charged // 3, charged, charged * 2))
            desk.served(exchange, really, 0)
            beyond += max(0, really - charged)
            taken += really
        else:
            exchange = desk.call(chars=chance.randrange(2000))
            try:
                desk.limiter.admit(exchange)
            except LimitReached:
                assert exchange.allowance is not None
                assert exchange.allowance.charges == ()
            else:
                under_way.append(exchange)
        tokens, requests, places = desk.used()
        assert tokens <= 5000 + beyond
        assert requests <= 30
        assert places == len(under_way) <= 6
    for exchange in under_way:
        desk.limiter.forget(exchange)
    assert desk.used()[2] == 0
    assert desk.used()[0] == taken, "all of it was in less than a minute"


def test_after_even_answers_a_limit_is_passed_by_no_more_than_one_call() -> None:
    desk = Desk("{each_client: 2000 tokens/minute}", "{teacher: {key: sk-teacher, limits: []}}")
    chance = random.Random(4)
    for _ in range(40):
        desk.served(desk.admit(client="teacher"), 100, chance.randrange(18, 23))
    under_way = []
    for _ in range(100):
        exchange = desk.call()
        try:
            desk.limiter.admit(exchange)
        except TokensReached:
            continue
        under_way.append(exchange)
    for exchange in under_way:
        desk.served(exchange, 100, chance.randrange(18, 23))
    assert 2000 - 2 * 150 < desk.used()[0] <= 2000 + 122


# -- what others know


def test_headers_tell_of_the_tightest_limit_also_where_a_call_is_refused() -> None:
    desk = Desk("{overall: 1000/hour, each_client: [2/minute, 5000 tokens/hour]}")
    exchange = desk.admit(chars=400)
    assert {name: text for name, text in exchange.headers().items() if "ratelimit" in name} == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4400",
        "x-ratelimit-reset-tokens": "1h1m0s",
    }
    desk.admit()
    refused = desk.call()
    with pytest.raises(LimitReached):
        desk.limiter.admit(refused)
    assert refused.headers()["x-ratelimit-remaining-requests"] == "0"
    desk.over(refused)
    desk.limiter.forget(refused)
    assert desk.used() == [2, 2, 1200]


def test_all_clients_together_are_told_of_no_money() -> None:
    desk = Desk("{overall: 0.005 USD/day}")
    desk.served(desk.admit(model="paid", client="b", max_tokens=300), 100, 490)
    fault = desk.refused(model="paid", client="c")
    assert isinstance(fault, QuotaUsedUp)
    assert "for all clients together" in fault.message
    assert "USD" not in fault.message
    assert desk.admit(model="m", client="c").allowance is not None


def test_a_budget_that_calls_under_way_hold_is_free_again_when_they_end() -> None:
    desk = Desk("{each_client: 0.006 USD/day}")
    first = desk.admit(model="paid")
    assert isinstance(desk.refused(model="paid"), LimitReached)
    desk.served(first, 10, 1)
    desk.served(desk.admit(model="paid", max_tokens=400), 100, 400)
    assert isinstance(desk.refused(model="paid"), QuotaUsedUp)


# -- a store elsewhere


class Elsewhere:
    """Counts that take a moment to answer, or do not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts = Counts(clock)
        self.away = False
        self.broken = False
        self.slow = asyncio.Event()
        self.slow.set()
        self.closed = False

    async def _come(self) -> None:
        await asyncio.sleep(0)
        await self.slow.wait()
        if self.away:
            raise StoreAway("not there")

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        await self._come()
        return self.counts.spend(charges, lease)

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        await self._come()
        if self.broken:
            raise RuntimeError("what is this?")
        self.counts.settle(charges, slots, used, lease)

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        await self._come()
        return self.counts.look(charges)

    async def renew(self) -> None:
        await self._come()

    def release(self, lease: str) -> None:
        """Nobody holds anything for longer here."""

    async def close(self) -> None:
        self.closed = True


class FarDesk(Desk):
    """A limiter whose counts are elsewhere."""

    def __init__(self, limits: str) -> None:
        super().__init__(limits)
        self.elsewhere = Elsewhere(self.clock)
        self.limiter.counts = None
        self.limiter.store = Watched(self.elsewhere, lambda: 0.5, "calls pass")

    async def come(self, **call: Any) -> Exchange:
        exchange = self.call(**call)
        waiting = self.limiter.admit(exchange)
        assert waiting is not None
        await waiting
        return exchange

    def used(self, client: str = "a", model: str = "m") -> list[int]:
        charges = self.rules.limits.of(self.rules.keys.named(client), model)
        return [one.used for one in self.elsewhere.counts.look(charges)]


FAR = "{each_client: [10000 tokens/minute, 5/minute, 2 parallel], if_away: IF}"


def far(if_away: str, work: Callable[[FarDesk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        desk = FarDesk(FAR.replace("IF", if_away))
        await desk.limiter.start()
        try:
            await work(desk)
        finally:
            await desk.limiter.stop()
        assert desk.elsewhere.closed

    asyncio.run(main())


def test_a_store_elsewhere_is_asked_and_told_without_making_the_end_of_a_call_wait() -> None:
    async def work(desk: FarDesk) -> None:
        exchange = await desk.come()
        assert desk.used() == [600, 1, 1]
        desk.elsewhere.slow.clear()
        desk.served(exchange, 90, 7)
        assert desk.used() == [600, 1, 1]
        desk.elsewhere.slow.set()
        await asyncio.sleep(0.01)
        assert desk.used() == [97, 1, 0]
        for _ in range(2):
            await desk.come()
        with pytest.raises(LimitReached, match="2 calls are under way"):
            await desk.come()

    far("open", work)


def test_the_end_waits_for_the_store_to_be_told() -> None:
    async def main() -> None:
        desk = FarDesk(FAR.replace("IF", "open"))
        await desk.limiter.start()
        desk.served(await desk.come(), 90, 7)
        await desk.limiter.stop()
        assert desk.used() == [97, 1, 0]

    asyncio.run(main())


def test_while_the_store_is_away_calls_pass_where_the_rules_say_so() -> None:
    async def work(desk: FarDesk) -> None:
        assert desk.limiter.away is False
        desk.elsewhere.away = True
        for _ in range(20):
            assert (await desk.come()).allowance is None
        assert desk.limiter.away is True

    far("open", work)


def test_while_the_store_is_away_calls_are_refused_where_the_rules_say_so() -> None:
    async def work(desk: FarDesk) -> None:
        desk.elsewhere.away = True
        with pytest.raises(LimitsUnknown, match="limits of this gateway cannot be checked") as caught:
            await desk.come()
        assert caught.value.retry_after == 1.0

    far("closed", work)


def test_a_store_that_is_away_when_a_call_ends_makes_no_noise() -> None:
    async def work(desk: FarDesk) -> None:
        exchange = await desk.come()
        desk.elsewhere.away = True
        desk.served(exchange)
        await asyncio.sleep(0.01)
        assert desk.limiter.away is True

    far("open", work)


def test_a_store_that_fails_in_an_unknown_way_is_logged_and_hurts_nobody() -> None:
    said: list[str] = []
    sink = logger.add(said.append, level="ERROR", format="{message} {exception}")

    async def work(desk: FarDesk) -> None:
        exchange = await desk.come()
        desk.elsewhere.broken = True
        desk.served(exchange)
        await asyncio.sleep(0.01)

    try:
        far("open", work)
    finally:
        logger.remove(sink)
    assert len(said) == 1
    assert "what a call used could not be counted" in said[0]
    assert "what is this?" in said[0]


def test_a_caller_who_leaves_while_the_store_is_asked_gives_everything_back() -> None:
    async def work(desk: FarDesk) -> None:
        exchange = desk.call()
        waiting = desk.limiter.admit(exchange)
        assert waiting is not None
        exchange.ended = True
        await waiting
        await asyncio.sleep(0.01)
        assert desk.used() == [0, 0, 0]

    far("open", work)


# -- after a restart

HISTORY = [
    (NOW - 90000, "a", "m", 1000, 1000),
    (NOW - 5000, "a", "m", 200, NANOS // 2),
    (NOW - 4000, "b", "m", 70, 0),
    (NOW - 30, "a", "paid", 30, 7),
    (NOW - 20, "own", "m", 5, 3),
    (NOW + 10, "a", "m", 1, 1),
]


def test_counts_are_restored_from_what_is_known_of_the_past() -> None:
    desk = Desk(
        "{overall: 10000 tokens/day, each_client: [10/minute, 2 parallel, 1 USD/day], models: {paid: 9/minute}}",
        "{own: {key: sk-own, limits: [4/week]}}",
    )
    assert desk.limiter.remembers == 7 * 86400
    desk.clock.now = 0.0
    desk.limiter.restore(HISTORY)
    assert desk.used("a") == [306, 2, 0, NANOS // 2 + 8]
    assert desk.used("a", "paid") == [306, 2, 0, NANOS // 2 + 8, 1]
    assert desk.used("b") == [306, 0, 0, 0]
    assert desk.used("own") == [306, 1]
    desk.clock.now = 82100.0
    assert desk.used("a")[3] == 8


def test_the_past_is_over_in_time_also_where_a_call_came_before_it_was_known() -> None:
    desk = Desk("{each_client: [10/day]}")
    desk.admit()
    desk.limiter.restore([(NOW - 80000, "a", "m", 10, 0)])
    assert desk.used() == [2]
    desk.clock.now = 8000.0
    assert desk.used() == [1]


def test_nothing_of_the_past_matters_where_no_limit_has_a_window() -> None:
    assert Desk("{each_client: 2 parallel}").limiter.remembers == 0
    far = FarDesk("{each_client: 2/day}")
    assert far.limiter.remembers == 0
    assert far.limiter.rows(far.rules.keys.named("a")) == []


def test_a_budget_outlives_a_restart_of_the_gateway(tmp_path: Path) -> None:
    with OllamaStandIn(["m"], reply=pieces("Hello from the llama here")) as ollama:
        rules = f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}
rules: [{{name: all, use: [ollama/m]}}]
limits: {{overall: [2/hour, 1000 tokens/day]}}
ledger: {{url: "sqlite:///{tmp_path}/ledger.sqlite"}}
"""
        with Gateway(rules) as gateway:
            assert [gateway.chat().status_code for _ in range(3)] == [200, 200, 429]
        with Gateway(rules) as gateway:
            reply = gateway.chat()
    assert reply.status_code == 429
    assert "Limit 2, Used 2" in reply.json()["error"]["message"]
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 1000


def test_calls_that_come_while_the_past_is_read_are_kept_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    class Slow(Ledger):
        async def history(self, since: float) -> list[Past]:
            found = await super().history(since)
            put_early.append(account())
            for tell in gateway.state.watchers:
                tell(put_early[-1])
            told.append(since)
            return found

    put_early: list[Account] = []
    monkeypatch.setattr(life, "Ledger", Slow)
    url = sqlite_url(tmp_path)
    with OllamaStandIn(["m"], reply=pieces("Hello")) as ollama:
        gateway = Gateway(f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}
rules: [{{name: all, use: [ollama/m]}}]
limits: {{overall: [2/hour]}}
ledger: {{url: "{url}"}}
""")
        with gateway:
            settled(gateway)
            calls, _ = read(url)
    assert len(told) == 1
    assert [row["request_id"] for row in calls] == [put_early[0].request_id]


def test_a_ledger_that_cannot_be_read_does_not_keep_the_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(b"this is no database" * 1000)
    with OllamaStandIn(["m"], reply=pieces("Hello")) as ollama:
        rules = f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}
rules: [{{name: all, use: [ollama/m]}}]
limits: {{overall: 2/hour}}
ledger: {{url: "sqlite:///{file}"}}
"""
        with Gateway(rules) as gateway:
            assert gateway.chat().status_code == 200
            assert "the ledger's history cannot be read" in gateway.log.getvalue()


def test_no_answer_tells_of_limits_where_there_are_none() -> None:
    with (
        OllamaStandIn(["m"], reply=pieces("Hello")) as ollama,
        Gateway(
            f"providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}\nrules: [{{name: all, use: [ollama/m]}}]"
        ) as gateway,
    ):
        reply = gateway.chat()
    assert reply.status_code == 200
    assert not [name for name in reply.headers if "ratelimit" in name]
