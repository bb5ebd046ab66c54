"""`proxy.endpoints`: what is not listed is not there, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from addons.cli import app
from addons.explain import explain, offline
from addons.local import ENDPOINTS
from addons.request import is_offered
from addons.settings import SettingsError, read_rules
from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn

KEY = "sk-caller"
BODY = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}
PROXY = "proxy: {{auth: {{tokens: [{key}]}}, endpoints: [{listed}]}}"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    proxy = PROXY.format(key=KEY, listed="/v1/chat/completions, /models, /v1/audio/")
    with OllamaStandIn() as ollama, Gateway(quick_rules(ollama=ollama.url, more=proxy)) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_listed_endpoint_is_answered_with_and_without_its_v1(gateway: Gateway, path: str) -> None:
    with gateway.client(KEY) as client:
        assert client.post(path, json=BODY).status_code == 200


def test_an_explanation_says_that_an_endpoint_is_not_answered(gateway: Gateway) -> None:
    rules = gateway.state.rules
    assert explain(gateway.state, BODY).fault is None
    explained = explain(offline(rules, ()), {"model": "qwen2.5:7b", "input": ["hi"]}, live=False)
    assert (explained.outcomes, explained.decision) == ((), None)
    assert explained.fault is not None
    assert (explained.fault.status, explained.fault.message) == (
        404,
        "/v1/embeddings is not among the endpoints that this gateway answers (proxy.endpoints).",
    )


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/qwen2.5:7b", "/models/qwen2.5%3A7b"])
def test_a_listed_path_means_all_that_is_below_it_too(gateway: Gateway, path: str) -> None:
    with gateway.client(KEY) as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/audio/transcriptions"])
def test_a_path_above_endpoints_means_all_of_them(gateway: Gateway, path: str) -> None:
    with gateway.client(KEY) as client:
        assert client.post(path, json={}).status_code == 400


UNLISTED = [
    ("POST", "/v1/completions"),
    ("POST", "/embeddings"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("GET", "/v1/responses/resp_1/input_items"),
    ("POST", "/v1/images/generations"),
    ("GET", "/gateway/status"),
    ("POST", "/gateway/explain"),
]


@pytest.mark.parametrize(("method", "path"), UNLISTED)
def test_any_other_endpoint_is_as_unknown_as_a_path_that_nothing_has(gateway: Gateway, method: str, path: str) -> None:
    with gateway.client(KEY) as client:
        answer = client.request(method, path, json=BODY if method == "POST" else None)
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": f"Invalid URL ({method} {path})",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(("method", "path"), UNLISTED)
def test_who_has_no_key_is_not_told_what_is_there(gateway: Gateway, method: str, path: str) -> None:
    with gateway.client("sk-wrong") as client:
        assert client.request(method, path).status_code == 401


def test_the_health_is_always_answered(gateway: Gateway) -> None:
    with gateway.client("sk-wrong") as client:
        assert client.get("/health").json()["status"] == "healthy"


RULES = "providers: {{s: {{dialect: sandbox}}}}\nrules: [{{name: a, use: [s/echo]}}]\n{more}\n"


@pytest.mark.parametrize("path", [*ENDPOINTS])
def test_every_endpoint_can_be_listed(tmp_path: Path, path: str) -> None:
    file = tmp_path / "rules.yaml"
    listed = f'["{path}", "/v1{path}/"]'
    file.write_text(RULES.format(more=f"proxy: {{endpoints: {listed}}}"))
    rules, _ = read_rules(file, {}, endpoints=ENDPOINTS)
    assert rules.endpoints == frozenset({path})


@pytest.mark.parametrize(
    ("listed", "where", "message"),
    [
        (
            '"/v1/chat/completion"',
            "proxy.endpoints",
            "there is no such endpoint (did you mean '/v1/chat/completions'?)",
        ),
        ("[/models, /embedings]", "proxy.endpoints[1]", "there is no such endpoint (did you mean '/embeddings'?)"),
        ("[/v1/models/gpt-4o]", "proxy.endpoints[0]", "there is no such endpoint (did you mean '/v1/models'?)"),
        ("[models]", "proxy.endpoints[0]", "'models': a path begins with a slash, such as /v1/chat/completions"),
        (
            "[/]",
            "proxy.endpoints[0]",
            "'/': this would be every path; write /v1 for all that OpenAI has too, or leave `endpoints` out",
        ),
        ("[]", "proxy.endpoints", "needs at least one entry"),
    ],
)
def test_a_path_that_nothing_has_is_a_fault_of_the_file(tmp_path: Path, listed: str, where: str, message: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.format(more=f"proxy:\n  endpoints: {listed}"))
    with pytest.raises(SettingsError) as caught:
        read_rules(file, {}, endpoints=ENDPOINTS)
    assert str(caught.value) == f"{file} has 1 fault:\n  line 4: {where}: {message}"


def test_v1_alone_is_all_but_the_gateways_own_pages(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.format(more="proxy: {endpoints: [/v1, /gateway/status]}"))
    rules, _ = read_rules(file, {}, endpoints=ENDPOINTS)
    assert {path for path, endpoint in ENDPOINTS.items() if not is_offered(endpoint, rules)} == {
        "/metrics",
        "/gateway/explain",
    }


def test_a_clients_paths_are_looked_at_as_well(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        RULES.format(more="clients:\n  app:\n    key: sk-app-0123456789\n    endpoints: [/v1/chat/completion]")
    )
    with pytest.raises(SettingsError, match=r"line 6: clients\.app\.endpoints\[0\]: there is no such endpoint \(did"):
        read_rules(file, {}, endpoints=ENDPOINTS)


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_commands_know_the_endpoints(tmp_path: Path, command: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.format(more="proxy: {endpoints: /v1/chat/completion}"))
    result = CliRunner().invoke(app, [command, "--rules", str(file)])
    assert isinstance(result.exception, SettingsError)
    assert "proxy.endpoints: there is no such endpoint" in str(result.exception)
