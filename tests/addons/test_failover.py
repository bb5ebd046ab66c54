"""A target fails: the next one answers, and the caller sees one answer, once, or one error that says it all."""

from __future__ import annotations

import re
import time
from asyncio import StreamWriter
from typing import Any

import pytest

from tests.addons.calls import DEEPSEEK, FIRST, OLLAMA, SAID, SECOND, World, ask_on
from tests.standins import (
    CutAfter,
    ErrorAfter,
    Garbage,
    GarbageBody,
    HalfLine,
    HoldAfter,
    KeepAliveOnly,
    Lines,
    Plan,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Silence,
    SilenceAfterHeaders,
    Status,
    raw,
)
from tests.standins.raw import Expect, Flood, Reset, Script, Send, Wait, chunk, chunked_head, head

ORDERS = ("qwen2.5:7b", "deep")
"""Models: Ollama first, DeepSeek first."""


# ---------------------------------------------------------------------------------------------------------
# Before the first content


HAND_OVERS: dict[str, Plan] = {
    "it resets before its headers": ResetBeforeHeaders(),
    "it resets after its headers": ResetAfterHeaders(),
    "it is rate limited": Status(429),
    "it fails": Status(500),
    "it fails with a page": Status(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "it is overloaded": Status(503),
    "it has no such model": Status(404, {"error": "model 'x' not found"}),
    "it has no such path": Status(404, b"404 page not found"),
    "it wants another key": Status(401),
    "it wants money": Status(402),
    "it forbids it": Status(403),
    "it sends us elsewhere": Status(302, b"", {"Location": "http://127.0.0.1:1/"}),
    "it says nothing to say": Status(204, b""),
    "its first line is an error": ErrorAfter(0),
    "it is silent": Silence(),
    "it is silent after its headers": SilenceAfterHeaders(),
    "it only says that it lives": KeepAliveOnly(),
    "it speaks no HTTP": Garbage(),
    "it sends a page with status 200": GarbageBody(),
    "it sends bytes with status 200": GarbageBody(b"\x00\xff\xfe" * 40 + b"\n\n"),
    "it is cut in the middle of its first line": HalfLine(0, "clean"),
    "it is reset in the middle of its first line": HalfLine(0, "reset"),
    "it ends before it says anything": CutAfter(0, "clean"),
    "it says nothing but blank lines": Lines([b"\n", b"\n\n"]),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
@pytest.mark.parametrize("plan", HAND_OVERS.values(), ids=HAND_OVERS.keys())
def test_the_next_target_answers_and_the_caller_sees_no_trace(
    servers: World, plan: Plan, model: str, stream: bool
) -> None:
    servers.standin(FIRST[model]).plan(plan)
    answer = servers.ask(model, stream)
    assert (answer.status, answer.target) == (200, SECOND[model])
    assert answer.text == SAID[SECOND[model]]
    assert answer.finish == ["stop"]
    assert answer.done == int(stream)
    assert answer.comments == 0
    assert len(servers.standin(FIRST[model]).chats) == len(servers.standin(SECOND[model]).chats) == 1
    servers.gateway.until(lambda: "2 attempts" in servers.gateway.log.getvalue(), "the log says that two were asked")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
def test_a_server_that_refuses_connections_is_passed_over(servers: World, model: str, stream: bool) -> None:
    servers.standin(FIRST[model]).stop()
    answer = servers.ask(model, stream)
    assert (answer.status, answer.target, answer.text) == (200, SECOND[model], SAID[SECOND[model]])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
def test_a_server_that_resets_before_it_can_be_named_is_passed_over(
    servers: World, model: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that is reset in the moment in which it was connected has no peer any more."""
    told = StreamWriter.get_extra_info
    port = servers.standin(FIRST[model]).port

    def get_extra_info(writer: StreamWriter, name: str, default: Any = None) -> Any:
        found = told(writer, name, default)
        return None if name == "peername" and found[1] == port else found

    monkeypatch.setattr(StreamWriter, "get_extra_info", get_extra_info)
    began = time.monotonic()
    answer = servers.ask(model, stream)
    assert (answer.status, answer.target, answer.text) == (200, SECOND[model], SAID[SECOND[model]])
    assert time.monotonic() - began < 5
    servers.gateway.until(lambda: "could not be reached" in servers.gateway.log.getvalue(), "the log says why")
    assert "Traceback" not in servers.gateway.log.getvalue()


@pytest.mark.parametrize("model", ORDERS)
@pytest.mark.parametrize("how", ["reset", "clean"])
@pytest.mark.parametrize("after", [1, 3, -1])
def test_a_whole_reply_that_breaks_off_in_its_middle_is_given_whole_by_the_next(
    servers: World, model: str, how: str, after: int
) -> None:
    servers.standin(FIRST[model]).plan(CutAfter(after, "reset" if how == "reset" else "clean"))
    answer = servers.ask(model)
    if after == -1 and model == "deep":
        # Only `[DONE]` is missing: the finish_reason was there, so that the answer is complete.
        assert (answer.target, answer.text) == (DEEPSEEK, SAID[DEEPSEEK])
    else:
        assert (answer.target, answer.text) == (SECOND[model], SAID[SECOND[model]])
    assert answer.finish == ["stop"]


@pytest.mark.parametrize("plan", [ErrorAfter(2), HalfLine(2)], ids=["an error line", "half a line"])
@pytest.mark.parametrize("model", ORDERS)
def test_a_whole_reply_with_an_error_in_its_middle_is_given_whole_by_the_next(
    servers: World, model: str, plan: Plan
) -> None:
    servers.standin(FIRST[model]).plan(plan)
    answer = servers.ask(model)
    assert (answer.target, answer.text) == (SECOND[model], SAID[SECOND[model]])


def sse(*events: str) -> bytes:
    return b"".join(b"data: %b\n\n" % event.encode() for event in events)


WORDS = sse('{"choices":[{"index":0,"delta":{"content":"raw words"}}]}')
END = sse('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', "[DONE]")

RAW_HAND_OVERS: dict[str, Script] = {
    "it closes at once": raw.closed_at_once(),
    "it resets at once": raw.reset_at_once(),
    "its head is too large": raw.huge_header(300 * 1024),
    "its head never ends": raw.endless_headers(),
    "it compresses unasked": raw.gzipped(WORDS + END, "text/event-stream"),
    "it compresses an answer that never ends": [
        Expect(),
        Send(chunked_head("text/event-stream", Content_Encoding="gzip")),
        Flood(chunk(b"x" * 1000), 5.0, 0.01),
    ],
    "its chunks are broken": [Expect(), Send(chunked_head("text/event-stream") + b"zz\r\n")],
    "its chunk size never ends": [Expect(), Send(chunked_head("text/event-stream")), Flood(b"1" * 4096, 5.0)],
    "its length is no number": [Expect(), Send(head("200 OK", {"Content-Length": "many"}) + b"hello")],
    "its status is no number": [Expect(), Send(b"HTTP/1.1 fine\r\n\r\n")],
    "its header is none": [Expect(), Send(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n")],
    "it announces without end": [Expect(), Send(b"HTTP/1.1 100 \r\n\r\n" * 1500), Wait(5)],
    "it changes the protocol": [Expect(), Send(head("101 Switching Protocols", {"Upgrade": "tea"}) + b"tea!"), Wait(5)],
    "its line never ends": [
        Expect(),
        Send(chunked_head("text/event-stream") + chunk(b"data: ")),
        Flood(chunk(b"x" * 60000), 5.0),
    ],
    "an error and the end come in one packet": [
        Expect(),
        Send(chunked_head("text/event-stream") + chunk(sse('{"error":{"message":"no"}}')) + b"0\r\n\r\n"),
        Wait(5),
    ],
    "a word and an error come in one packet": [
        Expect(),
        Send(chunked_head("text/event-stream") + chunk(WORDS + sse('{"error":{"message":"no"}}')) + b"0\r\n\r\n"),
        Wait(5),
    ],
    "a page and the end come in one packet": [
        Expect(),
        Send(head("200 OK", {"Content-Type": "application/json", "Content-Length": "6"}) + b"<html>"),
    ],
    "a page comes in many pieces": [
        Expect(),
        Send(chunked_head("text/event-stream")),
        *(Send(chunk(sse("<html>"))) for _ in range(50)),
        Wait(5),
    ],
    "an error page never ends": [
        Expect(),
        Send(head("500 Internal Server Error", {"Transfer-Encoding": "chunked"})),
        Flood(chunk(b"x" * 4000), 5.0),
    ],
    "an error page is cut": [
        Expect(),
        Send(head("500 Internal Server Error", {"Content-Length": "100"}) + b"half"),
        Reset(),
    ],
    "an error page is held back": [
        Expect(),
        Send(head("500 Internal Server Error", {"Content-Length": "100"}) + b"half"),
        Wait(5),
    ],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("script", RAW_HAND_OVERS.values(), ids=RAW_HAND_OVERS.keys())
def test_the_next_target_answers_where_bytes_make_no_sense(servers: World, script: Script, stream: bool) -> None:
    servers.raw.scripts = [list(script)]
    answer = servers.ask("raw", stream)
    assert (answer.status, answer.target, answer.text) == (200, DEEPSEEK, SAID[DEEPSEEK])
    assert answer.done == int(stream)
    servers.gateway.until(lambda: servers.raw.open_connections == 0, "the bad connection is closed")


# ---------------------------------------------------------------------------------------------------------
# What is the caller's own fault is not routed around


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
@pytest.mark.parametrize("status", [400, 422])
def test_a_request_that_a_target_calls_bad_is_answered_with_its_words(
    servers: World, model: str, stream: bool, status: int
) -> None:
    servers.standin(FIRST[model]).plan(Status(status, {"error": {"message": "'temperature' must be below 3."}}))
    answer = servers.ask(model, stream)
    assert answer.status == 400
    assert answer.error["message"] == "'temperature' must be below 3."
    assert answer.error["type"] == "invalid_request_error"
    assert not answer.streamed
    assert servers.standin(SECOND[model]).chats == []


TOO_LONG: dict[str, dict[str, object]] = {
    "qwen2.5:7b": {"error": '{"error":{"code":400,"message":"request (9 tokens) exceeds the available context size"}}'},
    "deep": {"error": {"message": "This model's maximum context length is 131072 tokens."}},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
def test_a_prompt_that_is_too_long_is_said_to_be_so(servers: World, model: str, stream: bool) -> None:
    servers.standin(FIRST[model]).plan(Status(400, TOO_LONG[model]))
    answer = servers.ask(model, stream)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert servers.standin(SECOND[model]).chats == []


# ---------------------------------------------------------------------------------------------------------
# After the first content


SLOW_ENDS: dict[str, Plan] = {
    "it is reset": CutAfter(3, "reset"),
    "it is cut clean": CutAfter(3, "clean"),
    "it is cut in a line": HalfLine(3, "clean"),
}


@pytest.mark.parametrize("model", ORDERS)
@pytest.mark.parametrize("plan", SLOW_ENDS.values(), ids=SLOW_ENDS.keys())
def test_a_stream_that_breaks_after_its_first_words_ends_in_one_error_frame(
    servers: World, plan: Plan, model: str
) -> None:
    first = servers.standin(FIRST[model])
    first.pace = 0.03  # so that the words are out before the end comes
    first.plan(plan)
    answer = servers.ask(model, True)
    assert (answer.status, answer.target) == (200, FIRST[model])
    assert answer.text
    assert SAID[FIRST[model]].startswith(answer.text)
    assert answer.error["type"] == "server_error"
    assert "error" in answer.chunks[-1]
    assert (answer.done, answer.finish) == (1, [])
    assert servers.standin(SECOND[model]).chats == []


@pytest.mark.parametrize("model", ORDERS)
def test_a_stream_with_an_error_after_its_first_words_ends_in_one_error_frame(servers: World, model: str) -> None:
    first = servers.standin(FIRST[model])
    word = {
        OLLAMA: b'{"message":{"role":"assistant","content":"Hello"},"done":false}\n',
        DEEPSEEK: sse('{"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}'),
    }
    first.plan(Lines([word[FIRST[model]], first.error_piece("it broke"), word[FIRST[model]]], pace=0.05))
    answer = servers.ask(model, True)
    assert (answer.target, answer.text) == (FIRST[model], "Hello")
    assert "error" in answer.chunks[-1]
    assert answer.error["type"] == "server_error"
    assert (answer.done, answer.finish) == (1, [])


@pytest.mark.parametrize("model", ORDERS)
def test_a_stream_that_falls_silent_ends_in_one_error_frame(servers: World, model: str) -> None:
    first = servers.standin(FIRST[model])
    first.plan(HoldAfter(3))
    answer = servers.ask(model, True)
    assert SAID[FIRST[model]].startswith(answer.text)
    assert answer.text
    assert answer.error["code"] == "upstream_timeout"
    assert (answer.done, answer.finish) == (1, [])
    servers.gateway.until(lambda: first.open_connections <= 1 and first.holding == 0, "the silent one is closed")


@pytest.mark.parametrize("model", ORDERS)
def test_a_whole_reply_that_falls_silent_is_given_whole_by_the_next(servers: World, model: str) -> None:
    servers.standin(FIRST[model]).plan(HoldAfter(3))
    answer = servers.ask(model)
    assert (answer.target, answer.text) == (SECOND[model], SAID[SECOND[model]])


# ---------------------------------------------------------------------------------------------------------
# Nobody answers


ALL_FAIL: dict[str, tuple[Plan, Plan, int, str, list[str | dict[str, str]]]] = {
    "both fail": (
        Status(500),
        Status(502),
        502,
        "upstream_error",
        ["had an internal error (500)", "had an internal error (502)"],
    ),
    "one is limited": (
        Status(500),
        Status(429, None, {"Retry-After": "9"}),
        429,
        "rate_limit_exceeded",
        ["rate limiting"],
    ),
    "both are limited": (
        Status(429, None, {"Retry-After": "30"}),
        Status(429, None, {"Retry-After": "9"}),
        429,
        "rate_limit_exceeded",
        ["rate limiting"],
    ),
    "one is overloaded": (Status(503), Status(500), 503, "server_is_overloaded", ["is overloaded (503)"]),
    "one is silent": (Silence(), Status(500), 504, "upstream_timeout", ["did not begin to answer in time"]),
    "both are cut": (
        ResetBeforeHeaders(),
        CutAfter(0, "clean"),
        502,
        "upstream_cut",
        ["closed the connection", {OLLAMA: "stopped before its answer", DEEPSEEK: "sent an empty stream"}],
    ),
    "keys are refused": (Status(401), Status(402), 502, "upstream_key_refused", ["the gateway's key"]),
    "no one has the model": (
        Status(404, {"error": "model 'x' not found"}),
        Status(404, {"error": {"message": "The model x does not exist"}}),
        404,
        "model_not_found",
        ["does not exist"],
    ),
    "both mumble": (GarbageBody(), Garbage(), 502, "", ["sent"]),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", ORDERS)
@pytest.mark.parametrize("case", ALL_FAIL.values(), ids=ALL_FAIL.keys())
def test_where_all_fail_one_error_names_each_attempt_in_plain_words(
    servers: World, case: tuple[Plan, Plan, int, str, list[str | dict[str, str]]], model: str, stream: bool
) -> None:
    one, two, status, code, words = case
    servers.standin(FIRST[model]).plan(one)
    servers.standin(SECOND[model]).plan(two)
    answer = servers.ask(model, stream)
    assert answer.status == status
    assert answer.error["code"].startswith(code)
    message = answer.error["message"]
    assert FIRST[model] in message
    assert SECOND[model] in message
    assert all((word if isinstance(word, str) else word[SECOND[model]]) in message for word in words), message
    assert not re.search(r"127\.0\.0\.1|localhost|:\d{4,5}|Errno|Exception|Error\(|bytearray|b'", message), message
    assert answer.headers["x-request-id"].startswith("req_")
    if status == 429:
        assert answer.headers["retry-after"] == "9"


# ---------------------------------------------------------------------------------------------------------
# Servers come and go


def test_calls_in_turn_keep_being_answered_while_a_server_comes_and_goes(servers: World) -> None:
    connection = servers.connect()
    targets = []
    for turn in range(30):
        if turn == 10:
            servers.ollama.stop()
        if turn == 20:
            servers.ollama.start()
            servers.reset()
        answer = ask_on(connection, "qwen2.5:7b", turn % 2 == 0)
        assert (answer.status, answer.text) == (200, SAID[answer.target or ""])
        targets.append(answer.target)
    assert targets == [OLLAMA] * 10 + [DEEPSEEK] * 10 + [OLLAMA] * 10
    connection.close()
