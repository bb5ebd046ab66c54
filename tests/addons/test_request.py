"""A call's way in: bad calls are refused with exact words, keys are checked and hidden, and the gateway goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.addons.calls import Http2
from tests.addons.doors import Door, request
from tests.gateway import Gateway
from tests.standins import OllamaStandIn

KEY, OTHER_KEY = "sk-caller", "the-other-key-0123"
AUTH = f"Authorization: Bearer {KEY}"
CHAT = "/v1/chat/completions"
LIMIT = 20 * 1024
GOOD = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hello there"}]}
RULES = """
proxy: {auth: {tokens: ["${API_KEYS}"]}}
providers:
  ollama: {dialect: ollama, urls: ["${OLLAMA_URL}"]}
  keyless: {dialect: openai, urls: ["http://127.0.0.1:9"], key: "${NO_KEY:-}"}
rules:
  - {name: only-keyless, when: {model: "keyless-*"}, use: ["keyless/{model}"]}
  - {name: local, when: {model: "qwen*"}, use: ["ollama/{model}"]}
defaults: {limits: {body: 20KiB}}
"""


@pytest.fixture(scope="module")
def gateway(ollama: OllamaStandIn) -> Iterator[Gateway]:
    with Gateway(RULES, {"API_KEYS": f"{KEY}, {OTHER_KEY}", "OLLAMA_URL": ollama.url}) as running:
        yield running


def check_error(
    answer: httpx.Response, status: int, code: str | None, param: str | None = None, *words: str, kind: str = ""
) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (kind or "invalid_request_error", code, param)
    for word in words:
        assert word in error["message"]


def check_goes_on(gateway: Gateway, client: httpx.Client) -> None:
    answer = client.post(CHAT, json=GOOD)
    assert answer.status_code == 200, answer.text
    assert "Traceback" not in gateway.log.getvalue()


def said(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def message(**fields: object) -> bytes:
    return said(messages=[fields])


NO_CODE, MISSING, TYPE, VALUE = None, "missing_required_parameter", "invalid_type", "invalid_value"

BODIES: dict[str, tuple[bytes, str | None, str | None, str]] = {
    "no body": (b"", NO_CODE, None, "The request has no body. Send a JSON object."),
    "only blanks": (b" \n ", NO_CODE, None, "The request has no body."),
    "not JSON": (b"hello", NO_CODE, None, "The request body is not valid JSON: "),
    "JSON cut short": (b'{"model": "a", ', NO_CODE, None, "The request body is not valid JSON: "),
    "not UTF-8": (b'{"model": "\xff"}', NO_CODE, None, "The request body is not UTF-8: there is a byte 0xFF at position 11."),
    "a form": (b"--x\r\n\r\n", NO_CODE, None, "The request body must be a JSON object, but it is a form."),
    "nested without end": (b"[" * 10_000, NO_CODE, None, "The request body is not valid JSON: "),
    "an array": (b"[1]", TYPE, None, "must be a JSON object, but it is an array."),
    "null": (b"null", TYPE, None, "must be a JSON object, but it is null."),
    "a string": (b'"hello"', TYPE, None, "must be a JSON object, but it is a string."),
    "no model": (b'{"messages": []}', MISSING, "model", "You must provide 'model' (a string)."),
    "an empty model": (said(model=" "), VALUE, "model", "'model' is empty."),
    "a number as model": (said(model=4), TYPE, "model", "'model' must be a string, but it is an integer."),
    "no messages": (b'{"model": "a"}', MISSING, "messages", "You must provide 'messages' (an array)."),
    "empty messages": (said(messages=[]), VALUE, "messages", "'messages' is empty. Send at least one message."),
    "a string as messages": (said(messages="hi"), TYPE, "messages", "'messages' must be an array, but it is a string."),
    "a string as message": (said(messages=["hi"]), TYPE, "messages[0]", "'messages[0]' must be an object"),
    "no role": (message(content="x"), MISSING, "messages[0].role", "'messages[0].role' is missing."),
    "an unknown role": (message(role="boss", content="x"), VALUE, "messages[0].role", "'user', 'assistant', 'tool', but it is 'boss'."),
    "a list as role": (message(role=[], content="x"), VALUE, "messages[0].role", "but it is an array."),
    "no content": (message(role="user"), MISSING, "messages[0].content", "'messages[0].content' is missing."),
    "a number as content": (message(role="user", content=5), TYPE, "messages[0].content", "must be a string or an array of parts, but it is an integer."),
    "an unknown part": (message(role="user", content=[{"type": "smell"}]), VALUE, "messages[0].content[0].type", "is 'smell'"),
    "a string as stream": (said(stream="yes"), TYPE, "stream", "'stream' must be true or false, but it is a string."),
    "a string as temperature": (said(temperature="hot"), TYPE, "temperature", "must be a number, but it is a string."),
    "a temperature too high": (said(temperature=2.5), VALUE, "temperature", "must be between 0 and 2, but it is 2.5."),
    "no tokens at all": (said(max_tokens=0), VALUE, "max_tokens", "must be at least 1, but it is 0."),
    "half a token": (said(max_tokens=1.5), TYPE, "max_tokens", "must be an integer, but it is a number."),
    "a string as tools": (said(tools="hammer"), TYPE, "tools", "'tools' must be an array, but it is a string."),
    "a number as stop": (said(stop=4), TYPE, "stop", "must be a string or an array of strings."),
    "stream_options alone": (said(stream_options={}), VALUE, "stream_options", "only allowed when 'stream' is true."),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_refused_by_name_and_the_next_call_is_served(
    case: str, gateway: Gateway, ollama: OllamaStandIn
) -> None:
    body, code, param, words = BODIES[case]
    before = len(ollama.chats)
    with gateway.client() as client:
        check_error(client.post(CHAT, content=body), 400, code, param, words)
        assert len(ollama.chats) == before
        check_goes_on(gateway, client)


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/", "/v1", "/v1/", "//v1//models", "/v1/../v1/models",
                                  "/v1/v1/models", "/v1/models/", "/V1/models", "/v1/chat", "/v1/chat/completions/", "/v1//models",
                                  "/v1/größe", "/health/x", "/v1/%6dodels"])  # fmt: skip
def test_an_unknown_path_is_openais_404(path: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"POST {path}?a=b", AUTH, body=b"{}")
        assert reply.status == 404
        assert reply.error == {
            "message": f"Invalid URL (POST {path})", "type": "invalid_request_error", "param": None, "code": None
        }  # fmt: skip
        assert door.ask("GET /v1/models", AUTH).status == 200


def test_a_very_long_path_is_cut_where_it_is_shown(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"GET /v1/{'x' * 10_000}", AUTH)
    assert reply.error["message"] == f"Invalid URL (GET /v1/{'x' * 196})"
    assert "x" * 300 not in gateway.log.getvalue()


def test_bytes_that_are_no_text_are_shown_as_replacement_characters(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        assert door.ask(b"GET /v1/\xffx", AUTH).error["message"] == "Invalid URL (GET /v1/\ufffdx)"
        assert "`\ufffd` does not exist" in door.ask(b"GET /v1/models/\xff", AUTH).error["message"]
        assert "`\ufffd` does not exist" in door.ask(b"GET /v1/models/%FF", AUTH).error["message"]
        assert door.ask(b"M\xff /v1/models", AUTH).error["message"] == "Not allowed to M\ufffd here; use GET or HEAD."
        assert door.ask(f"GET /v1/models?api_key={KEY}&x=".encode() + b"\xff%FE").status == 200
        assert door.ask(b"GET /v1/models?api_key=\xff").status == 401
    assert "Traceback" not in gateway.log.getvalue()


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", CHAT, "POST"), ("HEAD", CHAT, "POST"), ("OPTIONS", CHAT, "POST"), ("DELETE", "/chat/completions", "POST"),
    ("POST", "/v1/models", "GET, HEAD"), ("DELETE", "/v1/models/qwen2.5:7b", "GET, HEAD"), ("PUT", "/health", "GET, HEAD"),
])  # fmt: skip
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"{method} {path}", AUTH)
        assert reply.status == 405
        assert reply.headers["allow"] == allowed
        if method == "HEAD":
            assert reply.body == b""
        else:
            words = f"Not allowed to {method} here; use {allowed.replace(', ', ' or ')}."
            assert reply.error == {
                "message": words, "type": "invalid_request_error", "param": None, "code": "method_not_allowed"
            }  # fmt: skip
        assert door.ask("GET /v1/models", AUTH).status == 200


def test_options_of_the_whole_server_is_an_unknown_path(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        assert door.ask("OPTIONS *", AUTH).error["message"] == "Invalid URL (OPTIONS *)"


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/qwen2.5:7b", "/health", "/v1/nothing"])
def test_head_has_the_headers_of_get_and_no_body(path: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        got = door.ask(f"GET {path}", AUTH)
        headed = door.ask(f"HEAD {path}", AUTH)
        assert (headed.status, headed.headers["content-type"]) == (got.status, got.headers["content-type"])
        # An error names the method, and HEAD is a letter longer.
        assert int(headed.headers["content-length"]) == len(got.body) + (got.status == 404)
        assert door.ask("GET /v1/models", AUTH).status == 200, "a body after HEAD would be read as the next answer"


@pytest.mark.parametrize("path", [CHAT, "/chat/completions"])
def test_a_call_is_served_with_and_without_v1(path: str, gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post(path, json=GOOD)
    assert answer.json()["choices"][0]["message"]["content"]


def test_a_target_in_absolute_form_is_read_as_its_path(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        assert door.ask("GET http://api.openai.com/v1/models", AUTH).status == 200
        body = json.dumps(GOOD).encode()
        assert door.ask(f"POST http://api.openai.com{CHAT}", AUTH, body=body).status == 200


@pytest.mark.parametrize(
    "line", ["CONNECT api.openai.com:443", "GET ftp://gateway/v1/models", "GET", "nonsense", "GET /v1/models x"]
)
def test_a_request_that_is_none_of_ours_is_a_400_and_the_end_of_its_connection(line: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(line, AUTH)
        assert reply.status == 400
        assert reply.error["type"] == "invalid_request_error"
        assert reply.headers["x-request-id"].startswith("req_")
        assert door.closed
    assert gateway.chat().status_code == 200


def test_a_malformed_head_is_a_400_in_the_log_too(gateway: Gateway) -> None:
    before = len(gateway.log.getvalue())
    with Door(gateway.port) as door:
        assert door.ask("GET /v1/models", AUTH, "X Y: z").status == 400
    gateway.until(lambda: "400 GET /v1/models" in gateway.log.getvalue()[before:], "the line of the call")
    assert " 499 " not in gateway.log.getvalue()[before:]


def test_a_websocket_upgrade_is_answered_as_the_plain_request_that_it_also_is(gateway: Gateway) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13")
    with Door(gateway.port) as door:
        assert door.ask("GET /v1/realtime", AUTH, *upgrade).error["message"] == "Invalid URL (GET /v1/realtime)"
    with Door(gateway.port) as door:
        assert door.ask("GET /v1/models", AUTH, *upgrade).status == 200


@pytest.mark.parametrize(
    "header", [b"X-Nul: a\0b", b"X-Bell: \a", b"X-Bytes: \xff\xfe", b"X-Twice: 1\r\nX-Twice: 2", b"X-Empty:"]
)
def test_odd_headers_do_no_harm(header: bytes, gateway: Gateway, ollama: OllamaStandIn) -> None:
    with Door(gateway.port) as door:
        reply = door.ask(f"POST {CHAT}", AUTH, header, body=json.dumps(GOOD).encode())
    assert reply.status == 200
    assert not any(name.lower().startswith("x-") for name, _ in ollama.chats[-1].headers)


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "gzip, deflate"])
def test_a_compressed_body_is_refused(coding: str, gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post(CHAT, content=b"\x1f\x8b", headers={"content-encoding": coding})
        check_error(answer, 400, None, None, "Compressed request bodies are not read here. Send the body uncompressed.")
        assert client.post(CHAT, json=GOOD, headers={"content-encoding": "identity"}).status_code == 200


def test_a_body_over_the_limit_is_a_413_whether_it_says_its_length_or_not(
    gateway: Gateway, ollama: OllamaStandIn
) -> None:
    before = len(ollama.chats)
    big = said(messages=[{"role": "user", "content": "x" * LIMIT}])
    with gateway.client() as client:
        told = client.post(CHAT, content=big)
        check_error(told, 413, "request_too_large", None, f"has {len(big)} bytes; the limit is 20.0KiB.")
        untold = client.post(CHAT, content=iter([big[:5000], big[5000:]]))
        check_error(untold, 413, "request_too_large", None, "is larger than 20.0KiB.")
        assert len(ollama.chats) == before
        check_goes_on(gateway, client)


def test_a_model_that_no_rule_matches_is_openais_404(gateway: Gateway) -> None:
    answer = gateway.chat(model="x" * 256)
    check_error(answer, 404, "model_not_found", "model", "does not exist or you do not have access to it")
    assert len(answer.content) < 500


def test_a_rule_whose_targets_have_no_key_is_a_503_that_need_not_be_tried_again(gateway: Gateway) -> None:
    answer = gateway.chat(model="keyless-one")
    words = "Rule 'only-keyless' names no target that can be asked for `keyless-one`: keyless/keyless-one has no key."
    check_error(answer, 503, "no_route", None, words, kind="service_unavailable_error")
    assert answer.headers["x-should-retry"] == "false"


# -- keys


def test_each_of_several_keys_is_let_in_by_header_or_by_url(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        for key in (KEY, OTHER_KEY):
            assert door.ask("GET /v1/models", f"Authorization: Bearer {key}").status == 200
            assert door.ask("GET /v1/models", f"aUTHORIZATION:   bEARER   {key}  ").status == 200
            assert door.ask(f"GET /v1/models?api_key={key}").status == 200
            assert door.ask(f"GET /v1/models?x=1&%61pi%5Fkey={quote(key)}&y=2").status == 200


def test_the_log_names_keys_apart_and_shows_none(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        ids = [
            door.ask("GET /v1/models", f"Authorization: Bearer {key}").headers["x-request-id"]
            for key in (KEY, OTHER_KEY)
        ]
    log = gateway.log.getvalue()
    names = [next(row for row in log.splitlines() if one in row).split()[-2] for one in ids]
    assert names[0] != names[1]
    assert all(name.startswith("key-") for name in names)
    assert KEY not in log
    assert OTHER_KEY not in log


NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using "
    "Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as ?api_key=YOUR_KEY."
)


NO_BEARER = "The Authorization header holds no key after the word Bearer."


@pytest.mark.parametrize(("header", "seen"), [
    ("X-Other: 1", ""), (f"Cookie: key={KEY}", ""), ("Authorization: Basic c2stY2FsbGVy", NO_BEARER),
    ("Authorization: Bearer", NO_BEARER), ("Authorization:", NO_BEARER), (f"Authorization: {KEY}", NO_BEARER),
    (f"api-key: {KEY}", "The header api-key is not read."),
])  # fmt: skip
def test_a_call_without_a_bearer_key_is_told_how_to_bring_one(header: str, seen: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        reply = door.ask("GET /v1/models", header)
    assert reply.status == 401
    message = f"{NO_KEY} {seen}".strip()
    assert reply.error == {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    gateway.until(lambda: message in gateway.log.getvalue(), "the log has the words")


@pytest.mark.parametrize(
    "key", ["sk-wrong-key-of-somebody", "short", KEY + "x", KEY[:-1], KEY.upper(), "clé-très-secrète-à-moi"]
)
def test_a_wrong_key_is_a_401_that_shows_nothing_of_it(key: str, gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        for reply in (
            door.ask("GET /v1/models", f"Authorization: Bearer {key}"),
            door.ask(f"GET /v1/models?api_key={quote(key)}"),
        ):
            assert reply.status == 401
            assert reply.error == {
                "message": "Incorrect API key provided: ***. Use a key that this gateway was given in API_KEYS.",
                "type": "invalid_request_error", "param": None, "code": "invalid_api_key",
            }  # fmt: skip
            assert key.encode() not in reply.body + str(reply.headers).encode()
    assert f"{key} " not in gateway.log.getvalue()


def test_an_unknown_caller_learns_nothing_of_paths_and_methods(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        assert door.ask("GET /v1/nothing").status == 401
        assert door.ask(f"GET {CHAT}").status == 401


def test_health_needs_no_key(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        assert door.ask("GET /health").status == 200
        assert door.ask("GET /health", "Authorization: Bearer wrong").status == 200


def test_the_401_comes_before_a_large_body_is_read(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        door.send(request(f"POST {CHAT}", "Content-Length: 15000"))
        assert door.reply().status == 401
        # Its sender may still send all of it, and then be served with a key.
        door.send(b"x" * 15000)
        assert door.ask("GET /v1/models", AUTH).status == 200


def test_a_caller_that_waits_to_be_told_to_go_on_is_told_401_at_once(gateway: Gateway) -> None:
    with Door(gateway.port) as door:
        door.send(request(f"POST {CHAT}", "Content-Length: 15000", "Expect: 100-continue"))
        assert door.reply().status == 401


@pytest.mark.parametrize("header", [
    ("x-api-key", "an-other-service-0123 "), ("api-key", "an-other-service-0123\r\nx: y"), ("te", "an-other-service-0123"),
])  # fmt: skip
def test_a_header_that_http_2_does_not_take_is_not_repeated_in_the_log(
    header: tuple[str, str], gateway: Gateway
) -> None:
    before = len(gateway.log.getvalue())
    with Http2(gateway) as caller:
        caller.h2.config.validate_outbound_headers = caller.h2.config.normalize_outbound_headers = False
        caller.ask(headers=dict([header]))
        with pytest.raises(AssertionError, match="closed the connection"):
            caller.read(lambda: caller.ended)
    gateway.until(lambda: "HTTP/2 protocol error" in gateway.log.getvalue()[before:], "the log says so")
    assert "other-service" not in gateway.log.getvalue()[before:]
