"""Which target is asked next, when, and what the caller is told when none is left.

The layer (layer.py, stream.py) moves bytes and watches the clock; what it should do at the start of a call, after a
failed attempt and at the end of a pause is decided here, in ordinary hooks, from values (rules/health.py) and from
what is known of the targets (nodes.py).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeGuard

from mitmproxy import ctx
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.connection import Client
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tls import ClientTLSLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from addons.broken_tls import CallerTls
from addons.exchange import Exchange
from addons.handler import cut, handler_of, is_behind, look_after, tell, when_taken
from addons.layer import GatewayLayer, Nudge
from addons.plan import decide_next
from addons.state import State
from addons.verdict import in_callers_words, last_words
from rules.health import Candidate, Failure, after, goes_on
from rules.targets import Target
from wire.answer import Streamed
from wire.errors import BadRequest, ConnectFailed, ContextTooLong, Fault, ModelMissing, NotAsAsked, NotContinued
from wire.resume import why_not


class Failover:
    """Puts our layer in place of the stock one, and names the next target when an attempt has failed."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.is_behind = is_behind
        state.when_taken = when_taken
        state.cut = cut
        state.nudge = lambda client: tell(client, Nudge())

    def next_layer(self, data: layer.NextLayer) -> None:
        # Under `-s` our hook runs before the core's, so the core is asked first.
        if data.layer is None:
            core: NextLayer = ctx.master.addons.get("nextlayer")
            core.next_layer(data)
        above: layer.Layer | None = None
        parent: layer.Layer | None = None
        found = data.layer
        while found is not None and not isinstance(found, HttpLayer):
            above, parent, found = parent, found, getattr(found, "child_layer", None)
        if not isinstance(found, HttpLayer) or isinstance(found, GatewayLayer):
            return
        found.context.layers.remove(found)
        if isinstance(parent, ClientTLSLayer):
            found.context.layers.remove(parent)
            parent = CallerTls(found.context)
            _put(data, above, parent)
        _put(data, parent, GatewayLayer(found.context, found.mode, self.state))

    def client_connected(self, client: Client) -> Awaitable[object] | None:
        handler = handler_of(client)
        if handler is not None:
            look_after(handler)
        starting = self.state.starting
        return starting.wait() if starting is not None else None

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Fail closed: whatever mode or option brought it about, nothing is dialled that no rule has named."""
        if data.server not in self.state.dialled:
            data.server.error = "unigate connects to nothing but the targets of its rules"

    def attempt_failed(self, flow: HTTPFlow) -> None:
        state, exchange = self.state, self.state.exchanges[flow]
        attempt = exchange.attempts[-1]
        fault = attempt.fault
        assert fault is not None
        if attempt.continues and _refuses_to_go_on(fault):
            fault = NotContinued("would not go on from the text so far")
        if isinstance(fault, ConnectFailed | ModelMissing):
            state.report_down(attempt.target.provider)
        state.attempt_failed(attempt, fault)
        if not exchange.plan:  # nobody else is to be asked
            exchange.fault = last_words(exchange)
            return
        if _can_be_repaired(fault, exchange):
            exchange.repair = fault  # and the same target is asked again
            decide_next(flow, exchange, state)
            return
        retry = exchange.rules.retry
        failure = Failure(fault.kind, fault.retry_after)
        exchange.plan = after(exchange.plan, exchange.place, failure, state.clock(), retry, state.chance())
        if isinstance(fault, ContextTooLong):
            exchange.plan = tuple(self._with_larger_window(one, attempt.target) for one in exchange.plan)
        if fault.kind is None:
            exchange.fault = in_callers_words(exchange, fault)
        elif not goes_on(failure, retry):
            exchange.fault = last_words(exchange)
        elif exchange.begun and (why := _why_not_continued(exchange)) is not None:
            exchange.fault = last_words(exchange, why)
        else:
            decide_next(flow, exchange, state)

    def next_attempt(self, flow: HTTPFlow) -> None:
        """The pause is over."""
        decide_next(flow, self.state.exchanges[flow], self.state)

    def _with_larger_window(self, one: Candidate[Target], too_small: Target) -> Candidate[Target]:
        """After a prompt that was too long: only a target that may hold more is worth asking."""
        models = self.state.models
        most, held = models.most(one.target), models.window(too_small)
        if one.target.name == too_small.name or (most is not None and held is not None and most <= held):
            return replace(one, out=True)
        return one


def _put(data: layer.NextLayer, above: layer.Layer | None, ours: layer.Layer) -> None:
    """Puts a layer of ours below another one; None: below the one that asks."""
    if above is None:
        data.layer = ours
    else:
        above.child_layer = ours  # type: ignore[attr-defined]  # every layer that was walked through has one


def _why_not_continued(exchange: Exchange) -> str | None:
    """Why the answer that broke off must not be continued by another target; None where it may."""
    answer, request, decision = exchange.answer, exchange.request, exchange.decision
    assert isinstance(answer, Streamed)
    assert request is not None
    assert decision is not None
    return "the rules say that it is not continued" if decision.mid_stream == "error" else why_not(request, answer.said)


def _can_be_repaired(fault: Fault, exchange: Exchange) -> TypeGuard[NotAsAsked]:
    """Whether the rules let a target correct an answer that is not the JSON that was asked for: once in a call."""
    asked_for = exchange.rules.defaults.failover.repair
    return asked_for and isinstance(fault, NotAsAsked) and exchange.repair is None and not exchange.begun


def _refuses_to_go_on(fault: Fault) -> bool:
    return isinstance(fault, BadRequest) and not isinstance(fault, ContextTooLong)
