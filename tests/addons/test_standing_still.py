"""A gateway that stood still (a busy machine, a suspended one) does not take its own lateness for its servers'."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

import pytest
from mitmproxy.proxy import server_hooks

from tests.addons.calls import clean_log
from tests.gateway import Gateway
from tests.standins import DeepSeekStandIn

SAID = b"said in time"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % SAID
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
LIMIT = 0.2
STANDS_STILL = 0.6
"""Three times as long as any server may take."""


class PromptServer:
    """Answers each call at once; the gateway is put to sleep before a piece of the answer."""

    def __init__(self) -> None:
        self.gateway: Gateway
        self.sleeps_before: bytes | None = None
        self.silent = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> PromptServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                received = connection.recv(65536)
                if received.startswith(b"GET"):
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    continue
                while received and not received.endswith(b"}"):
                    received = connection.recv(65536)
                if self.silent:
                    connection.recv(1)
                for piece in (HEAD, EVENT, END):
                    if piece is self.sleeps_before:
                        self.gateway.stand_still(STANDS_STILL)
                        time.sleep(LIMIT / 3)
                    connection.sendall(piece)


@contextmanager
def prompt_and_spare() -> Iterator[tuple[Gateway, PromptServer]]:
    with PromptServer() as prompt, DeepSeekStandIn("sk-ds-test", reply=["Spare"], thinking=False) as spare:
        facts = "dialect: openai, key: sk-ds-test, patience: 300ms"
        text = f"""
providers: {{prompt: {{{facts}, urls: [{prompt.url}]}}, spare: {{{facts}, urls: [{spare.url}]}}}}
rules: [{{name: all, use: [prompt/deepseek-flash, spare/deepseek-flash]}}]
defaults:
  timeouts: {{connect: {LIMIT}s, first_token: {LIMIT}s, idle: {LIMIT}s, total: 10s}}
  failover: {{attempts: 1, mid_stream: error}}
"""
        with Gateway(text) as gateway, clean_log(gateway):
            prompt.gateway = gateway
            yield gateway, prompt


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("piece", [HEAD, EVENT, END], ids=["first byte", "first word", "end"])
def test_an_answer_that_came_while_the_gateway_stood_still_is_in_time(piece: bytes, stream: bool) -> None:
    with prompt_and_spare() as (gateway, prompt):
        prompt.sleeps_before = piece
        answer = gateway.chat(stream=stream)
        assert SAID.decode() in answer.text, answer.text
        assert "[DONE]" in answer.text or not stream
        assert "error" not in answer.text


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_connection_that_was_made_while_the_gateway_stood_still_is_in_time(rounds: int) -> None:
    def stand_still_after(rounds: int) -> None:
        if rounds:
            asyncio.get_running_loop().call_soon(stand_still_after, rounds - 1)
        else:
            time.sleep(STANDS_STILL)

    class Sleeps:
        def server_connect(self, _data: server_hooks.ServerConnectionHookData) -> None:
            stand_still_after(rounds)

    with prompt_and_spare() as (gateway, _):
        assert gateway.server.master is not None
        gateway.server.master.addons.add(Sleeps())
        assert SAID.decode() in gateway.chat().text


def test_a_silent_server_is_late_even_where_the_gateway_always_is() -> None:
    with prompt_and_spare() as (gateway, prompt):
        prompt.silent = True

        async def lag() -> None:
            while True:
                gateway.stand_still(0.15)
                await asyncio.sleep(0)

        lagging = gateway.run(_start(lag()))
        try:
            assert "Spare" in gateway.chat().text
        finally:
            lagging.cancel()


async def _start(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work)
