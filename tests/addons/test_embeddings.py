"""/v1/embeddings through the gateway: OpenAI's own SDK on one side, stand-ins on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

import openai
import pytest

from tests.gateway import Gateway, quick_rules
from tests.standins import CompatStandIn, CutAfter, DeepSeekStandIn, ModelCard, OllamaStandIn, Status
from tests.standins.texts import vector

MODEL = "nomic-embed-text"


def sdk(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-caller", max_retries=0)


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn([MODEL, "qwen2.5:7b", ModelCard("tiny-embed:latest", ("embedding",), context=4)]) as server:
        yield server


@pytest.fixture
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with Gateway(quick_rules(ollama=ollama.url)) as server:
        yield server


@pytest.mark.parametrize("form", ["float", None], ids=["numbers", "what the SDK asks for by itself"])
def test_the_sdk_gets_the_vectors_of_a_local_model(
    gateway: Gateway, ollama: OllamaStandIn, form: Literal["float"] | None
) -> None:
    with sdk(gateway) as client:
        made = client.embeddings.create(model=MODEL, input=["first", "second"], encoding_format=form or openai.omit)
        (one,) = client.embeddings.create(model=MODEL, input="first").data
    for row, text in zip(made.data, ("first", "second"), strict=True):
        assert row.embedding == pytest.approx(vector(text, 8), abs=1e-7)
    assert [row.index for row in made.data] == [0, 1]
    assert one.embedding == pytest.approx(vector("first", 8), abs=1e-7)
    assert (made.model, made.usage.prompt_tokens, made.usage.total_tokens) == (MODEL, 4, 4)
    assert ollama.chats[-1].json == {"model": MODEL, "input": ["first"], "truncate": False}


def test_dimensions_are_those_of_the_model_or_an_error(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        (row,) = client.embeddings.create(model=MODEL, input="a", dimensions=3).data
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input="a", dimensions=9)
    assert row.embedding == pytest.approx(vector("a", 8, 3), abs=1e-7)
    assert caught.value.param == "dimensions"
    assert "have 8 numbers" in caught.value.message


def test_a_long_list_is_embedded_in_parts_and_comes_in_order(gateway: Gateway, ollama: OllamaStandIn) -> None:
    texts = [f"text {number}" for number in range(150)]
    before = len(ollama.chats)
    with sdk(gateway) as client:
        made = client.embeddings.create(model=MODEL, input=texts)
    assert [row.index for row in made.data] == list(range(150))
    assert made.data[149].embedding == pytest.approx(vector("text 149", 8), abs=1e-7)
    assert made.usage.prompt_tokens == 450
    sizes = sorted(len(seen.json["input"]) for seen in ollama.chats[before:] if seen.json)
    assert sizes == [22, 64, 64]


def test_the_callers_mistakes_are_told_in_openais_way(gateway: Gateway) -> None:
    with sdk(gateway) as client:
        for model, given, param in (
            (MODEL, "", "input"),
            (MODEL, [[1, 2]], "input"),
            ("qwen2.5:7b", "a", "model"),
            ("tiny-embed", "far too many words for it", "input"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                client.embeddings.create(model=model, input=given)
            assert caught.value.param == param
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="no-such-model", input="a")
    assert missing.value.code == "model_not_found"


def test_the_next_server_answers_where_the_first_cannot() -> None:
    with ExitStack() as stack:
        local = stack.enter_context(OllamaStandIn([MODEL]))
        cloud = stack.enter_context(CompatStandIn(backwards=True))
        deepseek = stack.enter_context(DeepSeekStandIn("sk-ds-test"))
        rules = f"""
        providers:
          deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek.url}], key: sk-ds-test}}
          ollama: {{dialect: ollama, urls: [{local.url}]}}
          cloud: {{dialect: openai, urls: [{cloud.url}], key: sk-ds-test}}
        rules: [{{name: test, use: [deepseek/deepseek-flash, "ollama/{{model}}", cloud/any]}}]
        """
        gateway = stack.enter_context(Gateway(rules))
        client = stack.enter_context(sdk(gateway))
        local.plan(Status(503), CutAfter(1), CutAfter(1, "clean"))
        for _ in range(3):
            made = client.embeddings.create(model=MODEL, input=["a", "b"])
            assert [row.embedding for row in made.data] == [
                pytest.approx(vector(text, 8), abs=1e-7) for text in ("a", "b")
            ]
        tokens = client.embeddings.create(model=MODEL, input=[[97], [98]])
        assert tokens.data[1].embedding == pytest.approx(vector("b", 8), abs=1e-7)
        assert (len(local.chats), len(cloud.chats), deepseek.chats) == (3, 4, [])


def test_servers_without_embeddings_are_not_asked() -> None:
    with DeepSeekStandIn("sk-ds-test") as deepseek, Gateway(quick_rules(deepseek=deepseek.url)) as gateway:
        with sdk(gateway) as client, pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input="a")
        assert (caught.value.param, deepseek.chats) == ("model", [])
    assert "cannot be asked for embeddings" in caught.value.message


@pytest.mark.parametrize("numbers_only", [True, False])
@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_callers_format_is_kept_whatever_the_server_makes_of_it(numbers_only: bool, form: str) -> None:
    with CompatStandIn(numbers_only=numbers_only) as cloud:
        rules = f"""
        providers: {{cloud: {{dialect: openai, urls: [{cloud.url}]}}}}
        rules: [{{name: test, use: [cloud/any]}}]
        """
        with Gateway(rules) as gateway, gateway.client() as client:
            body = {"model": "m", "input": "a", "encoding_format": form}
            reply = client.post("/v1/embeddings", json=body).json()
    (row,) = reply["data"]
    assert isinstance(row["embedding"], str if form == "base64" else list)
    assert reply["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
