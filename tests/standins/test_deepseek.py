"""The stand-in for DeepSeek: that it answers and refuses as the real server does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.standins import DeepSeekStandIn
from tests.standins.asking import ARGUMENTS, CITY, HELLO, ask, chunks_of


def test_deepseek_streams(client: httpx.Client) -> None:
    with DeepSeekStandIn() as deepseek:
        response = ask(client, deepseek, stream=True, stream_options={"include_usage": True})
    chunks = chunks_of(response)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-ds-trace-id"]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "The user wants an answer."
    assert "".join(delta.get("content") or "" for delta in deltas) == "You said: hello there"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["prompt_cache_hit_tokens"] == 2
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_deepseek_whole_answer(client: httpx.Client) -> None:
    with DeepSeekStandIn() as deepseek:
        response = ask(client, deepseek, max_tokens=7, max_completion_tokens=1, seed=1)
        undocumented = deepseek.undocumented
    choice = response.json()["choices"][0]
    assert response.content.startswith(b"\n\n{")
    assert choice["message"]["reasoning_content"] == "The user wants an answer."
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said:", "length")
    assert undocumented == {"max_completion_tokens", "seed"}


def test_deepseek_streams_calls_in_fragments(deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    twice = [{"role": "user", "content": "look twice"}]
    chunks = chunks_of(ask(client, deepseek, messages=twice, tools=[CITY], stream=True))
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    first, *rest = [call for call in calls if call["index"] == 1]
    assert (first["type"], first["function"]) == ("function", {"name": "get_city", "arguments": ""})
    assert all("id" not in call for call in rest)
    assert json.loads("".join(call["function"]["arguments"] for call in rest)) == ARGUMENTS
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def called(**fields: object) -> list[Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "get_city", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], **fields}
    return [*HELLO, turn, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": [{"role": "developer", "content": "x"}]}, "unknown variant `developer`"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "This response_format type is unavailable now"),
        ({"response_format": {"type": "json_object"}}, "Prompt must contain the word 'json'"),
        ({"model": "deepseek-chat"}, "The supported API model names are deepseek-flash or deepseek-v4-pro, but you passed deepseek-chat."),
        ({"tools": [CITY], "tool_choice": "required"}, "Thinking mode does not support this tool_choice"),
        ({"tools": [CITY], "tool_choice": {"type": "function", "function": {"name": "get_city"}}}, "Thinking mode does not support this tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "unknown variant `custom`"),
        ({"messages": [*HELLO, {"role": "assistant", "content": None}]}, "content or tool_calls must be set"),
        ({"messages": called()}, "The `reasoning_content` in the thinking mode must be passed back to the API."),
        ({"messages": called(reasoning_content="")[:-1]}, "insufficient tool messages"),
        ({"temperature": "hot"}, "temperature: invalid type"),
        ({"reasoning_effort": "none"}, "unknown variant `none`"),
    ],
)  # fmt: skip
def test_deepseek_refuses(client: httpx.Client, fields: dict[str, Any], text: str) -> None:
    with DeepSeekStandIn() as deepseek:
        response = ask(client, deepseek, **fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert text in error["message"]
    assert (error["param"], error["code"]) == (None, "invalid_request_error")


def test_deepseek_allows_it_when_not_thinking(client: httpx.Client) -> None:
    with DeepSeekStandIn() as deepseek:
        off = {"thinking": {"type": "disabled"}}
        forced = ask(client, deepseek, tools=[CITY], tool_choice="required", **off).json()
        after = ask(client, deepseek, messages=called(), **off).json()
        kept = ask(client, deepseek, messages=called(reasoning_content=" ")).json()
    assert json.loads(forced["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == ARGUMENTS
    assert after["choices"][0]["message"]["content"] == "The tool said: rain"
    assert kept["choices"][0]["message"]["content"] == "The tool said: rain"


def test_deepseek_key_and_models(deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    url = f"{deepseek.url}/models"
    keyless = client.get(url)
    assert "set-cookie" in keyless.headers
    client.cookies.clear()
    wrong = client.get(url, headers={"Authorization": "Bearer sk-other", "OpenAI-Project": "p", "X-Stainless-OS": "x"})
    right = client.get(url, headers={"Authorization": f"Bearer {deepseek.key}"}).json()
    assert (keyless.status_code, wrong.status_code) == (401, 401)
    assert "Authentication Fails" in wrong.json()["error"]["message"]
    assert [set(row) for row in right["data"]] == [{"id", "object", "owned_by"}] * 2
    names = ["OpenAI-Project", "X-Stainless-OS", "authorization", "Cookie"]  # httpx gives the cookie back
    assert deepseek.leaked == [f"/models: {name}" for name in names]
