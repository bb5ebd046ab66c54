"""Calls of tools through the whole gateway, in every way in which callers ask for them, at servers that know few of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway import Gateway
from tests.standins.deepseek import DeepSeekStandIn
from tests.standins.ollama import ModelCard, OllamaStandIn

KEY = "sk-upstream"
MODELS = ("qwen2.5:7b", "deepseek-flash")
RULES = """
providers:
  ollama: {{dialect: ollama, urls: [{ollama}]}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: {key}}}
rules:
  - {{name: deep, when: {{model: deepseek-flash}}, use: [deepseek/deepseek-flash]}}
  - {{name: local, use: ["ollama/{{model}}"]}}
"""
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather", "parameters": CITY}
NOTE = {"type": "custom", "custom": {"name": "note", "description": "Writes a note"}}


@pytest.fixture(scope="module")
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(KEY) as made:
        yield made


@pytest.fixture(scope="module")
def client(deepseek: DeepSeekStandIn) -> Iterator[httpx.Client]:
    with (
        OllamaStandIn([ModelCard("qwen2.5:7b")]) as ollama,
        Gateway(RULES.format(ollama=ollama.url, deepseek=deepseek.url, key=KEY)) as gateway,
        gateway.client() as made,
    ):
        yield made


def _choice(client: httpx.Client, model: str, stream: bool, **asked: Any) -> Any:
    """The choice of a whole answer, or what a stream adds up to: text by text, call by call."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream} | asked
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not stream:
        return answer.json()["choices"][0]
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    message: dict[str, Any] = {}
    reason = None
    for choice in (event["choices"][0] for event in events):
        reason = choice["finish_reason"] or reason
        delta = choice["delta"]
        for key, value in delta.get("function_call", {}).items():
            message.setdefault("function_call", {}).setdefault(key, "")
            message["function_call"][key] += value
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({"id": call["id"], "type": call["type"], call["type"]: {}})
            known = calls[call["index"]]
            for key, value in call.get(known["type"], {}).items():
                known[known["type"]][key] = known[known["type"]].get(key, "") + value
    return {"message": message, "finish_reason": reason}


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
everywhere = pytest.mark.parametrize("model", MODELS)


@both
@everywhere
def test_who_asks_with_functions_gets_a_function_call(client: httpx.Client, model: str, stream: bool) -> None:
    choice = _choice(client, model, stream, functions=[WEATHER], function_call={"name": "weather"})
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "weather"
    assert set(json.loads(choice["message"]["function_call"]["arguments"])) == {"city"}
    assert "tool_calls" not in choice["message"]


@both
@everywhere
def test_the_result_of_a_function_is_understood(client: httpx.Client, model: str, stream: bool) -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    history = [{"role": "user", "content": "Hi"}, call, {"role": "function", "name": "weather", "content": "rain"}]
    choice = _choice(client, model, stream, functions=[WEATHER], messages=history)
    assert choice["finish_reason"] == "stop"


@both
@everywhere
def test_who_has_custom_tools_gets_custom_calls(client: httpx.Client, model: str, stream: bool) -> None:
    choice = _choice(client, model, stream, tools=[NOTE], tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["custom"]["name"]) == ("custom", "note")
    assert call["custom"]["input"]
    assert not call["custom"]["input"].startswith("{")


@both
@everywhere
def test_of_allowed_tools_another_one_is_never_called(client: httpx.Client, model: str, stream: bool) -> None:
    tools = [NOTE, {"type": "function", "function": WEATHER}]
    weather = {"type": "function", "function": {"name": "weather"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [weather]}}
    choice = _choice(client, model, stream, tools=tools, tool_choice=allowed)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"


@both
def test_one_call_at_a_time_is_one_call(client: httpx.Client, stream: bool) -> None:
    asked = {"tools": [{"type": "function", "function": WEATHER}], "messages": [{"role": "user", "content": "twice"}]}
    many = _choice(client, "deepseek-flash", stream, **asked)
    assert len(many["message"]["tool_calls"]) == 2
    one = _choice(client, "deepseek-flash", stream, parallel_tool_calls=False, **asked)
    assert len(one["message"]["tool_calls"]) == 1


def test_a_fault_names_the_function_as_the_caller_did(client: httpx.Client) -> None:
    body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hi"}], "functions": [{"name": 5}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "functions[0]")


def test_nothing_that_deepseek_does_not_document_was_sent_to_it(
    client: httpx.Client, deepseek: DeepSeekStandIn
) -> None:
    more = {"seed": 1, "user": "ann", "verbosity": "low", "metadata": {"a": "b"}, "reasoning": {"effort": "minimal"}}
    body = {"model": "deepseek-flash", "messages": [{"role": "developer", "content": "Hi"}], **more}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-gateway-dropped"] == "seed, user, metadata"
    assert deepseek.undocumented == set()
    message = answer.json()["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "The user wants an answer."
    assert answer.json()["system_fingerprint"] == "fp_stand_in_prod"
