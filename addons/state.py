"""What the addons share: one object, built by gateway.py and handed to each of them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy.connection import Client as ClientConnection
from mitmproxy.connection import Connection
from mitmproxy.connection import Server as ServerConnection
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy.events import Event

from addons.account import Account
from addons.exchange import Attempt, Exchange, Exchanges
from addons.fetch import Fetcher
from addons.limiter import Limiter
from addons.logs import redactor
from addons.models import Models
from addons.node import Node
from addons.nodes import Nodes
from addons.response_store import ResponseStore
from addons.telemetry import Metrics
from addons.thoughts import Thoughts
from rules.conditions import Seen
from rules.limits import limits_in
from rules.snapshot import Rules
from rules.targets import Target
from wire.dialects import Facets
from wire.errors import Fault

if TYPE_CHECKING:
    from addons.ledger import Ledger


def new_request_id() -> str:
    return f"req_{os.urandom(16).hex()}"


def new_call_id() -> str:
    return os.urandom(16).hex()


def new_tool_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


@dataclass(eq=False)
class State:
    """The gateway's moving parts. Clock and chance are fields, so that tests can hold them still."""

    rules: Rules
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    exchanges: Exchanges = field(default_factory=WeakKeyDictionary)
    served: WeakSet[ClientConnection] = field(default_factory=WeakSet)
    """Connections that our own layer serves. A flow of any other connection is refused: nothing would guard it."""
    dialled: WeakSet[ServerConnection] = field(default_factory=WeakSet)
    """Upstream connections that our own layer asked for. Any other one is refused before it is opened."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """provider -> what is known of its server; the inventory's to say."""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """provider -> its server's models, spelled as the server does."""
    offered: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """URL of a compatible server -> the models that it lists."""
    refusing: set[str] = field(default_factory=set)
    """Providers that answered and do not take our key."""
    sandbox_port: int | None = None
    """Where the built-in sandbox model listens on loopback, while it runs."""
    starting: asyncio.Event | None = None
    """While the gateway starts: set at the end of that. Until then nobody knows what limits are used up and which
    models there are, so callers wait for it. None: nothing is to be waited for."""
    ready_at: float = 0.0
    """When the gateway began to answer calls, of the monotonic clock."""
    total: int = 0
    """Calls since the start."""
    draining: bool = False
    """No new calls: we are about to stop."""
    keep_bodies: bool = False
    """Somebody looks at flows (mitmweb, a file): streamed answers are kept for them, up to a bound."""
    is_behind: Callable[[ClientConnection], bool] = lambda client: False
    """Whether a caller has not yet taken what was written to it."""
    when_taken: Callable[[ClientConnection, Connection, Event], None] = lambda client, connection, event: None
    """(caller, upstream, event) -> hands the event to the caller's layers when the upstream has taken what was sent."""
    cut: Callable[[ClientConnection, Connection], None] = lambda client, connection: None
    """(caller, connection) -> resets one of the caller's connections, its own or an upstream's."""
    report_down: Callable[[str], None] = lambda provider: None
    """Tells the inventory that a provider's server did not answer."""
    watchers: list[Callable[[Account], None]] = field(default_factory=list)
    """Are told of each call to a model that is over: the ledger, the metrics, the traces."""
    account_for: Callable[[HTTPFlow], None] = lambda flow: None
    """Accounts a call that is over, whatever became of it, unless that was done."""
    ledger: Ledger | None = None
    """Where calls are kept, if anywhere."""
    nudge: Callable[[ClientConnection], None] = lambda client: None
    """Lets the layer of a caller's connection look at its streams: something that one of them waits for is there."""

    @property
    def started(self) -> int:
        """Unix time."""
        return self._started

    def __post_init__(self) -> None:
        self.clean = redactor(self.rules.secrets)
        """Masks the secrets of the rules in a text."""
        self._started = int(self.wall())
        self.nodes = Nodes(self.rules, self.clock)
        """What is known of each target at this moment."""
        self.nodes.refused = self._refused
        self.thoughts = Thoughts(self.clock)
        """What models thought before they called a tool."""
        self.responses = ResponseStore(self.clock)
        """Responses that callers may build upon."""
        ledger = self.rules.file.ledger
        self.content = ledger.content if ledger is not None else None
        """How many bytes of a prompt and of an answer the ledger keeps; None: nothing of either."""
        self.models = Models()
        """What is known of each model; the inventory's to say."""
        self.metrics = Metrics(self.rules.file)
        """What Prometheus is told."""
        self.watchers.append(self.metrics.count)
        self.limiter = Limiter(self.rules, self.clock, self.wall, self.chance)
        """Keeps calls within the limits of the rules."""
        self.limiter.decided = self.metrics.decided
        self.fetcher = Fetcher(clock=self.clock)
        """Fetches images for models that take no URLs."""

    def _refused(self, provider: str, refused: bool) -> None:
        (self.refusing.add if refused else self.refusing.discard)(provider)

    def facets(self, target: Target) -> Facets:
        """What a target's dialect needs to know to ask it."""
        return self.models.facets(target)

    def health(self) -> dict[str, Any]:
        """What /health says. Sandbox models answer calls, but make nothing healthy."""
        said: dict[str, Any] = {}
        connected = 0
        real = {name: row for name, row in self.rules.file.providers.items() if row.dialect != "sandbox"}
        for name, row in real.items():
            if row.key is not None and not row.key.get_secret_value().strip():
                said[name] = "no key"
            elif self.nodes.refuses(name):  # a list of models may be given to whom calls are refused
                said[name] = "key refused"
            elif self.seen.get(name, Seen()).models is not None:
                said[name] = "connected"
                connected += 1
            else:
                said[name] = "key refused" if name in self.refusing else "unreachable"
        away = any(seen.reached and seen.models is None for seen in self.seen.values())
        stands_in = self.sandbox_port is not None and not away
        status = "healthy" if connected == len(real) > 0 else "degraded" if connected or stands_in else "unhealthy"
        if self._uncounted():
            status = "degraded" if status == "healthy" else status
            status = "unhealthy" if self.rules.file.limits.if_away == "closed" else status
        if self.draining:
            status = "unhealthy"
        models = sorted(name for provider in real for name in self.names.get(provider, ()))
        stores = {
            name: "away" if lost else "connected"
            for name, lost in (("limits", self.limiter.away), ("ledger", self.ledger and self.ledger.away))
            if lost is not None
        }
        return {"status": status, **said, "models": models, "breakers": self.nodes.not_closed(), **stores}

    def _uncounted(self) -> bool:
        """Whether there are limits, and nobody knows where they stand."""
        return bool(self.limiter.away) and any(True for _ in limits_in(self.rules.file))

    def in_flight(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges.values() if not exchange.ended]

    # -- what became of an attempt: its place is given back exactly once

    def attempt_heard(self, attempt: Attempt) -> None:
        """Its first content has come."""
        attempt.first_token = self.clock()
        if attempt.node is not None:
            self.nodes.heard(attempt.node, attempt.first_token - attempt.started)

    def attempt_done(self, exchange: Exchange) -> None:
        """The answer is complete."""
        attempt = exchange.serving
        node, took = self._end(attempt)
        if attempt is not None and node is not None:
            exchange.note_said()
            attempt.completed = True
            self.nodes.went_well(node, took, attempt.probes)

    def attempt_failed(self, attempt: Attempt, fault: Fault) -> None:
        attempt.fault = fault
        node, took = self._end(attempt)
        if node is not None:
            self.nodes.went_wrong(node, fault, attempt.probes, took)

    def _end(self, attempt: Attempt | None) -> tuple[Node | None, float]:
        """The node that the attempt had its place on, whoever asks for it first, and how many seconds it took."""
        if attempt is None or attempt.node is None:
            return None, 0.0
        node, attempt.node = attempt.node, None
        attempt.ended = self.clock()
        attempt.busy = node.server.leave(attempt.entered, attempt.ended)
        return node, attempt.ended - attempt.started

    def let_go(self, exchange: Exchange) -> None:
        """The call is over, however it ended: it holds no place and stands in no queue any more."""
        exchange.stop_asking()
        exchange.forget_frames()
        if exchange.spool is not None:
            exchange.spool.close()
        attempt = exchange.serving
        node, _ = self._end(attempt)
        if attempt is not None and node is not None:
            exchange.note_said()
            self.nodes.left(node, attempt.probes)
