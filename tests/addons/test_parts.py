"""Several choices of servers that give one: asked at once, and one answer to the caller, whole or streamed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from addons.parts import AT_ONCE
from tests.addons.calls import DEEPSEEK, OLLAMA, SAID, Answer, World, world
from tests.standins import CutAfter, HoldAfter, Pace, ResetBeforeHeaders, Status, until
from wire.openai import FINISHED, ChatRequest, Delta, Usage, usage_object
from wire.parts import Joined, Part, split_chat


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world(failover="attempts: 1, mid_stream: continue, backoff: 10ms") as made:
        yield made


streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def texts(answer: Answer) -> dict[int, str]:
    """Choice -> its text."""
    found: dict[int, str] = defaultdict(str)
    if not answer.streamed:
        for choice in json.loads(answer.body)["choices"]:
            found[choice["index"]] = choice["message"]["content"]
    for chunk in answer.chunks:
        for choice in chunk.get("choices", ()):
            found[choice["index"]] += choice["delta"].get("content") or ""
    return dict(found)


def usage(answer: Answer) -> dict[str, Any]:
    found = json.loads(answer.body)["usage"] if not answer.streamed else answer.chunks[-1]["usage"]
    return dict(found)


@streamed_or_not
@pytest.mark.parametrize("model", ["qwen2.5:7b", "deep"])
def test_each_choice_is_a_call_of_its_own_and_the_caller_sees_one_answer(
    servers: World, model: str, stream: bool
) -> None:
    more = {"stream_options": {"include_usage": True}} if stream else {}
    target = {"qwen2.5:7b": OLLAMA, "deep": DEEPSEEK}[model]
    one = usage(servers.ask(model, stream, **more))
    servers.standin(target).seen.clear()
    answer = servers.ask(model, stream, n=3, seed=7 if target == OLLAMA else None, **more)
    assert answer.status == 200
    assert texts(answer) == dict.fromkeys(range(3), SAID[target])
    assert answer.finish == ["stop"] * 3
    assert answer.target == target
    assert usage(answer) == one | usage_object(one["prompt_tokens"], 3 * one["completion_tokens"])
    bodies: list[Any] = [seen.json for seen in servers.standin(target).chats]
    assert len(bodies) == 3
    assert not any("n" in body for body in bodies)
    if target == OLLAMA:
        assert sorted(body["options"]["seed"] for body in bodies) == [7, 8, 9]
    if stream:
        assert answer.done == 1
        roles = [chunk for chunk in answer.chunks for choice in chunk["choices"] if "role" in choice["delta"]]
        assert len(roles) == 3
        assert len({chunk["id"] for chunk in answer.chunks}) == 1


def test_the_choices_of_a_stream_come_side_by_side(servers: World) -> None:
    servers.ollama.always = Pace(0.05)
    answer = servers.ask(stream=True, n=2)
    order = [
        choice["index"] for chunk in answer.chunks for choice in chunk["choices"] if choice["delta"].get("content")
    ]
    assert order != sorted(order)


@streamed_or_not
def test_a_part_whose_target_fails_is_answered_by_the_next_one(servers: World, stream: bool) -> None:
    servers.ollama.plan(ResetBeforeHeaders())
    answer = servers.ask(stream=stream, n=3)
    assert answer.status == 200
    assert sorted(texts(answer).values()) == sorted([SAID[OLLAMA], SAID[OLLAMA], SAID[DEEPSEEK]])


def test_a_part_that_breaks_off_in_the_middle_is_continued_by_itself(servers: World) -> None:
    servers.ollama.pace = 0.02
    servers.deepseek.reply = servers.ollama.reply
    try:
        servers.ollama.plan(CutAfter(2))
        answer = servers.ask(stream=True, n=2)
    finally:
        servers.deepseek.reply = SAID[DEEPSEEK].replace(" ", "\0 ").split("\0")
    assert texts(answer) == {0: SAID[OLLAMA], 1: SAID[OLLAMA]}
    assert (len(servers.deepseek.chats), answer.done, answer.finish) == (1, 1, ["stop", "stop"])


@streamed_or_not
def test_a_part_that_nobody_can_answer_fails_the_call_and_ends_the_others(servers: World, stream: bool) -> None:
    servers.ollama.plan(HoldAfter(0), Status(500), HoldAfter(0))
    servers.deepseek.always = Status(503)
    answer = servers.ask(stream=stream, n=3)
    assert answer.status == 503
    assert "No target could answer" in answer.error["message"]
    assert until(lambda: servers.ollama.in_flight == 0)
    assert until(lambda: not servers.gateway.state.in_flight())


def test_a_part_that_fails_after_the_first_words_ends_the_stream_in_an_error(servers: World) -> None:
    servers.ollama.pace = 0.02
    servers.deepseek.always = Status(503)
    servers.ollama.plan(CutAfter(2))
    answer = servers.ask(stream=True, n=2)
    assert answer.status == 200
    assert "broke off" in answer.error["message"]
    assert answer.done == 1
    assert len(answer.finish) < 2


def test_a_bad_request_is_refused_once(servers: World) -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:text/plain,hello"}}]
    servers.deepseek.always = Status(400, {"error": {"message": "no such image", "type": "invalid_request_error"}})
    answer = servers.ask(n=3, messages=[{"role": "user", "content": content}])
    assert answer.status == 400


def test_a_caller_who_leaves_ends_all_parts(servers: World) -> None:
    servers.ollama.always = HoldAfter(1)
    connection = servers.connect()
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({"model": "m", "stream": True, "n": 4, "messages": [{"role": "user", "content": "hi"}]}),
        {"content-type": "application/json"},
    )
    assert until(lambda: servers.ollama.holding == 4)
    connection.close()
    assert until(lambda: servers.ollama.in_flight == 0)
    assert until(lambda: not servers.gateway.state.in_flight())


def test_many_choices_take_turns(servers: World) -> None:
    answer = servers.ask(n=3 * AT_ONCE)
    assert texts(answer) == dict.fromkeys(range(3 * AT_ONCE), SAID[OLLAMA])
    assert servers.ollama.most_in_flight <= AT_ONCE


def test_the_log_has_one_line_for_all_parts(servers: World) -> None:
    before = len(servers.gateway.log.getvalue())
    servers.ask(n=3)
    servers.gateway.until(lambda: "3 parts" in servers.gateway.log.getvalue()[before:], "the log line")
    assert servers.gateway.log.getvalue()[before:].count("/v1/chat/completions") == 1


def test_a_connection_serves_on_after_a_call_in_parts(servers: World) -> None:
    connection = servers.connect()
    for _ in range(3):
        for more in ({"n": 2}, {}):
            body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}], **more}
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            choices = json.loads(connection.getresponse().read())["choices"]
            assert [choice["message"]["content"] for choice in choices] == [SAID[OLLAMA]] * body.get("n", 1)  # type: ignore[operator]
    connection.close()


# ---------------------------------------------------------------------------------------------------------
# As values


def asked(**body: object) -> ChatRequest:
    return ChatRequest(body={"model": "m", "messages": [], **body}, model="m")


def test_seeds_are_counted_up_and_one_choice_needs_no_parts() -> None:
    assert [part.request.body for part in split_chat(asked(n=3, seed=5))] == [
        {"model": "m", "messages": [], "seed": seed} for seed in (5, 6, 7)
    ]
    assert [part.choice for part in split_chat(asked(n=3))] == [0, 1, 2]
    assert split_chat(asked()) == split_chat(asked(n=1)) == ()


def test_a_prompt_is_counted_once_and_answers_are_added() -> None:
    parts = [Part(asked(), 0, 0), Part(asked(), 1, 0), Part(asked(), 2, 1)]
    joined = Joined(parts)
    details = {"completion_tokens_details": {"reasoning_tokens": 2}, "prompt_tokens_details": {"cached_tokens": 3}}
    for number in (2, 0):
        assert joined.read(number, [Delta({"content": "a"}), Usage(usage_object(10, 5) | details), FINISHED]) == [
            Delta({"content": "a"}, choice=number)
        ]
    assert joined.read(1, [Usage(usage_object(10, 5) | details), FINISHED]) == [
        Usage(
            usage_object(20, 15)
            | {
                "completion_tokens_details": {"reasoning_tokens": 6},
                "prompt_tokens_details": {"cached_tokens": 6},
            }
        ),
        FINISHED,
    ]
