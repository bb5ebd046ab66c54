"""The list of models of a client whose models only the rules know: what the file spells out for it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.standins import OllamaStandIn

PICKER, CODER, OTHERS = "picker-key-0123456", "coder-key-01234567", "others-key-0123456"
MANY = "many-key-0123456789"
RULES = f"""
clients:
  picker: {{key: {PICKER}, models: ["gpt-4o*"]}}
  coder: {{key: {CODER}, models: [gpt-4o-mini, "o1*", far-away, "QWEN2.5:7b", llama3.2]}}
  others: {{key: {OTHERS}}}
  many: {{key: {MANY}, models: ["gpt-4o*", {", ".join(f"gpt-{number}" for number in range(1000))}]}}
providers:
  ollama: {{dialect: ollama, urls: ["${{OLLAMA_URL}}"]}}
  keyless: {{dialect: openai, urls: ["http://127.0.0.1:9"], key: ""}}
models:
  quick: {{targets: [ollama/llama3.2:3b], aliases: [gpt-4o-quick, "fast-*"]}}
rules:
  - {{name: gpt, when: {{model: [gpt-4o, "gpt-*", o1]}}, use: [ollama/qwen2.5:7b]}}
  - {{name: others, when: {{model: only-others, client: others}}, use: [ollama/qwen2.5:7b]}}
  - {{name: away, when: {{model: far-away}}, use: [keyless/m]}}
  - {{name: as-named, when: {{model: ["qwen*", "llama*"]}}, use: ["ollama/{{model}}"]}}
defaults: {{refresh: 200ms}}
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with OllamaStandIn(["qwen2.5:7b", "llama3.2:3b"]) as ollama, Gateway(RULES, {"OLLAMA_URL": ollama.url}) as running:
        running.until(lambda: running.state.seen["ollama"].models is not None, "Ollama is seen")
        yield running


def get(gateway: Gateway, key: str, path: str) -> Any:
    with gateway.client(key) as client:
        return client.get(path)


@pytest.mark.parametrize(("key", "listed"), [
    (PICKER, ["gpt-4o-quick", "gpt-4o"]),
    (CODER, ["qwen2.5:7b", "o1", "gpt-4o-mini"]),
    (OTHERS, ["quick", "llama3.2:3b", "qwen2.5:7b", "gpt-4o-quick", "gpt-4o", "o1", "only-others"]),
])  # fmt: skip
def test_a_list_has_the_names_that_the_file_spells_out_for_its_client(
    key: str, listed: list[str], gateway: Gateway
) -> None:
    found = [model["id"] for model in get(gateway, key, "/v1/models").json()["data"]]
    assert found == listed


@pytest.mark.parametrize("key", [PICKER, CODER, OTHERS])
def test_every_model_that_is_listed_is_found_by_its_id_and_answers(key: str, gateway: Gateway) -> None:
    models = get(gateway, key, "/v1/models").json()["data"]
    assert models
    for model in models:
        assert get(gateway, key, f"/v1/models/{model['id']}").json() == model
        with gateway.client(key) as client:
            asked = {"model": model["id"], "messages": [{"role": "user", "content": "hi"}]}
            assert client.post("/v1/chat/completions", json=asked).status_code == 200


@pytest.mark.parametrize(("key", "name", "there"), [
    (PICKER, "gpt-4o-2024-08-06", True), (PICKER, "gpt-5", False), (PICKER, "quick", False),
    (OTHERS, "gpt-5", True), (OTHERS, "fast-one", True), (OTHERS, "only-others", True), (OTHERS, "gemini", False),
    (CODER, "o1-mini", False), (CODER, "far-away", False),
])  # fmt: skip
def test_a_name_that_a_pattern_of_the_rules_stands_for_is_found_though_it_is_not_listed(
    key: str, name: str, there: bool, gateway: Gateway
) -> None:
    answer = get(gateway, key, f"/v1/models/{name}")
    assert answer.status_code == (200 if there else 404)
    if there:
        assert (answer.json()["id"], answer.json()["owned_by"]) == (name, "unigate")


def test_a_thousand_names_are_listed_in_a_blink(gateway: Gateway) -> None:
    began = time.perf_counter()
    listed = get(gateway, MANY, "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["gpt-4o-quick", "gpt-4o", *(f"gpt-{number}" for number in range(1000))]
    assert time.perf_counter() - began < 5
