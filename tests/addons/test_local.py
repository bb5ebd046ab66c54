"""What the gateway answers by itself: its models, one of them, and its health."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.addons.doors import Door
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn, OllamaStandIn

RULES = """
providers:
  ollama: {dialect: ollama, urls: ["${OLLAMA_URL}"]}
  deepseek: {dialect: openai, profile: deepseek, urls: ["${DEEPSEEK_URL}"], key: sk-ds-test}
  keyless: {dialect: openai, urls: ["http://127.0.0.1:9"], key: ""}
  sandbox: {dialect: sandbox}
models:
  chat: {targets: [ollama/qwen2.5:7b, deepseek/deepseek-flash], aliases: ["gpt-*"]}
rules:
  - {name: remote, when: {model: "remote"}, use: [deepseek/deepseek-v4-pro, keyless/secret-model]}
  - {name: rest, use: ["ollama/{model}", deepseek/deepseek-flash, chat, sandbox/echo]}
defaults: {refresh: 200ms}
"""


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["qwen2.5:7b", "ns/own:8b", "latest-one"]) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with (
        DeepSeekStandIn("sk-ds-test") as deepseek,
        Gateway(RULES, {"OLLAMA_URL": ollama.url, "DEEPSEEK_URL": deepseek.url}) as running,
    ):
        running.until(lambda: "deepseek" in running.state.names, "DeepSeek was asked")
        yield running


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models?limit=5"])
def test_the_list_of_models_is_openais_and_names_all_that_can_be_asked(path: str, gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.get(path)
    listed = answer.json()
    assert set(listed) == {"object", "data"}
    assert listed["object"] == "list"
    assert [(row["id"], row["owned_by"]) for row in listed["data"]] == [
        ("chat", "unigate"),
        ("latest-one:latest", "ollama"),
        ("ns/own:8b", "ollama"),
        ("qwen2.5:7b", "ollama"),
        ("deepseek-flash", "deepseek"),
        ("deepseek-v4-pro", "deepseek"),
        ("echo", "sandbox"),
        ("remote", "unigate"),
    ]
    for row in listed["data"]:
        assert set(row) == {"id", "object", "created", "owned_by"}
        assert row["object"] == "model"
        assert abs(row["created"] - time.time()) < 60


@pytest.mark.parametrize(("wanted", "found"), [
    ("qwen2.5:7b", "qwen2.5:7b"), ("QWEN2.5:7B", "qwen2.5:7b"), ("ns/own:8b", "ns/own:8b"), ("ns%2Fown%3A8b", "ns/own:8b"),
    ("latest-one", "latest-one:latest"), ("chat", "chat"), ("deepseek-flash", "deepseek-flash"), ("qwen2.5%3A7b?x=y", "qwen2.5:7b"),
])  # fmt: skip
def test_one_model_is_found_by_its_id_percent_encoded_or_not(wanted: str, found: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"GET /v1/models/{wanted}")
    assert reply.status == 200
    assert f'"id":"{found}"' in reply.body.decode()


@pytest.mark.parametrize("wanted", ["nope", "secret-model", "{model}", "../health", "qwen2.5:7b/", 'quo"te', "größe"])
def test_a_model_that_is_not_there_is_openais_404(wanted: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"GET /v1/models/{quote(wanted, safe='')}")
    assert reply.status == 404
    assert reply.error == {
        "message": f"The model `{wanted}` does not exist or you do not have access to it.",
        "type": "invalid_request_error", "param": "model", "code": "model_not_found",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_says_what_is_connected_and_which_local_models_there_are(path: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"GET {path}")
    models = b'["latest-one:latest","ns/own:8b","qwen2.5:7b"]'
    said = (
        b'{"status":"degraded","ollama":"connected","deepseek":"connected","keyless":"no key","models":'
        + models
        + b',"breakers":{}}\n'
    )
    assert (reply.status, reply.body) == (200, said)
    assert reply.headers["content-type"] == "application/json"


def test_a_change_of_models_is_seen_by_itself(gateway: Gateway, ollama: OllamaStandIn) -> None:
    def ids() -> set[str]:
        with Door(gateway.port) as door:
            body = door.ask("GET /v1/models").body.decode()
        return {name for name in ("qwen2.5:7b", "phi4:latest") if f'"{name}"' in body}

    before = ollama.models
    assert ids() == {"qwen2.5:7b"}
    with OllamaStandIn(["phi4"]) as other:
        ollama.models = other.models
    try:
        gateway.until(lambda: ids() == {"phi4:latest"}, "the new list")
    finally:
        ollama.models = before
    gateway.until(lambda: ids() == {"qwen2.5:7b"}, "the old list again")


def test_health_follows_a_server_that_stops_and_comes_back(gateway: Gateway, ollama: OllamaStandIn) -> None:
    def health() -> tuple[int, str]:
        with Door(gateway.port) as door:
            reply = door.ask("GET /health")
        return reply.status, reply.body.decode()

    ollama.stop()
    try:
        gateway.until(lambda: '"ollama":"unreachable"' in health()[1], "Ollama is away", 3)
        status, text = health()
        assert status == 200
        assert '"status":"degraded"' in text
        assert text.endswith('"models":[],"breakers":{}}\n')
    finally:
        ollama.start()
    gateway.until(lambda: '"ollama":"connected"' in health()[1], "Ollama is back", 3)
    assert "ollama: away" in gateway.log.getvalue()


def test_the_status_counts_calls_and_names_every_target_that_was_asked(gateway: Gateway) -> None:
    with gateway.client() as client:
        before = client.get("/gateway/status").json()
        assert gateway.chat(model="qwen2.5:7b").status_code == 200
        assert gateway.chat(model="remote").status_code == 200
        after = client.get("/v1/gateway/status").json()
    assert set(after) == {
        "running", "host", "port", "uptime_seconds", "active_connections", "total_requests", "targets",
    }  # fmt: skip
    assert (after["running"], after["host"], after["port"]) == (True, "127.0.0.1", gateway.port)
    assert after["total_requests"] == before["total_requests"] + 3
    assert after["uptime_seconds"] >= before["uptime_seconds"] > 0
    rows = {row["target"]: row for row in after["targets"]}
    assert {"ollama/qwen2.5:7b", "deepseek/deepseek-v4-pro"} <= set(rows)
    for name in ("ollama/qwen2.5:7b", "deepseek/deepseek-v4-pro"):
        row = rows[name]
        assert set(row) == {"target", "url", "reachable", "breaker", "in_flight", "waiting", "first_token_seconds"}
        assert (row["breaker"], row["in_flight"], row["waiting"]) == ("closed", 0, 0)
        assert row["url"].startswith("http://127.0.0.1:")
        assert row["first_token_seconds"] >= 0
