"""One model on one server as we have met it: its breaker, the calls it has in hand, and who waits for it.

A place is taken by begin() and given back by leave(), exactly once each; a place that gets free goes to the first who
waits. Nobody waits for a node that is not asked any more: then all who did decide again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from rules.health import CLOSED, Breaker, abandoned, asked

WHILE_PROBED = 0.5
"""Seconds between two looks at a breaker whose one call is still under way; when it ends, who waits is told."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Server:
    """One URL of a provider, with all its models."""

    provider: str
    url: str
    breaker: Breaker = CLOSED
    why: str = ""
    """The kind of failure that opened the breaker."""
    said: str = ""
    """What that failure said."""
    nodes: WeakValueDictionary[str, Node] = field(default_factory=WeakValueDictionary)
    """By model."""
    working: int = 0
    """Calls that it has in hand."""
    _shared: float = 0.0
    """Seconds that each of them would have had, had it been there since the server was idle last."""
    _seen: float = 0.0
    """When that was counted."""

    def enter(self, now: float) -> float:
        """A call begins; returns what leave() wants to know of it.

        With n calls at once each of them has an n-th of the time: a clock that goes on at that pace says at any moment
        what a call has had, without a look at the others. The shares add up to the time in which there was any call.
        """
        self._count(now)
        self.working += 1
        return self._shared

    def leave(self, entered: float, now: float) -> float:
        """A call has ended; returns the seconds of the server's time that were its own."""
        self._count(now)
        self.working -= 1
        share = self._shared - entered
        if not self.working:
            self._shared = 0.0  # it loses no precision in a year without a restart
        return share

    def _count(self, now: float) -> None:
        if self.working:
            self._shared += (now - self._seen) / self.working
        self._seen = now


@dataclass(slots=True, weakref_slot=True, eq=False)
class Node:
    """One model on one server."""

    name: str
    """As the rules write it: provider/model."""
    model: str
    server: Server
    clock: Callable[[], float]
    breaker: Breaker = CLOSED
    said: str = ""
    """What the failure that opened the breaker said."""
    in_flight: int = 0
    queue: dict[Ticket, None] = field(default_factory=dict)
    """Who waits for a place, in order."""
    watched: dict[Ticket, None] = field(default_factory=dict)
    """Who waits for its breaker to let calls pass again."""
    first_token: float | None = None
    """Moving average of the time to the first content, seconds."""
    measured: float = 0.0
    """When."""
    took: float | None = None
    """Moving average of a call's whole time, seconds."""

    @property
    def is_closed(self) -> bool:
        return self.breaker.until is None and self.server.breaker.until is None

    def allows(self, now: float) -> bool:
        # Asked for every call; almost always both are closed.
        return (self.breaker.until is None or self.breaker.allows(now)) and (
            self.server.breaker.until is None or self.server.breaker.allows(now)
        )

    def state(self, now: float) -> str:
        """`closed`, `open` or `half_open`: the worse one of its own breaker and its server's."""
        states = {self.breaker.state(now), self.server.breaker.state(now)}
        return "open" if "open" in states else "half_open" if "half_open" in states else "closed"

    def reason(self, now: float) -> str:
        """What the failure said because of which it is not asked now."""
        return self.said if self.breaker.state(now) != "closed" else self.server.said

    def rests_until(self, now: float) -> float:
        """When its breakers let a call pass again, as far as that is known."""
        return max(breaker.until or now for breaker in (self.breaker, self.server.breaker))

    def free_at(self, now: float) -> float:
        """When a call may pass; at the latest `now` where one may pass now."""
        if self.allows(now):
            return now
        return max(self.rests_until(now), now + WHILE_PROBED)

    def begin(self) -> bool:
        """A call begins on it; True where it is the one call that a half-open breaker lets through."""
        self.in_flight += 1
        probes = False
        if self.breaker.until is not None:
            self.breaker, probes = asked(self.breaker), True
        if self.server.breaker.until is not None:
            self.server.breaker, probes = asked(self.server.breaker), True
        return probes

    def give_up(self, probes: bool) -> None:
        """A call ended without saying anything about the target. Only the one that tried frees a half-open breaker."""
        if probes:
            self.breaker, self.server.breaker = abandoned(self.breaker), abandoned(self.server.breaker)

    def leave(self) -> None:
        """A call has left it: its place goes to the first who waits. Nobody waits for a node that is not asked."""
        self.in_flight -= 1
        if self.queue and not self.allows(self.clock()):
            self.send_on()
        while self.queue:
            ticket = next(iter(self.queue))
            ticket.leave_queues()
            if ticket.granted is None:
                ticket.granted = self
                ticket.probes = self.begin()
                ticket.tell()
                return

    def send_on(self) -> None:
        """Lets everybody who waits for it decide again."""
        for ticket in [*self.queue, *self.watched]:
            ticket.called_off = True
            ticket.leave_queues()
            ticket.tell()

    def expected_wait(self, parallel: int) -> float:
        """Seconds until a new call would get its place, as far as one can tell."""
        return (self.took or 1.0) * (len(self.queue) + 1) / parallel


@dataclass(slots=True, eq=False)
class Ticket:
    """A call's place in the queues of one or several nodes: the first that has room takes it."""

    nodes: tuple[Node, ...]
    tell: Callable[[], None]
    """Called once there is a place, or where it makes no sense to go on waiting."""
    granted: Node | None = None
    """The node that has begun the call."""
    probes: bool = False
    """What begin() gave."""
    watches: bool = False
    """It waits for no place, but for a breaker."""
    called_off: bool = False
    """A node that it waited for is not asked any more: decide again."""

    def leave_queues(self) -> None:
        for node in self.nodes:
            node.queue.pop(self, None)
            node.watched.pop(self, None)

    def cancel(self) -> None:
        """Its caller has left, or does not wait any longer."""
        self.leave_queues()
        node, self.granted = self.granted, None
        if node is not None:
            node.give_up(self.probes)
            node.leave()


def wait_in_queue(nodes: Iterable[Node], limit: int, tell: Callable[[], None]) -> Ticket | None:
    """A place in the queues that are shorter than `limit`; None where there is none."""
    open_ones = tuple(node for node in nodes if len(node.queue) < limit)
    if not open_ones:
        return None
    ticket = Ticket(open_ones, tell)
    for node in open_ones:
        node.queue[ticket] = None
    return ticket


def watch(nodes: Iterable[Node], tell: Callable[[], None]) -> Ticket:
    """To be told when the breaker of one of these nodes may have changed its state."""
    ticket = Ticket(tuple(nodes), tell, watches=True)
    for node in ticket.nodes:
        node.watched[ticket] = None
    return ticket
