"""A limiter without a network, and calls that come to it, for tests."""

from __future__ import annotations

from typing import Any

from addons.account import account_of
from addons.exchange import Attempt, Exchange
from addons.limiter import Limiter
from rules.conditions import Facts, Seen
from rules.decide import decide
from rules.load import load_rules
from rules.snapshot import Rules
from wire.errors import Fault
from wire.openai import ChatRequest, usage_object
from wire.profiles import PROFILES

NOW = 1_000_000.0
"""Unix time when the clock is 0."""
SERVERS = {"ollama": Seen(frozenset({"m:latest", "hourly:latest"}), reached=True)}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now


def rules_of(limits: str, clients: str = "{}") -> Rules:
    return load_rules(
        f"""
providers:
  ollama: {{dialect: ollama, urls: [http://127.0.0.1:9]}}
  far: {{dialect: openai, urls: [http://127.0.0.1:9], key: sk-far}}
  deep: {{dialect: openai, profile: deepseek, urls: [http://127.0.0.1:9], key: sk-deep}}
rules:
  - {{name: paid, when: {{model: paid}}, use: [far/paid]}}
  - {{name: paid_apart, when: {{model: paid_apart}}, use: [deep/paid]}}
  - {{name: charged_apart, when: {{model: charged_apart}}, use: [deep/charged]}}
  - {{name: cached, when: {{model: cached}}, use: [far/cached]}}
  - {{name: both, when: {{model: both}}, use: [ollama/m, far/paid, far/unpriced]}}
  - {{name: turned, when: {{model: turned}}, use: [far/paid, ollama/m]}}
  - {{name: three, when: {{model: three}}, use: [far/paid, far/cheap, ollama/m]}}
  - {{name: hourly, when: {{model: hourly}}, use: [ollama/hourly, ollama/m]}}
  - {{name: all, use: ["ollama/{{model}}"]}}
prices:
  - {{model: far/paid, from: 1970-01-01, input: 1, output: 10}}
  - {{model: deep/paid, from: 1970-01-01, input: 1, output: 10}}
  - {{model: deep/charged, from: 1970-01-01, request: 0.1}}
  - {{model: far/cheap, from: 1970-01-01, input: 0.1, output: 1}}
  - {{model: far/cached, from: 1970-01-01, input: 1, cached_input: 0.1, output: 10}}
  - {{model: ollama/hourly, from: 1970-01-01, hour: 2}}
clients: {clients}
limits: {limits}
""",
        {},
        profiles=PROFILES,
    )


class Desk:
    """A limiter, and calls that come to it."""

    def __init__(self, limits: str, clients: str = "{}") -> None:
        self.clock = Clock()
        self.rules = rules_of(limits, clients)
        self.limiter = Limiter(self.rules, self.clock, self.clock.wall, lambda: 0.5)
        self.calls = 0

    def call(
        self, *, client: str = "a", model: str = "m", chars: int = 400, beside: int = 0, maybe: int = 0, **body: Any
    ) -> Exchange:
        """One that has been decided about, and not yet been admitted."""
        self.calls += 1
        return Exchange(
            request_id=f"req_{self.calls}",
            rules=self.rules,
            started=self.clock.now,
            created=0,
            client=self.rules.keys.named(client),
            to_model=True,
            request=ChatRequest(
                body={"model": model, **body}, model=model, prompt_chars=chars, beside_chars=beside, maybe_chars=maybe
            ),
            decision=decide(self.rules, Facts(model=model, servers=SERVERS)),
        )

    def admit(self, **call: Any) -> Exchange:
        exchange = self.call(**call)
        assert self.limiter.admit(exchange) is None
        return exchange

    def told(self, **call: Any) -> Fault | None:
        """Why it is turned away; None for one that is let in."""
        try:
            assert self.limiter.admit(self.call(**call)) is None
        except Fault as fault:
            return fault
        return None

    def refused(self, **call: Any) -> Fault:
        fault = self.told(**call)
        assert fault is not None, "it was let in"
        return fault

    def served(self, exchange: Exchange, prompt: int = 100, completion: int = 50, **more: Any) -> None:
        """Its first target answers it, and counts."""
        assert exchange.decision is not None
        exchange.attempts.append(
            Attempt(
                exchange.decision.targets[0],
                self.clock.now,
                tried=True,
                accepted=True,
                usage=usage_object(prompt, completion),
                **({"completed": True} | more),
            )
        )
        self.over(exchange)

    def over(self, exchange: Exchange) -> None:
        account = account_of(exchange, status=200, now=self.clock.now, wall=self.clock.wall())
        self.limiter.settle(exchange, account)

    def used(self, client: str = "a", model: str = "m") -> list[int]:
        counts = self.limiter.counts
        assert counts is not None
        return [one.used for one in counts.look(self.rules.limits.of(self.rules.keys.named(client), model))]
