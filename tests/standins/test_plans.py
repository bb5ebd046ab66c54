"""Plans: that stand-ins break, hold and lie as they are told."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
import warnings
from functools import partial

import httpx
import pytest

from tests.standins import (
    BadLine,
    Blank,
    CutAfter,
    DeepSeekStandIn,
    EmptyDeltas,
    ErrorAfter,
    Finish,
    Garbage,
    GarbageBody,
    HalfLine,
    HoldAfter,
    KeepAliveOnly,
    Lines,
    Normal,
    OllamaStandIn,
    Pace,
    Plan,
    ResetAfterHeaders,
    ResetBeforeHeaders,
    Say,
    Silence,
    SilenceAfterHeaders,
    Status,
    until,
)
from tests.standins.asking import HELLO, ask, chat, chunks_of, lines_of


def test_plans_are_taken_in_order_by_chats_alone(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(Status(503, headers={"Retry-After": "1"}), Normal(), Status(429, {"error": "slow"}))
    client.get(f"{ollama.url}/api/tags")
    busy, fine, slow, last = (chat(client, ollama) for _ in range(4))
    assert busy.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert busy.headers["retry-after"] == "1"
    assert (fine.status_code, last.status_code) == (200, 200)
    assert (slow.status_code, slow.json()) == (429, {"error": "slow"})
    assert len(ollama.chats) == 4
    assert ollama.connections_made == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (ResetBeforeHeaders(), httpx.ReadError),
        (ResetAfterHeaders(), httpx.ReadError),
        (CutAfter(1), httpx.ReadError),
        (Garbage(), httpx.RemoteProtocolError),
        (Silence(0.02), httpx.RemoteProtocolError),
        (SilenceAfterHeaders(0.02), httpx.RemoteProtocolError),
    ],
)
def test_broken_connections(
    ollama: OllamaStandIn, client: httpx.Client, plan: Plan, kind: type[Exception], stream: bool
) -> None:
    ollama.plan(plan)
    with pytest.raises(kind):
        chat(client, ollama, stream=stream)
    assert chat(client, ollama).status_code == 200
    assert ollama.aborted == 0


def test_the_pieces_before_a_reset_arrive(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(CutAfter(2))
    got: list[bytes] = []
    body = {"model": "qwen2.5:7b", "messages": HELLO}
    with client.stream("POST", f"{ollama.url}/api/chat", json=body) as response, pytest.raises(httpx.ReadError):
        got.extend(response.iter_raw())
    assert [json.loads(line)["message"]["content"] for line in b"".join(got).splitlines()] == ["You", " said:"]


def test_clean_cuts_and_errors_in_streams(
    ollama: OllamaStandIn, deepseek: DeepSeekStandIn, client: httpx.Client
) -> None:
    ollama.plan(CutAfter(2, "clean"), CutAfter(-1, "clean"), HalfLine(1), ErrorAfter(1), ErrorAfter(0, "oh"))
    cut, undone, half, late, early = (chat(client, ollama) for _ in range(5))
    assert [line["done"] for line in lines_of(cut)] == [False, False]
    assert [line["done"] for line in lines_of(undone)] == [False] * 4
    assert len(half.text.splitlines()) == 2
    assert not half.text.endswith("}\n")
    assert lines_of(late)[1] == {"error": "an error was encountered while running the model: unexpected EOF"}
    assert (early.status_code, lines_of(early)) == (200, [{"error": "oh"}])
    deepseek.plan(CutAfter(-1, "clean"), ErrorAfter(1, "oh"), ErrorAfter(1, "oh"))
    endless, broken, failed = (
        ask(client, deepseek, stream=True),
        ask(client, deepseek, stream=True),
        ask(client, deepseek),
    )
    assert '"finish_reason":"stop"' in endless.text
    assert "[DONE]" not in endless.text
    assert json.loads(broken.text.split("\n\n")[2].removeprefix("data: "))["error"]["message"] == "oh"
    assert (failed.status_code, failed.json()["error"]["message"]) == (500, "oh")
    assert ollama.connections_made == 1


def test_bodies_that_are_none(ollama: OllamaStandIn, deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    ollama.plan(GarbageBody(), Lines([b'{"a":', b"1}\n\n"], 0.01))
    deepseek.plan(Lines([b"data: {}\r\n\r\n"]), KeepAliveOnly(0.05, 0.02), KeepAliveOnly(0.05, 0.02))
    assert chat(client, ollama).content.startswith(b"<html>")
    assert chat(client, ollama).content == b'{"a":1}\n\n'
    assert ask(client, deepseek, stream=True).content == b"data: {}\r\n\r\n"
    assert set(ask(client, deepseek, stream=True).text.split("\n\n")) == {": keep-alive", ""}
    assert set(ask(client, deepseek).text) == {"\n"}


def test_pieces_come_one_by_one_when_paced(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(Pace(0.02), Silence(0.05, then="answer"))
    began = time.monotonic()
    with client.stream("POST", f"{ollama.url}/api/chat", json={"model": "qwen2.5:7b", "messages": HELLO}) as response:
        times = [time.monotonic() - began for _ in response.iter_raw()]
    assert len(times) == 5
    assert times[-1] - times[0] > 0.05
    assert chat(client, ollama).status_code == 200


def test_clients_that_leave_are_counted(ollama: OllamaStandIn) -> None:
    def seen_and_left(seen: int, left: int) -> bool:
        return (len(ollama.chats), ollama.aborted) == (seen, left)

    ollama.plan(HoldAfter(1), Silence(), SilenceAfterHeaders())
    for number in range(1, 4):
        with socket.create_connection((ollama.host, ollama.port)) as plain:
            body = json.dumps({"model": "qwen2.5:7b", "messages": HELLO}).encode()
            plain.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert until(partial(seen_and_left, number, number - 1))
            assert ollama.open_connections == 1
        assert until(partial(seen_and_left, number, number))
        assert until(lambda: ollama.open_connections == 0)


def test_held_answers_go_on(ollama: OllamaStandIn, client: httpx.Client) -> None:
    ollama.plan(HoldAfter(2))
    with client.stream("POST", f"{ollama.url}/api/chat", json={"model": "qwen2.5:7b", "messages": HELLO}) as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines))["message"]["content"] for _ in range(2)] == ["You", " said:"]
        assert until(lambda: ollama.holding == 1)
        ollama.release()
        assert json.loads(list(lines)[-1])["done"]
    assert ollama.aborted == 0


def test_stop_and_start_keep_the_port(ollama: OllamaStandIn, client: httpx.Client) -> None:
    url, before = ollama.url, threading.active_count()
    ollama.plan(Silence())
    with socket.create_connection((ollama.host, ollama.port)) as idle:
        assert until(lambda: ollama.open_connections == 1)
        ollama.stop()
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ollama.host, ollama.port))
    assert (ollama.open_connections, threading.active_count()) == (0, before - 1)
    ollama.start()
    assert ollama.url == url
    assert client.get(url).status_code == 200


def test_a_stop_in_the_middle_of_a_crowd_leaves_no_connection_open() -> None:
    over = threading.Event()

    def call(port: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as caller:
                caller.sendall(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
                caller.recv(100)

    with OllamaStandIn() as ollama:
        callers = [threading.Thread(target=call, args=(ollama.port,)) for _ in range(3)]
        for caller in callers:
            caller.start()
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                for _ in range(60):
                    ollama.stop()
                    ollama.start()
                    time.sleep(0.002)
                gc.collect()
        finally:
            over.set()
            for caller in callers:
                caller.join()
    assert [str(one.message) for one in told] == []


def test_chunked_requests_and_expectations_are_read(ollama: OllamaStandIn) -> None:
    with socket.create_connection((ollama.host, ollama.port)) as plain, plain.makefile("rb") as answer:
        plain.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
        plain.sendall(b"2\r\n{}\r\n0\r\n\r\n")
        answer.readline()
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    assert ollama.seen[0].json == {}


def test_a_failure_inside_is_told(client: httpx.Client) -> None:
    standin = OllamaStandIn(reply=[7])  # type: ignore[list-item]
    standin.start()
    with pytest.raises(httpx.ReadError):
        chat(client, standin)
    with pytest.raises(RuntimeError, match="failed"):
        standin.close()


def test_an_answer_may_end_early_and_say_why(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    reason = "insufficient_system_resource"
    for standin in (ollama, deepseek):
        standin.plan(Finish("length", 2), Finish(reason), Finish(reason))
    native, full = lines_of(chat(client, ollama)), lines_of(chat(client, ollama))
    assert [line["message"]["content"] for line in native] == ["You", " said:", ""]
    assert (native[-1]["done"], native[-1]["done_reason"], native[-1]["eval_count"]) == (True, "length", 4)
    assert (len(full), full[-1]["done_reason"]) == (5, reason)
    assert chat(client, ollama, stream=False).json()["done_reason"] == reason
    chunks, all_chunks = (chunks_of(ask(client, deepseek, stream=True)) for _ in range(2))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "You", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all_chunks[-1]["choices"][0]["finish_reason"] == reason
    choice = ask(client, deepseek).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("You said: hello there", reason)


def test_anything_can_be_said_and_nothing_too(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    for standin in (ollama, deepseek):
        standin.plan(Blank(9), Say(["a", "b"]))
    asked = [{"role": "user", "content": "json please"}]
    blank, said, normal = (lines_of(chat(client, ollama, messages=asked, format="json")) for _ in range(3))
    text = "".join(line["message"]["content"] for line in blank)
    assert (len(blank), text.strip(), "\n" in text) == (10, "", True)
    assert [line["message"]["content"] for line in said] == ["a", "b", ""]
    assert normal[0]["message"]["content"] == '{"said":"json'
    form = {"type": "json_object"}
    texts = [
        ask(client, deepseek, messages=asked, response_format=form).json()["choices"][0]["message"]["content"]
        for _ in range(3)
    ]
    assert texts == [text, "ab", '{"said":"json please"}']


def test_a_bad_line_stands_between_good_ones(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    ollama.plan(BadLine(1), BadLine(99))
    deepseek.plan(BadLine(2))
    first, bad, *others = chat(client, ollama).text.splitlines()
    assert (len(others), json.loads(first)["done"], json.loads(others[-1])["done"]) == (4, False, True)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(bad)
    assert len(lines_of(chat(client, ollama))) == 5
    events = ask(client, deepseek, stream=True).text.split("\n\n")
    assert events[3].startswith("data: {")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(events[3].removeprefix("data: "))
    assert events[-2:] == ["data: [DONE]", ""]


def test_empty_deltas_say_nothing_for_a_while(
    client: httpx.Client, ollama: OllamaStandIn, deepseek: DeepSeekStandIn
) -> None:
    for standin in (ollama, deepseek):
        standin.plan(EmptyDeltas(0.05, 0.02, "answer"), EmptyDeltas(0.05, 0.02))
    late, never = lines_of(chat(client, ollama)), lines_of(chat(client, ollama))
    assert "".join(line["message"]["content"] for line in late) == "You said: hello there"
    assert [line["message"]["content"] for line in never] == [""] * len(never)
    assert (len(never) >= 2, any(line["done"] for line in never)) == (True, False)
    texts = [ask(client, deepseek, stream=True).text for _ in range(2)]
    events = [[json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: {")] for text in texts]
    assert texts[0].endswith("data: [DONE]\n\n")
    assert all(event["choices"][0]["delta"] == {"content": ""} for event in events[1])
    assert len(events[1]) >= 2
    deepseek.plan(KeepAliveOnly(0.03, 0.01, "answer"), EmptyDeltas(0.03, 0.01, "answer"))
    assert [ask(client, deepseek).json()["choices"][0]["finish_reason"] for _ in range(2)] == ["stop", "stop"]


def test_calls_beyond_the_places_wait_in_silence_and_in_order(client: httpx.Client) -> None:
    with OllamaStandIn(parallel=2) as ollama, contextlib.ExitStack() as stack:

        def seen(count: int) -> bool:
            return len(ollama.chats) == count

        ollama.plan(*[HoldAfter(1)] * 4)
        body = json.dumps({"model": "qwen2.5:7b", "messages": HELLO}).encode()
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        calls = []
        for number in range(5):
            calls.append(stack.enter_context(socket.create_connection((ollama.host, ollama.port))))
            calls[-1].sendall(head + body)
            assert until(partial(seen, number + 1))
        assert until(lambda: (ollama.in_flight, ollama.waiting, ollama.most_in_flight) == (2, 3, 2))
        assert client.get(f"{ollama.url}/api/version").status_code == 200
        calls[3].close()  # one that waits leaves the queue
        calls[0].close()  # one that is answered makes room
        assert until(lambda: (ollama.in_flight, ollama.waiting, ollama.aborted) == (2, 1, 2))
        assert calls[2].recv(15) == b"HTTP/1.1 200 OK"
        ollama.release()
        assert until(lambda: (ollama.in_flight, ollama.waiting) == (0, 0))
        assert calls[4].recv(15) == b"HTTP/1.1 200 OK"
        assert ollama.most_in_flight == 2


def test_without_a_bound_the_peak_is_counted(deepseek: DeepSeekStandIn, client: httpx.Client) -> None:
    deepseek.plan(HoldAfter(1), HoldAfter(1))
    workers = [threading.Thread(target=lambda: ask(client, deepseek)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert until(lambda: (deepseek.in_flight, deepseek.holding) == (2, 2))
    deepseek.release()
    for worker in workers:
        worker.join(5)
    assert until(lambda: deepseek.in_flight == 0)
    assert ask(client, deepseek).status_code == 200
    assert deepseek.most_in_flight == 2
