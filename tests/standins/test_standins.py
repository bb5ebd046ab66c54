"""The stand-ins themselves: that they answer and refuse as the real servers do, and break as they are told."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.standins import (
    BadLine,
    Blank,
    CutAfter,
    DeepSeekStandIn,
    EmptyDeltas,
    ErrorAfter,
    Finish,
    Garbage,
    GarbageBody,
    HalfLine,
    HoldAfter,
    KeepAliveOnly,
    Lines,
    ModelCard,
    Normal,
    OllamaStandIn,
    Pace,
    Plan,
    Prefill,
    RawServer,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Say,
    Silence,
    SilenceAfterHeaders,
    Status,
    raw,
    until,
)

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


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn() as standin:
        yield standin


@pytest.fixture
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(thinking=False) as standin:
        yield standin


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    # An empty TLS context: httpx would read all certificates of the world for each client.
    with httpx.Client(trust_env=False, timeout=5, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as made:
        yield made


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


# Ollama


def test_ollama_streams_by_default(ollama: OllamaStandIn, client: httpx.Client) -> None:
    response = chat(client, ollama)
    lines = lines_of(response)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["transfer-encoding"] == "chunked"
    assert [line["message"]["content"] for line in lines] == ["You", " said:", " hello", " there", ""]
    assert [line["done"] for line in lines] == [False] * 4 + [True]
    assert lines[-1]["done_reason"] == "stop"
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (5, 4)
    assert [seen.json["model"] for seen in ollama.chats if seen.json] == ["qwen2.5:7b"]


def test_ollama_whole_answer_limit_and_stop(ollama: OllamaStandIn, client: httpx.Client) -> None:
    whole = chat(client, ollama, stream=False).json()
    cut = chat(client, ollama, stream=False, model="QWEN2.5:7B", options={"num_predict": 0}).json()
    stopped = chat(client, ollama, stream=False, options={"stop": ["the"]}).json()
    assert whole["message"] == {"role": "assistant", "content": "You said: hello there"}
    assert (cut["model"], cut["message"]["content"], cut["done_reason"]) == ("QWEN2.5:7B", "You", "length")
    assert (stopped["message"]["content"], stopped["done_reason"]) == ("You said: hello ", "stop")


@pytest.mark.parametrize(("think", "thinks"), [(None, True), (True, True), ("low", True), (False, False)])
def test_ollama_thinks_unless_told_not_to(
    ollama: OllamaStandIn, client: httpx.Client, think: object, thinks: bool
) -> None:
    lines = lines_of(chat(client, ollama, model="deepseek-r1:7b", think=think))
    thoughts = "".join(line["message"].get("thinking", "") for line in lines)
    assert thoughts == ("The user wants an answer." if thinks else "")


@pytest.mark.parametrize(("on_done", "place"), [(False, 0), (True, -1)])
@pytest.mark.parametrize("empty", [False, True])
def test_ollama_calls_tools(client: httpx.Client, on_done: bool, place: int, empty: bool) -> None:
    with OllamaStandIn(tool_calls_on_done=on_done, empty_tool_ids=empty) as ollama:
        twice = [{"role": "user", "content": "look twice"}]
        lines = lines_of(chat(client, ollama, messages=twice, tools=[CITY]))
    calls = lines[place]["message"]["tool_calls"]
    assert len(lines) == (1 if on_done else 2)
    assert [call["function"] for call in calls] == [{"index": 0, "name": "get_city", "arguments": ARGUMENTS}] * 2
    assert all(len(call.get("id", "")) == (0 if empty else 13) for call in calls)
    assert lines[-1]["done_reason"] == "stop"


def test_ollama_repeats_what_the_tool_said(ollama: OllamaStandIn, client: httpx.Client) -> None:
    call = {"function": {"name": "get_city", "arguments": {"city": "Oslo"}}}
    history = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "rain"}]
    answer = chat(client, ollama, messages=history, tools=[CITY], stream=False).json()
    assert answer["message"]["content"] == "The tool said: rain"


def user(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "x", **fields}]}


NESTED_SCHEMA = "Automatic parser generation failed: JSON schema error at #: properties must be an object"
BAD_PROPERTY = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": True}}}}
NO_PROPERTIES = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        (user(content=[{"type": "text", "text": "x"}]), 400, "json: cannot unmarshal array into Go struct field Alias.content of type string"),
        (user(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), 400, "Value looks like object, but can't find closing '}' symbol"),
        (user(images=["***"]), 400, "json: cannot unmarshal string into Alias.images.0 of type api.ImageData: illegal base64 data at input byte 0"),
        (user(images=["data:image/png;base64,AAAA"]), 400, "json: cannot unmarshal string into Alias.images.0 of type api.ImageData: illegal base64 data at input byte 4"),
        ({"options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ({"options": {"temperature": "hot"}}, 500, 'option "temperature" must be of type float32'),
        ({"options": {"num_ctx": "big"}}, 500, 'option "num_ctx" must be of type integer'),
        ({"format": "yaml"}, 500, 'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object'),
        ({"format": 5}, 500, 'invalid format: "5"; expected "json" or a valid JSON Schema object'),
        ({"model": "nothing"}, 404, "model 'nothing' not found"),
        ({"model": "qwen2.5"}, 404, "model 'qwen2.5' not found"),
        ({"model": ""}, 400, "model is required"),
        ({"model": "a b//c"}, 400, "invalid model name"),
        ({"model": "qwen2.5:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"think": True}, 400, '"qwen2.5:7b" does not support thinking'),
        ({"think": "gigantic"}, 400, 'invalid think value: "gigantic" (must be "high", "medium", "low", "max", true, or false)'),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ({"keep_alive": "soon"}, 400, 'time: invalid duration "soon"'),
        ({"tools": [BAD_PROPERTY]}, 400, "json: cannot unmarshal bool into Go value of type api.ToolProperty"),
    ],
)  # fmt: skip
def test_ollama_refuses(
    ollama: OllamaStandIn, client: httpx.Client, fields: dict[str, Any], status: int, text: str
) -> None:
    response = chat(client, ollama, **fields)
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"].startswith("application/json")


def test_ollama_refuses_in_nested_json(ollama: OllamaStandIn, client: httpx.Client) -> None:
    schema = chat(client, ollama, tools=[NO_PROPERTIES]).json()["error"]
    image = chat(client, ollama, **user(images=["AAAA"])).json()["error"]
    long = [{"role": "user", "content": "word " * 600}]
    overflow = chat(client, ollama, messages=long, truncate=False, options={"num_ctx": 512})
    assert NESTED_SCHEMA in json.loads(schema)["error"]["message"]
    assert "does not support multimodal" in json.loads(image)["error"]["message"]
    assert json.loads(overflow.json()["error"])["error"]["n_ctx"] == 512
    assert ollama.loads == [("qwen2.5:7b", 4096, None), ("qwen2.5:7b", 512, None)]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b'{"model":', "unexpected EOF"),
        (b'{"model":"x', "unexpected EOF"),
        (b"nonsense", "invalid character 'n' looking for beginning of value"),
    ],
)
def test_ollama_refuses_broken_json(ollama: OllamaStandIn, client: httpx.Client, body: bytes, text: str) -> None:
    response = client.post(f"{ollama.url}/api/chat", content=body)
    assert (response.status_code, response.json()) == (400, {"error": text})


def test_ollama_routes_hosts_and_origins(ollama: OllamaStandIn, client: httpx.Client) -> None:
    def get(path: str, **headers: str) -> tuple[int, str]:
        response = client.get(ollama.url + path, headers=headers)
        return response.status_code, response.text

    assert get("/") == (200, "Ollama is running")
    assert get("/v1/files") == (404, "404 page not found")
    assert get("/api/chat") == (405, "405 method not allowed")
    assert get("/", Host="api.openai.com") == (403, "")
    assert get("/", Host="box.local:11434")[0] == 200
    assert get("/", Origin="https://example.com") == (403, "")
    assert get("/", Origin="http://localhost:3000")[0] == 200
    assert ollama.leaked == ["/: Origin"] * 2


def test_ollama_models(ollama: OllamaStandIn, client: httpx.Client) -> None:
    chat(client, ollama)
    tags = client.get(f"{ollama.url}/api/tags").json()["models"]
    running = client.get(f"{ollama.url}/api/ps").json()["models"]
    shown = client.post(f"{ollama.url}/api/show", json={"model": "deepseek-r1:7b"}).json()
    missing = client.post(f"{ollama.url}/api/show", json={"model": "x"})
    assert [tag["name"] for tag in tags] == ["qwen2.5:7b", "llama3.2:3b", "deepseek-r1:7b"]
    assert [(model["name"], model["context_length"]) for model in running] == [("qwen2.5:7b", 4096)]
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'x:latest' not found"})
    assert "version" in client.get(f"{ollama.url}/api/version").json()


def test_ollama_shows_what_a_card_says(client: httpx.Client) -> None:
    card = ModelCard("m:1b", ("completion", "vision"), digest="ab" * 32, model_info={"llama.context_length": 2048})
    with OllamaStandIn([card, "other"]) as ollama:
        shown = client.post(f"{ollama.url}/api/show", json={"model": "m:1b"}).json()
        tags = client.get(f"{ollama.url}/api/tags").json()["models"]
        ollama.always_at["/api/show"] = Status(500)
        broken = [client.post(f"{ollama.url}/api/show", json={"model": "m:1b"}).status_code for _ in range(2)]
    assert shown["capabilities"] == ["completion", "vision"]
    assert shown["model_info"]["llama.context_length"] == 2048
    assert shown["model_info"]["general.architecture"] == "llama"
    assert (tags[0]["digest"], tags[0]["digest"] != tags[1]["digest"]) == ("ab" * 32, True)
    assert broken == [500, 500]


def test_ollama_format_load_and_cards(client: httpx.Client) -> None:
    with OllamaStandIn([ModelCard("plain:1b", ("completion",)), "nomic-embed-text"]) as ollama:
        form = {"type": "object", "properties": {"n": {"type": "integer"}, "c": {"enum": ["x", "y"]}}}
        shaped = chat(client, ollama, model="plain:1b", format=form, stream=False).json()
        loaded = chat(client, ollama, model="plain:1b", messages=[]).json()
        no_tools = chat(client, ollama, model="plain:1b", tools=[CITY])
        no_chat = chat(client, ollama, model="nomic-embed-text")
    assert json.loads(shaped["message"]["content"]) == {"n": 7, "c": "x"}
    assert (loaded["done_reason"], "eval_count" in loaded) == ("load", False)
    assert no_tools.json() == {"error": "registry.ollama.ai/library/plain:1b does not support tools"}
    assert no_chat.json() == {"error": '"nomic-embed-text" does not support chat'}


@pytest.mark.parametrize("jinja", [False, True])
def test_ollama_calls_or_answers_as_a_format_lets_it(client: httpx.Client, jinja: bool) -> None:
    call = {"properties": {"name": {"const": "get_city"}, "arguments": {"properties": {"city": {"type": "string"}}}}}
    form = {"anyOf": [call, {"properties": {"n": {"$ref": "#/$defs/n"}}}], "$defs": {"n": {"type": "integer"}}}
    asked = {"tools": [CITY], "stream": False}
    after = [{"role": "user", "content": "hello"}, {"role": "tool", "content": "Rain"}]
    with OllamaStandIn(jinja=jinja) as ollama:
        called = [chat(client, ollama, format=one, **asked).json()["message"] for one in (form, "json")]
        answered = chat(client, ollama, format=form, messages=after, **asked).json()["message"]
        said = chat(client, ollama, format="json", messages=after, **asked).json()["message"]
    for message in called:
        function = json.loads(message["content"]) if jinja else message["tool_calls"][0]["function"]
        assert (function["name"], function["arguments"]["city"]) == ("get_city", "Oslo")
        assert ("tool_calls" in message) is not jinja
    assert json.loads(answered["content"]) == {"n": 7}
    assert json.loads(said["content"]) == {"said": "hello"}


# DeepSeek


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


# Plans


def test_plans_are_taken_in_order_by_chats_alone(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(Status(503, headers={"Retry-After": "1"}), Normal(), Status(429, {"error": "slow"}))
    client.get(f"{ollama.url}/api/tags")
    busy, fine, slow, last = (chat(client, ollama) for _ in range(4))
    assert busy.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert busy.headers["retry-after"] == "1"
    assert (fine.status_code, last.status_code) == (200, 200)
    assert (slow.status_code, slow.json()) == (429, {"error": "slow"})
    assert len(ollama.chats) == 4
    assert ollama.connections_made == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (ResetBeforeHeaders(), httpx.ReadError),
        (ResetAfterHeaders(), httpx.ReadError),
        (CutAfter(1), httpx.ReadError),
        (Garbage(), httpx.RemoteProtocolError),
        (Silence(0.02), httpx.RemoteProtocolError),
        (SilenceAfterHeaders(0.02), httpx.RemoteProtocolError),
    ],
)
def test_broken_connections(
    ollama: OllamaStandIn, client: httpx.Client, plan: Plan, kind: type[Exception], stream: bool
) -> None:
    ollama.plan(plan)
    with pytest.raises(kind):
        chat(client, ollama, stream=stream)
    assert chat(client, ollama).status_code == 200
    assert ollama.aborted == 0


def test_the_pieces_before_a_reset_arrive(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(CutAfter(2))
    got: list[bytes] = []
    body = {"model": "qwen2.5:7b", "messages": HELLO}
    with client.stream("POST", f"{ollama.url}/api/chat", json=body) as response, pytest.raises(httpx.ReadError):
        got.extend(response.iter_raw())
    assert [json.loads(line)["message"]["content"] for line in b"".join(got).splitlines()] == ["You", " said:"]


def test_clean_cuts_and_errors_in_streams(
    ollama: OllamaStandIn, deepseek: DeepSeekStandIn, client: httpx.Client
) -> None:
    ollama.plan(CutAfter(2, "clean"), CutAfter(-1, "clean"), HalfLine(1), ErrorAfter(1), ErrorAfter(0, "oh"))
    cut, undone, half, late, early = (chat(client, ollama) for _ in range(5))
    assert [line["done"] for line in lines_of(cut)] == [False, False]
    assert [line["done"] for line in lines_of(undone)] == [False] * 4
    assert len(half.text.splitlines()) == 2
    assert not half.text.endswith("}\n")
    assert lines_of(late)[1] == {"error": "an error was encountered while running the model: unexpected EOF"}
    assert (early.status_code, lines_of(early)) == (200, [{"error": "oh"}])
    deepseek.plan(CutAfter(-1, "clean"), ErrorAfter(1, "oh"), ErrorAfter(1, "oh"))
    endless, broken, failed = (
        ask(client, deepseek, stream=True),
        ask(client, deepseek, stream=True),
        ask(client, deepseek),
    )
    assert '"finish_reason":"stop"' in endless.text
    assert "[DONE]" not in endless.text
    assert json.loads(broken.text.split("\n\n")[2].removeprefix("data: "))["error"]["message"] == "oh"
    assert (failed.status_code, failed.json()["error"]["message"]) == (500, "oh")
    assert ollama.connections_made == 1


def test_bodies_that_are_none(ollama: OllamaStandIn, deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    ollama.plan(GarbageBody(), Lines([b'{"a":', b"1}\n\n"], 0.01))
    deepseek.plan(Lines([b"data: {}\r\n\r\n"]), KeepAliveOnly(0.05, 0.02), KeepAliveOnly(0.05, 0.02))
    assert chat(client, ollama).content.startswith(b"<html>")
    assert chat(client, ollama).content == b'{"a":1}\n\n'
    assert ask(client, deepseek, stream=True).content == b"data: {}\r\n\r\n"
    assert set(ask(client, deepseek, stream=True).text.split("\n\n")) == {": keep-alive", ""}
    assert set(ask(client, deepseek).text) == {"\n"}


def test_pieces_come_one_by_one_when_paced(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(Pace(0.02), Silence(0.05, then="answer"))
    began = time.monotonic()
    with client.stream("POST", f"{ollama.url}/api/chat", json={"model": "qwen2.5:7b", "messages": HELLO}) as response:
        times = [time.monotonic() - began for _ in response.iter_raw()]
    assert len(times) == 5
    assert times[-1] - times[0] > 0.05
    assert chat(client, ollama).status_code == 200


def test_clients_that_leave_are_counted(ollama: OllamaStandIn) -> None:
    def seen_and_left(seen: int, left: int) -> bool:
        return (len(ollama.chats), ollama.aborted) == (seen, left)

    ollama.plan(HoldAfter(1), Silence(), SilenceAfterHeaders())
    for number in range(1, 4):
        with socket.create_connection((ollama.host, ollama.port)) as plain:
            body = json.dumps({"model": "qwen2.5:7b", "messages": HELLO}).encode()
            plain.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert until(partial(seen_and_left, number, number - 1))
            assert ollama.open_connections == 1
        assert until(partial(seen_and_left, number, number))
        assert until(lambda: ollama.open_connections == 0)


def test_held_answers_go_on(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(HoldAfter(2))
    with client.stream("POST", f"{ollama.url}/api/chat", json={"model": "qwen2.5:7b", "messages": HELLO}) as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines))["message"]["content"] for _ in range(2)] == ["You", " said:"]
        assert until(lambda: ollama.holding == 1)
        ollama.release()
        assert json.loads(list(lines)[-1])["done"]
    assert ollama.aborted == 0


def test_stop_and_start_keep_the_port(ollama: OllamaStandIn, client: httpx.Client) -> None:
    url, before = ollama.url, threading.active_count()
    ollama.plan(Silence())
    with socket.create_connection((ollama.host, ollama.port)) as idle:
        assert until(lambda: ollama.open_connections == 1)
        ollama.stop()
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ollama.host, ollama.port))
    assert (ollama.open_connections, threading.active_count()) == (0, before - 1)
    ollama.start()
    assert ollama.url == url
    assert client.get(url).status_code == 200


def test_a_stop_in_the_middle_of_a_crowd_leaves_no_connection_open() -> None:
    over = threading.Event()

    def call(port: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as caller:
                caller.sendall(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
                caller.recv(100)

    with OllamaStandIn() as ollama:
        callers = [threading.Thread(target=call, args=(ollama.port,)) for _ in range(3)]
        for caller in callers:
            caller.start()
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                for _ in range(60):
                    ollama.stop()
                    ollama.start()
                    time.sleep(0.002)
                gc.collect()
        finally:
            over.set()
            for caller in callers:
                caller.join()
    assert [str(one.message) for one in told] == []


def test_chunked_requests_and_expectations_are_read(ollama: OllamaStandIn) -> None:
    with socket.create_connection((ollama.host, ollama.port)) as plain, plain.makefile("rb") as answer:
        plain.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
        plain.sendall(b"2\r\n{}\r\n0\r\n\r\n")
        answer.readline()
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    assert ollama.seen[0].json == {}


def test_a_failure_inside_is_told(client: httpx.Client) -> None:
    standin = OllamaStandIn(reply=[7])  # type: ignore[list-item]
    standin.start()
    with pytest.raises(httpx.ReadError):
        chat(client, standin)
    with pytest.raises(RuntimeError, match="failed"):
        standin.close()


# Going on with an answer that was begun

LONG = "Say one two three four five six seven eight nine ten"
WHOLE = f"You said: {LONG}"
BEGUN = WHOLE[:30]
ALTERNATE = "conversation roles must alternate user/assistant/user/assistant/..."


def prefilled(begun: str, **fields: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": LONG}, {"role": "assistant", "content": begun, **fields}]


def begin(client: httpx.Client, standin: DeepSeekStandIn, path: str, begun: str, **fields: object) -> httpx.Response:
    body = {"model": "deepseek-flash", "messages": prefilled(begun, **fields)}
    return client.post(f"{standin.url}{path}", json=body, headers={"Authorization": f"Bearer {standin.key}"})


@pytest.mark.parametrize(
    ("prefill", "begun", "said"),
    [
        ("continue", BEGUN, WHOLE[30:]),
        ("continue", "", WHOLE),
        ("continue", "Something else", WHOLE),
        ("continue", WHOLE, ""),
        ("start_over", BEGUN, WHOLE),
        ("differ", BEGUN, f"{BEGUN[:20]} ... but on second thought, no."),
        ("differ", "a" * 60, f"{'a' * 30} ... but on second thought, no."),
    ],
)
def test_an_answer_begun_is_gone_on_with_or_not(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn, prefill: Prefill, begun: str, said: str
) -> None:
    ollama.prefill = deepseek.prefill = prefill
    native = chat(client, ollama, messages=prefilled(begun))
    compatible = begin(client, deepseek, "/beta/chat/completions", begun, prefix=True)
    assert "".join(line["message"]["content"] for line in lines_of(native)) == said
    assert compatible.json()["choices"][0]["message"]["content"] == said


def test_an_answer_begun_may_be_refused(client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    ollama.prefill = deepseek.prefill = "refuse"
    native = chat(client, ollama, messages=prefilled(BEGUN))
    inner = json.loads(native.json()["error"])["error"]
    compatible = begin(client, deepseek, "/beta/chat/completions", BEGUN, prefix=True)
    assert (native.status_code, inner["code"], inner["type"]) == (500, 500, "server_error")
    assert inner["message"].endswith(ALTERNATE)
    assert (compatible.status_code, compatible.json()["error"]["type"]) == (400, "invalid_request_error")
    assert chat(client, ollama).status_code == ask(client, deepseek).status_code == 200


def test_a_model_that_thinks_does_not_think_again_before_it_goes_on(
    client: httpx.Client, ollama: OllamaStandIn
) -> None:
    lines = lines_of(chat(client, ollama, model="deepseek-r1:7b", messages=prefilled(BEGUN)))
    assert not any("thinking" in line["message"] for line in lines)
    ollama.prefill = "start_over"
    assert "thinking" in lines_of(chat(client, ollama, model="deepseek-r1:7b", messages=prefilled(BEGUN)))[0]["message"]


def test_prefixes_belong_to_the_beta_path_and_to_the_last_message(
    client: httpx.Client, deepseek: DeepSeekStandIn
) -> None:
    refused = begin(client, deepseek, "/chat/completions", BEGUN, prefix=True)
    bad = begin(client, deepseek, "/beta/chat/completions", BEGUN, prefix="yes")
    early = [{"role": "assistant", "content": "x", "prefix": True}, *HELLO]
    misplaced = client.post(
        f"{deepseek.url}/beta/chat/completions",
        json={"model": "deepseek-flash", "messages": early},
        headers={"Authorization": f"Bearer {deepseek.key}"},
    )
    assert [answer.status_code for answer in (refused, bad, misplaced)] == [400, 400, 400]
    for path in ("/chat/completions", "/beta/chat/completions"):
        turn = begin(client, deepseek, path, BEGUN).json()
        assert turn["choices"][0]["message"]["content"] == WHOLE


# Answers that are whole and yet wrong


def test_an_answer_may_end_early_and_say_why(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    reason = "insufficient_system_resource"
    for standin in (ollama, deepseek):
        standin.plan(Finish("length", 2), Finish(reason), Finish(reason))
    native, full = lines_of(chat(client, ollama)), lines_of(chat(client, ollama))
    assert [line["message"]["content"] for line in native] == ["You", " said:", ""]
    assert (native[-1]["done"], native[-1]["done_reason"], native[-1]["eval_count"]) == (True, "length", 4)
    assert (len(full), full[-1]["done_reason"]) == (5, reason)
    assert chat(client, ollama, stream=False).json()["done_reason"] == reason
    chunks, all_chunks = (chunks_of(ask(client, deepseek, stream=True)) for _ in range(2))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "You", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all_chunks[-1]["choices"][0]["finish_reason"] == reason
    choice = ask(client, deepseek).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said: hello there", reason)


def test_anything_can_be_said_and_nothing_too(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    for standin in (ollama, deepseek):
        standin.plan(Blank(9), Say(["a", "b"]))
    asked = [{"role": "user", "content": "json please"}]
    blank, said, normal = (lines_of(chat(client, ollama, messages=asked, format="json")) for _ in range(3))
    text = "".join(line["message"]["content"] for line in blank)
    assert (len(blank), text.strip(), "\n" in text) == (10, "", True)
    assert [line["message"]["content"] for line in said] == ["a", "b", ""]
    assert normal[0]["message"]["content"] == '{"said":"json'
    form = {"type": "json_object"}
    texts = [
        ask(client, deepseek, messages=asked, response_format=form).json()["choices"][0]["message"]["content"]
        for _ in range(3)
    ]
    assert texts == [text, "ab", '{"said":"json please"}']


def test_a_bad_line_stands_between_good_ones(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    ollama.plan(BadLine(1), BadLine(99))
    deepseek.plan(BadLine(2))
    first, bad, *others = chat(client, ollama).text.splitlines()
    assert (len(others), json.loads(first)["done"], json.loads(others[-1])["done"]) == (4, False, True)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(bad)
    assert len(lines_of(chat(client, ollama))) == 5
    events = ask(client, deepseek, stream=True).text.split("\n\n")
    assert events[3].startswith("data: {")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(events[3].removeprefix("data: "))
    assert events[-2:] == ["data: [DONE]", ""]


def test_empty_deltas_say_nothing_for_a_while(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    for standin in (ollama, deepseek):
        standin.plan(EmptyDeltas(0.05, 0.02, "answer"), EmptyDeltas(0.05, 0.02))
    late, never = lines_of(chat(client, ollama)), lines_of(chat(client, ollama))
    assert "".join(line["message"]["content"] for line in late) == "You said: hello there"
    assert [line["message"]["content"] for line in never] == [""] * len(never)
    assert (len(never) >= 2, any(line["done"] for line in never)) == (True, False)
    texts = [ask(client, deepseek, stream=True).text for _ in range(2)]
    events = [[json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: {")] for text in texts]
    assert texts[0].endswith("data: [DONE]\n\n")
    assert all(event["choices"][0]["delta"] == {"content": ""} for event in events[1])
    assert len(events[1]) >= 2
    deepseek.plan(KeepAliveOnly(0.03, 0.01, "answer"), EmptyDeltas(0.03, 0.01, "answer"))
    assert [ask(client, deepseek).json()["choices"][0]["finish_reason"] for _ in range(2)] == ["stop", "stop"]


# How many at once


def test_calls_beyond_the_places_wait_in_silence_and_in_order(client: httpx.Client) -> None:
    with OllamaStandIn(parallel=2) as ollama, contextlib.ExitStack() as stack:

        def seen(count: int) -> bool:
            return len(ollama.chats) == count

        ollama.plan(*[HoldAfter(1)] * 4)
        body = json.dumps({"model": "qwen2.5:7b", "messages": HELLO}).encode()
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        calls = []
        for number in range(5):
            calls.append(stack.enter_context(socket.create_connection((ollama.host, ollama.port))))
            calls[-1].sendall(head + body)
            assert until(partial(seen, number + 1))
        assert until(lambda: (ollama.in_flight, ollama.waiting, ollama.most_in_flight) == (2, 3, 2))
        assert client.get(f"{ollama.url}/api/version").status_code == 200
        calls[3].close()  # one that waits leaves the queue
        calls[0].close()  # one that is answered makes room
        assert until(lambda: (ollama.in_flight, ollama.waiting, ollama.aborted) == (2, 1, 2))
        assert calls[2].recv(15) == b"HTTP/1.1 200 OK"
        ollama.release()
        assert until(lambda: (ollama.in_flight, ollama.waiting) == (0, 0))
        assert calls[4].recv(15) == b"HTTP/1.1 200 OK"
        assert ollama.most_in_flight == 2


def test_without_a_bound_the_peak_is_counted(deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    deepseek.plan(HoldAfter(1), HoldAfter(1))
    workers = [threading.Thread(target=lambda: ask(client, deepseek)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert until(lambda: (deepseek.in_flight, deepseek.holding) == (2, 2))
    deepseek.release()
    for worker in workers:
        worker.join(5)
    assert until(lambda: deepseek.in_flight == 0)
    assert ask(client, deepseek).status_code == 200
    assert deepseek.most_in_flight == 2


# Raw


def test_raw_scripts(client: httpx.Client) -> None:
    scripts = [
        raw.interim(b'{"a":1}'),
        raw.gzipped(b'{"a":1}'),
        raw.until_eof(b'{"a":1}'),
        raw.with_trailers(b'{"a":1}', {"X-Sum": "1"}),
        raw.huge_header(20_000, b'{"a":1}'),
    ]
    for script in scripts:
        with RawServer(script) as server:
            assert client.post(server.url, json={}, headers={"Connection": "close"}).json() == {"a": 1}
            assert [seen.json for seen in server.seen] == [{}]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (raw.closed_at_once(), httpx.TransportError),
        (raw.reset_at_once(), httpx.TransportError),
        (raw.broken_chunking(b"{}"), httpx.RemoteProtocolError),
        (raw.cut_chunk(b"{}"), httpx.RemoteProtocolError),
        (raw.endless_headers(), httpx.RemoteProtocolError),
        ([raw.Expect(), raw.Send(b"HTTP/1.1 200 OK\r\n"), raw.Wait(0.02), raw.Reset()], httpx.ReadError),
        ([raw.Expect(), raw.HalfClose(), raw.Wait(5)], httpx.RemoteProtocolError),
    ],
)
def test_raw_scripts_that_break(client: httpx.Client, script: raw.Script, kind: type[Exception]) -> None:
    with RawServer(script) as server, pytest.raises(kind):
        client.post(server.url, json={})


def test_raw_scripts_by_connection(client: httpx.Client) -> None:
    with RawServer(raw.closed_at_once(), [raw.Expect(), raw.Send(raw.whole(b"{}"))]) as server:
        with pytest.raises(httpx.TransportError):
            client.get(server.url)
        fresh = {"Connection": "close"}  # the server ends each connection, and httpx may not have seen it yet
        assert [client.get(server.url, headers=fresh).json() for _ in range(2)] == [{}, {}]
