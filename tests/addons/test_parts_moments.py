"""The parts of a call go on while a hook runs for one of them: whatever comes of it meanwhile, the stream stays sound."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from mitmproxy.http import HTTPFlow

from addons.parts import FanOut
from addons.response import Response
from tests.addons.calls import OLLAMA, PATH, SAID, Answer, World, idle_nodes, read_answer, world
from tests.gateway import patient
from tests.standins import HoldAfter, Normal, Pace, Silence, Status, until

HOOK = 0.15
"""Seconds that the hook takes before headers go out: in mitmweb somebody may look at them."""


async def _take_time(_self: Response, _flow: HTTPFlow) -> None:
    await asyncio.sleep(HOOK)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    timeouts = patient(keep_alive="60ms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Response, "responseheaders", _take_time, raising=False)
        with world(timeouts=timeouts, failover="attempts: 1, mid_stream: continue, backoff: 10ms") as made:
            yield made


def texts(answer: Answer) -> dict[int, str]:
    """Choice -> its text, of a stream."""
    found: dict[int, str] = {}
    for chunk in answer.chunks:
        for choice in chunk.get("choices", ()):
            found[choice["index"]] = found.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return found


def test_all_parts_may_end_while_the_headers_of_a_first_comment_are_held_back(servers: World) -> None:
    servers.ollama.always = Silence(0.12, "answer")
    answer = servers.ask(stream=True, n=2)
    assert texts(answer) == {0: SAID[OLLAMA], 1: SAID[OLLAMA]}
    assert (answer.done, answer.finish) == (1, ["stop", "stop"])


def test_a_comment_waits_for_the_headers_that_a_part_has_asked_for(servers: World) -> None:
    servers.ollama.always = Pace(0.05)
    answer = servers.ask(stream=True, n=2)
    assert texts(answer) == {0: SAID[OLLAMA], 1: SAID[OLLAMA]}
    assert (answer.done, answer.finish) == (1, ["stop", "stop"])


def test_a_part_that_fails_while_another_ones_headers_are_held_back_has_the_last_word(servers: World) -> None:
    servers.ollama.plan(Normal(), Silence(0.03, "close"))
    servers.deepseek.always = Status(503)
    answer = servers.ask(stream=True, n=2)
    assert answer.done == 1
    assert "No target could answer" in answer.error["message"]


def test_a_caller_may_leave_while_headers_are_held_back(servers: World) -> None:
    servers.ollama.always = HoldAfter(2)
    connection = servers.connect()
    body = {"model": "m", "stream": True, "n": 4, "messages": [{"role": "user", "content": "hi"}]}
    connection.request("POST", PATH, json.dumps(body))
    assert until(lambda: servers.ollama.holding == 4)
    connection.close()
    assert until(lambda: servers.ollama.in_flight == 0)
    assert until(lambda: not servers.gateway.state.in_flight())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("where", ["_note_target", "_begin_next", "part_done"])
def test_a_bug_in_what_a_part_does_for_the_whole_call_ends_the_call(
    shared: World, monkeypatch: pytest.MonkeyPatch, where: str, stream: bool
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    shared.reset()
    shared.ollama.always = Pace(0.01)
    connection = shared.connect()
    body = {"model": "qwen2.5:7b", "stream": stream, "n": 2, "messages": [{"role": "user", "content": "hi"}]}
    connection.request("POST", PATH, json.dumps(body))
    assert until(lambda: shared.ollama.in_flight == 2)
    monkeypatch.setattr(FanOut, where, broken)
    response = connection.getresponse()
    answer = read_answer(response.status, dict(response.getheaders()), response.read())
    assert answer.status == (200 if answer.streamed else 500)
    assert "internal error" in answer.error["message"]
    connection.close()
    monkeypatch.undo()
    assert until(lambda: not shared.gateway.state.in_flight())
    idle_nodes(shared.gateway)
    assert shared.ask(stream=stream, n=2).status == 200
