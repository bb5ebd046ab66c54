"""HTTP/1 as it is really spoken, by callers and by servers: whole, in crumbs, too large, broken off and wrong."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.utils import typecheck

from tests.addons.calls import (
    CALLER_KEY,
    OLLAMA,
    PATH,
    SAID,
    World,
    at_rest,
    dial,
    payload,
    raw_request,
    read_all,
    read_until,
    world,
)
from tests.standins.raw import Close, Expect, HalfClose, Script, Send, Wait, chunk, chunked_head, head, with_trailers

LIMIT = 64 * 1024
"""Bytes of a request's body in these tests."""


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world(more="limits: {body: 64KiB, headers: 32KiB}") as made:
        yield made


@pytest.fixture
def servers(shared: World) -> Iterator[World]:
    with at_rest(shared):
        yield shared
        assert shared.ask().text == SAID[OLLAMA]  # whatever happened before, the gateway goes on serving


def fault(response: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the error object of one response; fails where it is not OpenAI's."""
    first, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in first.lower(), response
    assert b"x-request-id: req_" in first, response
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return int(first.split(b" ")[1]), found


def chat_head(*headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {PATH} HTTP/{version}", "Host: gateway", f"Authorization: Bearer {CALLER_KEY}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


CHUNKED = chat_head("Transfer-Encoding: chunked")

# ---------------------------------------------------------------------------------------------------------
# Requests that cannot be


REFUSED: dict[str, tuple[bytes, int]] = {
    "a header of one megabyte": (chat_head(f"X-Huge: {'x' * 1024 * 1024}"), 431),
    "headers without end": (chat_head(*(f"X-{n}: {'y' * 100}" for n in range(10000)))[:-2], 431),
    "no HTTP": (b"hello there, is this a gateway?\r\n\r\n", 400),
    "bytes": (b"\x00\x01\x02\x03 \xff\xfe\r\n\r\n", 400),
    "an unknown version": (b"POST /v1/chat/completions HTTP/9.9.9\r\n\r\n", 400),
    "a header without a name": (chat_head(": nothing"), 400),
    "a header without a colon": (chat_head(f"Authorization Bearer {CALLER_KEY}"), 400),
    "a header with a blank in its name": (chat_head("X Y: 1", "Content-Length: 0"), 400),
    "a length that is no number": (chat_head("Content-Length: many"), 400),
    "a negative length": (chat_head("Content-Length: -5"), 400),
    "two lengths": (chat_head("Content-Length: 5", "Content-Length: 6") + b"hello", 400),
    "a length and chunks": (chat_head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "an unknown encoding": (chat_head("Transfer-Encoding: rot13") + b"hello", 400),
    "a chunk size that is no number": (CHUNKED + b"zz\r\nhello\r\n", 400),
    "a chunk longer than it says": (CHUNKED + b"2\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk size without end": (CHUNKED + b"0" * 200_000, 400),
    "trailers without end": (CHUNKED + b"0\r\n" + b"X-More: and more\r\n" * 10_000, 400),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_cannot_be_read_gets_an_openai_error_and_the_connection_ends(
    servers: World, case: tuple[bytes, int]
) -> None:
    request, status = case
    with dial(servers.gateway) as client:
        client.sendall(request)
        response = read_all(client)
    found, error = fault(response)
    assert (found, error["type"]) == (status, "invalid_request_error")
    assert b"connection: close" in response.lower()
    assert CALLER_KEY.encode() not in response
    for word in ("mitmproxy", "bytearray", "b'", "Error", "smuggling"):
        assert word not in error["message"]
    assert servers.ollama.chats == []


def test_a_connect_request_is_refused(servers: World) -> None:
    with dial(servers.gateway) as client:
        client.sendall(b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n")
        assert fault(read_all(client))[0] == 400


@pytest.mark.parametrize("sent", [10, 60, 150], ids=["in its line", "in a header", "in the key"])
@pytest.mark.parametrize("dribble", [False, True], ids=["at once", "in crumbs"])
def test_nothing_of_a_head_that_breaks_off_is_written_down(servers: World, sent: int, dribble: bool) -> None:
    gateway = servers.gateway
    before = len(gateway.log.getvalue())
    part = (f"POST {PATH} HTTP/1.1\r\nHost: gateway\r\nX-Padding: here\r\nAuthorization: Bearer {'top-secret-' * 20}")[
        :sent
    ].encode()
    with dial(gateway) as client:
        if dribble:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(0, len(part), 7):
                client.sendall(part[place : place + 7])
        else:
            client.sendall(part)
        time.sleep(0.02)
    gateway.until(lambda: "client disconnect" in gateway.log.getvalue()[before:], "the caller is gone")
    log = gateway.log.getvalue()[before:]
    for word in ("POST", "top-secret", "Authorization", "Host"):
        assert word not in log


def test_a_caller_who_leaves_in_the_middle_of_the_body_is_noted_and_nothing_is_sent(servers: World) -> None:
    gateway = servers.gateway
    before = len(gateway.log.getvalue())
    with dial(gateway) as client:
        client.sendall(raw_request()[:-5])
    gateway.until(lambda: " 499 POST " in gateway.log.getvalue()[before:], "its line is in the log")
    assert servers.ollama.chats == []


# ---------------------------------------------------------------------------------------------------------
# Bodies that are too large


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(servers: World) -> None:
    with dial(servers.gateway) as client:
        client.sendall(chat_head(f"Content-Length: {LIMIT + 1}"))
        status, error = fault(read_until(client, b"}}"))
        assert (status, error["code"]) == (413, "request_too_large")
        client.sendall(b"x" * (LIMIT + 1) + raw_request(extra="Connection: close\r\n"))
        assert SAID[OLLAMA].encode() in read_all(client)  # the connection serves on


def test_a_body_in_chunks_is_refused_as_soon_as_it_is_too_large(servers: World) -> None:
    with dial(servers.gateway) as client:
        client.sendall(CHUNKED + chunk(b"x" * LIMIT) + chunk(b"x"))
        status, error = fault(read_until(client, b"}}"))
        assert (status, error["code"]) == (413, "request_too_large")
        client.sendall(chunk(b"x" * LIMIT) * 20 + b"0\r\n\r\n" + raw_request(extra="Connection: close\r\n"))
        assert SAID[OLLAMA].encode() in read_all(client)


def test_a_caller_whose_key_is_missing_can_send_its_body_to_the_end(servers: World) -> None:
    body = payload("qwen2.5:7b", False)
    with dial(servers.gateway) as client:
        client.sendall(f"GET /nowhere HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert fault(read_until(client, b"}}"))[0] == 404
        client.sendall(body + raw_request(extra="Connection: close\r\n"))
        assert SAID[OLLAMA].encode() in read_all(client)


# ---------------------------------------------------------------------------------------------------------
# Requests that look odd and are right


BODY = payload("qwen2.5:7b", False)
ODD: dict[str, bytes] = {
    "chunks": CHUNKED + chunk(BODY[:7]) + chunk(BODY[7:]) + b"0\r\n\r\n",
    "chunks with extensions": CHUNKED + b"%x;name=value\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "chunks and trailers": CHUNKED + chunk(BODY) + b"0\r\nX-Checksum: 12\r\nX-More: 13\r\n\r\n",
    "an empty line before it": b"\r\n" + raw_request(),
    "empty lines before it": b"\r\n\r\n\r\n" + raw_request(),
    "lines without carriage returns": raw_request().replace(b"\r\n", b"\n"),
    "a whole URL": raw_request().replace(PATH.encode(), b"http://api.openai.com" + PATH.encode(), 1),
    "names in capitals": raw_request().replace(b"Authorization", b"AUTHORIZATION").replace(b"Content-L", b"CONTENT-l"),
}


@pytest.mark.parametrize("request_bytes", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("crumbs", [False, True], ids=["at once", "byte by byte"])
def test_a_request_that_looks_odd_is_answered(servers: World, request_bytes: bytes, crumbs: bool) -> None:
    with dial(servers.gateway) as client:
        if crumbs:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(len(request_bytes)):
                client.sendall(request_bytes[place : place + 1])
        else:
            client.sendall(request_bytes)
        received = read_until(client, b"}}")
        assert received.startswith(b"HTTP/1.1 200 ")
        assert SAID[OLLAMA].encode() in received
        client.sendall(raw_request(extra="Connection: close\r\n"))
        assert SAID[OLLAMA].encode() in read_all(client)


def test_a_body_shorter_than_its_length_waits_for_the_rest(servers: World) -> None:
    request = raw_request(extra="Connection: close\r\n")
    with dial(servers.gateway) as client:
        client.sendall(request[:-9])
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        client.sendall(request[-9:])
        assert SAID[OLLAMA].encode() in read_all(client)


def test_a_body_longer_than_its_length_is_taken_for_a_bad_second_request(servers: World) -> None:
    with dial(servers.gateway) as client:
        client.sendall(raw_request() + b"and more\r\n\r\n")
        received = read_all(client)
    first, _, second = received.partition(b"HTTP/1.1 400 ")
    assert SAID[OLLAMA].encode() in first
    assert fault(b"HTTP/1.1 400 " + second)[0] == 400


def test_a_caller_who_asks_first_whether_to_send_is_told_to_go_on(servers: World) -> None:
    whole = raw_request(extra="Expect: 100-continue\r\nConnection: close\r\n")
    first, _, body = whole.partition(b"\r\n\r\n")
    with dial(servers.gateway) as client:
        client.sendall(first + b"\r\n\r\n")
        received = read_until(client, b"\r\n\r\n")
        assert received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert SAID[OLLAMA].encode() in read_all(client)


def test_a_caller_who_asks_first_and_is_refused_hears_that_the_connection_ends(servers: World) -> None:
    """Its body may never come: what it sends next on this connection would be taken for it."""
    with dial(servers.gateway) as client:
        client.sendall(chat_head(f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
        response = read_until(client, b"}}")
        assert fault(response)[0] == 413
        assert b"connection: close" in response.lower()


# ---------------------------------------------------------------------------------------------------------
# Servers that answer oddly and right


EVENTS = (
    b": hello\n\n"
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"raw "}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"words"}}]}\r\n\r\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
STREAM = chunked_head("text/event-stream") + chunk(EVENTS) + b"0\r\n\r\n"
LONG = b"x" * 3_000_000
SAYS: dict[str, Script] = {
    "after a 100": [Expect(), Send(head("100 Continue") + STREAM)],
    "after a 103": [Expect(), Send(head("103 Early Hints", {"Link": "</a>"})), Wait(0.02), Send(STREAM)],
    "after many of them": [Expect(), Send(head("102 Processing") * 50 + STREAM)],
    "with trailers": with_trailers(EVENTS, {"X-Checksum": "1", "X-More": "2"}, "text/event-stream"),
    "until the connection ends": [
        Expect(),
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS),
        Close(),
    ],
    "as HTTP/1.0": [Expect(), Send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS), Close()],
    "and closes its side only": [
        Expect(),
        Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS),
        HalfClose(),
        Wait(5),
    ],
    "byte by byte": [Expect(), *(Send(STREAM[place : place + 1]) for place in range(len(STREAM)))],
    "a byte to each chunk": [
        Expect(),
        Send(chunked_head("text/event-stream") + b"".join(chunk(bytes([byte])) for byte in EVENTS) + b"0\r\n\r\n"),
    ],
    "with chunk extensions": [
        Expect(),
        Send(chunked_head("text/event-stream") + b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)),
    ],
    "with a length": [
        Expect(),
        Send(head("200 Sure", {"content-type": "text/event-stream", "content-length": str(len(EVENTS))}) + EVENTS),
    ],
    "without a reason": [Expect(), Send(STREAM.replace(b"200 OK", b"200"))],
    "with lines that end in a newline only": [Expect(), Send(STREAM.replace(b"\r\n", b"\n", 4))],
    "with more after its end": [Expect(), Send(STREAM + b"HTTP/1.1 500 Oh\r\n\r\n")],
    "without the end of its chunks": [Expect(), Send(chunked_head("text/event-stream") + chunk(EVENTS)), Wait(5)],
    "whole although a stream was asked": [
        Expect(),
        Send(head("200 OK", {"Content-Type": "application/json; charset=utf-8", "Transfer-Encoding": "chunked"})),
        Send(chunk(b'{"choices":[{"index":0,"message":{"content":"raw words"},"finish_re')),
        Send(chunk(b'ason":"stop"}]}') + b"0\r\n\r\n"),
    ],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("script", SAYS.values(), ids=SAYS.keys())
def test_a_server_that_answers_oddly_is_understood(servers: World, script: Script, stream: bool) -> None:
    servers.raw.scripts = [list(script)]
    answer = servers.ask("raw", stream)
    assert (answer.target, answer.text, answer.finish) == ("raw/any", "raw words", ["stop"])
    assert answer.done == int(stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_line_of_megabytes_is_handed_on(servers: World, stream: bool) -> None:
    line = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % LONG
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    servers.raw.scripts = [[Expect(), Send(chunked_head("text/event-stream") + chunk(line + end) + b"0\r\n\r\n")]]
    answer = servers.ask("raw", stream)
    assert (answer.target, len(answer.text)) == ("raw/any", len(LONG))


def test_what_is_sent_to_a_server_is_written_from_nothing(servers: World) -> None:
    extra = "Cookie: a=b\r\nX-Stainless-Lang: python\r\nOpenAI-Organization: mine\r\nAccept-Encoding: gzip\r\nX-Other: 1\r\n"
    for model, standin in (("qwen2.5:7b", servers.ollama), ("deep", servers.deepseek)):
        with dial(servers.gateway) as client:
            client.sendall(raw_request(model, extra=f"{extra}Connection: close\r\n"))
            read_all(client)
        (seen,) = standin.chats
        names = {name.lower() for name, _ in seen.headers}
        known = {"host", "content-type", "accept", "accept-encoding", "user-agent", "content-length"}
        assert names - {"authorization"} == known
        assert seen.header("accept-encoding") == "identity"
        assert CALLER_KEY not in str(seen.headers)
        assert standin.leaked == []


def test_the_answer_names_its_way_and_nothing_of_the_servers_own(servers: World) -> None:
    answer = servers.ask("deep", True)
    assert set(answer.headers) == {
        "content-type",
        "cache-control",
        "transfer-encoding",
        "x-request-id",
        "x-gateway-rule",
        "x-gateway-target",
    }


# ---------------------------------------------------------------------------------------------------------
# Time


def test_no_time_of_a_call_goes_into_the_types_of_our_own_messages(
    servers: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(typecheck, "check_option_type", lambda name, *_: checked.append(name))
    for stream in (False, True):
        assert servers.ask("qwen2.5:7b", stream).status == 200
    assert checked == []
