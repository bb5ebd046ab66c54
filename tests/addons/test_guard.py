"""Fail closed: whatever a hook of ours raises, the caller gets OpenAI's 500 and no upstream sees the call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import io as flow_io
from mitmproxy.http import HTTPFlow

from addons.cors import Cors
from addons.failover import Failover
from addons.request import Request
from addons.response import Response
from addons.viewer import Viewer
from tests.addons.doors import Door, Reply, StockTool, request
from tests.gateway import Gateway, quick_rules
from tests.standins import DeepSeekStandIn, OllamaStandIn, ResetBeforeHeaders

HOOKS: dict[str, tuple[type, str]] = {
    "request.requestheaders": (Request, "requestheaders"),
    "request.request": (Request, "request"),
    "failover.next_layer": (Failover, "next_layer"),
    "failover.attempt_failed": (Failover, "attempt_failed"),
    "response.response": (Response, "response"),
    "viewer.response": (Viewer, "response"),
    "cors.response": (Cors, "response"),
}
BEFORE_ANY_UPSTREAM = {"request.requestheaders", "request.request", "failover.next_layer"}
SECRET = "sk-caller-secret-of-this-test"


@pytest.fixture(scope="module")
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn(reply=["All", " is", " well"]) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> Iterator[Gateway]:
    with Gateway(quick_rules(ollama=ollama.url, deepseek=deepseek.url)) as running:
        yield running


def _raise(_self: object, _data: object) -> None:
    raise RuntimeError("a bug of ours")


async def _raise_later(_self: object, _data: object) -> None:
    raise RuntimeError("a bug of ours")


def chat(stream: bool = False) -> bytes:
    body = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    return request("POST /v1/chat/completions", f"Authorization: Bearer {SECRET}", body=json.dumps(body).encode())


def check_refused(gateway: Gateway, reply: Reply, hook: str) -> None:
    assert reply.status == 500
    assert reply.error["type"] == "server_error"
    assert reply.error["message"].startswith("The gateway had an internal error")
    logged = f"{hook.replace('.', ' failed in ')}, {reply.headers['x-request-id']}: the call is refused"
    gateway.until(lambda: logged in gateway.log.getvalue(), logged)
    assert "bug of ours" not in reply.body.decode()


@pytest.mark.parametrize("broken", [_raise, _raise_later], ids=["sync", "async"])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_a_hook_is_a_500_with_the_id_that_the_log_has(
    hook: str,
    broken: Callable[..., Any],
    gateway: Gateway,
    ollama: OllamaStandIn,
    deepseek: DeepSeekStandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = len(ollama.chats) + len(deepseek.chats)
    if hook == "failover.attempt_failed":
        ollama.plan(ResetBeforeHeaders())
    with monkeypatch.context() as patch:
        patch.setattr(*HOOKS[hook], broken)
        with Door(gateway.port) as door:
            door.send(chat())
            check_refused(gateway, door.reply(), hook)
    seen = len(ollama.chats) + len(deepseek.chats) - before
    assert seen == (0 if hook in BEFORE_ANY_UPSTREAM else 1), "no other target may be asked after it"
    assert SECRET not in gateway.log.getvalue()
    assert gateway.chat().status_code == 200
    assert not gateway.state.in_flight()


@pytest.mark.parametrize("keep_bodies", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("hook", ["response.response", "viewer.response", "cors.response"])
def test_a_stream_that_was_sent_stands_and_only_the_log_tells(
    hook: str, keep_bodies: bool, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows: list[HTTPFlow] = []

    def broken(_self: object, flow: HTTPFlow) -> None:
        flows.append(flow)
        raise RuntimeError("a bug of ours")

    before = len(gateway.log.getvalue())
    with monkeypatch.context() as patch:
        patch.setattr(gateway.state, "keep_bodies", keep_bodies)
        patch.setattr(*HOOKS[hook], broken)
        answer = gateway.chat(stream=True)
        logged = hook.replace(".", " failed in ")
        gateway.until(lambda: logged in gateway.log.getvalue()[before:], logged)
    assert answer.status_code == 200
    assert "All" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert flows[0].response is not None
    assert flows[0].response.status_code == 200
    assert not gateway.state.in_flight()


def test_an_exception_while_a_streams_call_is_told_of_its_end_is_only_logged(
    gateway: Gateway, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(gateway.log.getvalue())
    ollama.pace = 0.05
    with monkeypatch.context() as patch:
        patch.setattr(Response, "error", _raise)
        with Door(gateway.port) as door:
            door.send(chat(stream=True))
            gateway.until(lambda: len(ollama.chats) > 0, "the call is under way")
        gateway.until(lambda: "response failed in error" in gateway.log.getvalue()[before:], "the log tells")
    ollama.pace = 0.0
    gateway.until(lambda: not gateway.state.in_flight(), "the call is over")
    assert gateway.chat().status_code == 200


def test_a_key_is_hidden_even_where_the_hook_that_hides_it_fails(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows: list[HTTPFlow] = []

    def broken(_self: object, flow: HTTPFlow) -> None:
        flows.append(flow)
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Request, "requestheaders", broken)
    with Door(gateway.port) as door:
        assert door.ask(f"GET /v1/models?api_key={SECRET}", f"Authorization: Bearer {SECRET}").status == 500
    assert SECRET not in str(flows[0].get_state())


BREAKER = """
from addons.cors import Cors
from addons.failover import Failover
from addons.request import Request
from addons.response import Response
from addons.viewer import Viewer

def breaking(addon, hook):
    whole = getattr(addon, hook)
    def run(self, flow):
        if flow.request.headers.get("x-break") == f"{addon.__name__.lower()}.{hook}":
            raise RuntimeError("a bug of ours")
        return whole(self, flow)
    setattr(addon, hook, run)

for addon, hook in ((Request, "requestheaders"), (Request, "request"), (Failover, "attempt_failed"),
                    (Response, "response"), (Viewer, "response"), (Cors, "response")):
    breaking(addon, hook)
"""


def test_under_the_stock_tools_it_is_the_same(tmp_path: Path, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    (tmp_path / "breaker.py").write_text(BREAKER)
    rules = quick_rules(ollama=ollama.url, deepseek=deepseek.url)
    body = json.dumps({"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello"}]}).encode()
    more = ("-s", str(tmp_path / "breaker.py"), "-w", str(tmp_path / "flows"))
    with StockTool("mitmdump", tmp_path, rules, *more) as tool:
        for hook in HOOKS:
            if hook == "failover.next_layer":
                continue  # it has no request that could ask for it
            before = len(ollama.chats) + len(deepseek.chats)
            if hook == "failover.attempt_failed":
                ollama.plan(ResetBeforeHeaders())
            with Door(tool.port) as door:
                auth = f"Authorization: Bearer {SECRET}"
                reply = door.ask("POST /v1/chat/completions", auth, f"x-break: {hook}", body=body)
            assert reply.status == 500, hook
            assert reply.error["message"].startswith("The gateway had an internal error")
            tool.until(re.compile(f"{hook.replace('.', ' failed in ')}, {reply.headers['x-request-id']}: "))
            seen = len(ollama.chats) + len(deepseek.chats) - before
            assert seen == (0 if hook in BEFORE_ANY_UPSTREAM else 1), hook
        assert tool.stop() == 0
    saved = (tmp_path / "flows").read_bytes()
    assert SECRET.encode() not in saved
    with (tmp_path / "flows").open("rb") as file:
        assert [
            flow.response.status_code
            for flow in flow_io.FlowReader(file).stream()
            if isinstance(flow, HTTPFlow) and flow.response
        ] == [500] * 6
