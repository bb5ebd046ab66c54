"""Reasoning that led to a tool call goes back with the call's result, to servers that refuse the turn without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from addons.thoughts import KEPT, Thoughts
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn
from wire.errors import Cut
from wire.openai import FINISHED, Delta, Reading

KEY = "sk-ds-test"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(KEY) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(deepseek: DeepSeekStandIn) -> Iterator[Gateway]:
    rules = f"""
proxy: {{auth: {{tokens: [sk-one, sk-two]}}}}
providers: {{deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek.url}], key: {KEY}}}}}
rules: [{{name: all, use: [deepseek/deepseek-flash]}}]
"""
    with Gateway(rules) as made:
        yield made


def ask(gateway: Gateway, key: str, messages: list[Any], stream: bool = False) -> dict[str, Any]:
    """The message of a whole answer, or that of a stream put together."""
    body = {"model": "m", "messages": messages, "tools": TOOLS, "stream": stream}
    with gateway.client(key) as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not stream:
        return dict(answer.json()["choices"][0]["message"])
    calls: dict[int, Any] = {}
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                for call in choice["delta"].get("tool_calls", ()):
                    known = calls.setdefault(call["index"], {"id": "", "type": "function", "function": {}})
                    known["id"] = call.get("id") or known["id"]
                    for name, text in call["function"].items():
                        known["function"][name] = known["function"].get(name, "") + text
    return {"role": "assistant", "content": None, "tool_calls": [*calls.values()]}


def next_turn(message: dict[str, Any]) -> list[Any]:
    """What an OpenAI client sends then: the calls and their results, and no reasoning."""
    said = {name: message[name] for name in ("role", "content", "tool_calls")}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in message["tool_calls"]]
    return [{"role": "user", "content": "weather?"}, said, *results]


def sent_back(deepseek: DeepSeekStandIn) -> list[str | None]:
    body: Any = deepseek.chats[-1].json
    return [message.get("reasoning_content") for message in body["messages"] if message["role"] == "assistant"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_reasoning_of_a_tool_call_goes_back_with_its_result(
    gateway: Gateway, deepseek: DeepSeekStandIn, stream: bool
) -> None:
    message = ask(gateway, "sk-one", [{"role": "user", "content": "weather twice?"}], stream)
    assert len(message["tool_calls"]) == 2
    ask(gateway, "sk-one", next_turn(message))
    assert sent_back(deepseek) == ["".join(deepseek.reasoning)]


def test_one_client_never_gets_the_thoughts_of_another(gateway: Gateway, deepseek: DeepSeekStandIn) -> None:
    message = ask(gateway, "sk-one", [{"role": "user", "content": "weather?"}])
    ask(gateway, "sk-two", next_turn(message))
    assert sent_back(deepseek) == [""]


def test_what_the_caller_sends_back_itself_counts(gateway: Gateway, deepseek: DeepSeekStandIn) -> None:
    message = ask(gateway, "sk-one", [{"role": "user", "content": "weather?"}])
    turn = next_turn(message)
    turn[1]["reasoning_content"] = "my own"
    ask(gateway, "sk-one", turn)
    assert sent_back(deepseek) == ["my own"]


def test_calls_that_nobody_remembers_go_back_with_no_reasoning(gateway: Gateway, deepseek: DeepSeekStandIn) -> None:
    call = {"id": "call_unknown", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ask(gateway, "sk-one", next_turn({"role": "assistant", "content": None, "tool_calls": [call]}))
    assert sent_back(deepseek) == [""]


class Scripted:
    def __init__(self, *batches: list[Reading]) -> None:
        self.batches = list(batches)

    def feed(self, data: bytes) -> list[Reading]:
        return self.batches.pop(0)

    def close(self) -> list[Reading]:
        return self.feed(b"")


def call(name: str) -> Delta:
    return Delta({"tool_calls": [{"index": 0, "id": name, "function": {"name": "f", "arguments": ""}}]})


def heard(thoughts: Thoughts, *batches: list[Reading], client: str = "me") -> None:
    reply = thoughts.listen(client, Scripted(*batches))
    for _ in batches[1:]:
        reply.feed(b"")
    reply.close()


def test_only_a_complete_answer_is_remembered() -> None:
    thoughts = Thoughts(lambda: 0.0)
    heard(thoughts, [Delta({"reasoning_content": "a"}), call("1")], [Cut("broke off")])
    heard(thoughts, [Delta({"reasoning_content": "a"}), call("2")], [Delta({"reasoning_content": "b"}), FINISHED])
    heard(thoughts, [Delta({"reasoning_content": "no call"}), FINISHED])
    assert dict(thoughts.of("me")) == {"2": "ab"}
    assert len(thoughts.of("me")) == 1
    assert "2" not in thoughts.of("you")


def test_the_memory_is_bounded_in_size_and_time() -> None:
    now = [0.0]
    thoughts = Thoughts(lambda: now[0], max_chars=10)
    for name, text in (("1", "123456"), ("2", "12345"), ("3", "12345678901")):
        heard(thoughts, [Delta({"reasoning_content": text}), call(name), FINISHED])
    assert dict(thoughts.of("me")) == {"2": "12345"}
    now[0] = KEPT + 1
    assert dict(thoughts.of("me")) == {}
