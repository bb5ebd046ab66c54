"""Nothing of a call stays in memory: books go by flows, and a value that leads back to its flow keeps both for ever."""

from __future__ import annotations

import gc
from collections.abc import Callable

import httpx
import pytest

from tests.addons.calls import World
from tests.standins import CutAfter, Status
from tests.wire.forms import CONTENT_TYPE, recording


def post(servers: World, path: str, **more: object) -> httpx.Response:
    with servers.gateway.client() as client:
        return client.post(path, **more)  # type: ignore[arg-type]


def _where_all_fail(servers: World) -> None:
    servers.ollama.always = servers.deepseek.always = Status(503)
    servers.ask()


def _broken_off(servers: World) -> None:
    servers.ollama.always = CutAfter(2)
    servers.ask(stream=True)


CALLS: dict[str, Callable[[World], object]] = {
    "an answer": lambda servers: servers.ask(),
    "a stream": lambda servers: servers.ask(stream=True),
    "an answer in parts": lambda servers: servers.ask(n=3),
    "a request that is refused": lambda servers: servers.ask(messages=5),
    "a body that is no JSON": lambda servers: post(servers, "/v1/chat/completions", content=b"{"),
    "a path that leads nowhere": lambda servers: post(servers, "/v1/nothing", json={}),
    "a method that is not allowed": lambda servers: post(servers, "/v1/models", json={}),
    "a form that is malformed": lambda servers: post(
        servers, "/v1/audio/transcriptions", content=b"--", headers={"content-type": CONTENT_TYPE}
    ),
    "a form that no target takes": lambda servers: post(
        servers, "/v1/audio/transcriptions", content=recording(b"RIFF"), headers={"content-type": CONTENT_TYPE}
    ),
    "a request that no target can be told": lambda servers: post(
        servers, "/v1/embeddings", json={"model": "qwen2.5:7b", "input": ["a"] * 100}
    ),
    "a call that all targets fail": _where_all_fail,
    "a stream that breaks off": _broken_off,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_that_is_over_is_forgotten(servers: World, call: Callable[[World], object]) -> None:
    exchanges = servers.gateway.state.exchanges

    def forgotten() -> bool:
        gc.collect()
        return not exchanges

    servers.gateway.until(forgotten, "earlier calls are forgotten", 10)
    served = servers.gateway.server.get_status().total_requests
    for _ in range(3):
        call(servers)
    assert servers.gateway.server.get_status().total_requests == served + 3
    servers.gateway.until(forgotten, "the calls are forgotten", 10)
    assert not servers.gateway.state.in_flight()
