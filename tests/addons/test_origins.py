"""Who may call where no keys are set: web pages are looked at, for a browser sends whatever any page wants."""

from __future__ import annotations

import pytest

from tests.gateway import Gateway, quick_rules
from tests.standins import OllamaStandIn


@pytest.mark.parametrize(("origin", "status"), [
    ("http://localhost:3000", 200), ("https://127.0.0.1", 200), ("http://[::1]:5173", 200),
    ("https://example.com", 403), ("http://localhost.example.com", 403), ("null", 403), ("http://192.168.1.5", 403),
])  # fmt: skip
def test_without_keys_only_pages_of_this_machine_may_call(origin: str, status: int) -> None:
    with (
        OllamaStandIn() as ollama,
        Gateway(quick_rules(ollama=ollama.url)) as gateway,
        gateway.client() as client,
    ):
        body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}
        answer = client.post("/v1/chat/completions", json=body, headers={"origin": origin})
    assert answer.status_code == status
    assert len(ollama.chats) == (status == 200)
    if status == 403:
        assert answer.json()["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize(("origin", "status", "said"), [
    ("https://app.example", 200, "https://app.example"), ("http://localhost:3000", 200, None),
    ("https://example.com", 403, None), ("null", 403, None),
])  # fmt: skip
def test_without_keys_pages_that_the_rules_allow_may_call_as_well(origin: str, status: int, said: str | None) -> None:
    rules = quick_rules(
        deepseek=None, ollama="http://127.0.0.1:9", more="proxy: {cors: {origins: https://app.example}}"
    )
    with Gateway(rules) as gateway, gateway.client() as client:
        answer = client.get("/v1/models", headers={"origin": origin})
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") == said
    if status == 403:
        assert answer.json()["error"]["message"] == (
            "Without keys, calls from web pages of other sites are refused. List the page's origin under "
            "proxy.cors.origins, or set API_KEYS and send one of them."
        )
