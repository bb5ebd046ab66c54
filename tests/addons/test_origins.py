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
