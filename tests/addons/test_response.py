"""A call's way out: what the flow and the log say about where it went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow

from addons.response import Response, level_of, line
from tests.addons.doors import Door
from tests.gateway import Gateway, quick_rules
from tests.standins import DeepSeekStandIn, OllamaStandIn, ResetBeforeHeaders
from wire.errors import BadRequest, ClientGone, Cut, Fault


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(reply=["Hi", " there"]) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with (
        DeepSeekStandIn("sk-ds-test") as deepseek,
        Gateway(quick_rules(ollama=ollama.url, deepseek=deepseek.url)) as running,
    ):
        yield running


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> list[HTTPFlow]:
    """Every flow that has come to its end."""
    found: list[HTTPFlow] = []
    conclude: Any = Response._conclude

    def keep(self: Response, flow: HTTPFlow, *rest: Any) -> None:
        conclude(self, flow, *rest)
        found.append(flow)

    monkeypatch.setattr(Response, "_conclude", keep)
    return found


def test_the_flow_names_rule_and_target(gateway: Gateway, flows: list[HTTPFlow]) -> None:
    gateway.chat()
    assert flows[0].comment == "test → ollama/qwen2.5:7b"
    assert flows[0].metadata["unigate"]["target"] == "ollama/qwen2.5:7b"
    HTTPFlow.from_state(flows[0].get_state())  # what is beside the flow can be saved


def test_the_flow_tells_what_was_tried_before(gateway: Gateway, ollama: OllamaStandIn, flows: list[HTTPFlow]) -> None:
    ollama.plan(ResetBeforeHeaders())
    assert gateway.chat().headers["x-gateway-target"] == "deepseek/deepseek-flash"
    assert flows[0].comment.startswith("test → deepseek/deepseek-flash, after ollama/qwen2.5:7b (closed")
    fields = flows[0].metadata["unigate"]
    assert (fields["attempts"], fields["target"]) == (2, "deepseek/deepseek-flash")
    assert fields["failed"][0].startswith("ollama/qwen2.5:7b ")
    assert " 2 attempts " in line(fields)
    assert f" - after: {fields['failed'][0]}" in line(fields)


def test_a_refused_flow_says_why(gateway: Gateway, flows: list[HTTPFlow]) -> None:
    gateway.chat(temperature=9)
    assert flows[0].comment == "'temperature' must be between 0 and 2, but it is 9."


def test_a_caller_that_leaves_is_a_499_of_no_alarm(
    gateway: Gateway, ollama: OllamaStandIn, flows: list[HTTPFlow]
) -> None:
    ollama.pace = 0.1
    seen = len(ollama.chats)
    try:
        with Door(gateway.port) as door:
            body = b'{"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}'
            door.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            gateway.until(lambda: len(ollama.chats) > seen, "the call is under way")
        gateway.until(lambda: bool(flows), "its end")
    finally:
        ollama.pace = 0.0
    assert flows[0].metadata["unigate"]["status"] == 499
    assert any(" INFO    499 POST" in row for row in gateway.log.getvalue().splitlines())


@pytest.mark.parametrize(("fault", "status", "level"), [
    (None, 200, "INFO"), (BadRequest("x"), 400, "INFO"), (ClientGone("x"), 499, "INFO"), (Fault("x"), 500, "WARNING"),
    (Cut("x"), 502, "WARNING"), (Cut("x"), 200, "WARNING"),
])  # fmt: skip
def test_what_is_ours_or_an_upstreams_fault_is_a_warning(fault: Fault | None, status: int, level: str) -> None:
    assert level_of(fault, status) == level
