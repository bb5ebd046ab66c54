"""What the servers have: asked in the background, no call ever waits for it, and old knowledge ends by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest

from addons.inventory import STEP, Inventory
from addons.state import State
from rules.conditions import Seen
from rules.load import load_rules
from tests.addons.doors import until
from tests.gateway import Gateway, quick_rules
from tests.standins import DeepSeekStandIn, OllamaStandIn, RawServer
from tests.standins.raw import Expect, Flood, Script, Send, Wait, head, whole
from wire.profiles import PROFILES

HANGS: Script = [Expect(), Wait(30)]
UNREACHED = Seen(None, reached=False)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def look(
    rules: str, then: Callable[[Inventory, State], Coroutine[None, None, None]], clock: Clock | None = None
) -> None:
    """Starts an inventory, lets a test look at it, and stops it."""

    async def run() -> None:
        state = State(load_rules(rules, {}, profiles=PROFILES), clock=clock or time.monotonic)
        inventory = Inventory(state, None)
        await inventory.start()
        try:
            await then(inventory, state)
        finally:
            await inventory.stop()

    asyncio.run(run())


def rules(url: str, *more: str, refresh: str = "200ms") -> str:
    urls = ", ".join([url, *more])
    return (
        f"providers: {{ollama: {{dialect: ollama, urls: [{urls}]}}}}\n"
        f"rules: [{{name: all, use: ['ollama/{{model}}']}}]\ndefaults: {{refresh: {refresh}}}"
    )


def test_after_the_start_local_models_are_known_in_both_spellings() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        assert state.seen["ollama"] == Seen(frozenset({"qwen2.5:7b", "ns/big:latest"}), reached=True)
        assert state.names["ollama"] == {"Qwen2.5:7B", "ns/Big:latest"}
        assert len(state.seen) == len([*state.seen]) == 1

    with OllamaStandIn(["Qwen2.5:7B", "ns/Big"]) as ollama:
        look(rules(ollama.url), then)


def test_the_models_of_several_servers_are_one_list() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        assert state.names["ollama"] == {"a:latest", "b:latest"}

    with OllamaStandIn(["a"]) as one, OllamaStandIn(["b"]) as other:
        look(rules(one.url, f"{other.url}/api/chat", "http://127.0.0.1:9"), then)


@pytest.mark.parametrize("script", [
    [Expect(), Send(whole(b"hello"))],
    [Expect(), Send(whole(b'{"models": 4}'))],
    [Expect(), Send(whole(b"[" * 100_000))],
    [Expect(), Send(whole(b'{"models": [{"name": "\\ud800"}]}'))],
    [Expect(), Send(whole(b"{}", status="500 No"))],
    [Expect(), Send(b"nonsense\r\n\r\n")],
    [],
])  # fmt: skip
def test_an_answer_that_is_none_counts_as_a_server_that_is_away(script: Script) -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        assert state.seen["ollama"] == UNREACHED
        assert "ollama" not in state.names

    with RawServer(script) as server:
        look(rules(server.url), then)


def test_odd_rows_are_left_out_and_null_means_none() -> None:
    async def rest(_inventory: Inventory, state: State) -> None:
        assert state.names["ollama"] == {"a"}

    async def none(_inventory: Inventory, state: State) -> None:
        assert state.seen["ollama"] == Seen(frozenset(), reached=True)

    with RawServer([Expect(), Send(whole(b'{"models": [{"name": "a"}, {"name": 1}, {}, null, 4]}'))]) as server:
        look(rules(server.url), rest)
    with RawServer([Expect(), Send(whole(b'{"models": null}'))]) as server:
        look(rules(server.url), none)


@pytest.mark.parametrize(
    "script", [HANGS, [Expect(), Send(head(headers={"Content-Length": "1000"})), Flood(b"x", pace=0.1)]]
)
def test_a_start_waits_only_so_long_for_a_server_that_hangs(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addons.inventory.FIRST_LOOK", 0.2)
    began = time.monotonic()

    async def then(_inventory: Inventory, state: State) -> None:
        assert time.monotonic() - began < STEP - 0.2, "the start waited for the answer to come or to be given up"
        assert state.seen.get("ollama", Seen()) == UNREACHED

    with RawServer(script) as server:
        look(rules(server.url), then)


def test_no_call_waits_for_a_list_that_hangs() -> None:
    with (
        RawServer(HANGS) as hanging,
        DeepSeekStandIn("sk-ds-test") as deepseek,
        Gateway(quick_rules(ollama=hanging.url, deepseek=deepseek.url)) as gateway,
    ):
        for _ in range(3):
            began = time.monotonic()
            answer = gateway.chat()
            assert time.monotonic() - began < STEP - 0.2
            assert answer.headers["x-gateway-target"] == "deepseek/deepseek-flash"


def test_a_server_that_stops_and_starts_is_seen_within_the_refresh() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        ollama.stop()
        await until(lambda: state.seen["ollama"] == Seen(None, reached=True))
        assert "ollama" not in state.names
        ollama.start()
        await until(lambda: state.seen["ollama"].models is not None)

    with OllamaStandIn() as ollama:
        look(rules(ollama.url, refresh="100ms"), then)


def test_a_nudge_asks_at_once() -> None:
    async def then(inventory: Inventory, state: State) -> None:
        before = len(ollama.seen)
        state.report_down("ollama")
        inventory.nudge("no such provider")
        await until(lambda: len(ollama.seen) > before)
        assert ollama.seen[before].path == "/api/tags"

    with OllamaStandIn() as ollama:
        look(rules(ollama.url, refresh="1h"), then)


def test_knowledge_that_nobody_renews_ends_but_not_that_the_server_was_there() -> None:
    clock = Clock()

    async def then(inventory: Inventory, state: State) -> None:
        assert state.seen["ollama"].models
        await inventory.stop()
        clock.now += 100
        assert state.seen["ollama"].models
        clock.now += 100
        assert state.seen["ollama"] == Seen(None, reached=True)
        assert state.names.get("ollama") is None

    with OllamaStandIn() as ollama:
        look(rules(ollama.url), then, clock)


def test_a_server_with_a_key_is_asked_with_it() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        await until(lambda: "d" in state.seen and "wrong" in state.seen)
        assert state.seen["d"] == Seen(frozenset(), reached=True)
        assert state.seen["wrong"] == UNREACHED

    with DeepSeekStandIn("sk-ds-test") as deepseek:
        text = (
            f"providers:\n  d: {{dialect: openai, urls: [{deepseek.url}/chat/completions], key: sk-ds-test}}\n"
            f"  wrong: {{dialect: openai, urls: [{deepseek.url}], key: nope}}\n"
            "rules: [{name: all, use: [d/x, wrong/x]}]"
        )
        look(text, then)
        # A bare host gets the /v1 that its chat endpoint gets.
        assert {seen.path for seen in deepseek.seen} == {"/models", "/v1/models"}


def test_of_several_servers_it_is_known_which_has_which_model_and_what_it_has_in_memory() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        away = "http://127.0.0.1:9"
        assert state.seen["ollama"].nodes == {one.url: {"a:latest"}, other.url: {"b:latest"}, away: None}
        assert state.nodes.loaded == {one.url: frozenset(), other.url: frozenset()}
        other._loaded["b:latest"] = (4096, None)
        await until(lambda: state.nodes.loaded[other.url] == {"b:latest"})
        other.stop()
        await until(lambda: state.seen["ollama"].nodes[other.url] is None)
        assert state.seen["ollama"].models == frozenset({"a:latest"})

    with OllamaStandIn(["a"]) as one, OllamaStandIn(["b"]) as other:
        look(rules(one.url, other.url, "http://127.0.0.1:9", refresh="50ms"), then)


def test_one_server_alone_is_not_asked_what_it_has_in_memory() -> None:
    async def then(_inventory: Inventory, state: State) -> None:
        await until(lambda: len(ollama.seen) >= 3)
        assert {seen.path for seen in ollama.seen} == {"/api/tags", "/api/show"}
        assert state.nodes.loaded == {}

    with OllamaStandIn() as ollama:
        look(rules(ollama.url, refresh="50ms"), then)
