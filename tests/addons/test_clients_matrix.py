"""The main faults as callers of every kind see them: HTTP/1.1, TLS, HTTP/2, and one connection for many calls."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from tests.addons.calls import (
    DEEPSEEK,
    OLLAMA,
    TEXT,
    Answer,
    Http2,
    World,
    ask_on,
    pieces,
    trusting,
    world,
)
from tests.standins import CutAfter, Plan, ResetBeforeHeaders, Silence, Status


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world(
        failover="attempts: 1, backoff: 10ms",
        patience="400ms",
    ) as made:
        made.ollama.reply = made.deepseek.reply = pieces(TEXT)
        yield made


def over_http_1(servers: World, model: str, stream: bool) -> Answer:
    return servers.ask(model, stream)


def over_tls(servers: World, model: str, stream: bool) -> Answer:
    port = servers.gateway.port
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=15, context=trusting())) as connection:
        return ask_on(connection, model, stream)


def over_http_2(servers: World, model: str, stream: bool) -> Answer:
    with Http2(servers.gateway) as client:
        number = client.ask(model, stream)
        client.read(lambda: number in client.ended)
        return client.answer(number)


CALLERS: dict[str, Callable[[World, str, bool], Answer]] = {
    "HTTP/1.1": over_http_1,
    "TLS": over_tls,
    "HTTP/2": over_http_2,
}
ORDERS = {"qwen2.5:7b": (OLLAMA, DEEPSEEK), "deep": (DEEPSEEK, OLLAMA)}


@dataclass(frozen=True)
class Row:
    plan: Plan
    joined: bool = False
    """The caller of a stream has the beginning of it from the first target."""
    status: int = 502
    """Where both targets fail so."""


ROWS = {
    "it resets before its headers": Row(ResetBeforeHeaders()),
    "it is overloaded": Row(Status(503), status=503),
    "it is silent": Row(Silence(), status=504),
    "it is cut in the middle": Row(CutAfter(5, "clean"), joined=True),
}
callers = pytest.mark.parametrize("call", CALLERS.values(), ids=CALLERS.keys())
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def exact(answer: Answer, stream: bool) -> None:
    assert (answer.status, answer.text, answer.finish) == (200, TEXT, ["stop"])
    assert (answer.streamed, answer.done) == (stream, int(stream))


@callers
@streamed_or_not
@rows
@pytest.mark.parametrize("model", ORDERS)
def test_the_next_target_completes_the_answer_for_callers_of_every_kind(
    servers: World, call: Callable[[World, str, bool], Answer], row: Row, model: str, stream: bool
) -> None:
    first, second = ORDERS[model]
    servers.standin(first).plan(row.plan)
    with servers.hurry():
        answer = call(servers, model, stream)
    exact(answer, stream)
    assert answer.target == (first if row.joined and stream else second)
    assert len(servers.standin(first).chats) == len(servers.standin(second).chats) == 1


@callers
@streamed_or_not
@rows
@pytest.mark.parametrize("model", ORDERS)
def test_where_all_fail_callers_of_every_kind_get_one_error(
    servers: World, call: Callable[[World, str, bool], Answer], row: Row, model: str, stream: bool
) -> None:
    servers.ollama.always = servers.deepseek.always = row.plan
    with servers.hurry():
        answer = call(servers, model, stream)
    begun = row.joined and stream
    assert answer.status == (200 if begun else row.status)
    assert all(target in answer.error["message"] for target in ORDERS[model])
    if begun:
        assert answer.text
        assert TEXT.startswith(answer.text)
        assert (answer.done, answer.finish, "error" in answer.chunks[-1]) == (1, [], True)


def sound(answer: Answer) -> bool:
    """True for an exact answer, False for an explicit error; fails for anything else."""
    if answer.status == 200 and answer.finish:
        exact(answer, answer.streamed)
        return True
    assert answer.error["message"]
    assert answer.status >= 429 or (answer.streamed and answer.done == 1)
    return False


TURNS = 200


def come_and_go(servers: World, turn: int) -> None:
    """Each server goes, and comes back, many times; now and then both are away."""
    if turn % 10 == 3:
        servers.ollama.stop()
    if turn % 10 == 8:
        servers.ollama.start()
    if turn % 25 == 11:
        servers.deepseek.stop()
    if turn % 25 == 16:
        servers.deepseek.start()


@dataclass
class Turns:
    """What may be expected of each call, and what came."""

    servers: World
    verdicts: list[bool] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    sure: bool = False
    hopeless: bool = False

    def begin(self, turn: int) -> None:
        come_and_go(self.servers, turn)
        ollama, deepseek = not 3 <= turn % 10 < 8, not 11 <= turn % 25 < 16
        # That Ollama is back is known a little later; until then it is passed over.
        known = self.servers.gateway.state.seen["ollama"].models is not None
        self.sure, self.hopeless = deepseek or (ollama and known), not ollama and not deepseek

    def end(self, turn: int, answer: Answer) -> None:
        verdict = sound(answer)
        self.verdicts.append(verdict)
        if (self.sure and not verdict) or (self.hopeless and verdict):
            self.wrong.append(turn)


def test_two_hundred_calls_on_one_http_1_connection_outlive_servers_that_come_and_go(servers: World) -> None:
    turns = Turns(servers)
    with closing(servers.connect()) as connection:
        for turn in range(TURNS):
            turns.begin(turn)
            turns.end(turn, ask_on(connection, ("qwen2.5:7b", "deep")[turn % 2], turn % 3 == 0))
    assert (turns.wrong, len(turns.verdicts)) == ([], TURNS)
    assert {True, False} == set(turns.verdicts)


def test_two_hundred_calls_on_one_http_2_connection_outlive_servers_that_come_and_go(servers: World) -> None:
    turns = Turns(servers)
    with Http2(servers.gateway) as client:
        for turn in range(TURNS):
            turns.begin(turn)
            number = client.ask(("qwen2.5:7b", "deep")[turn % 2], turn % 3 == 0)
            client.read(lambda number=number: number in client.ended)  # type: ignore[misc]
            turns.end(turn, client.answer(number))
    assert (turns.wrong, len(turns.verdicts)) == ([], TURNS)
    assert {True, False} == set(turns.verdicts)
