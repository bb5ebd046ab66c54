"""Admission and settlement, without a network: estimates that learn, and stores elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from loguru import logger

from addons.counters import Known, Spent, StoreAway
from addons.counters_away import Watched
from addons.counters_memory import Counts
from addons.exchange import Attempt, Exchange
from addons.limiter import Size, size_of
from rules.quota import NANOS, Charge, Standing
from rules.recall import Recalled
from tests.addons.calls import pieces
from tests.addons.desk import Desk
from tests.gateway import Gateway
from tests.standins import OllamaStandIn
from wire.completions import check_completion
from wire.embeddings import check_embeddings
from wire.errors import LimitReached, LimitsUnknown, NeverFits, QuotaUsedUp, TokensReached
from wire.openai import usage_object
from wire.parts import Part

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


def test_tools_and_whatever_else_is_sent_count_as_the_prompt_does() -> None:
    desk = Desk("{each_client: 10000 tokens/minute}")
    desk.admit(chars=40, beside=4000, max_tokens=10)
    assert desk.used() == [1010 + 10]
    desk.admit(chars=40, maybe=4000, max_tokens=10)
    assert desk.used() == [2 * (1010 + 10)]
    fault = desk.refused(chars=40, beside=300_000)
    assert isinstance(fault, NeverFits)
    assert "Request too large" in fault.message


def test_what_only_some_servers_read_keeps_no_call_out_for_ever() -> None:
    desk = Desk("{each_client: 10000 tokens/minute}")
    desk.admit(chars=40, maybe=300_000)
    assert desk.used() == [10_000], "all that there is"


def test_money_is_estimated_for_all_that_is_sent() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    desk.admit(model="paid", chars=100, beside=200, maybe=100)
    assert desk.used() == [(100 * 1 + 500 * 10) * NANOS // 10**6]
    assert isinstance(desk.refused(model="paid", chars=0, beside=9_000_000), NeverFits)


def test_what_a_text_is_worth_is_learned_from_all_that_was_sent() -> None:
    desk = Desk("{}")
    for _ in range(40):
        desk.served(desk.admit(chars=40, beside=3960), 2000, 10)
    assert desk.limiter.estimates.prompt("ollama/m", 8000) == 4000


def test_what_is_learned_of_a_local_model_is_known_under_every_spelling_of_its_name() -> None:
    desk = Desk("{each_client: 1000000 tokens/minute}")
    for _ in range(40):
        desk.served(desk.admit(client="teacher", model="M:latest"), 100, 2000)
    for times, model in enumerate(("m", "M", "m:LATEST"), 1):
        desk.admit(model=model, chars=400)
        assert desk.used() == [times * 2100]


def test_what_was_asked_again_with_more_words_is_learned_with_those() -> None:
    desk = Desk("{}")
    for _ in range(40):
        desk.served(desk.admit(chars=1000), 1000, 10, chars_sent=4000)
    assert desk.limiter.estimates.prompt("ollama/m", 4000) == 1000


@pytest.mark.parametrize("limit", ["2000 tokens/hour", "0.002 USD/day"])
def test_a_prompt_that_is_sent_for_each_answer_is_certain_as_often(limit: str) -> None:
    desk = Desk(f"{{each_client: {limit}}}")
    model = "paid_apart" if "USD" in limit else "m"
    fault = desk.refused(model=model, chars=12_000, n=64, max_tokens=1)
    assert isinstance(fault, NeverFits), fault
    assert desk.used() == [0]
    assert desk.told(model=model, chars=12_000, n=1, max_tokens=1) is None


@pytest.mark.parametrize("limit", ["2000 tokens/hour", "0.002 USD/day"])
def test_a_server_that_gives_many_answers_is_sent_the_prompt_once(limit: str) -> None:
    desk = Desk(f"{{each_client: {limit}}}")
    assert desk.told(model="paid", chars=12_000, n=64, max_tokens=1) is None


def test_a_price_per_request_is_paid_for_each_answer_that_is_asked_for_apart() -> None:
    desk = Desk("{each_client: 1 USD/day}")
    desk.admit(model="charged_apart", chars=0, n=3, max_tokens=0)
    assert desk.used() == [3 * NANOS // 10]
    fault = desk.refused(model="charged_apart", chars=0, n=11, max_tokens=0)
    assert isinstance(fault, NeverFits)
    assert "at least 1.10 USD" in fault.message


def test_each_kind_of_request_says_how_much_may_be_answered() -> None:
    completion = check_completion({"model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 3, "max_tokens": 9})
    assert size_of(completion) == Size(sent=3, answers=6, at_most=9)
    assert size_of(check_completion({"model": "m", "prompt": "a"})) == Size(1, 1, 16)
    assert size_of(check_embeddings({"model": "m", "input": ["a", "b"]})) == Size(1, 0, None)


def test_money_is_estimated_at_the_dearest_target_that_may_be_asked() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    desk.admit(model="paid", chars=400)
    assert desk.used() == [(100 * 1 + 500 * 10) * NANOS // 10**6]
    desk.admit(model="m", chars=400)
    assert desk.used() == [(100 * 1 + 500 * 10) * NANOS // 10**6], "one of ours costs nothing"
    desk.admit(model="both", chars=400)
    assert desk.used() == [2 * (100 * 1 + 500 * 10) * NANOS // 10**6], "it may go on to a paid one"


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


@pytest.mark.parametrize("model", ["both", "turned"])
def test_calls_at_once_pass_no_budget_by_way_of_a_free_target(model: str) -> None:
    """Whichever order its targets are written in: what is not set aside cannot be spent."""
    desk = Desk("{each_client: [0.011 USD/day]}")
    ways = [desk.admit(model=model).decision for _ in range(20)]
    assert [way is not None and "far/paid" in [target.name for target in way.targets] for way in ways] == (
        [True] * 2 + [False] * 18
    )
    for way in ways[2:]:
        assert way is not None
        assert "ollama/m" in [target.name for target in way.targets]
        assert [(one.target, one.why) for one in way.skipped] == [("far/paid", "a budget has no room for it")]


def test_a_dear_target_is_left_out_before_a_cheap_one() -> None:
    desk = Desk("{each_client: [0.0113 USD/day]}")
    names = [[target.name for target in desk.admit(model="three").decision.targets] for _ in range(8)]  # type: ignore[union-attr]
    assert names[:2] == [["far/paid", "far/cheap", "ollama/m"]] * 2
    assert names[2:4] == [["far/cheap", "ollama/m"]] * 2
    assert names[4:] == [["ollama/m"]] * 4


def test_where_another_limit_has_no_room_a_cheaper_target_helps_nothing() -> None:
    desk = Desk("{each_client: [1 USD/day, 1/minute]}")
    desk.admit(model="three")
    fault = desk.refused(model="three")
    assert isinstance(fault, LimitReached)
    assert "requests per min" in fault.message


def test_a_machine_that_costs_by_the_hour_is_not_free() -> None:
    desk = Desk("{each_client: [1 USD/day]}")
    exchange = desk.admit(model="hourly")
    assert desk.used() == [1], "a billionth: how long it works is not known"
    assert exchange.decision is not None
    assert [target.name for target in exchange.decision.targets] == ["ollama/hourly", "ollama/m"]
    spent(desk)
    after = desk.admit(model="hourly").decision
    assert after is not None
    assert [target.name for target in after.targets] == ["ollama/m"]


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


def test_a_server_that_counted_nonsense_once_keeps_nobody_out() -> None:
    desk = Desk("{each_client: 20000 tokens/hour}", "{teacher: {key: sk-teacher, limits: []}}")
    for completion in (*[50] * 40, 10**9):
        desk.served(desk.admit(client="teacher"), 100, completion)
    desk.served(desk.admit(), 100, 50)
    assert [desk.told() for _ in range(3)] == [None] * 3


def test_of_two_windows_each_keeps_its_own_bound() -> None:
    desk = Desk("{each_client: [2/minute, 3/hour]}")
    for _ in range(2):
        desk.admit()
    assert "Limit 2, Used 2" in desk.refused().message
    desk.clock.now = 61.0
    desk.admit()
    fault = desk.refused()
    assert "Limit 3, Used 3" in fault.message
    assert fault.retry_after == pytest.approx(3660 - 61)
    assert desk.used() == [1, 3]


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
    desk.served(desk.admit(model="paid", max_tokens=400), 100, 600)
    assert isinstance(desk.refused(model="paid"), QuotaUsedUp)


# -- what is only guessed


def test_another_clients_long_answer_locks_nobody_out_of_a_budget_that_is_not_spent() -> None:
    desk = Desk("{each_client: 1 USD/day}", "{b: {key: sk-b, limits: 10 USD/day}}")
    for _ in range(12):
        desk.served(desk.admit(model="paid"), 100, 2000)
    for _ in range(3):
        desk.served(desk.admit(model="paid", client="b"), 100, 90_000)
    used = desk.used()[0]
    assert 0.2 * NANOS < used < 0.3 * NANOS
    exchange = desk.admit(model="paid", chars=2)
    assert desk.used() == [NANOS], "it may take all that is left"
    assert exchange.headers()["x-gateway-budget-remaining-usd"] == f"{(NANOS - used) / NANOS:.9f}".rstrip("0")
    desk.served(exchange, 10, 5)
    assert desk.used() == [used + 60_000]


def test_long_answers_of_others_keep_no_short_prompt_out_of_a_limit_on_tokens() -> None:
    desk = Desk("{each_client: 500 tokens/minute}", "{teacher: {key: sk-teacher, limits: []}}")
    for _ in range(5):
        desk.served(desk.admit(client="teacher"), 100, 2000)
    desk.served(desk.admit(chars=2), 9, 20)
    desk.served(desk.admit(chars=2), 9, 20)
    assert desk.used() == [58]


@pytest.mark.parametrize(
    ("limit", "model", "kind"), [("500 tokens/day", "m", TokensReached), ("0.004 USD/day", "paid", LimitReached)]
)
def test_what_a_call_may_take_keeps_out_those_beside_it_until_it_is_over(
    limit: str, model: str, kind: type[LimitReached]
) -> None:
    desk = Desk(f"{{each_client: {limit}}}")
    first = desk.admit(model=model, chars=40)
    for _ in range(3):
        fault = desk.refused(model=model, chars=40)
        assert (type(fault), fault.retry_after, fault.final) == (kind, 1.0, False)
        assert "under way" in fault.message
    desk.served(first, 10, 5)
    desk.served(desk.admit(model=model, chars=40), 10, 5)
    desk.limiter.forget(desk.admit(model=model, chars=40))
    desk.admit(model=model, chars=40)


def test_a_free_call_beside_it_holds_nothing_of_a_budget() -> None:
    desk = Desk("{each_client: 0.004 USD/day}")
    desk.admit(model="m")
    desk.admit(model="paid")
    assert desk.used() == [4 * NANOS // 1000]


def test_a_prompt_that_costs_more_than_the_budget_never_fits() -> None:
    desk = Desk("{each_client: 0.05 USD/day}")
    fault = desk.refused(model="paid", chars=900_000)
    assert isinstance(fault, NeverFits)
    assert "with this prompt it costs at least 0.1125 USD, and the budget is 0.05 USD per day" in fault.message
    assert desk.used() == [0]
    desk.admit(model="paid", chars=390_000)


def test_a_prompt_that_costs_more_than_what_is_left_waits_until_that_is_more() -> None:
    desk = Desk("{each_client: 0.05 USD/day}")
    desk.served(desk.admit(model="paid"), 40_000, 0)
    fault = desk.refused(model="paid", chars=120_000)
    assert isinstance(fault, QuotaUsedUp)
    assert "0.04 of 0.05 USD per day are spent, and this one costs at least 0.0" in fault.message
    assert fault.retry_after == pytest.approx(86400, rel=0.02)
    desk.admit(model="paid")


def test_a_prompt_that_a_cache_may_hold_costs_for_certain_only_what_that_asks() -> None:
    desk = Desk("{each_client: 0.05 USD/day}")
    desk.admit(model="cached", chars=900_000)
    assert isinstance(desk.refused(model="cached", chars=9_000_000), NeverFits)


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

    async def renew(self) -> Known:
        await self._come()
        return Known("1", 1.0)

    async def is_there(self) -> bool:
        return not self.away

    async def recall(self, since: str, ledger: str, part: Sequence[Recalled], *, last: bool) -> str:
        raise AssertionError("nobody has anything to tell")

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


def test_a_store_elsewhere_is_asked_for_less_where_a_budget_has_no_room() -> None:
    async def main() -> None:
        desk = FarDesk("{each_client: [0.0052 USD/day]}")
        await desk.limiter.start()
        whys = []
        for _ in range(3):
            decision = (await desk.come(model="both")).decision
            assert decision is not None
            whys.append([one.why for one in decision.skipped])
        assert whys == [[], ["a budget has no room for it"], ["a budget has no room for it"]]
        with pytest.raises(LimitReached):
            await desk.come(model="paid")
        await desk.limiter.stop()

    asyncio.run(main())


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


# -- none


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
