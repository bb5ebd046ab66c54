"""The stand-ins outside of conversations: texts that are gone on with, and embeddings."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from . import CompatStandIn, DeepSeekStandIn, EmptyDeltas, ErrorAfter, Finish, ModelCard, OllamaStandIn
from .texts import continuation, vector

SAID = " went on Once and came to its end."


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as made:
        yield made


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    cards: list[str | ModelCard] = [
        ModelCard("coder:latest", ("completion", "insert")),
        "deepseek-r1:7b",
        "nomic-embed-text",
    ]
    with OllamaStandIn(cards) as made:
        yield made


@pytest.fixture
def compat() -> Iterator[CompatStandIn]:
    with CompatStandIn() as made:
        yield made


def generate(client: httpx.Client, ollama: OllamaStandIn, **more: object) -> httpx.Response:
    return client.post(f"{ollama.url}/api/generate", json={"model": "coder", "prompt": "Once", "raw": True, **more})


def lines_of(response: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in response.text.splitlines()]


def chunks_of(response: httpx.Response) -> list[Any]:
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: ")]


def complete(client: httpx.Client, server: CompatStandIn | DeepSeekStandIn, **more: object) -> httpx.Response:
    if isinstance(server, DeepSeekStandIn):
        body = {"model": "deepseek-flash", "prompt": "Once", **more}
        return client.post(
            f"{server.url}/beta/completions", json=body, headers={"authorization": f"Bearer {server.key}"}
        )
    return client.post(f"{server.url}/v1/completions", json={"model": "any", "prompt": "Once", **more})


def test_a_text_that_was_begun_is_gone_on_with_or_not() -> None:
    assert "".join(continuation("Once", None, "continue")) == SAID
    assert "".join(continuation("", None, "continue")).startswith(" went on nothing")
    begun = "Once went on On"
    assert "".join(continuation(begun, None, "continue")) == "ce and came to its end."
    assert "".join(continuation(begun, None, "start_over")) == SAID
    assert "".join(continuation(begun, None, "differ")).endswith("on second thought, no.")
    assert continuation("Once a", ["a", "b"], "continue") == ["b"]


def test_vectors_have_length_one_and_belong_to_their_text() -> None:
    assert vector("a", 8) == vector("a", 8) != vector("b", 8)
    for numbers in (vector("a", 8), vector("a", 8, 3)):
        assert sum(number * number for number in numbers) == pytest.approx(1)
    assert (len(vector("a", 8, 3)), len(vector("a", 8, 9))) == (3, 8)


def test_ollama_goes_on_with_raw_prompts_and_answers_others(client: httpx.Client, ollama: OllamaStandIn) -> None:
    lines = lines_of(generate(client, ollama, options={"num_predict": 3}, logprobs=True, top_logprobs=1))
    assert "".join(line["response"] for line in lines) == " went on Once"
    assert (lines[-1]["done_reason"], "context" in lines[-1], "message" in lines[0]) == ("length", False, False)
    assert lines[0]["logprobs"][0]["token"] == " went"
    turn = generate(client, ollama, model="deepseek-r1:7b", raw=False, stream=False).json()
    assert (turn["response"], turn["thinking"], turn["context"]) == (
        "You said: Once",
        "The user wants an answer.",
        [1, 2, 3],
    )
    filled = generate(client, ollama, raw=False, suffix="the end", stream=False).json()
    assert filled["response"] == f"{SAID} before the"
    loaded = [generate(client, ollama, prompt="", keep_alive=number).json() for number in (None, 0)]
    assert [(load["response"], load["done_reason"]) for load in loaded] == [("", "load"), ("", "unload")]


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ({"model": ""}, 404, "model '' not found"),
        ({"model": "x"}, 404, "model 'x' not found"),
        ({"model": "nomic-embed-text"}, 400, '"nomic-embed-text" does not support generate'),
        ({"system": "s"}, 400, "raw mode does not support template, system, or context"),
        ({"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        (
            {"model": "deepseek-r1:7b", "suffix": "x"},
            400,
            "registry.ollama.ai/library/deepseek-r1:7b does not support insert",
        ),
    ],
)
def test_ollama_refuses_what_it_cannot_generate(
    client: httpx.Client, ollama: OllamaStandIn, more: dict[str, object], status: int, text: str
) -> None:
    refused = generate(client, ollama, **more)
    assert (refused.status_code, refused.json()) == (status, {"error": text})


def test_ollama_embeds(client: httpx.Client, ollama: OllamaStandIn) -> None:
    def embed(**more: object) -> httpx.Response:
        return client.post(f"{ollama.url}/api/embed", json={"model": "nomic-embed-text", **more})

    made = embed(input=["a", "b c"]).json()
    assert made["embeddings"] == [vector("a", 8), vector("b c", 8)]
    assert made["prompt_eval_count"] == 5
    assert embed(input="a", dimensions=2).json()["embeddings"] == [vector("a", 8, 2)]
    assert embed(input="").json()["embeddings"] == embed().json()["embeddings"] == []
    long: dict[str, object] = {"input": "a b c d", "options": {"num_ctx": 4}}
    assert embed(**long).json()["prompt_eval_count"] == 4
    refused = [
        embed(input=[1]),
        embed(input="a", dimensions="2"),
        embed(input="a", model="x"),
        embed(input="a", model="coder"),
        embed(**long, truncate=False),
    ]
    assert [(answer.status_code, answer.json()["error"][:45]) for answer in refused] == [
        (400, "invalid input type"),
        (400, "json: cannot unmarshal string into Go struct "),
        (404, 'model "x" not found, try pulling it first'),
        (501, "this model does not support embeddings"),
        (400, "the input length exceeds the context length"),
    ]


def test_deepseek_fills_in_on_its_beta_path_only(client: httpx.Client) -> None:
    with DeepSeekStandIn() as deepseek:
        whole = complete(client, deepseek, suffix=None, user="u")
        chunks = chunks_of(complete(client, deepseek, stream=True, stop=" came", echo=True))
        odd: list[dict[str, object]] = [{"prompt": ["a"]}, {"suffix": 7}, {"n": 2}]
        refused = [complete(client, deepseek, **more) for more in odd]
        head = {"authorization": f"Bearer {deepseek.key}"}
        missing = client.post(f"{deepseek.url}/v1/completions", json={}, headers=head)
        broken = client.post(f"{deepseek.url}/beta/completions", content=b"[]", headers=head)
        assert deepseek.undocumented == {"user", "n"}
    assert whole.json()["choices"] == [{"index": 0, "text": SAID, "logprobs": None, "finish_reason": "stop"}]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Once went on Once and"
    assert [answer.status_code for answer in (*refused, missing, broken)] == [400, 400, 400, 404, 400]


def test_a_compatible_server_gives_choices_echoes_and_probabilities(
    client: httpx.Client, compat: CompatStandIn
) -> None:
    whole = complete(client, compat, prompt=["Once", [79, 110]], n=2, max_tokens=1, echo=True, logprobs=1).json()
    assert [choice["text"] for choice in whole["choices"]] == ["Once went", "Once went", "On went", "On went"]
    assert whole["choices"][0]["logprobs"]["token_logprobs"] == [None, -0.5]
    chunks = chunks_of(complete(client, compat, stream=True, stream_options={"include_usage": True}, logprobs=2))
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == SAID
    assert chunks[1]["choices"][0]["logprobs"]["text_offset"] == [5]
    assert chunks[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
    odd: list[dict[str, object]] = [
        {"best_of": 1, "stream": True},
        {"n": 2, "best_of": 1},
        {"model": None},
        {"stream_options": {"include_usage": True}},
    ]
    refused = [complete(client, compat, **more) for more in odd]
    assert [answer.status_code for answer in refused] == [400] * 4
    assert [row["id"] for row in client.get(f"{compat.url}/v1/models").json()["data"]] == ["any"]
    assert client.get(f"{compat.url}/v1/files").status_code == 404


def test_a_compatible_server_breaks_as_it_is_told(client: httpx.Client, compat: CompatStandIn) -> None:
    compat.plan(ErrorAfter(1), ErrorAfter(1), Finish("length", 2), Finish("content_filter"), EmptyDeltas(0.02, 0.01))
    streams = [complete(client, compat, stream=stream) for stream in (True, False, True, False, True)]
    assert json.loads(streams[0].text.split("\n\n")[1][6:])["error"]["type"] == "server_error"
    assert streams[1].status_code == 500
    assert chunks_of(streams[2])[-1]["choices"][0]["finish_reason"] == "length"
    assert streams[3].json()["choices"][0]["finish_reason"] == "content_filter"
    assert json.loads(streams[4].text.split("\n\n")[0][6:])["choices"][0]["text"] == ""


def test_a_compatible_server_embeds_in_its_own_way(client: httpx.Client) -> None:
    def embed(server: CompatStandIn, **more: object) -> list[Any]:
        rows: list[Any] = client.post(f"{server.url}/v1/embeddings", json={"model": "any", **more}).json()["data"]
        return rows

    with CompatStandIn() as plain, CompatStandIn(numbers_only=True, backwards=True, dimensions=False) as odd:
        (row,) = embed(plain, input="a", encoding_format="base64", dimensions=2)
        assert struct.unpack("<2f", base64.b64decode(row["embedding"])) == pytest.approx(vector("a", 8, 2))
        assert embed(plain, input=[97])[0]["embedding"] == vector("a", 8)
        rows = embed(odd, input=["a", [98]], encoding_format="base64", dimensions=2)
    assert [(row["index"], row["embedding"]) for row in rows] == [(1, vector("b", 8)), (0, vector("a", 8))]
