"""One call that is asked in parts: several upstream calls at once, whose answers go to the caller as one.

Each part is a stream of its own (stream.py), with its own targets, attempts and place in the queues; only what it would
send to the caller goes to the call that it is a part of. The trap: while a hook runs for one part the others go on, so
nothing of theirs may overtake the headers, and a part that is called off may be in the middle of a hook itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from loguru import logger
from mitmproxy.connection import Server
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator

from addons.exchange import Exchange, UpstreamCall
from addons.state import new_call_id
from addons.stream import GatewayStream, NextAttemptHook
from wire.answer import Opening, Streamed, Whole
from wire.errors import Fault
from wire.parts import Joined, StreamedPart, WholePart

AT_ONCE = 8
"""Parts of one call that are asked at the same time, and never more than its first targets have places: in a queue the
parts would wait for each other, until their patience is over."""

type Adopt = Callable[[Callable[[Context, int], PartStream]], PartStream]
"""Has the layer make a stream, and begin it."""


class FanOut:
    """The parts of one call, and what becomes of what they say. Its generators run in whichever stream calls them."""

    def __init__(self, whole: GatewayStream, adopt: Adopt) -> None:
        assert whole.exchange is not None
        self._whole = whole
        self._exchange = whole.exchange
        self._adopt = adopt
        self._parts = whole.exchange.parts
        self._joined = Joined(self._parts)
        self._waiting = deque(range(len(self._parts)))
        self._live: dict[int, PartStream] = {}
        self._over = False

    def begin(self) -> None:
        assert self._exchange.decision is not None
        places = sum(target.parallel for target in self._exchange.decision.pools[0].targets)
        for _ in range(min(AT_ONCE, places)):
            self._begin_next()

    def _begin_next(self) -> None:
        if self._waiting:
            number = self._waiting.popleft()
            flow = self._flow_of(number)
            self._live[number] = self._adopt(
                lambda context, stream_id: PartStream(context, stream_id, self._whole, self, number, flow)
            )

    def _flow_of(self, number: int) -> HTTPFlow:
        """A flow that nobody sees: hooks and books go by flows."""
        whole, state = self._exchange, self._whole.state
        request = self._parts[number].request
        assert whole.decision is not None
        plan = state.nodes.plan(whole.rules, whole.decision, request.prompt_chars, state.chance(), state.wall())
        flow = HTTPFlow(self._whole.flow.client_conn, Server(address=None))
        flow.request = self._whole.flow.request
        state.exchanges[flow] = Exchange(
            request_id=whole.request_id,
            rules=whole.rules,
            started=whole.started,
            created=whole.created,
            client=whole.client,
            surface=whole.surface,
            request=request,
            decision=whole.decision,
            plan=plan,
        )
        return flow

    def answer_of(self, part: PartStream, call: UpstreamCall) -> StreamedPart | WholePart:
        """What the part writes to, on this attempt of it."""
        request, model = self._exchange.request, call.target.model
        assert request is not None
        opening = Opening(new_call_id(), self._exchange.created, model, request)

        def streamed() -> Streamed:
            self._exchange.answer = self._exchange.answer or self._exchange.surface.streamed(opening)
            assert isinstance(self._exchange.answer, Streamed)
            return self._exchange.answer

        def whole() -> Whole:
            self._exchange.answer = self._exchange.answer or self._exchange.surface.whole(opening)
            assert isinstance(self._exchange.answer, Whole)
            return self._exchange.answer

        if request.stream:
            return StreamedPart(part.number, self._joined, streamed)
        return WholePart(part.number, self._joined, whole)

    def open(self, part: PartStream) -> CommandGenerator[None]:
        """The part has something to say: the first one to do so sends the headers."""
        if not self._exchange.begun:
            self._exchange.begun = True
            self._note_target(part)
            yield from self._whole.send_headers(self._exchange.headers())

    def _note_target(self, part: PartStream) -> None:
        """The caller is told one target: that of the part which spoke first, or ended last."""
        exchange = part.exchange
        assert exchange is not None
        whole = self._exchange
        whole.upstream, whole.dropped = exchange.upstream, exchange.dropped
        whole.first_token = whole.first_token or exchange.first_token

    def send(self, data: bytes) -> CommandGenerator[None]:
        if self._over:
            return  # while a hook held back the headers that this part asked for, another one has failed
        self._exchange.conclude()
        if self._whole.headers_out:
            yield from self._whole.send(data)
        else:
            self._whole.ahead.append(data)

    def part_done(self, part: PartStream, data: bytes = b"") -> CommandGenerator[None]:
        """A part is complete. `data`: the whole answer, where it is no stream and this was its last part."""
        self._take_leave(part)
        self._begin_next()
        if not (self._live or self._waiting or self._over):
            self._over = True
            whole = self._whole
            if isinstance(self._exchange.answer, Whole):
                self._note_target(part)
                self._exchange.conclude()
            whole.leave_upstream()
            if isinstance(self._exchange.answer, Whole):
                yield from whole.send_whole(self._exchange, data)
            elif whole.headers_out:
                yield from whole.end_stream()
            else:
                whole.ends_after_headers = True
        yield from part.drop()

    def part_failed(self, part: PartStream, fault: Fault) -> CommandGenerator[None]:
        """No target is left for a part: the call as a whole has failed."""
        if not self._over:
            self._take_leave(part)
            yield from self.cancel()
            self._note_target(part)
            yield from self._whole.answer_with(fault)
        yield from part.drop()

    def part_crashed(self, part: PartStream) -> CommandGenerator[None]:
        """A bug of ours, maybe in what the part did for the call as a whole: nobody else would end that."""
        if part.number in self._live:
            self._take_leave(part)
        if not self._whole.flow_is_over:
            yield from self._whole.end_after_bug()
        yield from part.drop()

    def _take_leave(self, part: PartStream) -> None:
        assert part.exchange is not None
        part.exchange.ended = True
        if self._live.pop(part.number, None) is not None:  # else it was called off in the middle of a hook
            self._exchange.attempts += part.exchange.attempts

    def cancel(self) -> CommandGenerator[None]:
        """Calls off what is still under way: the caller has left, or a part has failed."""
        self._over = True
        self._waiting.clear()
        live, self._live = self._live, {}
        for part in live.values():
            assert part.exchange is not None
            self._exchange.attempts += part.exchange.attempts
            yield from part.call_off()


class PartStream(GatewayStream):
    """One part: the upstreams' side of a call, with another stream in the caller's place."""

    def __init__(
        self,
        context: Context,
        stream_id: int,
        whole: GatewayStream,
        fan: FanOut,
        number: int,
        flow: HTTPFlow,
    ) -> None:
        super().__init__(context, stream_id, whole.state, whole.switchboard)
        self.number = number
        self.flow = flow
        self.exchange = whole.state.exchanges[flow]
        self.client_state, self.server_state = self.state_done, self.state_pause
        self._of = fan
        self._begun = False
        self._called_off = False
        self._set_ends(self.exchange.ends)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if not self._called_off:
            yield from super()._handle_event(event)
            if self._called_off:  # while it waited for something
                yield from self.drop()

    def _tick(self) -> CommandGenerator[None]:
        if self._begun:
            yield from super()._tick()
            return
        self._begun = True
        assert self.exchange is not None
        yield NextAttemptHook(self.flow)
        if (yield from self._is_wanted()):
            yield from self._proceed(self.exchange)

    @property
    def is_doomed(self) -> bool:
        return self._called_off or super().is_doomed

    def call_off(self) -> CommandGenerator[None]:
        """Nobody wants it any more."""
        self._called_off = True
        yield from self._let_go()
        assert self.exchange is not None
        self.state.let_go(self.exchange)
        self.exchange.ended = True
        if self.connecting is not None:
            # The clock may look no more: with the caller's connection all wake-ups are gone.
            yield from self.switchboard.give_up_opening(self.connecting)
        elif not self.paused:
            yield from self.drop()

    def drop(self) -> CommandGenerator[None]:
        self._called_off = True
        yield from self._drop()

    def _end_untold(self, exchange: Exchange) -> None:
        exchange.ended = True  # accounted with the whole call

    # -- what it would say to the caller

    def _new_answer(self, exchange: Exchange, call: UpstreamCall) -> StreamedPart | WholePart:
        return self._of.answer_of(self, call)

    def send_headers(self, said: dict[str, str]) -> CommandGenerator[None]:
        yield from self._of.open(self)

    def send(self, data: bytes) -> CommandGenerator[None]:
        yield from self._of.send(data)

    def send_whole(self, exchange: Exchange, data: bytes) -> CommandGenerator[None]:
        yield from self._of.part_done(self, data)

    def end_stream(self) -> CommandGenerator[None]:
        yield from self._of.part_done(self)

    def answer_with(self, fault: Fault) -> CommandGenerator[None]:
        assert self.exchange is not None
        self.state.let_go(self.exchange)
        yield from self._of.part_failed(self, fault)

    def _say_waiting(self, exchange: Exchange) -> CommandGenerator[None]:
        yield from ()  # the whole call does

    def _shut_down(self) -> CommandGenerator[None]:
        yield from ()  # the whole call does

    def _crashed(self) -> CommandGenerator[None]:
        assert self.exchange is not None
        logger.opt(exception=True).error("the layer failed, {}: the call is ended", self.exchange.request_id)
        yield from self._let_go()
        self.state.let_go(self.exchange)
        yield from self._of.part_crashed(self)
