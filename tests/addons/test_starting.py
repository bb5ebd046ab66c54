"""Callers who connect while the gateway starts wait until it knows what limits are used up and which models there are."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path

import httpx
import pytest
import uvloop

from addons.limiter import Limiter
from addons.logs import set_up_logging
from addons.master import ProxyServer
from addons.past import Past
from rules.load import load_rules
from rules.snapshot import Rules
from tests.addons.ledgers import sqlite_url
from tests.standins.ollama import OllamaStandIn
from wire.profiles import PROFILES

ASKED = {"model": "qwen2.5:7b", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def log() -> StringIO:
    out = StringIO()
    set_up_logging(level="DEBUG", form="text", secrets=(), out=out)
    return out


@pytest.fixture
def may_start(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The limits are restored, which the rest of the start follows, once it is set."""
    may = asyncio.Event()
    restore = Limiter.start

    async def held(limiter: Limiter, past: Past | None = None) -> None:
        await may.wait()
        await restore(limiter, past)

    monkeypatch.setattr(Limiter, "start", held)
    return may


async def ask(server: ProxyServer) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.post(f"http://127.0.0.1:{server.port}/v1/chat/completions", json=ASKED)


async def listening(server: ProxyServer) -> None:
    while not server.port:  # noqa: ASYNC110  # mitmproxy tells nobody
        await asyncio.sleep(0.005)


def rules_of(ollama: OllamaStandIn, more: str = "") -> Rules:
    text = f"""
providers: {{ollama: {{dialect: ollama, urls: [{ollama.url}]}}, sandbox: {{dialect: sandbox}}}}
rules: [{{name: all, use: ["ollama/{{model}}", sandbox/echo]}}]
{more}
"""
    return load_rules(text, {}, profiles=PROFILES)


def test_a_call_that_comes_while_we_start_is_answered_as_any_other(log: StringIO, may_start: asyncio.Event) -> None:
    async def serve() -> None:
        server = ProxyServer(rules_of(ollama), port=0)
        starting = asyncio.create_task(server.start())
        await listening(server)
        calls = [asyncio.create_task(ask(server)) for _ in range(5)]
        assert not (await asyncio.wait(calls, timeout=0.2))[0]
        may_start.set()
        answers = await asyncio.gather(*calls)
        assert [(answer.status_code, answer.headers["x-gateway-target"]) for answer in answers] == [
            (200, "ollama/qwen2.5:7b")
        ] * 5
        await starting
        assert 0 < server.get_status().uptime_seconds < 10
        await server.stop()

    with OllamaStandIn() as ollama:
        uvloop.run(asyncio.wait_for(serve(), 20))
    assert "ERROR" not in log.getvalue()


def test_what_was_used_before_a_restart_counts_for_the_first_call_after_it(
    tmp_path: Path, may_start: asyncio.Event
) -> None:
    async def serve() -> None:
        may_start.set()
        first = ProxyServer(rules, port=0)
        await first.start()
        assert [(await ask(first)).status_code for _ in range(2)] == [200, 429]
        await first.stop()

        may_start.clear()
        second = ProxyServer(rules, port=0)
        starting = asyncio.create_task(second.start())
        await listening(second)
        call = asyncio.create_task(ask(second))
        await asyncio.sleep(0.1)
        may_start.set()
        assert (await call).status_code == 429
        await starting
        await second.stop()

    with OllamaStandIn() as ollama:
        rules = rules_of(ollama, f"limits: {{overall: [1/hour]}}\nledger: {{url: '{sqlite_url(tmp_path)}'}}")
        uvloop.run(asyncio.wait_for(serve(), 20))


def test_a_caller_who_waits_for_a_start_that_fails_is_not_left_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve() -> None:
        server = ProxyServer(rules_of(ollama), port=0)
        starting = asyncio.create_task(server.start())
        await listening(server)
        call = asyncio.create_task(ask(server))
        await asyncio.sleep(0.1)
        fails.set()
        with pytest.raises(RuntimeError, match="no limits today"):
            await starting
        assert (await call).status_code == 503

    fails = asyncio.Event()

    async def broken(_limiter: Limiter, _past: Past | None = None) -> None:
        await fails.wait()
        raise RuntimeError("no limits today")

    monkeypatch.setattr(Limiter, "start", broken)
    with OllamaStandIn() as ollama:
        uvloop.run(asyncio.wait_for(serve(), 20))
