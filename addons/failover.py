"""Which target is asked next, when, and what the caller is told when none is left.

The layer (layer.py, stream.py) moves bytes and watches the clock; what it should do at the start of a call, after a
failed attempt and at the end of a pause is decided here, in ordinary hooks, from values (rules/health.py) and from
what is known of the targets (nodes.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mitmproxy import ctx
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.connection import Client
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from addons.exchange import Attempt, Exchange, Pause, UpstreamCall
from addons.handler import handler_of, is_behind, look_after, tell
from addons.layer import GatewayLayer, Nudge
from addons.nodes import Node, wait_in_queue
from addons.state import State, new_tool_call_id
from addons.verdict import broken_off, no_target_left
from rules.decide import Target
from rules.health import Ask, Candidate, Failure, Wait, after, goes_on, next_step
from wire.answer import StreamedAnswer
from wire.blank import NotBlank
from wire.dialects import DIALECTS, Facets
from wire.errors import BadRequest, Busy, ConnectFailed, ContextTooLong, Fault, ModelMissing, NotContinued, Resting
from wire.openai import ChatRequest, Reply
from wire.profiles import PROFILES
from wire.resume import continued, why_not


class Failover:
    """Puts our layer in place of the stock one, and names the next target when an attempt has failed."""

    def __init__(self, state: State) -> None:
        self.state = state
        state.is_behind = is_behind
        state.nudge = lambda client: tell(client, Nudge())

    def next_layer(self, data: layer.NextLayer) -> None:
        # Under `-s` our hook runs before the core's, so the core is asked first.
        if data.layer is None:
            core: NextLayer = ctx.master.addons.get("nextlayer")
            core.next_layer(data)
        parent, found = None, data.layer
        while found is not None and not isinstance(found, HttpLayer):
            parent, found = found, getattr(found, "child_layer", None)
        if not isinstance(found, HttpLayer) or isinstance(found, GatewayLayer):
            return
        found.context.layers.remove(found)
        ours = GatewayLayer(found.context, found.mode, self.state)
        if parent is None:
            data.layer = ours
        else:
            parent.child_layer = ours  # type: ignore[attr-defined]  # every layer that we walked through has one

    def client_connected(self, client: Client) -> None:
        handler = handler_of(client)
        if handler is not None:
            look_after(handler)

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
            exchange.fault = no_target_left(exchange)
            return
        retry = exchange.rules.retry
        failure = Failure(fault.kind, fault.retry_after)
        exchange.plan = after(exchange.plan, exchange.place, failure, state.clock(), retry, state.chance())
        if isinstance(fault, ContextTooLong):
            exchange.plan = tuple(_with_larger_window(one, attempt.target) for one in exchange.plan)
        if fault.kind is None:
            exchange.fault = fault
        elif not goes_on(failure, retry):
            exchange.fault = broken_off(exchange, "") if exchange.begun else no_target_left(exchange)
        elif exchange.begun and (why := _why_not_continued(exchange)) is not None:
            exchange.fault = broken_off(exchange, why)
        else:
            decide_next(flow, exchange, state)

    def next_attempt(self, flow: HTTPFlow) -> None:
        """The pause is over."""
        decide_next(flow, self.state.exchanges[flow], self.state)


def decide_next(flow: HTTPFlow, exchange: Exchange, state: State) -> None:
    """Leaves in the exchange what comes next: a call to send, a pause, or the final fault."""
    now = state.clock()
    retry = exchange.rules.retry
    pause, exchange.pause = exchange.pause, None
    if pause is not None and pause.ticket is not None and _ends_queue(exchange, pause, state):
        return
    while True:
        step = None
        if now < exchange.ends:
            step = next_step(exchange.plan, now, exchange.ends, retry, partial(_free_at, state, now))
            if step is None:  # every target that is left rests
                exchange.rest_until = exchange.rest_until or now + exchange.rules.defaults.breaker.wait
                step = next_step(
                    exchange.plan, now, exchange.ends, retry, partial(_free_at, state, now), exchange.rest_until
                )
        match step:
            case Ask(place):
                if place:
                    _note_resting(exchange, state, place)
                if _ask(flow, exchange, place, state):
                    return
            case Wait(until):
                exchange.pause = Pause(until)
                return
            case None:
                _note_resting(exchange, state, len(exchange.plan))
                exchange.fault = (
                    broken_off(exchange, "no other target could go on") if exchange.begun else no_target_left(exchange)
                )
                return


def _free_at(state: State, now: float, target: Target) -> float:
    return state.nodes.of(target).free_at(now)


def _ends_queue(exchange: Exchange, pause: Pause, state: State) -> bool:
    """The end of waiting in a queue: with a place (then True, if the call can be said), or with none."""
    ticket = pause.ticket
    assert ticket is not None
    if ticket.granted is not None:
        node, ticket.granted = ticket.granted, None
        probes = ticket.probes
        place = next(n for n, one in enumerate(exchange.plan) if state.nodes.of(one.target) is node)
        return _prepare(exchange, place, node, state, begun=(probes,))
    ticket.leave_queues()
    if not ticket.called_off:
        waited_for = set(map(id, ticket.nodes))
        for place, one in enumerate(exchange.plan):
            if not one.out and id(state.nodes.of(one.target)) in waited_for:
                _note_busy(exchange, place, state)
    return False


def _ask(flow: HTTPFlow, exchange: Exchange, place: int, state: State) -> bool:
    """Takes a place on the target, or in its queue; False where neither is to be had."""
    one = exchange.plan[place]
    node = state.nodes.of(one.target)
    if node.in_flight < one.target.parallel:
        return _prepare(exchange, place, node, state)
    now = state.clock()
    equals = [
        number
        for number, other in enumerate(exchange.plan)
        if other.pool == one.pool and not other.out and other.ready <= now and state.nodes.of(other.target).allows(now)
    ]
    nodes = {number: state.nodes.of(exchange.plan[number].target) for number in equals}
    for number, other_node in nodes.items():
        if other_node.in_flight < exchange.plan[number].target.parallel:
            return _prepare(exchange, number, other_node, state)
    admission = exchange.rules.defaults.admission
    ticket = wait_in_queue(nodes.values(), admission.queue, partial(state.nudge, flow.client_conn))
    if ticket is None:
        for number in equals:
            _note_busy(exchange, number, state)
        return False
    exchange.pause = Pause(min(now + admission.wait, exchange.ends), ticket)
    return True


def _prepare(exchange: Exchange, place: int, node: Node, state: State, *, begun: tuple[bool] | None = None) -> bool:
    """Makes the call ready; False where the target's dialect cannot say it: another one may. `begun`: the node has
    counted the call already, and this is what begin() gave."""
    target = exchange.plan[place].target
    assert exchange.request is not None
    try:
        exchange.upstream = _translated(exchange, exchange.request, target, state)
    except BadRequest as fault:
        exchange.attempts.append(Attempt(target, state.clock(), fault=fault))
        exchange.plan = _out(exchange.plan, place)
        if begun is not None:
            state.nodes.left(node, *begun)
        return False
    probes = node.begin() if begun is None else begun[0]
    exchange.attempts.append(Attempt(target, state.clock(), node=node, probes=probes))
    exchange.place = place
    return True


def _out(plan: tuple[Candidate[Target], ...], place: int) -> tuple[Candidate[Target], ...]:
    return (*plan[:place], replace(plan[place], out=True), *plan[place + 1 :])


def _note_busy(exchange: Exchange, place: int, state: State) -> None:
    target = exchange.plan[place].target
    node = state.nodes.of(target)
    fault = Busy(
        f"is busy ({node.in_flight} calls in hand, {len(node.queue)} waiting)",
        retry_after=node.expected_wait(target.parallel),
    )
    exchange.attempts.append(Attempt(target, state.clock(), fault=fault))
    exchange.plan = _out(exchange.plan, place)


def _note_resting(exchange: Exchange, state: State, before: int) -> None:
    """Says once of each target whose breaker is not closed that it was passed over."""
    now = state.clock()
    for one in exchange.plan[:before]:
        node = state.nodes.of(one.target)
        if one.out or one.ready > now or node.allows(now):
            continue
        if any(attempt.target is one.target and isinstance(attempt.fault, Resting) for attempt in exchange.attempts):
            continue
        words = f"is not asked for a while, because it {node.reason(now)}"
        fault = Resting(words, retry_after=max(1.0, node.rests_until(now) - now))
        exchange.attempts.append(Attempt(one.target, now, fault=fault))


def _with_larger_window(one: Candidate[Target], too_small: Target) -> Candidate[Target]:
    """After a prompt that was too long: only a target that may hold more is worth asking."""
    same = one.target.name == too_small.name
    known = one.target.window is not None and too_small.window is not None
    if same or (known and (one.target.window or 0) <= (too_small.window or 0)):
        return replace(one, out=True)
    return one


def _why_not_continued(exchange: Exchange) -> str | None:
    """Why the answer that broke off must not be continued by another target; None where it may."""
    answer, request, decision = exchange.answer, exchange.request, exchange.decision
    assert isinstance(answer, StreamedAnswer)
    assert request is not None
    assert decision is not None
    return "the rules say that it is not continued" if decision.mid_stream == "error" else why_not(request, answer.said)


def _refuses_to_go_on(fault: Fault) -> bool:
    return isinstance(fault, BadRequest) and not isinstance(fault, ContextTooLong)


def _translated(exchange: Exchange, request: ChatRequest, target: Target, state: State) -> UpstreamCall:
    """Raises BadRequest where the target's dialect cannot say it."""
    dialect = DIALECTS[target.dialect]
    profile = PROFILES[target.profile]
    facets = Facets(target.profile, target.num_ctx, target.keep_alive)
    wants_json = request.wants_json
    if exchange.begun and isinstance(exchange.answer, StreamedAnswer):
        request = continued(request, exchange.answer.said)
        wants_json = wants_json and request.prefill is None
    translated = dialect.translate(request, target.model, facets)
    if not exchange.begun:
        exchange.dropped = translated.dropped
    host, port = _address(target, state)

    def read(content_type: str) -> Reply:
        reply = dialect.read(new_tool_call_id, content_type, facets)
        return NotBlank(reply) if wants_json else reply

    return UpstreamCall(
        target=target,
        host=host,
        port=port,
        tls=target.tls,
        path=dialect.chat_path(target.path, facets, request.prefill is not None),
        accept=dialect.accept,
        body=translated.body,
        read=read,
        patience=target.patience if target.patience is not None else profile.patience,
        trusted=target.dialect == "openai" and bool(profile.prefill_message),
    )


def _address(target: Target, state: State) -> tuple[str, int]:
    if target.dialect == "sandbox":
        return "127.0.0.1", state.sandbox_port or 0
    return target.host, target.port
