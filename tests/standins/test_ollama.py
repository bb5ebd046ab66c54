"""The stand-in for Ollama: that it answers and refuses as the real server does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.standins import ModelCard, OllamaStandIn, Status
from tests.standins.asking import ARGUMENTS, CITY, HELLO, chat, lines_of


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
