"""A tool that must be called, through the whole gateway: a local model that knows no such thing makes the call in text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway import Gateway, patient, quick_rules
from tests.standins.ollama import ModelCard, OllamaStandIn

PIECES = ['{"name"', ': "order",', ' "arguments": {"what":', ' "tea",', ' "sugar":', " [2,", ' "or 3"]', "}", "}"]
IDLE = "700ms"
PACE = 0.12
"""Seconds before each piece: all of them take longer than the idle limit, each of them less."""
ORDER = {"type": "function", "function": {"name": "order", "parameters": {"type": "object", "properties": {}}}}
ASKED = {
    "model": "qwen2.5:7b",
    "messages": [{"role": "user", "content": "Tea, please"}],
    "tools": [ORDER],
    "tool_choice": {"type": "function", "function": {"name": "order"}},
}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with OllamaStandIn([ModelCard("qwen2.5:7b")], jinja=True, reply=PIECES) as ollama:
        ollama.pace = PACE
        with Gateway(quick_rules(ollama=ollama.url, timeouts=patient(idle=IDLE))) as gateway, gateway.client() as made:
            yield made


def test_a_whole_answer_has_the_call(client: httpx.Client) -> None:
    (choice,) = client.post("/v1/chat/completions", json=ASKED).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "order")
    assert json.loads(call["function"]["arguments"]) == {"what": "tea", "sugar": [2, "or 3"]}


def test_a_streamed_call_comes_as_the_model_writes_it(client: httpx.Client) -> None:
    fragments: list[tuple[float, Any]] = []
    reasons: list[str] = []
    with client.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                assert not choice["delta"].get("content")
                fragments += [(time.monotonic(), call) for call in choice["delta"].get("tool_calls", [])]
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert reasons == ["tool_calls"]
    (began, first), *_, (ended, _) = fragments
    assert first["function"] == {"name": "order", "arguments": ""}
    assert ended - began > 3 * PACE  # the name is there long before the call is over
    assert "".join(call["function"]["arguments"] for _, call in fragments) == "".join(PIECES[2:8]).removeprefix(
        ' "arguments": '
    )
