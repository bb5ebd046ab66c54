"""What the addons share: one object, built by gateway.py and handed to each of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy.connection import Client as ClientConnection
from mitmproxy.connection import Server as ServerConnection

from addons.exchange import Exchange, Exchanges
from addons.logs import redactor
from rules.conditions import Seen
from rules.decide import Rules


def new_request_id() -> str:
    return f"req_{os.urandom(16).hex()}"


def new_call_id() -> str:
    return f"chatcmpl-{os.urandom(16).hex()}"


def new_tool_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


@dataclass(eq=False)
class State:
    """The gateway's moving parts. Clock and chance are fields, so that tests can hold them still."""

    rules: Rules
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    exchanges: Exchanges = field(default_factory=WeakKeyDictionary)
    served: WeakSet[ClientConnection] = field(default_factory=WeakSet)
    """Connections that our own layer serves. A flow of any other connection is refused: nothing would guard it."""
    dialled: WeakSet[ServerConnection] = field(default_factory=WeakSet)
    """Upstream connections that our own layer asked for. Any other one is refused before it is opened."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """provider -> what is known of its server; the inventory's to say."""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """provider -> its server's models, spelled as the server does."""
    refusing: set[str] = field(default_factory=set)
    """Providers that answered and do not take our key."""
    sandbox_port: int | None = None
    """Where the built-in sandbox model listens on loopback, while it runs."""
    total: int = 0
    """Calls since the start."""
    draining: bool = False
    """No new calls: we are about to stop."""
    keep_bodies: bool = False
    """Somebody looks at flows (mitmweb, a file): streamed answers are kept for them, up to a bound."""
    is_behind: Callable[[ClientConnection], bool] = lambda client: False
    """Whether a caller has not yet taken what was written to it."""
    report_down: Callable[[str], None] = lambda provider: None
    """Tells the inventory that a provider's server did not answer."""

    @property
    def started(self) -> int:
        """Unix time."""
        return self._started

    def __post_init__(self) -> None:
        self.clean = redactor(self.rules.secrets)
        """Masks the secrets of the rules in a text."""
        self._started = int(self.wall())

    def health(self) -> dict[str, Any]:
        """What /health says. Sandbox models answer calls, but make nothing healthy."""
        said: dict[str, Any] = {}
        connected = 0
        real = {name: row for name, row in self.rules.file.providers.items() if row.dialect != "sandbox"}
        for name, row in real.items():
            if row.key is not None and not row.key.get_secret_value().strip():
                said[name] = "no key"
            elif self.seen.get(name, Seen()).models is not None:
                said[name] = "connected"
                connected += 1
            else:
                said[name] = "key refused" if name in self.refusing else "unreachable"
        away = any(seen.reached and seen.models is None for seen in self.seen.values())
        stands_in = self.sandbox_port is not None and not away
        status = "healthy" if connected == len(real) > 0 else "degraded" if connected or stands_in else "unhealthy"
        models = sorted(name for provider in real for name in self.names.get(provider, ()))
        return {"status": status, **said, "models": models}

    def in_flight(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges.values() if not exchange.ended]
