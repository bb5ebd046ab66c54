"""A call that leads nowhere is told what there is, and whether to come again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway
from tests.standins import OllamaStandIn

RULES = """
providers:
  ollama: {dialect: ollama, urls: ["${URL}"]}
  deepseek: {dialect: openai, profile: deepseek, urls: ["http://127.0.0.1:9"], key: ""}
  sandbox: {dialect: sandbox}
rules: [{name: fallback, use: [deepseek/deepseek-flash, sandbox/echo]}]
defaults: {refresh: 200ms}
"""


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["qwen2.5:7b", "llama3.2:3b"]) as made:
        yield made


@pytest.fixture
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with Gateway(RULES, {"URL": ollama.url}) as made:
        made.until(lambda: bool(made.state.names.get("ollama")), "Ollama was asked")
        yield made


def test_beside_local_models_an_unknown_name_is_a_404_that_lists_them(gateway: Gateway) -> None:
    answer = gateway.chat(model="gpt-4o-mini")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "There are: llama3.2:3b, qwen2.5:7b." in error["message"]
    assert "deepseek/deepseek-flash has no key" in error["message"]


def test_while_the_local_server_is_away_the_caller_is_asked_to_come_again(
    gateway: Gateway, ollama: OllamaStandIn
) -> None:
    ollama.stop()
    gateway.until(lambda: gateway.state.seen["ollama"].models is None, "Ollama is away")
    answer = gateway.chat(model="qwen2.5:7b")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"].startswith("ollama cannot be reached at the moment")
    assert answer.headers["retry-after"] == "5"
    assert "x-should-retry" not in answer.headers
