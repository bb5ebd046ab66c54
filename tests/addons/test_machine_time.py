"""A machine's time belongs to the calls that it works on: with n of them at once, each has an n-th."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.account import Account
from addons.node import Server
from tests.gateway import Gateway
from tests.standins import HoldAfter, OllamaStandIn, Pace, Status, until

Spans = list[tuple[float, float]]


def shares_of(spans: Spans) -> list[float]:
    """What each call has had of the server's time: (beginning, end) of each."""
    server = Server("ollama", "http://127.0.0.1:1")
    entered: dict[int, float] = {}
    shares = [0.0] * len(spans)
    moments = sorted(
        [(end, 0, number) for number, (_, end) in enumerate(spans)]
        + [(begin, 1, number) for number, (begin, _) in enumerate(spans)]
    )
    # A call must not end before it has begun, though both may be at one moment.
    for at, begins, number in sorted(moments, key=lambda one: (one[0], -one[1])):
        if begins:
            entered[number] = server.enter(at)
        else:
            shares[number] = server.leave(entered[number], at)
    assert server.working == 0
    return shares


def any_call(spans: Spans) -> float:
    """Seconds in which there was any call."""
    edges = sorted({edge for span in spans for edge in span})
    return sum(b - a for a, b in pairwise(edges) if any(begin <= a and b <= end for begin, end in spans))


@pytest.mark.parametrize(
    ("spans", "shares"),
    [
        ([(0, 10)], [10]),
        ([(0, 10), (20, 25)], [10, 5]),
        ([(0, 10), (0, 10)], [5, 5]),
        ([(0, 10), (5, 10)], [7.5, 2.5]),
        ([(0, 10), (2, 4), (3, 4)], [2 + 0.5 + 1 / 3 + 6, 0.5 + 1 / 3, 1 / 3]),
        ([(0, 4), (2, 6)], [3, 3]),
        ([(1, 1)], [0]),
        ([], []),
    ],
)
def test_each_second_is_split_among_the_calls_that_were_there(spans: Spans, shares: list[float]) -> None:
    assert shares_of(spans) == pytest.approx(shares)


_SECONDS = st.integers(0, 10**6).map(lambda number: number / 1000)


@given(st.lists(st.tuples(_SECONDS, _SECONDS).map(lambda two: (min(two), max(two))), max_size=30))
def test_all_shares_add_up_to_the_time_in_which_there_was_any_call(spans: Spans) -> None:
    assert sum(shares_of(spans)) == pytest.approx(any_call(spans), abs=1e-6)


def test_a_year_of_calls_costs_no_precision() -> None:
    server = Server("ollama", "")
    for day in range(366):
        now = day * 86400.0
        assert server.leave(server.enter(now), now + 0.125) == 0.125


RULES = """
providers:
  ollama: {{dialect: ollama, urls: [{url}]}}
rules: [{{name: local, use: ["ollama/{{model}}"]}}]
prices: [{{model: ollama/*, from: 2026-01-01, hour: 3600}}]
defaults: {{refresh: 200ms, failover: {{attempts: 2, backoff: 10ms}}}}
"""


def told(gateway: Gateway) -> list[Account]:
    accounts: list[Account] = []
    gateway.state.watchers.append(accounts.append)
    return accounts


def test_calls_of_all_models_of_a_server_share_its_time() -> None:
    with OllamaStandIn(reply=["a", "b", "c"]) as ollama, Gateway(RULES.format(url=ollama.url)) as gateway:
        accounts = told(gateway)
        ollama.always = HoldAfter(1)
        with ThreadPoolExecutor(3) as pool:
            models = ["qwen2.5:7b", "qwen2.5:7b", "llama3.2:3b"]
            answers = [pool.submit(gateway.chat, model=model, stream=True) for model in models]
            assert until(lambda: ollama.holding == 3, 10.0)
            time.sleep(0.3)
            ollama.release()
            assert [answer.result(10).status_code for answer in answers] == [200] * 3
        gateway.until(lambda: len(accounts) == 3, "all calls are told of")
        # At a USD per second the price is the time.
        spans = [(tried.started, tried.started + tried.took) for one in accounts for tried in one.tried]
        assert sum(one.cost for one in accounts) / 10**9 == pytest.approx(any_call(spans), abs=0.02)
        # For 300 ms there were all three of them.
        assert all(one.cost / 10**9 < one.tried[0].took - 0.15 for one in accounts)


def test_an_attempt_that_was_refused_costs_nothing_and_gives_its_share_back() -> None:
    with OllamaStandIn(reply=["a", "b"]) as ollama, Gateway(RULES.format(url=ollama.url)) as gateway:
        accounts = told(gateway)
        ollama.plan(Status(500), Pace(0.1))
        assert gateway.chat().status_code == 200
        gateway.until(lambda: len(accounts) == 1, "the call is told of")
        refused, answered = accounts[0].tried
        assert (refused.cost, refused.outcome) == (0, "status_500")
        assert answered.cost == pytest.approx(answered.took * 10**9, rel=0.2)
        (server,) = gateway.state.nodes._servers.values()
        assert server.working == 0
