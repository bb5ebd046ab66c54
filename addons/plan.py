"""What comes next in a call: a target that is asked, a pause, or the end.

Decided from values (rules/health.py) and from what is known of the targets at this moment (nodes.py), at the start of a
call, after each failed attempt and at the end of each pause. What is decided stands in the exchange.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mitmproxy.http import HTTPFlow

from addons.exchange import Attempt, Exchange, Pause, UpstreamCall
from addons.node import Node, Ticket, wait_in_queue, watch
from addons.route import dropped_of, operation_at, with_thoughts
from addons.state import State, new_tool_call_id
from addons.verdict import last_words
from rules.health import Ask, Candidate, Wait, next_step
from rules.targets import Target
from wire.answer import Streamed
from wire.blank import NotBlank
from wire.errors import BadRequest, Busy, Resting
from wire.openai import ChatRequest, ModelRequest, Reply
from wire.profiles import PROFILES
from wire.resume import continued
from wire.structured import Fits, expected, repaired

LONGEST_RETRY_AFTER = 60.0
"""Seconds. The SDKs heed no longer one, and in that time a place may well be free."""


def decide_next(flow: HTTPFlow, exchange: Exchange, state: State) -> None:
    """Leaves in the exchange what comes next: a call to send, a pause, or the final fault."""
    now = state.clock()
    retry = exchange.rules.retry
    pause, exchange.pause = exchange.pause, None
    if pause is not None and pause.ticket is not None:
        if pause.ticket.watches:
            pause.ticket.leave_queues()
        elif _ends_queue(exchange, pause.ticket, state):
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
                exchange.pause = Pause(until, _watch_resting(flow, exchange, state, now))
                return
            case None:
                _note_resting(exchange, state, len(exchange.plan))
                exchange.fault = last_words(exchange, "no other target could go on")
                return


def _watch_resting(flow: HTTPFlow, exchange: Exchange, state: State, now: float) -> Ticket | None:
    """Lets the call be told when a target that it could ask, but for its breaker, may be asked again."""
    nodes = [state.nodes.of(one.target) for one in exchange.plan if not one.out and one.ready <= now]
    return watch(nodes, partial(state.nudge, flow.client_conn)) if nodes else None


def _free_at(state: State, now: float, target: Target) -> float:
    return state.nodes.of(target).free_at(now)


def _ends_queue(exchange: Exchange, ticket: Ticket, state: State) -> bool:
    """The end of waiting in a queue: with a place (then True, if the call can be said), or with none."""
    if ticket.granted is not None:
        node, ticket.granted = ticket.granted, None
        probes = ticket.probes
        place = next(n for n, one in enumerate(exchange.plan) if state.nodes.of(one.target) is node)
        return _prepare(exchange, place, node, state, probes=probes)
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


def _prepare(exchange: Exchange, place: int, node: Node, state: State, *, probes: bool | None = None) -> bool:
    """Makes the call ready; False where the target's dialect cannot say it: another one may. `probes`: what the node's
    begin() gave, where it has counted the call already."""
    target = exchange.plan[place].target
    assert exchange.request is not None
    try:
        exchange.upstream = _translated(exchange, exchange.request, target, state)
    except BadRequest as fault:
        exchange.attempts.append(Attempt(target, state.clock(), fault=fault))
        exchange.plan = _out(exchange.plan, place)
        if probes is not None:
            state.nodes.left(node, probes)
        return False
    except Exception:
        if probes is not None:  # a bug of ours must not keep a place
            state.nodes.left(node, probes)
        raise
    if probes is None:
        probes = node.begin()
    now = state.clock()
    exchange.attempts.append(
        Attempt(
            target,
            now,
            node=node,
            probes=probes,
            chars_sent=exchange.request.sent_chars + _chars_added(exchange),
            relays=exchange.upstream.relays,
            entered=node.server.enter(now),
        )
    )
    exchange.place = place
    return True


def _chars_added(exchange: Exchange) -> int:
    """Characters that the next attempt is sent beside the caller's own."""
    if exchange.begun and isinstance(exchange.answer, Streamed):
        return len(exchange.answer.said.text)
    if exchange.repair is not None:
        return len(exchange.repair.answer) + len(exchange.repair.message)
    return 0


def _out(plan: tuple[Candidate[Target], ...], place: int) -> tuple[Candidate[Target], ...]:
    return (*plan[:place], replace(plan[place], out=True), *plan[place + 1 :])


def _note_busy(exchange: Exchange, place: int, state: State) -> None:
    target = exchange.plan[place].target
    node = state.nodes.of(target)
    fault = Busy(
        "is busy: all its places are taken",
        retry_after=min(node.expected_wait(target.parallel), LONGEST_RETRY_AFTER),
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


def _translated(exchange: Exchange, request: ModelRequest, target: Target, state: State) -> UpstreamCall:
    """Raises BadRequest where the target's dialect cannot say it."""
    operation = operation_at(target, request)
    profile = PROFILES[target.profile]
    facets = state.facets(target)
    wants_json = request.wants_json
    if exchange.begun and isinstance(exchange.answer, Streamed):
        request = continued(request, exchange.answer.said)
        wants_json = wants_json and request.prefill is None
    elif exchange.repair is not None and isinstance(request, ChatRequest):
        request = repaired(request, exchange.repair.answer, exchange.repair.message)
    judged_by = expected(request) if wants_json else None
    caller = exchange.client.name if exchange.client is not None else ""
    thinks = isinstance(request, ChatRequest) and profile.thinking_by_default
    request = with_thoughts(request, target, state.thoughts, caller)
    translated = operation.translate(request, target.model, facets)
    if not exchange.begun:
        exchange.dropped = dropped_of(exchange.surface, request, translated)
    host, port = _address(target, state)

    def read(content_type: str) -> Reply:
        reply = operation.read(new_tool_call_id, content_type, facets, request)
        if thinks and request.has_tools:
            reply = state.thoughts.listen(caller, reply)
        if wants_json:
            reply = NotBlank(reply)
        return Fits(reply, judged_by) if judged_by is not None else reply

    return UpstreamCall(
        target=target,
        host=host,
        port=port,
        tls=target.tls,
        path=operation.path(target.path, facets, request.prefill is not None),
        accept=operation.accept,
        body=translated.body,
        upload=translated.upload,
        relays=operation.relays,
        first_token_times=operation.first_token_times(request, facets),
        read=read,
        patience=target.patience if target.patience is not None else profile.patience,
        trusted=operation.goes_on(facets),
    )


def _address(target: Target, state: State) -> tuple[str, int]:
    if target.dialect == "sandbox":
        return "127.0.0.1", state.sandbox_port or 0
    return target.host, target.port
