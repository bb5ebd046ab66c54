"""A call's way out: what the flow and the log say about where it went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow

from addons import response
from addons.account import Account
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


def test_one_who_cannot_count_a_call_keeps_neither_the_answer_nor_the_others_from_it(gateway: Gateway) -> None:
    told: list[Account] = []

    def broken(_account: Account) -> None:
        raise RuntimeError("a bug of ours")

    watchers = gateway.state.watchers
    watchers[:0] = [broken, told.append]
    try:
        reply = gateway.chat()
        gateway.until(lambda: len(told) == 1, "the other one was told")
    finally:
        del watchers[:2]
    assert (reply.status_code, reply.json()["choices"][0]["message"]["content"]) == (200, "Hi there")
    said = f"{reply.headers['x-request-id']}: somebody who counts calls missed this one"
    gateway.until(lambda: said in gateway.log.getvalue(), said)


def test_a_call_that_cannot_be_accounted_for_is_answered_all_the_same(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Account:
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr(response, "account_of", broken)
        reply = gateway.chat()
    assert reply.status_code == 200
    said = f"{reply.headers['x-request-id']}: what the call came to is not known"
    gateway.until(lambda: said in gateway.log.getvalue(), said)
    assert not gateway.state.in_flight()


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
