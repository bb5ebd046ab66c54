"""Several servers of one provider, and the strategies of virtual models: who is asked first, and who after that."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.addons.calls import clean_log, pieces
from tests.addons.crowd import Caller, ask, ask_many, at_rest, row, rows
from tests.gateway import Gateway
from tests.standins import (
    CutAfter,
    DeepSeekStandIn,
    HoldAfter,
    ModelCard,
    OllamaStandIn,
    Pace,
    Silence,
    Status,
    until,
)

WORDS = {"one": "Hello from the first server", "two": "Greetings from the second one", "three": "The third says hello"}


@contextmanager
def local(*names: str) -> Iterator[list[OllamaStandIn]]:
    """Servers that speak Ollama; each says words of its own."""
    with ExitStack() as stack:
        yield [stack.enter_context(OllamaStandIn(["m"], reply=pieces(WORDS[name]))) for name in names]


@contextmanager
def gateway_of(text: str) -> Iterator[Gateway]:
    with Gateway(text) as gateway, clean_log(gateway):
        yield gateway
        gateway.until(lambda: at_rest(gateway), f"no place is taken: {rows(gateway)}", 2.0)


DEFAULTS = """
defaults:
  timeouts: {connect: 500ms, first_token: 2s, idle: 2s, total: 8s, keep_alive: 5s}
  failover: {backoff: 10ms, attempts: 1}
  breaker: {failures: 1000}
  refresh: 100ms
"""


def one_provider(*urls: str) -> str:
    return f"""
providers: {{pool: {{dialect: ollama, urls: [{", ".join(urls)}], parallel: 100}}}}
rules: [{{name: all, use: ["pool/{{model}}"]}}]
{DEFAULTS}"""


def asked(*servers: OllamaStandIn | DeepSeekStandIn) -> list[int]:
    """How many calls each server has had."""
    return [len(server.chats) for server in servers]


# ---------------------------------------------------------------------------------------------------------
# One model on several servers


def test_calls_in_turn_alternate_between_the_servers() -> None:
    with local("one", "two", "three") as servers, gateway_of(one_provider(*(s.url for s in servers))) as gateway:
        gateway.until(lambda: len(gateway.state.nodes.loaded) == 3, "their memories were looked at")
        for server in servers:  # each has the model loaded
            server._loaded["m:latest"] = (4096, None)
        gateway.until(lambda: all(gateway.state.nodes.loaded.values()), "they all have it")
        said = [ask(gateway).text for _ in range(12)]
        assert asked(*servers) == [4, 4, 4]
        assert all(len(set(said[turn : turn + 3])) == 3 for turn in range(10)), said


def test_calls_beside_each_other_spread() -> None:
    with local("one", "two", "three") as servers, gateway_of(one_provider(*(s.url for s in servers))) as gateway:
        for server in servers:
            server.always = HoldAfter(0)
        callers = [Caller(gateway) for _ in range(12)]
        assert until(lambda: sum(server.holding for server in servers) == 12)
        assert [server.in_flight for server in servers] == [4, 4, 4]
        for server in servers:
            server.release()
        assert {caller.answer().status for caller in callers} == {200}
        for caller in callers:
            caller.leave()


def test_a_busy_server_is_avoided() -> None:
    with local("one", "two") as (one, two), gateway_of(one_provider(one.url, two.url)) as gateway:
        for busy, idle in ((one, two), (two, one)):
            before = asked(busy, idle)
            busy.always = HoldAfter(0)
            idle.always = HoldAfter(0)
            with Caller(gateway) as first, Caller(gateway) as second:
                assert until(lambda: busy.holding == idle.holding == 1)  # noqa: B023
                idle.always = None
                idle.release()
                gateway.until(lambda: len(gateway.state.in_flight()) == 1, "one of them is free")
                assert [ask(gateway).status for _ in range(5)] == [200] * 5
                assert asked(busy, idle) == [before[0] + 1, before[1] + 6]
                busy.always = None
                busy.release()
                assert first.answer().status == second.answer().status == 200


def test_among_equals_the_server_that_has_the_model_in_memory_comes_first() -> None:
    with local("one", "two", "three") as servers, gateway_of(one_provider(*(s.url for s in servers))) as gateway:
        two = servers[1]
        two._loaded["m:latest"] = (4096, None)
        gateway.until(lambda: bool(gateway.state.nodes.loaded.get(two.url)), "it is seen")
        assert {ask(gateway).text for _ in range(6)} == {WORDS["two"]}
        assert asked(*servers) == [0, 6, 0]
        two.always = HoldAfter(0)
        with Caller(gateway) as caller:
            assert until(lambda: two.holding == 1)
            assert ask(gateway).text != WORDS["two"], "but an idle server is better than a busy one that has it"
            two.release()
            assert caller.answer().status == 200


def test_a_server_that_is_down_gets_no_call_and_no_caller_notices() -> None:
    with local("one", "two") as (one, two), gateway_of(one_provider(one.url, two.url)) as gateway:
        one.stop()
        answers = ask_many(gateway, 12, at_a_time=4)
        assert {(answer.status, answer.text) for answer in answers} == {(200, WORDS["two"])}
        assert len(two.chats) == 12
        one.start()
        gateway.until(lambda: gateway.state.seen["pool"].nodes.get(one.url) is not None, "it is back")
        one.always = two.always = HoldAfter(0)
        with Caller(gateway) as first, Caller(gateway) as second:
            assert until(lambda: one.holding == two.holding == 1)
            one.release()
            two.release()
            assert {first.answer().text, second.answer().text} == {WORDS["one"], WORDS["two"]}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_server_that_dies_in_the_middle_is_stood_in_for_by_the_other(stream: bool) -> None:
    with local("one", "two") as (one, two):
        two.reply = one.reply
        with gateway_of(one_provider(one.url, two.url)) as gateway:
            one.always = CutAfter(2)
            for _ in range(6):
                answer = ask(gateway, "m", stream)
                assert (answer.status, answer.text) == (200, WORDS["one"])
            assert one.chats
            assert len(two.chats) == 6


def test_a_server_without_the_model_is_not_asked_for_it() -> None:
    with local("one", "two") as (one, two):
        two.models = [ModelCard.guess("m"), ModelCard.guess("extra")]
        with gateway_of(one_provider(one.url, two.url)) as gateway:
            answers = [ask(gateway, "extra") for _ in range(6)]
            assert {(answer.status, answer.text) for answer in answers} == {(200, WORDS["two"])}
            assert asked(one, two) == [0, 6]
            assert "x-gateway-skipped" not in answers[0].headers, "the target itself was asked"
            assert {ask(gateway).status for _ in range(4)} == {200}
            assert len(one.chats) >= 2


def test_a_model_that_a_server_lost_since_the_last_look_is_found_on_the_other() -> None:
    with (
        local("one", "two") as (one, two),
        gateway_of(one_provider(one.url, two.url).replace("refresh: 100ms", "refresh: 1m")) as gateway,
    ):
        gateway.state.report_down = lambda provider: None
        one.models = []
        assert {ask(gateway).text for _ in range(6)} == {WORDS["two"]}


# ---------------------------------------------------------------------------------------------------------
# Strategies


TARGETS = ("one/m", "two/m", "three/m")


def virtual(servers: list[OllamaStandIn], strategy: str, more: str = "", after: str = "") -> str:
    providers = "\n".join(
        f"  {name}: {{dialect: ollama, urls: [{server.url}], parallel: 100}}"
        for name, server in zip(("one", "two", "three"), servers, strict=False)
    )
    targets = ", ".join(TARGETS[: len(servers)])
    return f"""
providers:
{providers}
models:
  v: {{targets: [{targets}], strategy: {strategy}{more}}}
{after}
{DEFAULTS}"""


ALL = ("one", "two", "three")


def targets_of(gateway: Gateway, count: int) -> list[str]:
    answers = [ask(gateway, "v", number % 2 == 1) for number in range(count)]
    assert {answer.status for answer in answers} == {200}
    return [str(answer.target) for answer in answers]


def test_in_order_the_first_is_asked_as_long_as_it_answers() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "in_order")) as gateway:
        assert targets_of(gateway, 6) == ["one/m"] * 6
        servers[0].always = Status(500)
        assert targets_of(gateway, 3) == ["two/m"] * 3


def test_round_robin_gives_each_its_turn() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "round_robin")) as gateway:
        assert targets_of(gateway, 9) == ["one/m", "two/m", "three/m"] * 3


def test_least_busy_takes_the_one_with_the_fewest_calls() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "least_busy")) as gateway:
        for server in servers:
            server.always = HoldAfter(0)
        with ExitStack() as stack:
            callers = [stack.enter_context(Caller(gateway, "v")) for _ in range(9)]
            assert until(lambda: sum(server.holding for server in servers) == 9)
            assert [server.in_flight for server in servers] == [3, 3, 3]
            servers[2].always = None
            servers[2].release()
            gateway.until(lambda: row(gateway, "three/m")["in_flight"] == 0, "the third is idle")
            assert targets_of(gateway, 4) == ["three/m"] * 4
            for server in servers:
                server.release()
            assert {caller.answer().status for caller in callers} == {200}


def test_fastest_gives_the_slow_one_less() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "fastest")) as gateway:
        servers[0].always = Pace(0.08)
        servers[1].always = Pace(0.08)
        taken = Counter(targets_of(gateway, 12))
        assert taken["three/m"] >= 9
        assert taken["one/m"] >= 1, "each was tried"
        assert taken["two/m"] >= 1
        measured = {name: row(gateway, name)["first_token_seconds"] for name in TARGETS}
        assert measured["three/m"] < min(measured["one/m"], measured["two/m"])


PRICES = """prices:
  - {model: one/m, from: 2020-01-01, input: 3, output: 3}
  - {model: two/m, from: 2020-01-01, input: 1, output: 1}
  - {model: two/m, from: 2999-01-01, input: 9, output: 9}
  - {model: three/m, from: 2020-01-01, input: 2, output: 2}"""


def test_cheapest_asks_by_todays_price() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "cheapest", after=PRICES)) as gateway:
        assert targets_of(gateway, 4) == ["two/m"] * 4
        servers[1].always = Status(503)
        assert targets_of(gateway, 4) == ["three/m"] * 4
        servers[2].always = Status(503)
        assert targets_of(gateway, 4) == ["one/m"] * 4


def test_a_local_model_without_a_price_costs_nothing() -> None:
    with local(*ALL) as servers:
        text = virtual(servers, "cheapest", after="prices: [{model: one/m, from: 2020-01-01, input: 1, output: 1}]")
        with gateway_of(text) as gateway:
            assert set(targets_of(gateway, 6)) == {"two/m", "three/m"}


def test_weights_say_how_often_each_comes_first() -> None:
    with local(*ALL) as servers, gateway_of(virtual(servers, "weighted", ", weights: [6, 3, 1]")) as gateway:
        gateway.state.chance = random.Random(3).random
        taken = Counter(targets_of(gateway, 100))
        assert (taken["one/m"], taken["two/m"], taken["three/m"]) == pytest.approx((60, 30, 10), abs=8)
        # Those of a target that fails go to the others, by their weights.
        servers[0].always = Status(500)
        taken = Counter(targets_of(gateway, 60))
        assert taken["one/m"] == 0
        assert (taken["two/m"], taken["three/m"]) == pytest.approx((45, 15), abs=8)


STRATEGIES = {
    "in_order": "",
    "round_robin": "",
    "least_busy": "",
    "fastest": "",
    "cheapest": "",
    "weighted": ", weights: [1, 1, 1]",
}


@pytest.mark.parametrize(("strategy", "more"), STRATEGIES.items(), ids=STRATEGIES.keys())
def test_whatever_the_strategy_one_that_answers_is_found(strategy: str, more: str) -> None:
    after = PRICES if strategy == "cheapest" else ""
    with local(*ALL) as servers, gateway_of(virtual(servers, strategy, more, after)) as gateway:
        gateway.state.chance = random.Random(5).random
        for survivor in range(3):
            for number, server in enumerate(servers):
                server.always = None if number == survivor else (Status(500), CutAfter(0), Status(429))[number]
            assert targets_of(gateway, 6) == [TARGETS[survivor]] * 6
        for server in servers:
            server.reply = pieces(WORDS["one"])
        servers[0].always = servers[1].always = CutAfter(2)
        servers[2].always = None
        for _ in range(4):  # and a stream that breaks is continued within the pool
            answer = ask(gateway, "v", True)
            assert (answer.text, answer.done, answer.finish) == (WORDS["one"], 1, ["stop"])


def test_a_virtual_model_after_another_is_asked_where_all_of_the_first_fail() -> None:
    with local(*ALL) as servers:
        text = virtual(servers, "round_robin").replace(f"[{', '.join(TARGETS)}]", "[one/m, two/m]")
        text += "rules: [{name: both, when: {model: w}, use: [v, three/m]}]\n"
        with gateway_of(text) as gateway:
            assert [ask(gateway, "w").target for _ in range(4)] == ["one/m", "two/m"] * 2
            servers[0].always = servers[1].always = Status(500)
            assert [ask(gateway, "w").target for _ in range(2)] == ["three/m"] * 2


def test_a_strategy_and_several_servers_go_together() -> None:
    """Each member's servers share the calls of that member."""
    with local(*ALL) as (one, two, three):
        text = f"""
providers:
  pair: {{dialect: ollama, urls: [{one.url}, {two.url}], parallel: 100}}
  single: {{dialect: ollama, urls: [{three.url}], parallel: 100}}
models: {{v: {{targets: [pair/m, single/m], strategy: round_robin}}}}
{DEFAULTS}"""
        with gateway_of(text) as gateway:
            for server in (one, two, three):
                server._loaded["m:latest"] = (4096, None)
            gateway.until(lambda: sum(map(bool, gateway.state.nodes.loaded.values())) == 2, "the pair has it loaded")
            assert targets_of(gateway, 8) == ["pair/m", "single/m"] * 4
            assert asked(one, two, three) == [2, 2, 4]


def test_a_slow_server_does_not_gather_a_crowd() -> None:
    with local("one", "two") as (one, two), gateway_of(one_provider(one.url, two.url)) as gateway:
        one.always, two.always = Silence(0.25, then="answer"), None
        began = time.monotonic()
        assert {answer.status for answer in ask_many(gateway, 20, at_a_time=4)} == {200}
        assert len(two.chats) > 2 * len(one.chats)
        assert time.monotonic() - began < 3.0
