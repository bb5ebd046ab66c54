"""Clients who share a gateway: none of them learns from an answer that there are others, who they are or what they spend."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from addons.local import ENDPOINTS
from rules.access import digest_of
from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn, Status

OTHERS = ("walrus", "ocelot", "heron", "gecko", "magpie")
MINE = "finch-key-0123456789"
OWNER = "owner-key-0123456789"
RULES = f"""
proxy: {{auth: {{tokens: [{OWNER}]}}}}
clients:
  finch: {{key: {MINE}, models: ["qwen*", chat, deep, gone], limits: [200/minute], tags: {{team: birds}}}}
  walrus: {{key: walrus's-key-0123456789, limits: [1/minute], tags: {{team: walrus-team}}}}
  ocelot: {{key: "sha256:{digest_of("none").hex()}", expires: 2020-01-01}}
  heron: {{key: heron's-key-0123456789, disabled: true}}
  gecko: {{keys: [], endpoints: [/metrics]}}
  magpie: {{key: magpie's-key-0123456789, models: [magpie-model]}}
models:
  chat: {{targets: [ollama/qwen2.5:7b]}}
limits:
  models: {{deep: [1/day]}}
ledger: {{url: "sqlite:///LEDGER"}}
"""
CHAT = "/v1/chat/completions"
SAY = {"messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    text = quick_rules(ollama=ollama.url).replace(
        "rules: [", "rules: [{name: first, when: {client: walrus, model: 'qwen*'}, use: [ollama/x]}, "
        "{name: none, when: {client: [magpie, heron], model: gone}, use: [ollama/x]}, "
    )  # fmt: skip
    rules = RULES.replace("LEDGER", str(tmp_path_factory.mktemp("ledger") / "ledger.sqlite"))
    with Gateway(text + rules) as running:
        running.until(lambda: "qwen2.5:7b" in running.state.names.get("ollama", ()), "Ollama's models are known")
        with running.client("walrus's-key-0123456789") as walrus:
            statuses = [walrus.post(CHAT, json={"model": "deep", **SAY}).status_code for _ in range(2)]
        assert statuses[1] == 429, "a limit of one of the others, and one of all, are used up"
        yield running


def others_in(answer: httpx.Response) -> list[str]:
    """Who of the others an answer tells of."""
    told = f"{answer.headers} {answer.text}".lower()
    return [name for name in OTHERS if name in told]


@pytest.mark.parametrize("key", [MINE, "finch-key-012345678x", None], ids=["its key", "no key of ours", "no key"])
@pytest.mark.parametrize("path", [*ENDPOINTS])
def test_no_endpoint_tells_a_client_of_another(path: str, key: str | None, gateway: Gateway) -> None:
    path = path.replace("{id:path}", "qwen2.5:7b").replace("{id}", "resp_1")
    with httpx.Client(base_url=gateway.url, timeout=15, trust_env=False) as client:
        if key is not None:
            client.headers["authorization"] = f"Bearer {key}"
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            body = {"model": "qwen2.5:7b", "input": "hello", "prompt": "hello", **SAY} if method == "POST" else None
            assert others_in(client.request(method, path, json=body)) == []


@pytest.mark.parametrize(("body", "status"), [
    ({"model": "qwen2.5:7b"}, 200), ({"model": "qwen2.5:7b", "stream": True}, 200), ({"model": "chat"}, 200),
    ({"model": "other"}, 403), ({"model": "deep"}, 429), ({"model": "gone"}, 404),
    ({"model": "qwen2.5:7b", "messages": 5}, 400),
])  # fmt: skip
def test_no_answer_to_a_call_tells_a_client_of_another(body: dict[str, object], status: int, gateway: Gateway) -> None:
    with gateway.client(MINE) as client:
        answer = client.post(CHAT, json={**SAY, **body})
    assert answer.status_code == status, answer.text
    assert others_in(answer) == []


def test_whoever_runs_the_gateway_sees_them(gateway: Gateway) -> None:
    with gateway.client(OWNER) as owner:
        assert 'client="walrus"' in owner.get("/metrics").text
        body = {"model": "gone", **SAY}
        assert "magpie" in owner.post("/gateway/explain", json=body).text


def test_no_failure_of_a_target_tells_a_client_of_another(gateway: Gateway, ollama: OllamaStandIn) -> None:
    ollama.always = Status(500)
    try:
        with gateway.client(MINE) as client:
            answer = client.post(CHAT, json={"model": "qwen2.5:7b", **SAY})
    finally:
        ollama.always = None
    assert answer.status_code == 502
    assert others_in(answer) == []


def test_what_another_had_answered_is_as_unknown_as_what_nobody_had(gateway: Gateway) -> None:
    with gateway.client("magpie's-key-0123456789") as magpie:
        assert others_in(magpie.get("/health")) == []
        made = magpie.post("/v1/responses", json={"model": "magpie-model", "input": "hi"})
    wanted = made.json().get("id", "resp_1")
    with gateway.client(MINE) as client:
        mine, nobodys = (client.get(f"/v1/responses/{one}") for one in (wanted, "resp_of_nobody"))
    assert mine.status_code == nobodys.status_code == 404
    assert mine.text.replace(wanted, "resp_of_nobody") == nobodys.text
    assert others_in(mine) == []
