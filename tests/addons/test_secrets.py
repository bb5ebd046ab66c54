"""Canaries: no key, ours or a caller's, gets into a log, a flow, a file, mitmweb or an answer, whatever goes wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, quote_plus

import httpx
import pytest
from mitmproxy import io as flow_io
from mitmproxy.http import HTTPFlow

from addons.request import Request
from addons.response import Response
from tests.addons.doors import NO_TLS, Door, StockTool, free_port, request
from tests.gateway import Gateway, GatewayProcess
from tests.standins import DeepSeekStandIn, ErrorAfter, OllamaStandIn, ResetBeforeHeaders, Status

UP = "up\"str'eam\\k3y+%41=/&x"
CALLER = "c@ll3r'\\k3y+%42=/&y"
WRONG = 'wr0ng"k3y\\+%43=/&z-0123'
COOKIE = "c00kie-jar-of-somebody"
KEYS = (UP, CALLER, WRONG, COOKIE)
RULES = """
proxy: {auth: {tokens: ["${CALLER}"]}}
providers:
  ollama: {dialect: ollama, urls: ["${OLLAMA_URL}"]}
  deepseek: {dialect: openai, profile: deepseek, urls: ["${DEEPSEEK_URL}"], key: "${UP}"}
  nobody: {dialect: openai, urls: ["http://127.0.0.1:9"], key: "${UP}"}
rules:
  - {name: away, when: {model: away}, use: [nobody/x]}
  - {name: remote, when: {model: remote}, use: [deepseek/deepseek-flash]}
  - {name: rest, use: ["ollama/{model}", deepseek/deepseek-flash]}
defaults: {refresh: 1s, timeouts: {connect: 1s, first_token: 2s}, failover: {attempts: 1}, breaker: {weights: {key: 0, connect: 0}}}
"""
TELLTALE = (
    "Origin: https://app.example", f"Cookie: session={COOKIE}", "OpenAI-Organization: org-1", "OpenAI-Project: p",
    "x-stainless-lang: python", "X-Forwarded-For: 1.2.3.4", "User-Agent: OpenAI/Python", f"api-key: {WRONG}",
)  # fmt: skip


def spellings(secret: str) -> set[str]:
    inner = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
    return inner | {json.dumps(text)[1:-1] for text in inner}


def check_clean(text: str, what: str, secrets: Sequence[str] = KEYS) -> None:
    for secret in secrets:
        for spelled in spellings(secret):
            at = text.find(spelled)
            assert at < 0, f"{what} holds {secret!r}: …{text[max(0, at - 200) : at + 100]}"


@pytest.fixture(scope="module")
def deepseek() -> Iterator[DeepSeekStandIn]:
    with DeepSeekStandIn(UP) as server:
        yield server


def variables(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> dict[str, str]:
    return {"CALLER": CALLER, "UP": UP, "OLLAMA_URL": ollama.url, "DEEPSEEK_URL": deepseek.url, "LOG_LEVEL": "DEBUG"}


ODD = tuple(
    line.replace("KEY", quote(key, safe=""))
    for key in (CALLER, WRONG)
    for line in (
        "/v1/models?api_key[]=KEY", "/v1/models?%61pi_key%5B%5D=KEY", "/v1/models?%2561pi_key=KEY", "/v1/models?KEY",
        "/v1/models?access_token=KEY", "/v1/models?token=KEY&a=b", "/v1/models?apikey=KEY", "/v1/models?a=b;api_key=KEY",
        "/v1/models?key:KEY=1", "/v1/models?auth[api_key]=KEY", "/v1/models?next=https%3A%2F%2Fx%2F%3Fapi_key%3DKEY",
        "/v1/models;api_key=KEY", "/v1/models%3Fapi_key=KEY", "/v1/models#api_key=KEY", "//user:KEY@gateway/v1/models",
        "/v1/api_key=KEY/models", "/v1/models?Authorization=Bearer%20KEY", "/v1/chat/completions?" + "a&" * 5000 + "key=KEY",
    )
)  # fmt: skip
"""Where a key is not looked for, and could be seen for ever."""
CALLS = 33 + len(ODD)
"""That make_calls() makes."""


def call(model: str, *, key: str = CALLER, by_url: bool = False, **more: object) -> bytes:
    path = "/v1/chat/completions" + (f"?a=b&api_key={quote(key, safe='')}" if by_url else "")
    auth = () if by_url else (f"Authorization: Bearer {key}",)
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    return request(f"POST {path}", *auth, *TELLTALE, body=json.dumps(body).encode())


def ask(port: int, data: bytes) -> str:
    """Sends a request and gives all that comes back, to the end of the answer."""
    with Door(port) as door:
        door.send(data.replace(b"\r\nHost: gateway", b"\r\nHost: api.openai.com\r\nConnection: close", 1))
        return door._file.read().decode("latin-1")


def make_calls(port: int, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> str:
    """Calls of every kind; gives all that the caller was told."""
    echo = f"Incorrect key Bearer {UP} ({quote(UP)})"
    said: list[str] = []

    def make(status: int, data: bytes) -> None:
        answer = ask(port, data)
        assert answer.startswith(f"HTTP/1.1 {status} "), answer
        said.append(answer)

    for by_url in (False, True):
        make(200, call("remote", by_url=by_url))
        make(200, call("remote", by_url=by_url, stream=True))
        make(200, call("qwen2.5:7b", by_url=by_url, stream=True))
        make(401, call("remote", key=WRONG, by_url=by_url))
        make(400, call("remote", by_url=by_url, temperature="hot"))
        make(502, call("away", by_url=by_url))
        deepseek.plan(Status(401, {"error": {"message": echo, "type": "x", "param": None, "code": None}}))
        make(502, call("remote", by_url=by_url))
        deepseek.plan(Status(500, echo.encode()))
        make(502, call("remote", by_url=by_url))
        deepseek.plan(Status(400, {"error": {"message": echo, "type": "x", "param": None, "code": None}}))
        make(400, call("remote", by_url=by_url))
        deepseek.plan(ErrorAfter(4, echo))
        said.append(ask(port, call("remote", by_url=by_url, stream=True)))
        deepseek.plan(ErrorAfter(0, "unexpected EOF"))
        make(502, call("remote", by_url=by_url, stream=True))
        ollama.plan(ResetBeforeHeaders())
        make(200, call("qwen2.5:7b", by_url=by_url))
    make(404, request(f"GET /v1/nothing?api_key={quote(CALLER, safe='')}", *TELLTALE))
    make(200, request(f"GET /v1/models?%61pi%5fkey={quote(CALLER, safe='')}", *TELLTALE))
    for path in ODD:
        make(401, request(f"GET {path}", *TELLTALE))
    for header in ("Host: user:KEY@gateway", "Referer: https://x.example/?api_key=KEY", "X-Forwarded-Uri: /v1/models?key=KEY",
                   "X-Goog-Api-Key: KEY", "X-Auth-Token: KEY"):  # fmt: skip
        make(401, request("GET /v1/models", header.replace("KEY", quote(CALLER, safe="")), *TELLTALE))
    make(405, request("GET /v1/chat/completions", f"Authorization: Bearer {CALLER}", *TELLTALE))
    make(400, request("GET /v1/models", f"Authorization: Bearer {CALLER}", "bad name: x", *TELLTALE))
    return "\n".join(said)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_key_gets_into_an_answer_or_a_line_of_the_log(
    form: str, ollama: OllamaStandIn, deepseek: DeepSeekStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(_self: object, _flow: HTTPFlow) -> None:
        raise RuntimeError(f"bug near {UP} and {CALLER}")

    with Gateway(RULES, variables(ollama, deepseek), log_form=form) as gateway:
        answers = make_calls(gateway.port, ollama, deepseek)
        for place in ((Request, "requestheaders"), (Request, "request"), (Response, "response")):
            with monkeypatch.context() as patch:
                patch.setattr(place[0], place[1], boom)
                for by_url in (False, True):
                    answers += ask(gateway.port, call("remote", by_url=by_url))
    log = gateway.log.getvalue()
    assert log.count("bug near *** and ***") == 6
    check_clean(log, "the log")
    check_clean(answers, "an answer")


def test_upstreams_see_their_own_host_and_nothing_of_the_caller(
    ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    ollama.seen.clear()
    deepseek.seen.clear()
    with Gateway(RULES, variables(ollama, deepseek)) as gateway:
        make_calls(gateway.port, ollama, deepseek)
    allowed = {"host", "content-type", "accept", "accept-encoding", "user-agent", "content-length", "connection"}
    for server, more in ((ollama, set[str]()), (deepseek, {"authorization"})):
        assert server.chats
        for seen in server.seen:
            assert {name.lower() for name, _ in seen.headers} <= allowed | more
            assert seen.header("host") == server.url.removeprefix("http://")
            assert "api_key" not in seen.path
        for seen in server.chats:
            assert seen.header("user-agent") == "unigate"
            assert seen.header("authorization") == (f"Bearer {UP}" if more else None)
        assert not server.leaked


def test_no_key_gets_into_a_saved_flow(tmp_path: Path, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    file = tmp_path / "flows"
    more = ("-w", str(file), "--set", "flow_detail=4", "-v")
    with StockTool("mitmdump", tmp_path, RULES, *more, **variables(ollama, deepseek)) as tool:
        tool.until(re.compile("ollama: connected"))
        answers = make_calls(tool.port, ollama, deepseek)
        assert tool.stop() == 0
    check_clean(answers, "an answer")
    check_clean(tool.output, "the tool's output")
    check_clean(file.read_bytes().decode("latin-1"), "the file of flows")
    with file.open("rb") as opened:
        flows = [flow for flow in flow_io.FlowReader(opened).stream() if isinstance(flow, HTTPFlow)]
    assert len(flows) == CALLS
    for flow in flows:
        check_clean(str(flow.get_state()), "a flow")
        assert flow.request.headers.get("authorization", "Bearer ***") == "Bearer ***"
        assert flow.request.headers["cookie"] == flow.request.headers["api-key"] == "***"


def test_no_key_gets_into_mitmweb(tmp_path: Path, ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    more = ("--web", "--web-port", str(free_port()))
    with GatewayProcess(RULES, tmp_path, *more, environment=variables(ollama, deepseek)) as gateway:
        end = time.monotonic() + 5
        while (found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\w+)", gateway.log)) is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        answers = make_calls(int(gateway.url.rpartition(":")[2]), ollama, deepseek)
        headers = {"authorization": f"Bearer {found[2]}"}
        with httpx.Client(base_url=found[1], headers=headers, trust_env=False, verify=NO_TLS) as web:
            shown = {path: web.get(path) for path in ("/flows", "/state", "/options", "/events", "/commands")}
            for flow in shown["/flows"].json():
                for side in ("request", "response") if flow.get("response") else ("request",):
                    path = f"/flows/{flow['id']}/{side}/content.data"
                    shown[path] = web.get(path)
                shown[flow["id"]] = web.get(f"/flows/{flow['id']}/request/content/auto.json")
            dump = web.get("/flows/dump")
    assert len(shown["/flows"].json()) == CALLS
    failed = {path: answer.text for path, answer in shown.items() if answer.status_code not in (200, 400)}
    assert not failed
    for path, answer in shown.items():
        check_clean(answer.text, path)
    check_clean(dump.content.decode("latin-1"), "the dump")
    check_clean(answers, "an answer")
    check_clean(gateway.log, "the log")
