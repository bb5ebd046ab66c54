"""Limits after a restart: what the ledger knows is counted again, and never less than was used."""

from __future__ import annotations

import asyncio
import io
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from addons import past as module
from addons.account import Account
from addons.counters_memory import Counts
from addons.ledger_faults import LedgerAway
from addons.past import Past, Told
from rules.quota import NANOS, SLOTS, Charge
from rules.recall import Span, Sum
from tests.addons.calls import pieces
from tests.addons.desk import NOW, Clock, Desk, rules_of
from tests.addons.ledgers import account, read, settled, sqlite_url
from tests.addons.reports import new_ledger, row
from tests.gateway import Gateway
from tests.standins import OllamaStandIn

DAY = 86400


def call(over: float, client: str, model: str, tokens: int, cost: int, **more: Any) -> dict[str, Any]:
    """A row of the ledger: of a call that was over at a moment, and had begun a second before."""
    said = tokens // 3
    numbers = {"prompt_tokens": tokens - said, "completion_tokens": said, "cost": cost}
    return row(**{"time": over - 1, "total_ms": 1000, "client": client, "model": model, **numbers, **more})


def restored(desk: Desk, url: str, rows: Iterable[Mapping[str, Any]]) -> None:
    new_ledger(url, rows).dispose()
    asyncio.run(desk.limiter.start(Past(desk.rules, url, desk.clock.wall)))


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


HISTORY = [
    call(NOW - 90000, "a", "m", 1000, 1000),
    call(NOW - 5000, "a", "m", 200, NANOS // 2),
    call(NOW - 4000, "b", "m", 70, 0),
    call(NOW - 30, "a", "paid", 30, 7),
    call(NOW - 20, "own", "m", 5, 3),
    call(NOW + 10, "a", "m", 1, 1),
]


def test_counts_are_restored_from_what_is_known_of_the_past(url: str) -> None:
    desk = Desk(
        "{overall: 10000 tokens/day, each_client: [10/minute, 2 parallel, 1 USD/day], models: {paid: 9/minute}}",
        "{own: {key: sk-own, limits: [4/week]}}",
    )
    restored(desk, url, HISTORY)
    assert desk.used("a") == [306, 2, 0, NANOS // 2 + 8]
    assert desk.used("a", "paid") == [306, 2, 0, NANOS // 2 + 8, 1]
    assert desk.used("b") == [306, 0, 0, 0]
    assert desk.used("own") == [306, 1]
    desk.clock.now = 83000.0
    assert desk.used("a")[3] == 8


def test_what_all_share_is_restored_where_no_client_has_limits(url: str) -> None:
    desk = Desk("{overall: [10/minute, 10000 tokens/day]}")
    restored(desk, url, HISTORY)
    assert desk.used("a") == [3, 306]


def test_the_past_is_over_in_time_also_where_a_call_came_before_it_was_known(url: str) -> None:
    desk = Desk("{each_client: [10/day]}")
    desk.admit()
    restored(desk, url, [call(NOW - 80000, "a", "m", 10, 0)])
    assert desk.used() == [2]
    desk.clock.now = 8000.0
    assert desk.used() == [1]


def test_a_call_counts_from_when_it_was_over(url: str) -> None:
    desk = Desk("{each_client: [1000 tokens/minute]}")
    restored(desk, url, [call(NOW - 20, "a", "m", 70, 0, time=NOW - 620, total_ms=600_000)])
    assert desk.used() == [70]


def test_a_limit_that_was_changed_counts_what_was_used_before(url: str) -> None:
    for limits, used in (("7/hour", [3]), ("[9/2 hours, 5 tokens/day]", [5, 306])):
        desk = Desk(f"{{overall: {limits}}}")
        restored(desk, url, HISTORY[1:])
        assert desk.used() == used


def test_what_a_call_was_refused_is_not_counted_and_what_failed_is(url: str) -> None:
    desk = Desk("{each_client: [100/day]}")
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "attempts": 0}
    refused = [
        (403, "model_not_found"), (429, "rate_limit_exceeded"), (429, "insufficient_quota"), (400, "unsupported_value"),
        (503, "limits_unavailable"), (503, "no_route"), (503, "shutting_down"),
    ]  # fmt: skip
    taken = [(200, None, 1), (502, "upstream_error", 1), (429, "rate_limit_exceeded", 2), (499, None, 0),
             (503, "server_is_overloaded", 0)]  # fmt: skip
    rows = [call(NOW - 10, "a", "m", 0, 0, status=status, error=error, **nothing) for status, error in refused]
    rows += [
        call(NOW - 10, "a", "m", 0, 0, status=status, error=error, **{**nothing, "attempts": attempts})
        for status, error, attempts in taken
    ]
    rows.append(call(NOW - 10, "a", "m", 0, 0, status=499, rule=None, **nothing))
    restored(desk, url, rows)
    assert desk.used() == [len(taken)]


@pytest.mark.parametrize("status", [400, 429, 499, 502, 503])
@pytest.mark.parametrize("compared", [None, 7])
def test_a_call_that_passed_its_limits_is_counted_whatever_became_of_it(
    new_url: Callable[[], str], status: int, compared: int | None
) -> None:
    """By the marks of its row. Rows of an earlier unigate do not say."""
    for admitted, used in ((True, 1), (False, 0)):
        desk = Desk("{each_client: [100/day]}")
        rows = [call(NOW - 10, "a", "m", 0, 0, status=status, attempts=0, compared=compared, admitted=admitted)]
        restored(desk, new_url(), rows)
        assert desk.used() == [used]


def test_of_a_ledger_that_is_not_there_nothing_is_remembered_and_none_is_made(tmp_path: Path) -> None:
    desk = Desk("{each_client: [10/day]}")
    asyncio.run(desk.limiter.start(Past(desk.rules, sqlite_url(tmp_path), desk.clock.wall)))
    assert desk.used() == [0]
    assert not any(tmp_path.iterdir())


def test_nothing_is_read_where_no_limit_has_a_window() -> None:
    past = Past(rules_of("{each_client: 2 parallel}"), "nonsense", lambda: NOW)
    assert asyncio.run(past.amounts(0.0)) == Told([], True)
    past = Past(rules_of("{each_client: 2/minute}"), "nonsense", lambda: NOW)
    assert asyncio.run(past.amounts(0.0, least=3600)) == Told([], True)


# -- the law


LIMITS = """{
  overall: [900/minute, 5000 tokens/90s, 3 USD/hour, 90000/day, 3 USD/30 days], each_client: [50 tokens/7s, 9/hour],
  models: {"paid*": [30 tokens/day, 1/2 weeks]}}"""
CLIENTS = "{own: {key: sk-own, limits: [100/day, 7 tokens/minute]}}"


@pytest.mark.parametrize("seed", range(4))
def test_what_is_restored_is_what_was_counted_and_never_less(new_url: Callable[[], str], seed: int) -> None:
    """A limit remembers all that was used in its window, whatever the clock of the new process says, and what is older
    by no more than two slots. Where the clock goes on it has what the one before had."""
    chance = random.Random(seed)
    clock, rules = Clock(), rules_of(LIMITS, CLIENTS)
    clock.now = chance.uniform(0, 3000)
    now = clock.wall()
    rows = [
        call(
            now - math.exp(chance.uniform(math.log(0.01), math.log(40 * DAY))),
            chance.choice(("a", "b", "own")), chance.choice(("m", "paid-1", "paid-2")),
            chance.randrange(20), chance.randrange(1000),
            total_ms=chance.choice((0, 5, 900, 600_000)),
        )
        for _ in range(1500)
    ]  # fmt: skip
    rows = [one | {"time": one["time"] + 1 - one["total_ms"] / 1000} for one in rows]  # over at the same moment
    url = new_url()
    new_ledger(url, rows).dispose()

    before, taken = Counts(clock), defaultdict[Charge, list[tuple[float, int]]](list)
    for one in sorted(rows, key=over):
        for charge in rules.limits.of(rules.keys.named(one["client"]), one["model"]):
            before.add(charge, amount(charge, one), over(one) - NOW)
            taken[charge].append((over(one), amount(charge, one)))

    same, other = Counts(clock), Counts(lambda: clock.now + 12345.678)
    for counts, offset in ((same, NOW), (other, NOW - 12345.678)):
        for charge, slots in asyncio.run(Past(rules, url, clock.wall).amounts(offset)).found:
            counts.recall(charge, slots)

    steps = [0.0, *(math.exp(chance.uniform(math.log(0.01), math.log(31 * DAY))) for _ in range(60))]
    began = clock.now
    for step in sorted(steps):
        clock.now = began + step
        for charge, some in taken.items():
            window = charge.limit.seconds
            least, most = (
                sum(much for at, much in some if at > clock.wall() - span)
                for span in (window, window * (1 + 2 / SLOTS) + 0.001)
            )
            found = [counts.look([charge])[0].used for counts in (before, same, other)]
            assert least <= found[0] <= found[1] <= most, (charge.key, step)
            assert least <= found[2] <= most, (charge.key, step)


def over(one: Mapping[str, Any]) -> float:
    return float(one["time"] + one["total_ms"] * 0.001)


def amount(charge: Charge, one: Mapping[str, Any]) -> int:
    taken = {"requests": 1, "tokens": one["prompt_tokens"] + one["completion_tokens"], "usd": one["cost"]}
    return int(taken[charge.limit.kind])


# -- at a gateway


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


def test_after_a_restart_as_many_calls_are_counted_as_before(tmp_path: Path) -> None:
    """Those as well that no target could be told, and none of those that were turned away."""
    with OllamaStandIn(["m"], reply=pieces("Hello")) as ollama:
        rules = f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}}}
rules: [{{name: all, use: [ollama/m]}}]
limits: {{overall: 20/hour, models: {{few: 1/hour}}}}
ledger: {{url: "sqlite:///{tmp_path}/ledger.sqlite"}}
"""

        def left(gateway: Gateway) -> int:
            return int(gateway.chat().headers["x-ratelimit-remaining-requests"])

        with Gateway(rules) as gateway:
            untold = [gateway.chat(logit_bias={"1": 1}) for _ in range(3)]
            assert [(reply.status_code, reply.json()["error"]["param"]) for reply in untold] == [
                (400, "logit_bias")
            ] * 3
            assert [gateway.chat(model="few").status_code for _ in range(3)] == [200, 429, 429]
            assert gateway.chat(messages=[]).status_code == 400
            before = left(gateway)
            assert before == 20 - 3 - 1 - 1
        with Gateway(rules) as gateway:
            assert left(gateway) == before - 1


def test_calls_that_come_while_the_past_is_read_are_kept_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_early: list[Account] = []

    class Slow(Past):
        async def amounts(self, *how: Any, **more: Any) -> Any:
            found = await super().amounts(*how, **more)
            put_early.append(account())
            for tell in gateway.state.watchers:
                tell(put_early[-1])
            return found

    monkeypatch.setattr(module, "Past", Slow)
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
    assert len(put_early) == 1
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
            assert "the ledger's history cannot be read, so limits remember nothing of it" in gateway.log.getvalue()


# -- in its time


def said(work: Callable[[], None]) -> str:
    log = io.StringIO()
    handler = logger.add(log, level="WARNING", format="{message}")
    try:
        work()
    finally:
        logger.remove(handler)
    return log.getvalue()


def test_reading_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    desk = Desk("{overall: 10/day}")
    rows = [call(NOW - 10, "a", "m", 1, 0)] * 3000
    assert "remember nothing of it: it took more than 0 s" in said(lambda: restored(desk, sqlite_url(tmp_path), rows))
    assert desk.used() == [0]


def test_of_a_history_that_is_read_in_part_the_latest_part_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module._sums

    def tires(connection: Any, span: Span, *more: Any) -> Iterator[Sum]:
        if span.width > 60:
            raise LedgerAway("it was cut off")
        return read(connection, span, *more)

    monkeypatch.setattr(module, "_sums", tires)
    desk = Desk("{overall: [10/hour, 10/day]}")
    rows = [call(NOW - 10, "a", "m", 1, 0), call(NOW - 5000, "a", "m", 1, 0)]
    complaint = said(lambda: restored(desk, sqlite_url(tmp_path), rows))
    assert "only what came after 1970-01-12 12:46:40 UTC of it: it was cut off" in complaint
    assert desk.used() == [1, 1]
