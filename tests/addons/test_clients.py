"""Callers of every kind: those who leave, those who stay for many calls, and those who speak other HTTP versions."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.addons.calls import (
    DEEPSEEK,
    OLLAMA,
    SAID,
    Http2,
    World,
    ask_on,
    dial,
    layers,
    raw_request,
    read_all,
    read_answer,
    read_until,
    trusting,
    world,
)
from tests.gateway import Gateway, patient
from tests.standins import (
    CutAfter,
    ErrorAfter,
    GarbageBody,
    HoldAfter,
    KeepAliveOnly,
    Normal,
    Plan,
    Silence,
    SilenceAfterHeaders,
    Status,
    until,
)
from tests.standins.raw import Expect, Script, Send, Wait, chunk, chunked_head


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world(timeouts=patient(connect="400ms")) as made:
        yield made


def leave(client: socket.socket, how: str) -> None:
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def tasks(gateway: Gateway) -> int:
    async def count() -> int:
        return len(asyncio.all_tasks())

    return gateway.run(count())


# ---------------------------------------------------------------------------------------------------------
# Callers who leave


MOMENTS: dict[str, tuple[str, Plan, bytes]] = {
    "while a connection opens": ("hole", Normal(), b""),
    "before the headers": ("qwen2.5:7b", Silence(), b""),
    "before the first word": ("qwen2.5:7b", SilenceAfterHeaders(), b""),
    "among signs of life": ("deep", KeepAliveOnly(), b""),
    "in the middle": ("qwen2.5:7b", HoldAfter(2), b"data: "),
    "in the middle of DeepSeek's": ("deep", HoldAfter(2), b"data: "),
}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_caller_who_leaves_takes_the_upstream_connection_along(
    servers: World, moment: tuple[str, Plan, bytes], stream: bool, how: str
) -> None:
    model, plan, seen = moment
    gateway = servers.gateway
    standin = servers.ollama if model == "qwen2.5:7b" else servers.deepseek
    standin.plan(plan)
    before = len(gateway.log.getvalue())
    client = dial(gateway)
    client.sendall(raw_request(model, stream))
    if model == "hole":
        gateway.until(lambda: len(gateway.state.in_flight()) == 1, "the call is under way")
    else:
        # A call of the test before may still be written down; its caller has left, so it is not being answered.
        gateway.until(lambda: standin.in_flight == 1, "the call has arrived")
    if seen and stream:
        read_until(client, seen)
    leave(client, how)
    gateway.until(lambda: not gateway.state.in_flight(), "the call is over", 1.0)
    gateway.until(lambda: " 499 POST " in gateway.log.getvalue()[before:], "its line is in the log", 1.0)
    gateway.until(lambda: gateway.server.get_status().active_connections == 0, "its connection is closed", 1.0)
    if model != "hole":
        assert until(lambda: standin.aborted == 1, 1.0)
        assert servers.deepseek.chats == [] or model == "deep"


def test_nothing_is_left_of_a_hundred_callers_who_leave_at_any_moment(servers: World) -> None:
    gateway = servers.gateway
    servers.ollama.always = Silence(0.02)  # then it closes, and DeepSeek is asked
    servers.deepseek.always = HoldAfter(1)
    before, chance = tasks(gateway), random.Random(7)
    for number in range(100):
        client = dial(gateway)
        client.sendall(raw_request(chance.choice(["qwen2.5:7b", "deep", "hole"]), number % 2 == 0))
        time.sleep(chance.random() * 0.05)
        leave(client, chance.choice(["reset", "close"]))
    gateway.until(lambda: not gateway.state.in_flight(), "all calls are over", 2.0)
    gateway.until(lambda: gateway.server.get_status().active_connections == 0, "all connections are closed", 2.0)
    assert until(lambda: servers.deepseek.holding == 0, 1.0)
    gateway.until(lambda: tasks(gateway) <= before, "all tasks have ended", 2.0)


# ---------------------------------------------------------------------------------------------------------
# Callers who stay


@pytest.mark.parametrize("model", ["qwen2.5:7b", "deep"])
def test_calls_in_turn_share_one_connection_to_the_server(servers: World, model: str) -> None:
    connection = servers.connect()
    for turn in range(12):
        assert ask_on(connection, model, turn % 2 == 0).status == 200
    standin = servers.ollama if model == "qwen2.5:7b" else servers.deepseek
    assert len(standin.chats) == 12
    # The end of a reply may come after its last word: a caller who is faster than that is given a second one.
    assert len({seen.connection for seen in standin.chats}) <= 2
    connection.close()


def test_a_rejected_call_leaves_the_connection_to_the_server_usable(servers: World) -> None:
    connection = servers.connect()
    servers.ollama.plan(Status(500), Status(429), Status(404, {"error": "model 'x' not found"}))
    for _ in range(4):
        assert ask_on(connection, "qwen2.5:7b", False).status == 200
    assert len({seen.connection for seen in servers.ollama.chats}) == 1
    connection.close()


WHOLE = b'{"choices":[{"index":0,"message":{"content":"raw words"},"finish_reason":"stop"}]}'


def whole(extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(WHOLE)}\r\n{extra}\r\n"
    ).encode() + WHOLE


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_server_that_closes_between_calls_is_asked_anew_and_that_is_no_attempt(servers: World, pause: float) -> None:
    gateway = servers.gateway
    servers.raw.scripts = [[Expect(), Send(whole())]]  # then it closes, without having said so
    before = len(gateway.log.getvalue())
    connection = servers.connect()
    for _ in range(10):
        answer = ask_on(connection, "raw", False)
        assert (answer.target, answer.text) == ("raw/any", "raw words")
        time.sleep(pause)
    assert "attempts" not in gateway.log.getvalue()[before:]
    connection.close()


def test_a_server_that_closes_when_the_next_call_arrives_is_asked_anew(servers: World) -> None:
    gateway = servers.gateway
    served: Script = [Expect(), Send(whole()), Expect()]  # it takes the second request and closes without a word
    servers.raw.scripts = [list(served)]
    before = len(gateway.log.getvalue())
    connection = servers.connect()
    for turn in range(6):
        answer = ask_on(connection, "raw", turn % 2 == 0)
        assert (answer.target, answer.text) == ("raw/any", "raw words")
    assert "attempts" not in gateway.log.getvalue()[before:]
    connection.close()


def test_a_server_that_closes_after_each_reply_is_dialled_for_each_call(servers: World) -> None:
    servers.raw.scripts = [[Expect(), Send(whole("Connection: close\r\n"))]]
    connection = servers.connect()
    for _ in range(5):
        assert ask_on(connection, "raw", False).text == "raw words"
    posts = [seen.connection for seen in servers.raw.seen if seen.method == "POST"]
    assert len(posts) == len(set(posts)) == 5
    connection.close()


def test_a_second_request_that_is_sent_ahead_waits_for_its_turn(servers: World) -> None:
    servers.ollama.plan(HoldAfter(2, seconds=0.1))
    with dial(servers.gateway) as client:
        client.sendall(raw_request(stream=True) + raw_request("deep", extra="Connection: close\r\n"))
        received = read_all(client)
    first, second = received.split(b"data: [DONE]")
    assert b"x-gateway-target: ollama/qwen2.5:7b" in first
    assert SAID[DEEPSEEK].encode() in second


def test_a_caller_who_sends_ahead_without_end_is_cut_off(servers: World) -> None:
    servers.ollama.plan(HoldAfter(0))
    with dial(servers.gateway) as client:
        client.sendall(raw_request())
        with pytest.raises(ConnectionError):
            client.sendall(b"x" * 64 * 1024 * 1024)
    servers.gateway.until(lambda: not servers.gateway.state.in_flight(), "the call is over", 1.0)


def test_nothing_is_kept_of_three_hundred_calls_of_all_kinds_on_one_connection(servers: World) -> None:
    gateway = servers.gateway
    gateway.state.exchanges.clear()
    never_ends: Script = [
        Expect(),
        Send(chunked_head("text/event-stream") + chunk(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')),
        Send(chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')),
        Wait(20),
    ]
    servers.raw.scripts = [list(never_ends)]
    kinds: list[Plan] = [Normal(), Status(500), GarbageBody(), CutAfter(2), ErrorAfter(0), Status(400, {"error": "no"})]
    connection = servers.connect()
    for turn in range(300):
        servers.ollama.plan(kinds[turn % len(kinds)])
        model = "raw" if turn % 10 == 9 else "hole" if turn == 150 else "qwen2.5:7b"
        if model != "qwen2.5:7b":
            servers.ollama._plans.clear()
        assert ask_on(connection, model, turn % 3 == 0).status in (200, 400)
    (layer,) = layers(gateway)
    gateway.until(lambda: layer.streams == {}, "no stream is left")
    assert layer.command_sources == {}
    assert dict(layer.waiting_for_establishment) == {}
    lingering = {c for c, upstream in layer._upstreams.items() if not upstream.connection.idle}
    assert len(layer.connections) == 1 + len(layer._upstreams)
    assert len(layer._upstreams) - len(lingering) <= 3
    assert len(lingering) <= 30  # those of the last second
    assert gateway.server.master is not None
    (handler,) = gateway.server.master.addons.get("proxyserver").connections.values()
    assert len(handler.transports) == 1 + len(layer._upstreams)
    time.sleep(1.0)
    assert ask_on(connection, "raw", True).status == 200
    gateway.until(lambda: len(layer._upstreams) <= 4, "servers that do not end their replies are let go")
    connection.close()

    def kept() -> int:
        gc.collect()
        return len(gateway.state.exchanges)

    gateway.until(lambda: kept() == 0, "no call is kept in memory")


# ---------------------------------------------------------------------------------------------------------
# HTTP/1.0, TLS, HTTP/2


@pytest.mark.parametrize("extra", ["", "Connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
def test_an_http_1_0_caller_gets_a_stream_without_chunks_that_ends_with_the_connection(
    servers: World, extra: str
) -> None:
    with dial(servers.gateway) as client:
        client.sendall(raw_request(stream=True, version="1.0", extra=extra))
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    answer = read_answer(200, {"content-type": "text/event-stream"}, body)
    assert (answer.text, answer.done) == (SAID[OLLAMA], 1)


def test_an_http_1_0_caller_gets_a_whole_reply(servers: World) -> None:
    with dial(servers.gateway) as client:
        client.sendall(raw_request(version="1.0"))
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: " in head.lower()
    assert read_answer(200, {}, body).text == SAID[OLLAMA]


def test_a_tls_caller_is_served_on_the_same_port(servers: World) -> None:
    for stream in (False, True):
        with dial(servers.gateway) as plain, trusting().wrap_socket(plain, server_hostname="api.openai.com") as client:
            client.sendall(raw_request(stream=stream, extra="Connection: close\r\n"))
            received = read_until(client, b"[DONE]" if stream else b"}}")
        assert b"x-gateway-target: ollama/qwen2.5:7b" in received


def test_an_http_2_caller_has_twenty_streams_at_a_time(servers: World) -> None:
    """More than the five connections that mitmproxy opens by itself: none waits for another."""
    servers.ollama.always = HoldAfter(2)
    with Http2(servers.gateway) as client:
        numbers = [client.ask("qwen2.5:7b", stream=number % 2 == 0) for number in range(20)]
        assert until(lambda: servers.ollama.holding == 20, 3.0)
        servers.ollama.release()
        client.read(lambda: len(client.ended) == 20)
        for place, number in enumerate(numbers):
            answer = client.answer(number)
            assert (answer.status, answer.text, answer.target) == (200, SAID[OLLAMA], OLLAMA)
            assert answer.done == (place + 1) % 2
        servers.ollama.always = None
        client.read(lambda: client.ask() in client.ended or len(client.ended) >= 21)
    assert len({seen.connection for seen in servers.ollama.chats}) == 20  # and the last call found one of them idle


def test_http_2_streams_fail_over_each_by_itself(servers: World) -> None:
    plans: list[Plan] = [Status(500), CutAfter(0), GarbageBody(), Normal(), ErrorAfter(0), Status(429)]
    servers.ollama.plan(*plans)
    with Http2(servers.gateway) as client:
        numbers = [client.ask(stream=number % 2 == 0) for number in range(6)]
        client.read(lambda: len(client.ended) == 6)
        targets = [client.answer(number).target for number in numbers]
        assert sorted(filter(None, targets)) == [DEEPSEEK] * 5 + [OLLAMA]
        assert all(client.answer(number).text == SAID[client.answer(number).target or ""] for number in numbers)


def test_an_http_2_stream_that_is_reset_ends_its_call_and_no_other(servers: World) -> None:
    gateway = servers.gateway
    servers.ollama.always = HoldAfter(2)
    with Http2(gateway) as client:
        one, two = client.ask(stream=True), client.ask(stream=True)
        client.read(lambda: client.bodies[one] and client.bodies[two])
        client.h2.reset_stream(one)
        client.flush()
        gateway.until(lambda: len(gateway.state.in_flight()) == 1, "one call is over", 1.0)
        assert until(lambda: servers.ollama.holding == 1, 1.0)
        servers.ollama.release()
        client.read(lambda: two in client.ended)
        assert client.answer(two).text == SAID[OLLAMA]
        (layer,) = layers(gateway)
        gateway.until(lambda: layer.streams == {}, "no stream is left")


def test_an_http_2_caller_who_leaves_ends_all_its_calls(servers: World) -> None:
    servers.ollama.always = HoldAfter(0)
    with Http2(servers.gateway) as client:
        for _ in range(8):
            client.ask(stream=True)
        assert until(lambda: servers.ollama.holding == 8, 3.0)
    servers.gateway.until(lambda: not servers.gateway.state.in_flight(), "all calls are over", 1.0)
    assert until(lambda: servers.ollama.aborted == 8, 1.0)


def test_http_2_faults_are_openai_shaped(servers: World) -> None:
    with Http2(servers.gateway) as client:
        numbers = [
            client.ask(body=b"{"),
            client.ask(body=b"{}", headers={"x(y)": "1"}),
            client.ask(body=b"x" * 100, headers={"content-encoding": "gzip"}),
        ]
        client.read(lambda: len(client.ended) == len(numbers))
        for number in numbers:
            assert client.answer(number).status == 400
            assert json.loads(client.bodies[number])["error"]["type"] == "invalid_request_error"
