"""How the tests of the stand-ins ask them, and take their streams apart."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.standins import DeepSeekStandIn, OllamaStandIn

CITY: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "rain": {"type": "boolean"}},
        },
    },
}
ARGUMENTS = {"city": "Oslo", "days": 7, "rain": True}
HELLO = [{"role": "user", "content": "hello there"}]


def chat(client: httpx.Client, standin: OllamaStandIn, **fields: Any) -> httpx.Response:
    return client.post(f"{standin.url}/api/chat", json={"model": "qwen2.5:7b", "messages": HELLO, **fields})


def ask(client: httpx.Client, standin: DeepSeekStandIn, **fields: Any) -> httpx.Response:
    body = {"model": "deepseek-flash", "messages": HELLO, **fields}
    headers = {"Authorization": f"Bearer {standin.key}"}
    return client.post(f"{standin.url}/chat/completions", json=body, headers=headers)


def lines_of(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


def chunks_of(response: httpx.Response) -> list[Any]:
    events = [event for event in response.text.split("\n\n") if event]
    assert events[0] == ": keep-alive"
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[1:-1]]
