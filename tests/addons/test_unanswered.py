"""A target that has a whole request works for it, though nobody waits for its first word: that is counted as far as it
can be estimated, and marked. What was never sent, or was refused, costs nothing."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from addons.account import Account
from addons.exchange import Attempt as Attempted
from rules.prices import NONE_COUNTED
from tests.addons.desk import Desk
from tests.addons.money import (
    DEEP,
    FREE,
    LOCAL,
    RAW,
    READS,
    SAYS,
    Attempt,
    World,
    chat,
    check,
    guessed,
    ok,
    on_paper,
    refused,
)
from tests.standins import ResetBeforeHeaders, Silence, Status
from tests.standins.raw import Expect, Reset, Send, Step, Wait, head
from tests.wire.forms import CONTENT_TYPE, recording
from wire.errors import ConnectFailed, Cut, Fault, Overloaded, TimedOut

SILENT: list[Step] = [Expect(), Wait(30)]
SPEECH = {"input": "hello there", "voice": "alloy"}


def left(world: World, path: str, body: dict[str, Any] | bytes, *, before: Any = None) -> Account:
    """Asks, and leaves when some server has the request, or when that is so."""
    told, asked = len(world.accounts), calls_of(world)
    raw, kind = (body, CONTENT_TYPE) if isinstance(body, bytes) else (json.dumps(body).encode(), "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=10)
    connection.request("POST", f"/v1{path}", raw, {"content-type": kind})
    world.gateway.until(before or (lambda: calls_of(world) > asked and is_awaited(world)), "a server has the request")
    connection.close()
    return world.next_after(told)


def is_awaited(world: World) -> bool:
    return all(call.attempts and call.attempts[-1].awaited for call in world.gateway.state.in_flight() if call.plan)


def calls_of(world: World) -> int:
    return sum(len(server.chats) for server in (world.ollama, world.deepseek, world.texts)) + sum(
        seen.method == "POST" for seen in world.raw.seen
    )


def silent(world: World) -> None:
    world.raw.scripts = [SILENT]
    for server in (world.ollama, world.deepseek, world.texts):
        server.plan(Silence())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/chat/completions", chat("deep"), guessed(DEEP, "left", 0)),
        ("/chat/completions", chat("raw"), guessed(RAW, "left", 0)),
        ("/chat/completions", chat("any"), guessed(LOCAL, "left", 0)),
        ("/completions", {"model": "free", "prompt": "once upon a time"}, guessed(FREE, "left", 0)),
        ("/responses", {"model": "deep", "input": "hello there"}, guessed(DEEP, "left", 0)),
        ("/images/generations", {"model": "raw", "prompt": "a llama"}, guessed(RAW, "left", 0)),
        ("/images/generations", {"model": "says", "prompt": "a llama"}, guessed(SAYS, "left", 0, unpriced=True)),
    ],
)
def test_who_leaves_before_any_answer_pays_for_what_was_sent(
    world: World, path: str, body: dict[str, Any], expected: Attempt, stream: bool
) -> None:
    silent(world)
    account = left(world, path, {**body, "stream": stream})
    assert (account.status, account.target, account.failed_cost) == (499, expected.target, 0)
    check(account, [expected])


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/embeddings", {"model": "raw", "input": "hello there"}, guessed(RAW, "left", 0)),
        ("/audio/speech", {"model": "raw", **SPEECH}, guessed(RAW, "left", 0)),
        ("/audio/speech", {"model": "reads", **SPEECH}, guessed(READS, "left", 0)),
        ("/audio/speech", {"model": "says", **SPEECH}, guessed(SAYS, "left", 0, unpriced=True)),
        ("/audio/transcriptions", recording(model="raw", prompt="hello there"), guessed(RAW, "left", 0)),
        (
            "/audio/transcriptions",
            recording(model="reads", prompt="hi there"),
            guessed(READS, "left", 0, unpriced=True),
        ),
    ],
)
def test_of_every_kind_of_call(world: World, path: str, body: dict[str, Any] | bytes, expected: Attempt) -> None:
    silent(world)
    check(left(world, path, body), [expected])


def test_a_recording_without_a_text_costs_its_request_and_that_is_an_estimate_too(world: World) -> None:
    silent(world)
    account = left(world, "/audio/transcriptions", recording(model="raw"))
    (one,) = account.tried
    assert (one.outcome, one.estimated, one.cost) == ("left", True, on_paper(RAW, one.tokens))
    assert account.cost >= 2_000_000


def test_each_part_of_a_call_is_sent_its_prompt(world: World) -> None:
    silent(world)
    world.ollama.plan(Silence())
    before = len(world.ollama.chats)
    account = left(world, "/chat/completions", chat("any", n=2), before=lambda: len(world.ollama.chats) == before + 2)
    check(account, [guessed(LOCAL, "left", 0), guessed(LOCAL, "left", 0)])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_who_did_not_begin_in_time_is_paid_for_the_prompt_and_the_next_for_all(world: World, stream: bool) -> None:
    world.deepseek.plan(Silence())
    status, account = world.ask("/chat/completions", chat("deep-first", stream=stream))
    assert status == 200
    check(account, [guessed(DEEP, "first_token", 0), ok(LOCAL, 5, 5)])
    assert account.failed_cost > 0


def test_whom_nobody_answered_in_time_pays_for_what_was_sent(world: World) -> None:
    silent(world)
    with world.gateway.hurried(0.5):
        _, account = world.ask("/chat/completions", chat("deep"))
    check(account, [guessed(DEEP, "first_token", 0)])


# -- what costs nothing


def answered(status: str, body: bytes, size: int) -> list[Step]:
    return [Expect(), Send(head(status, {"Content-Type": "application/json", "Content-Length": str(size)}) + body)]


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([Expect(), Reset()], "reset"),
        ([Reset()], "reset"),
        (answered("500 Oh", b"{}", 2), "status_500"),
        (answered("503 Oh", b"{}", 2), "status_503"),
        ([*answered("400 No", b"{", 20), Wait(30)], "first_token"),
        ([*answered("503 Oh", b"{", 20), Wait(30)], "status_503"),
    ],
    ids=["reset", "reset at once", "broken", "overloaded", "a refusal that takes too long", "another one"],
)
def test_what_broke_or_was_refused_costs_nothing(world: World, script: list[Step], outcome: str) -> None:
    world.raw.scripts = [script]
    _, account = world.ask("/chat/completions", chat("raw"))
    assert {one.outcome for one in account.tried} == {outcome}
    assert (account.tokens, account.cost, account.estimated, account.unpriced) == (NONE_COUNTED, 0, False, False)


def test_who_leaves_while_a_refusal_is_read_pays_nothing(world: World) -> None:
    world.raw.scripts = [[*answered("503 Oh", b"{", 20), Wait(30)]]
    state = world.gateway.state

    def refuses() -> bool:
        return any(
            one.node is not None and one.entered >= 0 and not one.awaited and calls_of(world) > before
            for call in state.in_flight()
            for one in call.attempts
        )

    before = calls_of(world)
    account = left(world, "/chat/completions", chat("raw"), before=refuses)
    check(account, [refused(RAW, "left")])


def test_nobody_pays_for_a_server_that_is_not_there(world: World) -> None:
    world.deepseek.plan(ResetBeforeHeaders())
    world.ollama.plan(Status(500))
    _, account = world.ask("/chat/completions", chat("deep-first"))
    check(account, [refused(DEEP, "reset"), refused(LOCAL, "status_500")])


# -- limits


@pytest.mark.parametrize(
    ("attempt", "used"),
    [
        ({"awaited": True}, True),
        ({"awaited": True, "fault": TimedOut("x")}, True),
        ({"awaited": True, "fault": TimedOut("x", kind="total")}, True),
        ({"awaited": True, "fault": Cut("x", kind="reset")}, False),
        ({"awaited": True, "fault": Overloaded("x")}, False),
        ({"fault": TimedOut("x", kind="connect")}, False),
        ({"fault": ConnectFailed("x")}, False),
        ({}, False),
    ],
)
def test_limits_are_settled_with_the_same(attempt: dict[str, Fault | bool], used: bool) -> None:
    desk = Desk("{each_client: [10000 tokens/minute, 5/minute, 2 parallel, 1 USD/day]}")
    for forgotten in (False, True):
        before = desk.used()
        exchange = desk.admit(model="paid", chars=400)
        assert exchange.decision is not None
        taken = [now - then for now, then in zip(desk.used(), before, strict=True)]
        one = Attempted(exchange.decision.targets[0], 0.0, tried=True, chars_sent=400)
        for name, value in attempt.items():
            setattr(one, name, value)
        exchange.attempts.append(one)
        if forgotten:
            desk.limiter.forget(exchange)
        else:
            desk.over(exchange)
        told = [now - then for now, then in zip(desk.used(), before, strict=True)]
        assert told[1:3] == [0 if forgotten and not used else 1, 0]
        expected = [taken[0], taken[3]] if forgotten else [100, 100_000]
        assert [told[0], told[3]] == (expected if used else [0, 0])
