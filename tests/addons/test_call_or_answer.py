"""Tools beside a schema for the answer, through the whole gateway: an agent calls its tool, and then reports as asked.

A local model is held to a format from its first word, so that of the answer alone would keep it from calling for ever.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.gateway import Gateway, quick_rules
from tests.standins import Say
from tests.standins.ollama import ModelCard, OllamaStandIn

ANY_SIZE: dict[str, Any] = {"type": "object", "properties": {"item": {"$ref": "#/$defs/Item"}}, "required": ["item"]}
ITEM: dict[str, Any] = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
ORDER: Any = {"type": "function", "function": {"name": "order", "parameters": ANY_SIZE | {"$defs": {"Item": ITEM}}}}
BILL: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}},
    "required": ["name", "items"],
    "additionalProperties": False,
    "$defs": {"Item": {"type": "integer"}},
}
STRICT: Any = {"type": "json_schema", "json_schema": {"name": "bill", "strict": True, "schema": BILL}}
ASKED: dict[str, Any] = {
    "model": "qwen2.5:7b",
    "messages": [{"role": "user", "content": "Tea, please"}],
    "tools": [ORDER],
    "response_format": STRICT,
}
PACE = 0.12
"""Seconds before each piece, where it is looked at when they come."""


class World(NamedTuple):
    ollama: OllamaStandIn
    client: httpx.Client

    def ask(self, **fields: Any) -> dict[str, Any]:
        reply = self.client.post("/v1/chat/completions", json=ASKED | fields)
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        found: dict[str, Any] = choice
        return found

    def stream(self, *pieces: str) -> tuple[list[tuple[float, dict[str, Any]]], list[str]]:
        """What comes of a stream of these pieces, each with its time, and the finish reasons."""
        self.ollama.plan(Say(list(pieces)))
        self.ollama.pace = PACE
        deltas, reasons = [], []
        try:
            with self.client.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        (choice,) = json.loads(line[6:])["choices"]
                        deltas.append((time.monotonic(), choice["delta"]))
                        reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
        finally:
            self.ollama.pace = 0.0
        return deltas, reasons


@pytest.fixture(scope="module", params=[False, True], ids=["a template", "the runner"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """On the one path of Ollama's such a call becomes a real one, on the other it stays text."""
    with (
        OllamaStandIn([ModelCard("qwen2.5:7b")], jinja=request.param) as ollama,
        Gateway(quick_rules(ollama=ollama.url)) as gateway,
        gateway.client() as client,
    ):
        yield World(ollama, client)


def test_an_agent_calls_its_tool_and_reports_by_the_schema(world: World) -> None:
    called = world.ask()
    assert (called["finish_reason"], called["message"]["content"]) == ("tool_calls", None)
    (call,) = called["message"]["tool_calls"]
    assert call["function"]["name"] == "order"
    assert json.loads(call["function"]["arguments"]) == {"item": {"what": "Oslo"}}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It comes"}
    reported = world.ask(messages=[*ASKED["messages"], called["message"], result])
    assert reported["finish_reason"] == "stop"
    assert "tool_calls" not in reported["message"]
    assert json.loads(reported["message"]["content"]) == {"name": "Oslo", "items": [7]}


def test_the_responses_api_gives_the_same(world: World) -> None:
    tool = {"type": "function", **ORDER["function"], "strict": False}
    form = {"type": "json_schema", **STRICT["json_schema"]}
    asked = {"model": ASKED["model"], "tools": [tool], "text": {"format": form}}
    question = {"role": "user", "content": "Tea, please"}
    (call,) = world.client.post("/v1/responses", json=asked | {"input": [question]}).json()["output"]
    assert (call["type"], call["name"]) == ("function_call", "order")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "It comes"}
    (said,) = world.client.post("/v1/responses", json=asked | {"input": [question, call, result]}).json()["output"]
    assert json.loads(said["content"][0]["text"]) == {"name": "Oslo", "items": [7]}


def test_in_json_mode_a_tool_can_be_called_and_any_object_is_the_answer(world: World) -> None:
    mode = {"type": "json_object"}
    called = world.ask(response_format=mode)
    assert [call["function"]["name"] for call in called["message"]["tool_calls"]] == ["order"]
    world.ollama.plan(Say(['{"name": ', '"order"}']))
    said = world.ask(response_format=mode)
    assert (said["finish_reason"], said["message"]["content"]) == ("stop", '{"name": "order"}')


def test_a_call_in_text_comes_as_the_model_writes_it(world: World) -> None:
    pieces = ('{"name"', ': "order"', ', "arguments"', ': {"item"', ': {"what":', ' "tea"}', "}", "}")
    deltas, reasons = world.stream(*pieces)
    fragments = [(at, call) for at, delta in deltas for call in delta.get("tool_calls", [])]
    assert reasons == ["tool_calls"]
    assert not any(delta.get("content") for _, delta in deltas)
    (began, first), *_, (ended, _) = fragments
    assert first["function"] == {"name": "order", "arguments": '{"item"'}
    assert ended - began > 2 * PACE
    assert "".join(call["function"]["arguments"] for _, call in fragments) == '{"item": {"what": "tea"}}'


def test_an_answer_comes_as_the_model_writes_it_once_it_cannot_be_a_call(world: World) -> None:
    deltas, reasons = world.stream('{"name"', ': "or', 'bit"', ', "items":', " [1,", " 2", "]}")
    texts = [(at, delta["content"]) for at, delta in deltas if delta.get("content")]
    assert reasons == ["stop"]
    assert [text for _, text in texts] == ['{"name": "orbit"', ', "items":', " [1,", " 2", "]}"]
    assert texts[-1][0] - texts[0][0] > 3 * PACE


def test_an_answer_that_does_not_fit_is_judged_as_ever(world: World) -> None:
    world.ollama.plan(Say(['{"name": "order", "items": "none"}']))
    reply = world.client.post("/v1/chat/completions", json=ASKED)
    assert reply.status_code == 502
    assert "is not what was asked for" in reply.json()["error"]["message"]
