"""The gateway as an object: it starts when it says so, stops cleanly, and can be started again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine

import httpx
import pytest

from addons.gateway import Life
from addons.master import ProxyServer
from addons.settings import SettingsError
from rules.load import load_rules
from rules.snapshot import Rules
from tests.addons.doors import NO_TLS, until
from tests.standins import HoldAfter, OllamaStandIn
from wire.profiles import PROFILES

SANDBOX = "providers: {s: {dialect: sandbox}}\nrules: [{name: all, use: [s/fast]}]"
BODY = {"model": "fast", "messages": [{"role": "user", "content": "hello"}]}


def rules(text: str = SANDBOX, **environment: str) -> Rules:
    return load_rules(text, environment, profiles=PROFILES)


def to_ollama(ollama: OllamaStandIn) -> str:
    return f"providers: {{o: {{dialect: ollama, urls: [{ollama.url}]}}}}\nrules: [{{name: all, use: ['o/{{model}}']}}]"


def run(coroutine: Coroutine[None, None, None]) -> None:
    before = threading.active_count()
    asyncio.run(coroutine)
    assert threading.active_count() == before


async def call(server: ProxyServer, **more: object) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, timeout=10) as client:
        return await client.post(f"http://127.0.0.1:{server.port}/v1/chat/completions", json={**BODY, **more})


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_it_serves_as_soon_as_it_is_started_and_frees_its_port_when_stopped_twice_in_a_row() -> None:
    async def serve() -> None:
        for _ in range(2):
            server = ProxyServer(rules(), port=0)
            before = server.get_status()
            assert (before.running, before.host, before.port) == (False, "127.0.0.1", 0)
            assert (before.uptime_seconds, before.active_connections, before.total_requests) == (0.0, 0, 0)
            await server.start()
            assert (await call(server)).status_code == 200
            assert (await call(server, model=1)).status_code == 400
            during = server.get_status()
            assert during.running
            assert during.port > 0
            assert during.total_requests == 2
            assert 0 < during.uptime_seconds < 5
            await server.stop()
            await server.stop()
            after = server.get_status()
            assert not after.running
            assert after.total_requests == 2
            assert is_free(during.port)

    run(serve())


def test_active_connections_are_counted() -> None:
    async def serve() -> None:
        server = ProxyServer(rules(), port=0)
        await server.start()
        assert server.get_status().active_connections == 0
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: server.get_status().active_connections == 1)
        writer.close()
        await until(lambda: server.get_status().active_connections == 0)
        await server.stop()

    run(asyncio.wait_for(serve(), 10))


def test_stop_lets_a_stream_finish_and_takes_no_new_call() -> None:
    async def serve() -> None:
        server = ProxyServer(rules(to_ollama(ollama)), port=0)
        await server.start()
        ollama.plan(HoldAfter(1))
        under_way = asyncio.create_task(call(server, model="qwen2.5:7b", stream=True))
        await until(lambda: ollama.holding > 0)
        stopping = asyncio.create_task(server.stop())
        await until(lambda: server.state.draining)
        refused = await call(server)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert refused.json()["error"] == {
            "message": "The gateway is shutting down. Try again in a moment.",
            "type": "service_unavailable_error", "param": None, "code": "shutting_down",
        }  # fmt: skip
        ollama.release()
        assert (await under_way).text.endswith("data: [DONE]\n\n")
        await stopping

    with OllamaStandIn() as ollama:
        run(asyncio.wait_for(serve(), 15))


def test_stop_waits_for_a_call_only_as_long_as_it_is_told_and_leaves_no_connection() -> None:
    async def serve() -> None:
        server = ProxyServer(rules(to_ollama(ollama)), port=0)
        await server.start()
        ollama.plan(HoldAfter(1))
        under_way = asyncio.create_task(call(server, model="qwen2.5:7b"))
        await until(lambda: ollama.holding > 0)
        await server.stop(drain=0.1)
        answer = await under_way
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"] == "5"
        assert server.get_status().active_connections == 0
        others = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not [name for name in others if "handler" in name or "inventory" in name]

    with OllamaStandIn() as ollama:
        run(asyncio.wait_for(serve(), 15))


def test_a_port_that_is_taken_is_named_and_a_stop_after_that_does_no_harm() -> None:
    async def serve() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = ProxyServer(rules(), port=port)
            with pytest.raises(SettingsError) as caught:
                await server.start()
            words = "the port is taken or not allowed; choose another one with --port or PORT"
            assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: {words}"
            await server.stop()
            assert not server.get_status().running

    run(serve())


def test_a_host_that_nobody_knows_is_not_a_matter_of_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def serve() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with_key = rules(f"{SANDBOX}\nproxy: {{auth: {{tokens: [a-key-0123456789]}}}}")
        with pytest.raises(SettingsError) as caught:
            await ProxyServer(with_key, host="nowhere.test", port=8123).start()
        words = "there is no such host; --host or HOST takes an address of this machine"
        assert str(caught.value) == f"cannot listen on nowhere.test:8123: {words}"

    run(serve())


def test_an_address_may_stand_in_brackets() -> None:
    async def serve() -> None:
        assert ProxyServer(rules(), host="[::1]").host == "::1"
        server = ProxyServer(rules(), host="[127.0.0.1]", port=0)
        await server.start()
        assert server.get_status().host == "127.0.0.1"
        await server.stop()

    run(serve())


def test_a_part_that_cannot_start_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: object) -> None:
        raise RuntimeError("no inventory today")

    async def serve() -> None:
        server = ProxyServer(rules(), port=0)
        with pytest.raises(RuntimeError, match="no inventory today"):
            await server.start()
        assert not server.get_status().running

    monkeypatch.setattr(Life, "_start", broken)
    run(serve())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "gateway.example"])
def test_a_public_address_needs_keys(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^refusing to listen on '.+' without keys: "):
        ProxyServer(rules(), host=host)
    with pytest.raises(SettingsError, match="refusing to listen"):
        ProxyServer(rules(f"proxy: {{host: '{host}'}}\n{SANDBOX}"))
    with_key = rules(f"proxy: {{auth: {{tokens: [a-key]}}}}\n{SANDBOX}")
    assert ProxyServer(with_key, host=host).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_an_address_of_this_machine_needs_none(host: str) -> None:
    assert ProxyServer(rules(), host=host).host == host


def test_keys_that_are_switched_off_count_as_none() -> None:
    off = rules(f"proxy: {{auth: {{enabled: false, tokens: [a-key]}}}}\n{SANDBOX}")
    with pytest.raises(SettingsError, match="refusing to listen"):
        ProxyServer(off, host="0.0.0.0")
