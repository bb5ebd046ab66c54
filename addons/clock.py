"""The clock of one call: what is due when, and what its layer looks at for that.

The trap: a wake-up cannot be cancelled and keeps what asked for it in memory. So a call only says when it is to be
looked at; asking for wake-ups is its layer's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from mitmproxy.connection import Connection
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpStream
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import RequestProtocolError

from addons.exchange import Exchange
from addons.state import State

WHILE_CONNECTING = 0.5
"""Seconds between two looks at a stream that waits for a connection: its caller may have left meanwhile."""
WHILE_PAUSED = 0.05
"""Seconds between two looks at a stream that waits for a hook."""


@dataclass
class LastCall(HttpEvent):
    """The gateway is about to end."""


class Fan(Protocol):
    """The parts of a call (parts.py)."""

    def begin(self) -> None:
        """Asks for the first of them."""
        ...

    def cancel(self) -> CommandGenerator[None]:
        """Gives all of them up."""
        ...


class Switchboard(Protocol):
    """What a stream needs of its layer."""

    earliest: float

    def retire(self, connection: Connection) -> CommandGenerator[None]:
        """Closes a connection whose reply nobody wants any more."""
        ...

    def take(self, connection: Connection) -> bool:
        """Says that a call begins on a connection; True where it has served another one before."""
        ...

    def leave(self, connection: Connection) -> None:
        """Says that a call has its answer, though the reply may not have ended yet."""
        ...

    def give_up_opening(self, command: GetHttpConnection) -> CommandGenerator[None]:
        """Ends the waiting for a connection."""
        ...

    def fan_out(self, stream: ClockedStream) -> Fan:
        """The parts of a call that is asked in parts."""
        ...

    def caller_is_behind(self) -> bool:
        """True while the caller has not taken what it was sent: then we do not read from its upstream either."""
        ...


class ClockedStream(HttpStream):
    def __init__(self, context: Context, stream_id: int, state: State, switchboard: Switchboard) -> None:
        super().__init__(context, stream_id)
        self.state = state
        self.switchboard = switchboard
        self.exchange: Exchange | None = None
        self.connecting: GetHttpConnection | None = None
        """The command that waits for a connection, while one is being opened."""
        self.deadline = math.inf
        """When the present attempt counts as failed."""
        self._late = ""
        """What it did wrong then."""
        self._ends = math.inf
        """When the call as a whole has taken too long."""
        self._comment_at = math.inf
        """When the caller of a stream has heard nothing for long enough."""
        self._show_at = math.inf
        """When whoever looks at the flow should see what the answer has come to."""

    @property
    def paused(self) -> bool:
        return self._paused is not None

    @property
    def is_doomed(self) -> bool:
        """True where what ends the call came while we were waiting for something: it is the next event."""
        return any(isinstance(event, RequestProtocolError | LastCall) for event in self._paused_event_queue)

    @property
    def wake(self) -> float:
        """When the clock should be looked at next."""
        if self.connecting is not None:
            return min(self.deadline, self.state.clock() + WHILE_CONNECTING)
        wake = min(self.deadline, self._ends, self._comment_at, self._show_at)
        if self.exchange is not None and self.exchange.pause is not None and self.exchange.pause.over:
            wake = self.state.clock()  # it was told while it waited for a hook
        return max(wake, self.state.clock() + WHILE_PAUSED) if self.paused else wake

    def _set_deadline(self, at: float, late: str) -> None:
        self.deadline = at
        self._late = late
        self._see_to_alarm()

    def _set_ends(self, at: float) -> None:
        self._ends = at
        self._see_to_alarm()

    def _see_to_alarm(self) -> None:
        self.switchboard.earliest = min(self.switchboard.earliest, self.wake)
