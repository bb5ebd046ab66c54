"""Named clients at a running gateway: who is let in, what each may name and call, and what the others are told."""

from __future__ import annotations

import gc
import http.client
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from addons.logs import redactor
from rules.access import Client, digest_of
from rules.load import load_rules
from tests.gateway import Gateway
from tests.standins import OllamaStandIn
from wire.profiles import PROFILES

ALL, SOME, FEW, OFF, OLD, LOOSE = (f"{name}-key-0123456789" for name in ("all", "some", "few", "off", "old", "loose"))
WATCH, BOTH = "watch-key-0123456789", "both-key-0123456789"
LAST_DAY = 1_795_737_600.0
"""2026-11-27 00:00 UTC: the clients' keys that expire on the 26th have just done so."""
RULES = f"""
proxy: {{auth: {{tokens: ["${{API_KEYS}}"]}}}}
clients:
  all: {{key: "${{ALL_KEY}}"}}
  some: {{key: "sha256:{digest_of(SOME).hex()}", models: ["qwen*", chat, "gpt-4o"]}}
  few: {{keys: [{FEW}], models: [chat], endpoints: [/v1/chat/completions, /models], limits: [2/minute]}}
  off: {{key: {OFF}, disabled: true}}
  old: {{key: {OLD}, expires: 2026-11-26}}
  nobody: {{key: "${{NOBODY_KEY:-}}"}}
  watch: {{key: {WATCH}, endpoints: [/metrics, /gateway]}}
  both: {{key: {BOTH}, models: [chat], endpoints: [/v1, /gateway/explain]}}
providers:
  ollama: {{dialect: ollama, urls: ["${{OLLAMA_URL}}"]}}
models:
  chat: {{targets: [ollama/qwen2.5:7b], aliases: ["gpt-*"]}}
  other: {{targets: [ollama/qwen2.5:7b]}}
rules:
  - {{name: of-all, when: {{client: all}}, use: ["ollama/{{model}}"]}}
  - {{name: rest, use: [ollama/qwen2.5:7b]}}
defaults: {{refresh: 200ms}}
"""
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    variables = {"API_KEYS": LOOSE, "ALL_KEY": f"first-of-all-0123, {ALL}", "OLLAMA_URL": ollama.url}
    with Gateway(RULES, variables) as running:
        running.state.wall = lambda: LAST_DAY
        running.until(lambda: running.state.seen["ollama"].models is not None, "Ollama is seen")
        yield running


def ask(gateway: Gateway, key: str, model: str = "qwen2.5:7b", path: str = CHAT, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello there"}], **more}
    with gateway.client(key) as client:
        return client.post(path, json=body)


def get(gateway: Gateway, key: str, path: str) -> httpx.Response:
    with gateway.client(key) as client:
        return client.get(path)


def error(answer: httpx.Response, status: int, code: str | None, kind: str = "invalid_request_error") -> str:
    assert answer.status_code == status, answer.text
    found = answer.json()["error"]
    assert (found["type"], found["code"]) == (kind, code)
    assert set(found) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return str(found["message"])


@pytest.mark.parametrize(("key", "name"), [
    (ALL, "all"), ("first-of-all-0123", "all"), (SOME, "some"), (LOOSE, f"key-{digest_of(LOOSE).hex()[:8]}"),
])  # fmt: skip
def test_a_key_in_plain_or_as_a_digest_lets_its_client_in_and_the_log_names_it(
    key: str, name: str, gateway: Gateway
) -> None:
    before = len(gateway.log.getvalue())
    answer = ask(gateway, key)
    assert answer.status_code == 200
    assert answer.headers["x-gateway-rule"] == ("of-all" if name == "all" else "rest")
    gateway.until(lambda: f" {name} req_" in gateway.log.getvalue()[before:], "the line in the log")


def test_the_client_of_a_file_is_asked_for_its_key_though_it_is_on_this_machine(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        assert "You didn't provide an API key" in error(client.get("/v1/models"), 401, None)


@pytest.mark.parametrize(("key", "because"), [
    (OFF, "The API key *** is not accepted: client 'off' is disabled. Ask whoever runs this gateway"),
    (OLD, "The API key *** is not accepted: client 'old' could call until 2026-11-26 (UTC). Ask whoever"),
    (ALL + "x", "Incorrect API key provided: ***. Use a key that this gateway was given in API_KEYS or under `clients`."),
    (f"sha256:{digest_of(SOME).hex()}", "Incorrect API key provided: ***."),
])  # fmt: skip
def test_a_key_that_is_not_accepted_is_refused_in_words_for_its_holder(
    key: str, because: str, gateway: Gateway, ollama: OllamaStandIn
) -> None:
    before = len(ollama.chats)
    for answer in (ask(gateway, key), get(gateway, key, "/v1/models"), get(gateway, key, "/v1/nothing")):
        assert because in error(answer, 401, "invalid_api_key")
    assert len(ollama.chats) == before


def test_a_key_is_good_until_midnight_and_not_a_moment_longer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.state, "wall", lambda: LAST_DAY - 0.5)
    assert ask(gateway, OLD).status_code == 200
    monkeypatch.undo()
    assert ask(gateway, OLD).status_code == 401


@pytest.mark.parametrize(("key", "model"), [
    (SOME, "qwen2.5:7b"), (SOME, "QWEN-anything"), (SOME, "chat"), (SOME, "Chat"), (SOME, "gpt-4o"), (FEW, "chat"),
])  # fmt: skip
def test_a_client_may_name_what_fits_its_models(key: str, model: str, gateway: Gateway) -> None:
    assert ask(gateway, key, model).status_code == 200


FORBIDDEN = [("other", SOME), ("gpt-4o-mini", SOME), ("llama3.2:3b", SOME), ("chat:latest", SOME), ("other", FEW)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "key"), FORBIDDEN)
def test_a_model_that_a_client_may_not_name_is_refused_though_a_rule_would_take_it(
    model: str, key: str, stream: bool, gateway: Gateway, ollama: OllamaStandIn
) -> None:
    before = len(ollama.chats)
    answer = ask(gateway, key, model, stream=stream)
    said = error(answer, 403, "model_not_found")
    name, may = ("some", "qwen*, chat, gpt-4o") if key == SOME else ("few", "chat")
    assert said == f"Client '{name}' does not have access to model `{model}`. It may name: {may}."
    assert answer.json()["error"]["param"] == "model"
    assert len(ollama.chats) == before


@pytest.mark.parametrize(("path", "body"), [
    ("/completions", {"prompt": "hi"}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/audio/speech", {"input": "hi", "voice": "alloy"}),
    ("/v1/images/generations", {"prompt": "hi"}),
])  # fmt: skip
def test_the_same_holds_at_every_endpoint_that_names_a_model(path: str, body: dict[str, Any], gateway: Gateway) -> None:
    with gateway.client(SOME) as client:
        said = error(client.post(path, json={"model": "other", **body}), 403, "model_not_found")
    assert "does not have access to model `other`" in said


def test_the_same_holds_for_a_model_in_a_form(gateway: Gateway) -> None:
    with gateway.client(SOME) as client:
        answer = client.post("/v1/audio/transcriptions", data={"model": "other"}, files={"file": ("a.wav", b"RIFF")})
    assert "does not have access to model `other`" in error(answer, 403, "model_not_found")


def test_a_bad_call_is_a_bad_call_before_it_is_a_forbidden_one(gateway: Gateway) -> None:
    with gateway.client(SOME) as client:
        said = error(client.post(CHAT, json={"model": "other"}), 400, "missing_required_parameter")
    assert said == "You must provide 'messages' (an array)."


@pytest.mark.parametrize(("key", "listed"), [
    (ALL, {"chat", "other", "qwen2.5:7b", "llama3.2:3b"}),
    (SOME, {"chat", "qwen2.5:7b", "gpt-4o"}),
    (FEW, {"chat"}),
])  # fmt: skip
def test_the_list_of_models_has_those_that_the_client_may_name(key: str, listed: set[str], gateway: Gateway) -> None:
    answer = get(gateway, key, "/v1/models")
    found = {model["id"] for model in answer.json()["data"]}
    assert found & {"chat", "other", "qwen2.5:7b", "llama3.2:3b", "gpt-4o"} == listed
    if key != ALL:
        assert found == listed


@pytest.mark.parametrize(("key", "model", "there"), [
    (ALL, "other", True), (ALL, "gpt-9", True), (ALL, "llama3.2:3b", True), (SOME, "qwen2.5:7b", True),
    (SOME, "gpt-4o", True), (SOME, "gpt-9", False), (SOME, "other", False), (SOME, "llama3.2:3b", False),
    (FEW, "chat", True), (FEW, "qwen2.5:7b", False),
])  # fmt: skip
def test_a_model_that_a_client_may_not_name_does_not_exist_for_it(
    key: str, model: str, there: bool, gateway: Gateway
) -> None:
    answer = get(gateway, key, f"/v1/models/{model}")
    if there:
        assert answer.json()["id"] == model
    else:
        assert "does not exist or you do not have access to it" in error(answer, 404, "model_not_found")


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v1/embeddings"), ("POST", "/responses"), ("GET", "/v1/responses/resp_1"), ("GET", "/gateway/status"),
    ("POST", "/gateway/explain"), ("DELETE", "/v1/embeddings"), ("GET", "/metrics"),
])  # fmt: skip
def test_an_endpoint_that_a_client_may_not_call_is_refused(method: str, path: str, gateway: Gateway) -> None:
    with gateway.client(FEW) as client:
        said = error(client.request(method, path), 403, "endpoint_not_allowed", "request_forbidden")
    assert said == ("Client 'few' does not have access to this endpoint. It may call: /v1/chat/completions, /models.")


OWN = [("GET", "/metrics"), ("GET", "/v1/metrics"), ("GET", "/gateway/status"), ("POST", "/gateway/explain")]


@pytest.mark.parametrize(("method", "path"), OWN)
def test_the_gateways_own_pages_are_not_for_a_named_client_of_which_nothing_is_said(
    method: str, path: str, gateway: Gateway
) -> None:
    with gateway.client(SOME) as client:
        said = error(client.request(method, path), 403, "endpoint_not_allowed", "request_forbidden")
    listed = path.removeprefix("/v1")
    assert said == (
        "Client 'some' does not have access to this endpoint, which tells about all clients. To allow it, list it in "
        f"rules.yaml, under `clients`: some: {{endpoints: [/v1, {listed}]}}"
    )


@pytest.mark.parametrize(("method", "path"), OWN)
@pytest.mark.parametrize(("key", "may"), [
    (LOOSE, {"/metrics", "/gateway/status", "/gateway/explain"}),
    (WATCH, {"/metrics", "/gateway/status", "/gateway/explain"}),
    (BOTH, {"/gateway/explain"}),
])  # fmt: skip
def test_they_are_for_keys_without_a_name_and_for_clients_that_have_them_listed(
    key: str, may: set[str], method: str, path: str, gateway: Gateway
) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    with gateway.client(key) as client:
        answer = client.request(method, path, json=body if method == "POST" else None)
    assert answer.status_code == (200 if path.removeprefix("/v1") in may else 403), answer.text


def test_v1_among_the_endpoints_of_a_client_is_all_that_openai_has_too(gateway: Gateway) -> None:
    assert ask(gateway, BOTH, "chat").status_code == 200
    assert get(gateway, BOTH, "/models").status_code == 200
    assert error(ask(gateway, WATCH, "chat"), 403, "endpoint_not_allowed", "request_forbidden") == (
        "Client 'watch' does not have access to this endpoint. It may call: /metrics, /gateway."
    )


def test_what_is_open_to_all_and_what_there_is_not_stays_so(gateway: Gateway) -> None:
    assert get(gateway, FEW, "/health").status_code == 200
    assert get(gateway, FEW, "/models").status_code == get(gateway, FEW, "/v1/models/chat").status_code == 200
    error(get(gateway, FEW, "/v1/nothing"), 404, None)


def test_what_one_client_had_answered_is_not_there_for_another(gateway: Gateway) -> None:
    with gateway.client(ALL) as mine, gateway.client(SOME) as theirs, gateway.client("first-of-all-0123") as mine_too:
        made = mine.post("/v1/responses", json={"model": "qwen2.5:7b", "input": "hi"}).json()["id"]
        assert mine.get(f"/v1/responses/{made}").status_code == 200
        assert mine_too.get(f"/v1/responses/{made}").status_code == 200
        assert theirs.get(f"/v1/responses/{made}").status_code == 404
        built = {"model": "qwen2.5:7b", "input": "and?", "previous_response_id": made}
        error(theirs.post("/v1/responses", json=built), 404, "previous_response_not_found")


def explained(gateway: Gateway, key: str, model: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    with gateway.client(key) as client:
        found: dict[str, Any] = client.post("/gateway/explain", json=body).json()
    return found


def test_an_explanation_says_that_the_model_would_be_forbidden(gateway: Gateway) -> None:
    allowed, forbidden = explained(gateway, BOTH, "chat"), explained(gateway, BOTH, "other")
    assert (allowed["client"], allowed["refused"], allowed["rule"]) == ("both", None, "models.chat")
    assert (forbidden["rule"], forbidden["targets"]) == (None, [])
    assert (forbidden["refused"]["status"], forbidden["refused"]["code"]) == (403, "model_not_found")


def test_neither_a_key_nor_a_digest_is_in_the_log(gateway: Gateway) -> None:
    keys = (ALL, SOME, FEW, OFF, OLD, LOOSE, "first-of-all-0123")
    for key in keys:
        for given in (key, f"sha256:{digest_of(key).hex()}"):
            ask(gateway, given, "other")
            get(gateway, given, f"/v1/models/other?api_key={given}")
    log = gateway.log.getvalue()
    assert "client 'old' could call until 2026-11-26" in log
    for key in keys:
        assert key not in log
    assert digest_of(SOME).hex() not in log
    assert "Traceback" not in log


def test_a_flood_of_wrong_keys_leaves_nothing_behind_and_holds_nobody_up(gateway: Gateway) -> None:
    def series() -> int:
        return get(gateway, LOOSE, "/metrics").text.count("\n")

    error(get(gateway, "wrong-key-at-first", "/v1/models"), 401, "invalid_api_key")
    assert ask(gateway, ALL).status_code == 200
    before = series()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
    for number in range(1000):
        where = ("authorization", f"Bearer wrong-{number}"), ("x-api-key", f"wrong-{number}")
        connection.request("POST", f"{CHAT}?token=wrong-{number}", b"{" * 10_000, dict([where[number % 2]]))
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (401, True)
        if number == 500:
            assert ask(gateway, ALL).status_code == 200
    connection.close()
    assert series() == before
    gc.collect()
    assert len(gateway.state.exchanges) < 50
    assert "wrong-" not in gateway.log.getvalue().replace("wrong-key-at-first", "")


def test_a_thousand_clients_are_as_quick_as_one() -> None:
    rows = "".join(f"  c{number}: {{key: key-number-{number}-0123, models: [qwen*]}}\n" for number in range(1000))
    text = RULES.replace("clients:\n", "clients:\n" + rows)
    variables = {"API_KEYS": LOOSE, "ALL_KEY": ALL, "OLLAMA_URL": "http://127.0.0.1:9"}
    began = time.process_time()
    rules = load_rules(text, variables, profiles=PROFILES)
    clean = redactor(rules.secrets)
    assert time.process_time() - began < 10
    began = time.process_time()
    for number in range(1000):
        found = rules.keys.identify(f"key-number-{number}-0123", LAST_DAY)
        assert isinstance(found, Client)
        assert found.name == f"c{number}"
    assert time.process_time() - began < 0.5
    line = "200 POST /v1/chat/completions qwen2.5:7b: rest → ollama/qwen2.5:7b 5+4 tokens c999 req_0f658f59040a0503"
    began = time.process_time()
    for _ in range(100):
        assert clean(line) == line
    assert time.process_time() - began < 0.1
    assert clean("it was key-number-999-0123!") == "it was ***!"
