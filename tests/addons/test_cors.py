"""Web pages of allowed origins may call and read every answer; to all others nothing is said that lets them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from addons.cors import EXPOSED
from addons.local import ENDPOINTS
from addons.request import Request
from addons.response import Response
from tests.addons.calls import PATH, Http2
from tests.addons.pages import CORS, KEY, OTHER, PAGE, SDK, ask_first, chat, said_to_browsers
from tests.gateway import Gateway, quick_rules
from tests.standins import CutAfter, DeepSeekStandIn, OllamaStandIn, ResetBeforeHeaders, Status

CAPPED = """
clients:
  capped: {key: sk-capped-of-this-test, models: ["qwen*"], limits: [1/day, 10000 tokens/day, 1 USD/day]}
"""


def rules(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> str:
    cors = CORS.format(key=KEY, origins=f"{PAGE}, 'https://*.pages.example'")
    more = f"  breaker: {{failures: 1000}}\n  limits: {{body: 64KiB}}{cors}{CAPPED}"
    return quick_rules(ollama=ollama.url, deepseek=deepseek.url, more=more)


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> Iterator[Gateway]:
    with Gateway(rules(ollama, deepseek)) as running:
        yield running


@pytest.fixture(autouse=True)
def at_rest(ollama: OllamaStandIn, deepseek: DeepSeekStandIn) -> None:
    for standin in (ollama, deepseek):
        standin.always, standin.pace = None, 0.0


def check_readable(answer: httpx.Response, page: str = PAGE) -> None:
    assert answer.headers["access-control-allow-origin"] == page
    assert answer.headers["vary"] == "origin"
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert answer.headers["x-request-id"].startswith("req_")
    own = {name for name in answer.headers if name.startswith(("x-", "openai-")) or name == "retry-after"}
    assert own <= exposed, "a page may read all that we say"


# -- before the call


@pytest.mark.parametrize("path", [*ENDPOINTS])
def test_a_browser_is_told_without_a_key_what_a_page_may_do(gateway: Gateway, path: str) -> None:
    answer = ask_first(gateway, path.replace("{id:path}", "a/b").replace("{id}", "a"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    told = {name: answer.headers[name] for name in said_to_browsers(answer.headers)}
    assert told.pop("access-control-expose-headers") == EXPOSED
    assert told == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": ", ".join(ENDPOINTS[path].methods),
        "access-control-allow-headers": SDK.replace(",", ", "),
        "access-control-max-age": "600",
    }
    assert answer.headers["vary"] == "origin, access-control-request-method, access-control-request-headers"
    assert answer.headers["x-request-id"].startswith("req_")


def test_the_call_comes_on_the_same_connection(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    asked = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": SDK}
    connection.request("OPTIONS", PATH, headers=asked)
    first = connection.getresponse()
    assert (first.status, first.read()) == (204, b"")
    opened = connection.sock
    body = json.dumps({"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello there"}]})
    connection.request("POST", PATH, body, {"origin": PAGE, "authorization": f"Bearer {KEY}"})
    second = connection.getresponse()
    assert second.status == 200
    assert b"You said: hello there" in second.read()
    assert connection.sock is opened, "the same connection"
    connection.close()


def test_only_headers_that_have_a_sense_here_are_allowed(gateway: Gateway) -> None:
    wanted = (
        "Authorization, x-evil , OpenAI-Beta,X-Stainless-Retry-Count,idempotency-key,cookie,openai-,x-stainless-a b,"
    )
    answer = ask_first(gateway, PATH, access_control_request_headers=wanted)
    allowed = "authorization, openai-beta, x-stainless-retry-count, idempotency-key"
    assert answer.headers["access-control-allow-headers"] == allowed


def test_no_headers_are_allowed_where_none_were_asked_for(gateway: Gateway) -> None:
    for nothing in ("", "x-evil"):
        answer = ask_first(gateway, PATH, access_control_request_headers=nothing)
        assert answer.status_code == 204
        assert "access-control-allow-headers" not in answer.headers


def test_a_network_that_is_not_public_is_opened_where_the_browser_asks(gateway: Gateway) -> None:
    answer = ask_first(gateway, PATH, access_control_request_private_network="true")
    assert answer.headers["access-control-allow-private-network"] == "true"


def test_a_page_that_is_not_allowed_is_told_nothing_and_its_maker_what_to_do(gateway: Gateway) -> None:
    answer = ask_first(gateway, PATH, OTHER)
    assert answer.status_code == 403
    assert said_to_browsers(answer.headers) == []
    assert answer.headers["vary"] == "origin"
    assert answer.json()["error"] == {
        "message": f"Calls from web pages of {OTHER} are refused. List that origin under proxy.cors.origins.",
        "type": "request_forbidden",
        "param": None,
        "code": "origin_not_allowed",
    }


def test_a_page_without_an_address_is_told_to_have_one_as_null_cannot_be_listed(gateway: Gateway) -> None:
    answer = ask_first(gateway, PATH, "null")
    assert (answer.status_code, said_to_browsers(answer.headers)) == (403, [])
    message = answer.json()["error"]["message"]
    assert message.startswith("Calls from web pages whose origin is null are refused: ")
    assert "Serve the page from an address, such as http://localhost:3000" in message


def test_a_page_may_ask_also_where_nothing_is_for_only_then_it_can_read_so(gateway: Gateway) -> None:
    answer = ask_first(gateway, "/v1/nothing")
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == "GET, POST"


def test_options_without_a_browsers_question_is_a_method_like_any_other(gateway: Gateway) -> None:
    with gateway.client(KEY) as client:
        answer = client.options(PATH, headers={"origin": PAGE})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    check_readable(answer)


# -- the answer


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"n": 2}, {"n": 2, "stream": True}], ids=str)
@pytest.mark.parametrize("page", [PAGE, "https://a.b.pages.example"])
def test_a_page_may_read_an_answer_and_its_headers(gateway: Gateway, page: str, more: dict[str, Any]) -> None:
    answer = chat(gateway, page, **more)
    assert answer.status_code == 200
    assert "there" in answer.text
    check_readable(answer, page)
    assert answer.headers["x-gateway-rule"] == "test"


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 200), ("/v1/models/qwen2.5%3A7b", 200), ("/v1/models/none", 404), ("/health", 200)]
)  # fmt: skip
def test_a_page_may_read_what_the_gateway_answers_itself(gateway: Gateway, path: str, status: int) -> None:
    with gateway.client(KEY) as client:
        answer = client.get(path, headers={"origin": PAGE})
    assert answer.status_code == status
    check_readable(answer)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"key": "sk-wrong"}, 401),
        ({"messages": "none"}, 400),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, 413),
    ],
    ids=["401", "400", "413"],
)
def test_a_page_may_read_why_its_call_was_refused(gateway: Gateway, more: dict[str, Any], status: int) -> None:
    answer = chat(gateway, **more)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    check_readable(answer)


def test_a_page_may_read_what_it_may_not_and_how_much_is_left(gateway: Gateway) -> None:
    capped = "sk-capped-of-this-test"
    forbidden, first, second = (
        chat(gateway, key=capped, model="other"),
        chat(gateway, key=capped),
        chat(gateway, key=capped),
    )
    assert [one.status_code for one in (forbidden, first, second)] == [403, 200, 429]
    for one in (forbidden, first, second):
        check_readable(one)
    for one in (first, second):
        assert one.headers["x-ratelimit-limit-requests"] == "1"
        assert one.headers["x-ratelimit-limit-tokens"] == "10000"
    assert int(second.headers["retry-after"]) > 80_000


def test_a_page_may_read_that_a_url_or_a_method_is_wrong(gateway: Gateway) -> None:
    with gateway.client(KEY) as client:
        wrong_url = client.post("/v1/nothing", headers={"origin": PAGE})
        wrong_method = client.get(PATH, headers={"origin": PAGE})
    assert (wrong_url.status_code, wrong_method.status_code) == (404, 405)
    check_readable(wrong_url)
    check_readable(wrong_method)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("plan", "status"), [(Status(429), 429), (ResetBeforeHeaders(), 502)], ids=["429", "502"])
def test_a_page_may_read_that_no_target_could_answer(
    gateway: Gateway, ollama: OllamaStandIn, deepseek: DeepSeekStandIn, plan: Any, status: int, stream: bool
) -> None:
    ollama.always = deepseek.always = plan
    answer = chat(gateway, stream=stream)
    assert answer.status_code == status
    check_readable(answer)


def test_a_page_may_read_a_stream_that_breaks_off(
    gateway: Gateway, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    ollama.always, deepseek.always = CutAfter(2), Status(500)
    answer = chat(gateway, stream=True)
    assert '"error"' in answer.text
    check_readable(answer)


def test_a_page_may_read_that_a_body_without_a_length_is_too_large(gateway: Gateway) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(80):
            yield b" " * 1024

    with gateway.client(KEY) as client:
        answer = client.post(PATH, content=pieces(), headers={"origin": PAGE})
    assert answer.status_code == 413
    check_readable(answer)


@pytest.mark.parametrize(("addon", "hook"), [(Request, "requestheaders"), (Request, "request"), (Response, "response")])
def test_a_page_may_read_that_the_gateway_itself_failed(
    gateway: Gateway, addon: type, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: object, _flow: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(addon, hook, broken)
    answer = chat(gateway)
    assert answer.status_code == 500
    check_readable(answer)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_it_is_the_same_over_http_2(gateway: Gateway, stream: bool) -> None:
    caller = Http2(gateway)
    named = {"authorization": f"Bearer {KEY}", "origin": PAGE}
    number = caller.ask(stream=stream, headers=named)
    refused = caller.ask(headers=named | {"authorization": "Bearer sk-wrong"})
    caller.read(lambda: caller.ended >= {number, refused})
    caller.socket.close()
    for one, status in ((number, "200"), (refused, "401")):
        head = caller.heads[one]
        assert head[":status"] == status
        assert (head["access-control-allow-origin"], head["vary"]) == (PAGE, "origin")
        assert head["access-control-expose-headers"] == EXPOSED


@pytest.mark.parametrize("page", [None, OTHER, "null", "http://localhost:3000"])
def test_to_anybody_else_nothing_is_said_but_that_it_depends_on_the_origin(gateway: Gateway, page: str | None) -> None:
    """A program that is no browser may send any origin: its key counts."""
    answer = chat(gateway, page)
    assert answer.status_code == 200
    assert said_to_browsers(answer.headers) == []
    assert answer.headers["vary"] == "origin"
