"""Explanations: what would become of a call, without anything being sent, and exactly as it is when it is sent."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from addons.cli import main
from addons.explain import endpoint_of, explain, offline, shown
from rules.conditions import Seen
from rules.load import load_rules
from rules.snapshot import Rules
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn, OllamaStandIn
from wire.errors import BadRequest, RateLimited
from wire.profiles import PROFILES

KEY = "sk-deepseek-secret-0123456789"
TOKEN = "caller-token-0123456789"
RULES = """
proxy: {auth: {tokens: ["${API_KEYS}"]}}
providers:
  ollama: {dialect: ollama, urls: ["${OLLAMA_URL:-http://127.0.0.1:11434}"], num_ctx: 4096}
  deepseek: {dialect: openai, profile: deepseek, urls: ["${DEEPSEEK_URL:-https://api.deepseek.com}"], key: "${KEY:-}"}
  sandbox: {dialect: sandbox}
models:
  both: {targets: [ollama/qwen2.5:7b, deepseek/deepseek-flash], strategy: round_robin}
rules:
  - {name: team, when: {header: {x-team: "hush-hush-*"}}, use: [sandbox/echo]}
  - {name: remote, when: {model: "deepseek*", stream: true}, use: [deepseek/deepseek-flash]}
  - {name: local, when: {available: "ollama/{model}"}, use: ["ollama/{model}", deepseek/deepseek-flash]}
  - {name: rest, when: {model: "*"}, use: [deepseek/deepseek-flash, sandbox/echo]}
defaults: {refresh: 200ms}
"""
TOOL = {"type": "function", "function": {"name": "f"}}


def made(**variables: str) -> Rules:
    return load_rules(RULES, {"API_KEYS": TOKEN, **variables}, profiles=PROFILES)


def asked(text: str = "hello", **more: object) -> dict[str, Any]:
    return {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": text}], **more}


def explained(body: dict[str, Any], *available: str, **more: Any) -> dict[str, Any]:
    """The JSON of an explanation without a gateway; DeepSeek has its key."""
    found: dict[str, Any] = json.loads(explain(offline(made(KEY=KEY), available), body, live=False, **more).as_json())
    return found


def lines(body: dict[str, Any], *available: str, **more: Any) -> list[str]:
    return list(shown(explain(offline(made(KEY=KEY), available), body, live=False, **more)))


# -- what is said


def test_all_of_a_call_is_told() -> None:
    said = explained(asked(user="u1", tools=[TOOL]))
    local, remote = said.pop("targets")
    assert said == {
        "endpoint": "chat",
        "client": "anonymous",
        "model": "qwen2.5:7b",
        "stream": False,
        "prompt_chars": 5,
        "has": ["tools"],
        "passed_over": [
            {"rule": "team", "because": ["header: the call's x-team is not as the rule wants"]},
            {
                "rule": "remote",
                "because": ["model: 'qwen2.5:7b' fits not deepseek*", "stream: the call is not streamed"],
            },
        ],
        "rule": "local",
        "skipped": [],
        "refused": None,
        "unknown": [
            "what ollama/qwen2.5:7b can do (tools, images, thinking)",
            "whether ollama/qwen2.5:7b is there: it is taken to be",
        ],
    }
    assert (local["target"], local["server"], local["path"]) == (
        "ollama/qwen2.5:7b",
        "http://127.0.0.1:11434",
        "/api/chat",
    )
    assert (local["calls"], local["dropped"]) == (1, ["user"])
    assert local["body"]["options"] == {"num_ctx": 4096}
    assert (remote["path"], remote["body"]["model"]) == ("/chat/completions", "deepseek-flash")
    assert "user" in remote["dropped"]


def test_an_explanation_for_eyes_has_the_same_in_it() -> None:
    said = lines(asked(user="u1", tools=[TOOL], stream=True))
    assert said[:10] == [
        "POST /v1/chat/completions, called by anonymous",
        "model qwen2.5:7b, 5 characters, streamed, with tools",
        "",
        "Rules",
        "  no   team    header: the call's x-team is not as the rule wants",
        "  no   remote  model: 'qwen2.5:7b' fits not deepseek*",
        "  yes  local",
        "       where ollama/qwen2.5:7b is there, as it is taken to be; --available says what is (none: nothing)",
        "",
        "Targets, in the order in which they are asked",
    ]
    first = said.index("  1. ollama/qwen2.5:7b")
    assert said[first + 1 : first + 4] == ["     POST http://127.0.0.1:11434/api/chat", "     dropped: user", "     {"]
    second = said.index("  2. deepseek/deepseek-flash")
    body = json.loads("".join(said[first + 3 : second]))
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert said[second + 1] == "     POST https://api.deepseek.com/chat/completions"
    assert said[-2:] == ["Not known here", "  what ollama/qwen2.5:7b can do (tools, images, thinking)"]


def test_only_the_local_models_that_are_named_are_there() -> None:
    assert explained(asked(), "ollama/QWEN2.5:7b")["rule"] == "local"
    said = explained(asked(), "ollama/llama3")
    assert said["passed_over"][-1] == {
        "rule": "local",
        "because": ["available: ollama/qwen2.5:7b is not there: its server has no such model"],
    }
    assert [target["target"] for target in said["targets"]] == ["deepseek/deepseek-flash"]
    assert said["skipped"] == [{"target": "sandbox/echo", "why": "stands in only where nothing else can be asked"}]
    assert said["unknown"] == []


@pytest.mark.parametrize("wrong", ["qwen2.5:7b", "deepseek/deepseek-flash", "ollama/", "nobody/x"])
def test_a_local_model_is_named_with_its_provider(wrong: str) -> None:
    with pytest.raises(ValueError, match="write provider/model, providers: ollama"):
        offline(made(), [wrong])


def test_headers_and_client_decide_as_in_a_call() -> None:
    said = explained(asked(), client="key-1", headers={"x-team": "hush-hush-7"})
    assert (said["rule"], said["client"], said["passed_over"]) == ("team", "key-1", [])


def test_a_target_without_a_key_is_skipped_and_the_sandbox_stands_in() -> None:
    state = offline(made(), [])
    state.seen = {"ollama": Seen(frozenset(), reached=True)}  # there, and without a model
    said = json.loads(explain(state, asked()).as_json())
    assert [(target["target"], target["server"], target["path"]) for target in said["targets"]] == [
        ("sandbox/echo", None, "/api/chat")
    ]
    assert said["skipped"] == [{"target": "deepseek/deepseek-flash", "why": "has no key"}]
    shown_lines = list(shown(explain(state, asked())))
    assert "     POST sandbox:/api/chat" in shown_lines
    assert shown_lines[-2:] == ["Skipped", "  deepseek/deepseek-flash: has no key"]


def test_a_virtual_model_is_told_and_that_its_targets_take_turns() -> None:
    state = offline(made(KEY=KEY), [])
    orders = []
    for _ in range(3):
        found = explain(state, asked(model="both"))
        orders.append([outcome.target.name for outcome in found.outcomes])
    assert orders == [["ollama/qwen2.5:7b", "deepseek/deepseek-flash"]] * 3, "an explanation takes no turn"
    assert "  yes  models.both: the name means this virtual model, before all rules" in list(shown(found))
    assert found.unknown[0] == "which target of both is asked first (round_robin): that changes from call to call"


def test_a_call_that_is_asked_in_parts_shows_the_first() -> None:
    local, remote = explained(asked(n=3))["targets"]
    assert (local["calls"], remote["calls"]) == (3, 3)
    assert "n" not in remote["body"]
    assert "     asked in 3 calls, of which this is the first" in lines(asked(n=3))


def test_a_target_that_rests_is_told_so() -> None:
    state = offline(made(KEY=KEY), [])
    _, remote = explain(state, asked()).outcomes
    node = state.nodes.of(remote.target)
    node.begin()
    state.nodes.went_wrong(node, RateLimited("is rate limiting us (429)", retry_after=50), False)
    found = explain(state, asked())
    assert [row.get("rests") for row in json.loads(found.as_json())["targets"]] == [None, "is rate limiting us (429)"]
    assert "     rests just now: it is rate limiting us (429)" in list(shown(found))


def test_a_server_that_is_away_comes_last() -> None:
    state = offline(made(KEY=KEY), [])
    state.seen = {"ollama": Seen(None, reached=True)}
    found = explain(state, asked(model="both"))
    assert [(row["target"], row.get("last")) for row in json.loads(found.as_json())["targets"]] == [
        ("deepseek/deepseek-flash", None),
        ("ollama/qwen2.5:7b", True),
    ]
    assert "  2. ollama/qwen2.5:7b, only where all others have failed" in list(shown(found))


def test_an_image_is_not_fetched_and_that_is_said() -> None:
    url = "https://pictures.test/cat.png?signature=hush"
    image = [{"type": "image_url", "image_url": {"url": url}}]
    said = explained({"model": "qwen2.5:7b", "messages": [{"role": "user", "content": image}]})
    local, remote = said["targets"]
    assert local["body"]["messages"] == [{"role": "user", "content": "", "images": ["KG5vdCBmZXRjaGVkKQ=="]}]
    assert remote["body"]["messages"][0]["content"] == image
    assert said["unknown"][0] == "the images that have a URL: they would be fetched for a server that takes none"


def test_what_a_model_thought_before_it_called_is_put_back_as_in_a_call() -> None:
    state = offline(made(KEY=KEY), [])
    state.thoughts._keep("me", ["call_1"], "because")
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    body = {"model": "qwen2.5:7b", "messages": messages, "tools": [TOOL]}
    thoughts = {}
    for client in ("me", "other"):
        _, remote = json.loads(explain(state, body, client=client).as_json())["targets"]
        thoughts[client] = remote["body"]["messages"][1]["reasoning_content"]
    assert thoughts == {"me": "because", "other": ""}


# -- other endpoints


def test_a_response_is_explained_in_the_words_of_its_caller() -> None:
    body = {"model": "qwen2.5:7b", "input": "hello", "instructions": "Be brief.", "metadata": {"a": "b"}}
    said = explained(body | {"previous_response_id": "resp_1", "truncation": "auto"})
    local, _ = said["targets"]
    assert (said["endpoint"], local["path"]) == ("responses", "/api/chat")
    assert local["body"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert local["dropped"] == ["truncation"]
    assert said["unknown"][0] == "the conversation before it (previous_response_id)"
    assert lines(body)[0] == "POST /v1/responses, called by anonymous"
    refused = explained(
        body | {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}
    )
    assert refused["targets"][0]["refused"]["param"] == "input[0].content[0].image_url"


def test_completions_and_embeddings_are_explained_too() -> None:
    (local, remote) = explained({"model": "qwen2.5:7b", "prompt": ["a", "b"]})["targets"]
    assert (local["path"], local["calls"], local["body"]["prompt"]) == ("/api/generate", 2, "a")
    assert remote["path"].endswith("/completions")
    said = explained({"model": "qwen2.5:7b", "input": ["a", "b"]})
    assert said["targets"][0]["path"] == "/api/embed"
    assert said["targets"][0]["body"]["input"] == ["a", "b"]
    assert said["targets"][1]["refused"]["param"] == "model"
    assert lines({"model": "qwen2.5:7b", "input": ["a"]})[0] == "POST /v1/embeddings, called by anonymous"


# -- what is refused


def test_a_bad_request_is_explained_by_its_refusal() -> None:
    said = explained(asked(temperature=9))
    assert said == {
        "endpoint": "chat",
        "client": "anonymous",
        "passed_over": [],
        "rule": None,
        "targets": [],
        "skipped": [],
        "refused": {
            "status": 400,
            "message": "'temperature' must be between 0 and 2, but it is 9.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "invalid_value",
        },
        "unknown": [],
    }
    assert lines(asked(temperature=9)) == [
        "POST /v1/chat/completions, called by anonymous",
        "",
        "Refused with 400 (temperature): 'temperature' must be between 0 and 2, but it is 9.",
    ]


def test_what_one_target_cannot_be_told_another_may_be() -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}]
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": image}]}
    local, remote = explained(body)["targets"]
    assert local["refused"]["param"] == "messages[0].content[0].image_url.url"
    assert "body" not in local
    assert remote["body"]["messages"] == body["messages"]
    cannot = [line for line in lines(body) if "cannot be told this" in line]
    assert cannot[0].startswith("     cannot be told this (messages[0].content[0].image_url.url): ")


def test_a_call_that_no_target_can_be_told_is_refused_as_it_would_be() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    history = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "1"}]
    state = offline(
        load_rules(
            "providers: {o: {dialect: ollama, urls: ['http://x']}}\nrules: [{name: all, use: 'o/m'}]",
            {},
            profiles=PROFILES,
        ),
        [],
    )
    said = json.loads(explain(state, {"model": "m", "messages": history}).as_json())
    assert said["refused"]["status"] == 400
    assert said["refused"]["param"] == "messages[0].tool_calls[0].function.arguments"


def test_a_schema_that_is_none_is_refused_as_in_a_call() -> None:
    schema = {"name": "s", "strict": True, "schema": {"type": "nonsense"}}
    said = explained(asked(response_format={"type": "json_schema", "json_schema": schema}))
    assert said["refused"]["param"] == "response_format.json_schema.schema"


def test_a_call_without_a_route_says_so() -> None:
    rules = "providers: {d: {dialect: openai, urls: ['http://x'], key: ''}}\nrules: [{name: r, when: {model: a}, use: [d/x]}]"
    state = offline(load_rules(rules, {}, profiles=PROFILES), [])
    refused = json.loads(explain(state, asked(model="a")).as_json())["refused"]
    assert (refused["status"], refused["code"]) == (503, "no_route")
    found = explain(state, asked(model="b"))
    assert json.loads(found.as_json())["refused"]["code"] == "model_not_found"
    assert "  none of them holds" in list(shown(found))


def test_an_endpoint_that_cannot_be_explained_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        explained(asked(), endpoint="telepathy")
    assert caught.value.param == "endpoint"


@pytest.mark.parametrize(("body", "endpoint"), [
    ({"messages": []}, "chat"),
    ({}, "chat"),
    ({"input": "hi"}, "responses"),
    ({"input": [{"role": "user", "content": "hi"}]}, "responses"),
    ({"instructions": "be brief"}, "responses"),
    ({"prompt": {"id": "p"}}, "responses"),
    ({"prompt": "once"}, "completions"),
    ({"prompt": ["once", "upon"]}, "completions"),
    ({"input": ["a", "b"]}, "embeddings"),
    ({"input": [1, 2]}, "embeddings"),
    ({"input": [[1], [2]]}, "embeddings"),
    ({"input": "hi", "model": "nomic-embed-text"}, "embeddings"),
    ({"input": "hi", "model": "x", "encoding_format": "float"}, "embeddings"),
])  # fmt: skip
def test_the_endpoint_is_guessed_from_the_body(body: dict[str, Any], endpoint: str) -> None:
    assert endpoint_of(body) == endpoint


# -- what is not shown


def test_long_strings_are_shortened_for_eyes_and_whole_in_json() -> None:
    image = "data:image/png;base64," + "iVBORw0KGgo" * 1000
    parts = [{"type": "text", "text": "word " * 1000}, {"type": "image_url", "image_url": {"url": image}}]
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": parts}]}
    said = lines(body)
    assert max(map(len, said)) < 250
    assert any("word word" in line and line.endswith('… (5,000 characters)",') for line in said)
    assert any(line.strip().startswith('"iVBORw0KGgo') and "(11,000 characters)" in line for line in said)
    local, _ = explained(body)["targets"]
    assert local["body"]["messages"][0]["images"] == [image.partition(",")[2]]


def test_nothing_in_a_request_steers_the_terminal() -> None:
    said = lines(asked("\x1b[2J\x9b2J\u202e", model="a\x1b[31m\nb"))
    assert all(line.isprintable() for line in said)


def test_no_secret_is_in_an_explanation() -> None:
    state = offline(made(KEY=KEY), [])
    found = explain(state, asked(), headers={"x-team": "other", "authorization": f"Bearer {TOKEN}"})
    for text in (found.as_json().decode(), "\n".join(shown(found))):
        for secret in (KEY, TOKEN, "hush-hush"):
            assert secret not in text


# -- the endpoint: with what the gateway knows


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(["qwen2.5:7b"]) as server:
        yield server


@pytest.fixture(scope="module")
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(KEY) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> Iterator[Gateway]:
    variables = {"OLLAMA_URL": ollama.url, "DEEPSEEK_URL": deepseek.url, "KEY": KEY, "API_KEYS": TOKEN}
    with Gateway(RULES, variables) as running:
        yield running


def post(gateway: Gateway, body: object, path: str = "/gateway/explain", key: str = TOKEN) -> httpx.Response:
    with gateway.client(key) as client:
        return client.post(path, json=body)


@pytest.mark.parametrize("path", ["/gateway/explain", "/v1/gateway/explain"])
def test_the_endpoint_says_what_would_be_sent_and_sends_nothing(
    path: str, gateway: Gateway, ollama: OllamaStandIn
) -> None:
    before = len(ollama.chats)
    answer = post(gateway, asked(), path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    said = answer.json()
    assert (said["rule"], said["refused"]) == ("local", None)
    assert said["client"].startswith("key-")
    assert not any("taken to be" in words for words in said["unknown"])
    assert len(ollama.chats) == before
    assert post(gateway, {"endpoint": "chat", "request": asked()}).json() == said


def test_what_is_explained_is_what_is_sent(gateway: Gateway, ollama: OllamaStandIn) -> None:
    body = asked("what is sent?", tools=[TOOL], temperature=0.5, user="u")
    said = post(gateway, body).json()["targets"][0]
    answer = post(gateway, body, "/v1/chat/completions")
    assert answer.headers["x-gateway-target"] == said["target"]
    assert answer.headers["x-gateway-dropped"] == ", ".join(said["dropped"])
    assert ollama.chats[-1].json == said["body"]


def test_the_endpoint_knows_the_conversation_before_a_response(gateway: Gateway) -> None:
    answer = post(gateway, {"model": "qwen2.5:7b", "input": "first question"}, "/v1/responses").json()
    body = {"model": "qwen2.5:7b", "input": "and then?", "previous_response_id": answer["id"]}
    said = post(gateway, body).json()
    sent = said["targets"][0]["body"]["messages"]
    assert [message["content"] for message in sent if message["role"] == "user"] == ["first question", "and then?"]
    missing = post(gateway, body | {"previous_response_id": "resp_none"}).json()
    assert (missing["refused"]["status"], missing["refused"]["param"]) == (404, "previous_response_id")


def test_the_endpoint_needs_a_key_and_refuses_nonsense(gateway: Gateway) -> None:
    assert post(gateway, asked(), key="wrong-key").status_code == 401
    refused = post(gateway, [1])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_type")
    refused = post(gateway, {"endpoint": ["chat"], "request": asked()})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "endpoint")
    assert post(gateway, {"endpoint": "chat", "request": {}}).json()["refused"]["param"] == "model"


# -- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "call.json").write_text(json.dumps(asked()))
    for name in ("OLLAMA_URL", "DEEPSEEK_URL", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("API_KEYS", TOKEN)
    monkeypatch.setenv("KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["unigate", "explain", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


@pytest.mark.usefixtures("folder")
def test_the_command_explains_a_file(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("call.json", monkeypatch=monkeypatch) == 0
    out = capfdbinary.readouterr().out.decode()
    assert out.startswith(
        "POST /v1/chat/completions, called by anonymous\nmodel qwen2.5:7b, 5 characters, not streamed\n"
    )
    assert run("call.json", "--json", "--header", "X-Team: hush-hush-1", "--client", "me", monkeypatch=monkeypatch) == 0
    said = json.loads(capfdbinary.readouterr().out)
    assert (said["rule"], said["client"]) == ("team", "me")
    assert (
        run("call.json", "--json", "--available", "ollama/a", "--available", "ollama/b", monkeypatch=monkeypatch) == 0
    )
    assert json.loads(capfdbinary.readouterr().out)["rule"] == "rest"


@pytest.mark.usefixtures("folder")
def test_the_command_reads_stdin_and_fails_where_the_call_would(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = json.dumps(asked(temperature=9)).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert run("-", "--endpoint", "chat", monkeypatch=monkeypatch) == 1
    assert b"Refused with 400 (temperature)" in capfdbinary.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "words"), [
    (["none.json"], "unigate: none.json cannot be read: No such file or directory\n"),
    (["rules.yaml"], "unigate: rules.yaml: The request body is not valid JSON: "),
    (["call.json", "--endpoint", "telepathy"], "unigate: call.json: 'endpoint' must be one of chat"),
    (["call.json", "--available", "x"], "unigate: 'x' names no local model; write provider/model, providers: ollama\n"),
    (["call.json", "--header", "x-team"], "unigate: a header is written 'name: value', not 'x-team'\n"),
    (["call.json", "--rules", "none.yaml"], "unigate: there is no rules file at none.yaml\n"),
])  # fmt: skip
def test_the_command_says_what_is_wrong_with_its_arguments(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert (out, err[: len(words)]) == ("", words)


def test_the_command_knows_what_a_client_may_do_though_its_key_is_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = 'clients: {notebook: {key: "${NOTEBOOK_KEY:-}", models: [other]}}\n'
    (folder / "rules.yaml").write_text(clients + (folder / "rules.yaml").read_text())
    assert run("call.json", "--client", "notebook", monkeypatch=monkeypatch) == 1
    assert "Client 'notebook' does not have access to model `qwen2.5:7b`" in capsys.readouterr().out
    assert run("call.json", "--client", "notebok", monkeypatch=monkeypatch) == 2
    said = "unigate: there is no client 'notebok' in the rules (did you mean 'notebook'?)\n"
    assert capsys.readouterr().err == said
    assert run("call.json", "--client", "key-1a2b3c4d", monkeypatch=monkeypatch) == 0
