"""Every node that was met: who comes first among them, and what a call that ended says about them.

A target of the rules is a model on a server. `{model}` in a rule makes as many of them as callers think up, so what
is idle and forgotten may go: the registry is bounded, and only calls under way hold a node for longer.

Everything here runs in one thread and between two events; nothing waits. The values and their transitions are
rules/health.py's, the order among equals rules/balance.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import WeakValueDictionary

from cachetools import LRUCache
from loguru import logger

from addons.node import Node, Server
from rules.balance import Load, order
from rules.decide import Decision
from rules.health import (
    CLOSED,
    OF_SERVER,
    Candidate,
    Policy,
    abandoned,
    failed,
    kinds_in,
    revived,
    succeeded,
    weight_of,
)
from rules.prices import UNPAID, expected_cost
from rules.snapshot import Rules
from rules.targets import Target
from wire.errors import CallForbidden, Fault, ModelMissing
from wire.plain_words import logged

KEY_REST = 60.0
"""Seconds that a server is left alone after it refused our key or our credit: nobody mends that in a moment."""
REMEMBERED = 2048
"""Idle nodes and servers that are kept."""
FORGOTTEN = 60.0
"""Seconds after the end of its rest in which a target that nobody has tried since is still told of in /health."""
_SMOOTHING = 0.3
"""How much the latest measurement counts in a moving average."""
_HALF_LIFE = 60.0
"""Seconds after which a measured slowness is only half believed, so that a slow node gets another chance."""


class Nodes:
    """All nodes that were met. Clock, wall clock and chance are the state's."""

    def __init__(self, rules: Rules, clock: Callable[[], float]) -> None:
        self._clock = clock
        breaker = rules.defaults.breaker
        self._policy = Policy(breaker.failures, breaker.cool_down)
        self._weights = {kind: weight for name, weight in breaker.weights.items() for kind in kinds_in((name,))}
        self._nodes: WeakValueDictionary[tuple[str, str, str], Node] = WeakValueDictionary()
        self._servers: WeakValueDictionary[tuple[str, str], Server] = WeakValueDictionary()
        self._recent: LRUCache[tuple[str, str, str], Node] = LRUCache(REMEMBERED)
        self._turns: LRUCache[str, int] = LRUCache(REMEMBERED)
        self.loaded: Mapping[str, frozenset[str]] = {}
        """url -> the models that its server has in memory, as model_name() spells them; the inventory's to say."""
        self.away: Collection[str] = ()
        """URLs of servers that did not answer when they were looked at last; the inventory's to say."""
        self.refused: Callable[[str, bool], None] = lambda provider, refused: None
        """(provider, whether it refuses our key): told when a call finds out."""

    def of(self, target: Target) -> Node:
        node: Node | None = self._recent.get(target.id)
        if node is None:
            node = self._nodes.get(target.id)
            if node is None:
                server = self.server(target.provider, target.url)
                node = self._nodes[target.id] = Node(target.name, target.model, server, self._clock)
                server.nodes[target.model] = node
            self._recent[target.id] = node
        return node

    def server(self, provider: str, url: str) -> Server:
        server = self._servers.get((provider, url))
        if server is None:
            server = self._servers[provider, url] = Server(provider, url)
        return server

    # -- who comes first

    def plan(
        self,
        rules: Rules,
        decision: Decision,
        prompt_chars: int,
        chance: float,
        today: float,
        *,
        takes_turn: bool = True,
    ) -> tuple[Candidate[Target], ...]:
        """The targets of a decision in the order in which this call will ask them. `today`: Unix time. Without
        `takes_turn` that of the next call, which is not changed by it.
        """
        return tuple(
            Candidate(target, number)
            for number, pool in enumerate(decision.pools if not decision.last else decision.pools + decision.last)
            for target in (
                pool.targets
                if len(pool.targets) == 1
                else order(
                    pool,
                    self._load,
                    turn=self._turn(pool.name, takes_turn),
                    chance=chance,
                    cost=lambda target: self._cost(rules, target, prompt_chars, today),
                )
            )
        )

    def _turn(self, name: str, takes_turn: bool) -> int:
        turn: int = self._turns.get(name, -1) + 1
        if takes_turn:
            self._turns[name] = turn
        return turn

    def _load(self, target: Target) -> Load:
        node = self.of(target)
        believed = node.first_token
        if believed is not None:
            believed *= 0.5 ** ((self._clock() - node.measured) / _HALF_LIFE)
        return Load(
            in_flight=node.in_flight,
            waiting=len(node.queue),
            loaded=target.known_as in self.loaded.get(target.url, ()),
            first_token=believed,
        )

    def _cost(self, rules: Rules, target: Target, prompt_chars: int, today: float) -> float | None:
        tariff = rules.book.at(target.name, today)
        if tariff is None:
            return 0.0 if target.dialect in UNPAID else None
        return expected_cost(tariff, prompt_chars, today, self.of(target).took or 0.0)

    # -- what became of a call

    def heard(self, node: Node, seconds: float) -> None:
        """The first content of a call came after so many seconds.

        A half-open breaker closes: whoever speaks is there, and a long answer would keep all others away.
        """
        if not node.is_closed:
            self._closes(node)
        self._measure(node, seconds)

    def _measure(self, node: Node, seconds: float) -> None:
        node.first_token = _average(node.first_token, seconds)
        node.measured = self._clock()

    def went_well(self, node: Node, seconds: float, probes: bool = False) -> None:
        """A call ended well; its place is free."""
        node.took = _average(node.took, seconds)
        # The call that tried has closed the breaker with its first content; it is not a second success.
        if not node.is_closed or (not probes and node.breaker is not CLOSED):
            self._closes(node)
        node.leave()

    def _closes(self, node: Node) -> None:
        if node.state(self._clock()) == "open":
            return  # of a call from before the opening: it shortens no rest, least of all one that was asked for
        was_open = not node.is_closed
        node.breaker = succeeded(node.breaker, self._policy)
        if node.breaker.until is None and node.breaker.score == 0:
            node.breaker = CLOSED
        if node.server.breaker is not CLOSED:
            if node.server.why == "key":
                self.refused(node.server.provider, False)
            node.server.breaker = CLOSED  # whoever answers can be reached, and takes our key
        if was_open:
            logger.info("{}: answers again", self._where(node))
            self._changed(node, self._clock())

    def went_wrong(self, node: Node, fault: Fault, probes: bool, waited: float | None = None) -> None:
        """A call failed; its place is free. `waited`: seconds in which it gave no content."""
        now = self._clock()
        kind = fault.kind
        if kind == "first_token" and waited is not None:
            self._measure(node, waited)  # or `fastest` would ask it first for ever, for want of a measurement
        weight = weight_of(kind, self._weights) if kind is not None else 0.0
        rest = KEY_REST if kind == "key" and weight > 0 else fault.retry_after
        if kind is None or (weight <= 0 and not rest):
            self.left(node, probes)
            return
        opened = False
        # A 403 may be about one model, or even one prompt.
        of_server = kind in OF_SERVER and not isinstance(fault, CallForbidden)
        if of_server:
            server = node.server
            before = server.breaker
            server.breaker = failed(before, weight, now, self._policy, rest)
            node.breaker = abandoned(node.breaker) if probes else node.breaker
            opened = before.until is None and server.breaker.until is not None
            if server.breaker.until is not None and server.breaker is not before:
                server.why, server.said = kind, logged(fault)
            if kind == "key":
                self.refused(server.provider, True)
        else:
            before = node.breaker
            node.breaker = failed(before, weight, now, self._policy, rest)
            node.server.breaker = abandoned(node.server.breaker) if probes else node.server.breaker
            opened = before.until is None and node.breaker.until is not None
            if node.breaker.until is not None and node.breaker is not before:
                node.said = "has no such model" if isinstance(fault, ModelMissing) else logged(fault)
        if opened:
            seconds = node.rests_until(now) - now
            where = f"{node.server.provider} at {node.server.url}" if of_server else self._where(node)
            logger.warning("{}: {}; it is not asked for {:.3g} s", where, logged(fault), seconds)
        self._changed(node, now)  # before the place is free: it must not go to a call that is sent on
        node.leave()

    def _changed(self, node: Node, now: float) -> None:
        """A breaker may have changed its state: whoever waits for it decides again."""
        for one in [*node.server.nodes.values()]:
            if one.watched or (one.queue and not one.allows(now)):
                one.send_on()

    def left(self, node: Node, probes: bool) -> None:
        """A call ended without saying anything about the target: its caller went away."""
        node.give_up(probes)
        node.leave()
        if probes:
            self._changed(node, self._clock())

    # -- what the inventory sees

    def seen_up(self, provider: str, url: str, *, back: bool, accepted: bool) -> None:
        """A server answered a probe. `back`: it did not at the last one. `accepted`: our key was taken."""
        server = self._servers.get((provider, url))
        if server is None:
            return
        if server.breaker is not CLOSED and (server.why != "key" or (back and accepted)):
            if server.breaker.until is not None:
                logger.info("{} at {}: can be reached again", provider, url)
            server.breaker = CLOSED
        if back:
            now = self._clock()
            for node in [*server.nodes.values()]:
                node.breaker = revived(node.breaker, now)
        for node in [*server.nodes.values()]:
            if node.watched:
                node.send_on()

    def waits_for(self, provider: str) -> bool:
        """True while a server of the provider is not asked because it could not be reached."""
        return any(
            server.breaker.until is not None for (name, _), server in [*self._servers.items()] if name == provider
        )

    def refuses(self, provider: str) -> bool:
        """True while a server of the provider is not asked because it refused our key."""
        return any(
            server.why == "key" and server.breaker.until is not None
            for (name, _), server in [*self._servers.items()]
            if name == provider
        )

    # -- what others are told

    def _where(self, node: Node) -> str:
        return f"{node.name} at {node.server.url}" if node.server.url else node.name

    def not_closed(self) -> dict[str, str]:
        """target -> state of its breaker, of those that are not closed; the worst one of several servers."""
        now = self._clock()
        rank = {"half_open": 0, "open": 1}
        states: dict[str, str] = {}
        for node in [*self._nodes.values()]:
            state = node.state(now)
            if state == "half_open" and node.rests_until(0.0) + FORGOTTEN < now:
                continue  # nobody has called since
            if state != "closed" and rank[state] >= rank.get(states.get(node.name, ""), 0):
                states[node.name] = state
        return dict(sorted(states.items()))

    def rows(self) -> list[dict[str, Any]]:
        """Every node that was met lately, for /gateway/status."""
        now = self._clock()
        rows = []
        for node in sorted(self._nodes.values(), key=lambda node: (node.name, node.server.url)):
            state = node.state(now)
            row: dict[str, Any] = {
                "target": node.name,
                "url": node.server.url or None,
                "reachable": node.server.url not in self.away,
                "breaker": state,
                "in_flight": node.in_flight,
                "waiting": len(node.queue),
                "first_token_seconds": None if node.first_token is None else round(node.first_token, 3),
            }
            if state != "closed":
                row["why"] = node.reason(now)
                row["rests_seconds"] = round(max(0.0, node.rests_until(now) - now), 3)
            rows.append(row)
        return rows


def _average(known: float | None, seconds: float) -> float:
    return seconds if known is None else known + _SMOOTHING * (seconds - known)
