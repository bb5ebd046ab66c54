"""What the tests of money share: servers with prices, what a call should come to, and the sums on paper."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from addons.account import Account
from rules.prices import NONE_COUNTED, Tokens
from tests.addons.calls import idle_nodes, pieces, rest_no_more
from tests.gateway import Gateway
from tests.standins import CompatStandIn, DeepSeekStandIn, ModelCard, OllamaStandIn, RawServer
from tests.wire.forms import CONTENT_TYPE

LOCAL, DEEP, TEXTS, FREE, RAW, READS, SAYS = (
    "ollama/qwen2.5:7b", "deepseek/deepseek-flash", "texts/any", "free/any", "raw/any", "raw/reads", "raw/says",
)  # fmt: skip
MIGHT = "openai/gpt-5"
VECTORS = "ollama/nomic-embed-text:latest"
PRICES = {
    # cached, input, output, each of a million tokens, and a request
    LOCAL: ("0.01", "0.01", "0.02", "0"),
    VECTORS: ("0.01", "0.01", "0.02", "0"),
    DEEP: ("0.003", "0.15", "0.60", "0"),
    TEXTS: ("0.0028", "0.0028", "1.1", "0.001"),
    RAW: ("1", "2", "3", "0.002"),
    READS: ("1", "2", "0", "0"),
    SAYS: ("0", "0", "3", "0"),
    MIGHT: ("0.125", "1.25", "10", "0"),
}
"""`free/any` has none."""
SAID = "Greetings from the deep sea"  # five pieces, 27 characters
PROMPT = [{"role": "user", "content": "hello there"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
]
RULES = """
providers:
  ollama: {{dialect: ollama, urls: [{ollama}], parallel: 8}}
  deepseek: {{dialect: openai, profile: deepseek, urls: [{deepseek}], key: sk-ds-test}}
  texts: {{dialect: openai, urls: ["{texts}/v1"]}}
  free: {{dialect: openai, urls: ["{texts}/v1"]}}
  raw: {{dialect: openai, urls: [{raw}]}}
rules:
  - {{name: deep, when: {{model: deep}}, use: [deepseek/deepseek-flash]}}
  - {{name: deep-first, when: {{model: deep-first}}, use: [deepseek/deepseek-flash, "ollama/qwen2.5:7b"]}}
  - {{name: texts, when: {{model: texts}}, use: [texts/any]}}
  - {{name: free, when: {{model: free}}, use: [free/any]}}
  - {{name: vectors, when: {{model: vectors}}, use: ["ollama/nomic-embed-text:latest"]}}
  - {{name: raw, when: {{model: raw}}, use: [raw/any]}}
  - {{name: by-tokens, when: {{model: [reads, says]}}, use: ["raw/{{model}}"]}}
  - {{name: local, use: ["ollama/qwen2.5:7b", deepseek/deepseek-flash]}}
defaults:
  timeouts: {{connect: 20s, first_token: 1500ms, idle: 4s, total: 20s, keep_alive: 10s}}
  breaker: {{failures: 1000000}}
  failover: {{attempts: 1, mid_stream: continue, backoff: 10ms, repair: true}}
  refresh: 200ms
ledger: {{url: "sqlite:///{folder}/ledger.sqlite", compare_to: openai/gpt-5}}
prices:
{prices}
"""
_PRICE = "  - {{model: '{}', from: 2026-01-01, cached_input: {}, input: {}, output: {}, request: {}}}"


@dataclass
class World:
    gateway: Gateway
    ollama: OllamaStandIn
    deepseek: DeepSeekStandIn
    texts: CompatStandIn
    raw: RawServer
    folder: Path
    accounts: list[Account] = field(default_factory=list)
    """Of all calls since the start."""

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, Account]:
        """(status, what the call came to)"""
        before = len(self.accounts)
        with self.gateway.client() as client:
            status = client.post(f"/v1{path}", json=body).status_code
        return status, self.next_after(before)

    def send(self, path: str, form: bytes) -> tuple[int, Account]:
        """The same, of a form."""
        before = len(self.accounts)
        with self.gateway.client() as client:
            status = client.post(f"/v1{path}", content=form, headers={"content-type": CONTENT_TYPE}).status_code
        return status, self.next_after(before)

    def next_after(self, before: int) -> Account:
        self.gateway.until(lambda: len(self.accounts) > before, "the call is told of")
        assert len(self.accounts) == before + 1
        return self.accounts[-1]


@contextmanager
def made(folder: Path) -> Iterator[World]:
    models: list[str | ModelCard] = ["qwen2.5:7b", ModelCard.guess("nomic-embed-text")]
    with (
        OllamaStandIn(models, reply=pieces(SAID)) as ollama,
        DeepSeekStandIn("sk-ds-test", reply=pieces(SAID), thinking=False) as deepseek,
        CompatStandIn(reply=pieces(SAID)) as texts,
        RawServer() as raw,
    ):
        rules = RULES.format(
            ollama=ollama.url,
            deepseek=deepseek.url,
            texts=texts.url,
            raw=raw.url,
            folder=folder,
            prices="\n".join(_PRICE.format(name, *row) for name, row in PRICES.items()),
        )
        (folder / "rules.yaml").write_text(rules)
        with Gateway(rules) as gateway:
            world = World(gateway, ollama, deepseek, texts, raw, folder)
            gateway.state.watchers.append(world.accounts.append)
            yield world


@contextmanager
def at_rest(world: World) -> Iterator[None]:
    """Between one test and the next: servers that answer as always, and at the end no call under way."""
    for server in (world.ollama, world.deepseek, world.texts):
        server._plans.clear()
        server.reply, server.always = pieces(SAID), None
    world.deepseek.thinking = False
    rest_no_more(world.gateway)
    yield
    idle_nodes(world.gateway)


def on_paper(target: str, tokens: Tokens) -> int:
    """NANOS, in decimals, from the table above."""
    cached, given, wanted, request = map(Decimal, PRICES[target])
    usd = ((tokens.prompt - tokens.cached) * given + tokens.cached * cached + tokens.completion * wanted) / 10**6
    return int(((usd + request) * 10**9).to_integral_value(ROUND_HALF_UP))


@dataclass(frozen=True)
class Attempt:
    """What is expected of one."""

    target: str
    tokens: Tokens = NONE_COUNTED
    outcome: str = "ok"
    taken: bool = True
    """Its target began to work on it."""
    estimated: bool = False
    """Then the prompt's tokens are a guess, and not compared."""
    continues: bool = False
    unpriced: bool = False
    """It has a price, by tokens that nobody has counted."""


def ok(target: str, prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0, **more: Any) -> Attempt:
    return Attempt(target, Tokens(prompt, cached, completion, reasoning), **more)


def guessed(target: str, outcome: str, completion: int, **more: bool) -> Attempt:
    return Attempt(target, Tokens(completion=completion), outcome, estimated=True, **more)


def refused(target: str, outcome: str) -> Attempt:
    return Attempt(target, outcome=outcome, taken=False)


def check(account: Account, expected: Sequence[Attempt], *, any_order: bool = False) -> None:
    """Compares all of it with what was written down by hand."""
    tried = sorted(account.tried, key=lambda one: (one.target, one.outcome)) if any_order else account.tried
    expected = sorted(expected, key=lambda one: (one.target, one.outcome)) if any_order else expected
    assert [(one.target, one.outcome, one.estimated, one.continues) for one in tried] == [
        (one.target, one.outcome, one.estimated, one.continues) for one in expected
    ]
    for one, hand in zip(tried, expected, strict=True):
        if hand.estimated:
            assert one.tokens.prompt > 0
            assert one.tokens == Tokens(one.tokens.prompt, 0, hand.tokens.completion)
        else:
            assert one.tokens == hand.tokens
    costs = [
        0 if not hand.taken else None if one.target == FREE or hand.unpriced else on_paper(one.target, one.tokens)
        for one, hand in zip(tried, expected, strict=True)
    ]
    assert [one.cost for one in tried] == costs
    known = [cost or 0 for cost in costs]
    assert account.cost == sum(known)
    assert account.unpriced == (None in costs)
    assert account.failed_cost == sum(
        cost for one, cost in zip(tried, known, strict=True) if one.outcome not in ("ok", "left")
    )
    assert account.tokens == sum((one.tokens for one in account.tried), Tokens())
    assert account.estimated == any(one.estimated for one in account.tried)


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": PROMPT, **more}


def leave_after(world: World, body: dict[str, Any], words: int) -> Account:
    """Asks for a stream, reads so many chunks with something in them, and leaves."""
    before = len(world.accounts)
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}))
    answer = connection.getresponse()
    seen = 0
    while seen < words:
        line = answer.readline()
        assert line, "the stream ended too early"
        seen += line.startswith(b"data: {") and b'"content":""' not in line
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer.close()
    connection.close()
    return world.next_after(before)
