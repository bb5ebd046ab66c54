"""An answer that was to be JSON is judged before its caller sees an end: what does not fit is a failure of the target's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.addons.calls import DEEPSEEK, OLLAMA, World, world
from tests.standins import Say

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
GOOD, BAD = '{"city": "Bonn"}', '{"town": "Bonn"}'


def asked_for(kind: str = "strict") -> dict[str, Any]:
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "JSON, please"}]}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA, "strict": True}}}


@contextmanager
def servers_with(repair: bool) -> Iterator[World]:
    with world(failover=f"attempts: 1, backoff: 10ms, repair: {str(repair).lower()}") as made:
        yield made


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    with servers_with(getattr(request, "param", False)) as made:
        yield made


repairing = pytest.mark.parametrize("shared", [True], ids=["with repair"], indirect=True)


@pytest.mark.parametrize("model", ["qwen2.5:7b", "deep"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_fits_is_the_answer(servers: World, model: str, stream: bool) -> None:
    for standin in (servers.ollama, servers.deepseek):
        standin.always = Say(['{"city":', ' "Bonn"}'])
    answer = servers.ask(model, stream, **asked_for())
    assert (answer.status, answer.text, answer.finish) == (200, GOOD, ["stop"])


@pytest.mark.parametrize("model", ["qwen2.5:7b", "deep"])
def test_what_does_not_fit_is_asked_of_the_next_target(servers: World, model: str) -> None:
    first, second = (OLLAMA, DEEPSEEK) if model == "qwen2.5:7b" else (DEEPSEEK, OLLAMA)
    servers.standin(first).always, servers.standin(second).always = Say([BAD]), Say([GOOD])
    answer = servers.ask(model, **asked_for())
    assert (answer.status, answer.text, answer.target) == (200, GOOD, second)


def test_where_nobody_gives_what_was_asked_for_the_error_says_what_is_wrong(servers: World) -> None:
    for standin in (servers.ollama, servers.deepseek):
        standin.always = Say([BAD])
    answer = servers.ask(**asked_for())
    assert answer.status == 502
    assert "is not what was asked for" in answer.error["message"]
    assert '"city" is a required property' in answer.error["message"]
    assert "Bonn" not in answer.error["message"]


def test_a_stream_that_does_not_fit_ends_in_an_error_and_never_looks_complete(servers: World) -> None:
    servers.ollama.always, servers.ollama.pace = Say([BAD[:5], BAD[5:]]), 0.03  # so that the caller has a part of it
    answer = servers.ask(stream=True, **asked_for())
    assert (answer.text, answer.finish, answer.done) == (BAD, [], 1)
    assert "is not what was asked for" in answer.error["message"]


def test_json_mode_takes_any_object_and_nothing_else(servers: World) -> None:
    servers.ollama.plan(Say([BAD]), Say(["[1]"]))
    servers.deepseek.always = Say([GOOD])
    assert servers.ask(**asked_for("json_object")).text == BAD
    assert servers.ask(**asked_for("json_object")).text == GOOD


def test_a_schema_that_is_none_is_refused_before_anybody_is_asked(servers: World) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "strange"}, "strict": True}}
    answer = servers.ask(response_format=form)
    assert (answer.status, answer.error["param"]) == (400, "response_format.json_schema.schema")
    assert servers.ollama.chats == servers.deepseek.chats == []


@repairing
def test_a_target_may_correct_its_answer_once(servers: World) -> None:
    servers.ollama.plan(Say([BAD]), Say([GOOD]))
    answer = servers.ask(**asked_for())
    assert (answer.status, answer.text, answer.target) == (200, GOOD, OLLAMA)
    first, second = [json.loads(seen.body)["messages"] for seen in servers.ollama.chats]
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": BAD}
    assert '"city" is a required property' in second[-1]["content"]
    assert servers.deepseek.chats == []


@repairing
def test_one_that_does_not_mend_it_is_followed_by_the_next(servers: World) -> None:
    servers.ollama.always, servers.deepseek.always = Say([BAD]), Say([GOOD])
    answer = servers.ask(**asked_for())
    assert (answer.text, answer.target) == (GOOD, DEEPSEEK)
    assert (len(servers.ollama.chats), len(servers.deepseek.chats)) == (2, 1)
