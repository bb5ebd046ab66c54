"""What all stand-ins do: they record what they are asked, and follow the plans that make them misbehave."""

from __future__ import annotations

import asyncio
import json
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from . import plans
from .framing import Answer, Seen, Writer, read_request
from .loop import ClientGoneError, Connection, LoopServer
from .texts import Prefill, halves


class StandIn(LoopServer):
    """A server of one dialect that records what it is asked and follows the plans it is given."""

    chat_paths: tuple[str, ...] = ()
    """Paths of the chat calls; plans apply to POSTs there."""
    stream_type: str = "text/plain"
    """The content type of the dialect's streams."""
    line_end: bytes = b"\n"
    """What ends a piece of the dialect's streams."""
    forbidden: tuple[str, ...] = ("cookie", "origin", "openai-", "x-stainless-")
    """Headers that must never arrive; a name that ends in a dash stands for all that begin so."""

    def __init__(self, reply: Sequence[str] | None = None) -> None:
        super().__init__()
        self.reply = reply
        """The pieces that are said; None: a parrot's answer to what was asked."""
        self.prefill: Prefill = "continue"
        """What is made of a last message of the assistant, that is of an answer begun.

        `continue`: if the reply begins with it, the rest of the reply is said, else the whole. `start_over`: the
        message is overlooked. `differ`: it is repeated by half and then left for something else. `refuse`: an error.
        """
        self.parallel: int | None = None
        """How many chat calls are answered at once; those beyond wait in silence and without bound. None: all."""
        self.seen: list[Seen] = []
        self.aborted = 0
        """How many clients left before their answer was written in full."""
        self.leaked: list[str] = []
        """Every header that arrived and must not, as `path: name`; values are not kept."""
        self.pace = 0.0
        """Seconds before each piece of every normal answer."""
        self.always: plans.Plan | None = None
        """A plan for every chat call for which the queue holds none."""
        self.always_at: dict[str, plans.Plan] = {}
        """By path, without its query: a plan for every other call to it, such as one to a list of models."""
        self.most_in_flight = 0
        """The largest number of chat calls that were ever being answered at once."""
        self._plans: deque[plans.Plan] = deque()
        self._holds: set[asyncio.Event] = set()
        self._answering: set[Connection] = set()
        self._queue: deque[tuple[Connection, asyncio.Event]] = deque()

    @property
    def chats(self) -> list[Seen]:
        """The chat calls among the requests."""
        return [seen for seen in list(self.seen) if self.is_chat(seen)]

    @property
    def holding(self) -> int:
        """How many answers stand still at a `HoldAfter`."""
        return len(self._holds)

    @property
    def in_flight(self) -> int:
        """How many chat calls are being answered now; a call whose client left is none."""
        return len(self._answering)

    @property
    def waiting(self) -> int:
        """How many chat calls wait for one of the `parallel` places."""
        return len(self._queue)

    def plan(self, *following: plans.Plan) -> None:
        """Queue plans: each next chat call takes one, in order of arrival; after that, normal behaviour."""
        self._plans.extend(following)

    def release(self) -> None:
        """Let the answers held by `HoldAfter` go on."""

        def go() -> None:
            for hold in self._holds:
                hold.set()

        self.post(go)

    def is_chat(self, seen: Seen) -> bool:
        """Whether this is a chat call."""
        return seen.method == "POST" and seen.path.partition("?")[0] in self.chat_paths

    # What a dialect says

    @abstractmethod
    def answer(self, seen: Seen) -> Answer:
        """The dialect's answer to a request, good or bad."""

    @abstractmethod
    def error_body(self, status: int, message: str | None = None) -> bytes:
        """The body of an error; without a message, what the dialect says with this status."""

    @abstractmethod
    def error_piece(self, message: str) -> bytes:
        """An error in the midst of a stream."""

    @abstractmethod
    def empty_piece(self, seen: Seen) -> bytes:
        """A piece of a stream that says nothing."""

    @abstractmethod
    def finished(self, pieces: Sequence[bytes], n: int | None, reason: str, *, streamed: bool) -> tuple[bytes, ...]:
        """The pieces of an answer, ended after n of them by this reason."""

    def life_sign(self, streamed: bool) -> bytes:
        """What the dialect sends to show that it still works; empty: it has nothing of the kind."""
        return b""

    def unwanted(self, seen: Seen) -> list[str]:
        """Names of the headers in a request that must never arrive here."""
        return [
            name
            for name, _ in seen.headers
            for bad in self.forbidden
            if (name.lower().startswith(bad) if bad.endswith("-") else name.lower() == bad)
        ]

    # How it is sent

    async def serve(self, connection: Connection) -> None:
        """Answer requests on one connection until one side closes it."""
        keep = True
        while keep:
            try:
                seen, version = await read_request(connection)
            except ValueError:
                await connection.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            self.seen.append(seen)
            self.leaked += [f"{seen.path}: {name}" for name in self.unwanted(seen)]
            try:
                plan = self._next_plan(seen)
                if self.is_chat(seen):
                    await self._place(connection)
                keep = await self._perform(Writer(connection, seen, version), seen, plan)
            except ClientGoneError:
                self.aborted += 1
                raise
            finally:
                self._give_back(connection)

    async def _place(self, connection: Connection) -> None:
        """Take one of the places, in order of arrival."""
        # Given back as soon as the client is gone, or the next call would seem to be one too many.
        connection.on_leave = partial(self._give_back, connection)
        if self.parallel is not None and len(self._answering) >= self.parallel:
            turn = asyncio.Event()
            self._queue.append((connection, turn))
            await connection.pause(None, turn)
            return
        self._take(connection)

    def _take(self, connection: Connection) -> None:
        self._answering.add(connection)
        self.most_in_flight = max(self.most_in_flight, len(self._answering))

    def _give_back(self, connection: Connection) -> None:
        """Give a place, or a place in the queue, back; the first in the queue takes what is free."""
        self._answering.discard(connection)
        for entry in [entry for entry in self._queue if entry[0] is connection]:
            self._queue.remove(entry)
        while self._queue and (self.parallel is None or len(self._answering) < self.parallel):
            first, turn = self._queue.popleft()
            self._take(first)
            turn.set()

    def _next_plan(self, seen: Seen) -> plans.Plan:
        if not self.is_chat(seen):
            return self.always_at.get(seen.path.partition("?")[0], plans.Normal())
        if self._plans:
            return self._plans.popleft()
        return self.always or plans.Normal()

    async def _perform(self, out: Writer, seen: Seen, plan: plans.Plan) -> bool:
        """Carry out one plan; says whether the connection may serve another request."""
        match plan:
            case plans.ResetBeforeHeaders():
                out.connection.abort()
                return False
            case plans.Garbage(data):
                await out.connection.write(data)
                return False
            case plans.Silence(seconds, then):
                await out.connection.pause(seconds)
                return then != "close" and await out.whole(self._good(seen), self.pace)
            case plans.CutAfter() | plans.HalfLine() | plans.ResetAfterHeaders():
                return await self._break_off(out, self._good(seen), plan)
            case plans.HoldAfter() | plans.SilenceAfterHeaders() | plans.KeepAliveOnly() | plans.EmptyDeltas():
                return await self._keep_waiting(out, self._good(seen), seen, plan)
            case _:
                answer, pace = self._planned(seen, plan)
                return await out.whole(answer, pace)

    async def _break_off(self, out: Writer, answer: Answer, plan: plans.Broken) -> bool:
        await out.head(answer)
        match plan:
            case plans.CutAfter(n, how):
                kept = answer.pieces[:n]
            case plans.HalfLine(n, how):
                kept = (*answer.pieces[:n], *(halves(piece)[0] for piece in answer.pieces[n : n + 1]))
            case plans.ResetAfterHeaders():
                await out.connection.reset()
                return False
        await out.pieces((*answer.prelude, *kept), self.pace)
        if how == "clean":
            return await out.end()
        await out.connection.reset()
        return False

    async def _keep_waiting(self, out: Writer, answer: Answer, seen: Seen, plan: plans.Waiting) -> bool:
        match plan:
            case plans.HoldAfter(n, seconds):
                await out.head(answer)
                await out.pieces((*answer.prelude, *answer.pieces[:n]), self.pace)
                await self._hold(out.connection, seconds)
                await out.pieces(answer.pieces[n:], self.pace)
                return await out.end()
            case plans.SilenceAfterHeaders(seconds):
                await out.head(answer)
                await out.connection.pause(seconds)
                return False
            case plans.KeepAliveOnly(seconds, every, after) | plans.EmptyDeltas(seconds, every, after):
                await out.head(replace(answer, chunked=True))
                empty = answer.streamed and isinstance(plan, plans.EmptyDeltas)
                sign = self.empty_piece(seen) if empty else self.life_sign(answer.streamed)
                await self._signs(out, sign, seconds, every)
                if after == "answer":
                    await out.pieces(answer.pieces, self.pace)
                return await out.end()

    def _planned(self, seen: Seen, plan: plans.Plain | plans.Changed) -> tuple[Answer, float]:
        """The answer of a plan by which it is sent from head to end, and the seconds before each piece."""
        match plan:
            case plans.Normal():
                return self._good(seen), self.pace
            case plans.Say(said):
                return self._saying(seen, said), self.pace
            case plans.Blank(count):
                blanks = [" \n" if number % 8 == 7 else "  " for number in range(count)]
                return self._saying(seen, blanks), self.pace
            case plans.Pace(seconds):
                return self._good(seen), seconds
            case _:
                return self._changed(self._good(seen), plan)

    def _changed(self, answer: Answer, plan: plans.Changed) -> tuple[Answer, float]:
        """The same, of plans that change what would be a good answer."""
        pieces = answer.pieces
        match plan:
            case plans.Status(status, body, headers):
                return self._planned_status(status, body, headers), 0.0
            case plans.Lines(lines, pace):
                return self._planned_body(answer, tuple(lines)), pace
            case plans.GarbageBody(data):
                return self._planned_body(answer, (data,)), 0.0
            case plans.ErrorAfter(n, message):
                if not answer.streamed:
                    return self._planned_status(500, self.error_body(500, message), {}), 0.0
                return replace(answer, pieces=(*pieces[:n], self.error_piece(message))), 0.0
            case plans.Finish(reason, ended):
                ends = self.finished(pieces, ended, reason, streamed=answer.streamed)
                return replace(answer, pieces=ends), self.pace
            case plans.BadLine(n):
                bad = halves(pieces[n].rstrip(self.line_end))[0] + self.line_end if n < len(pieces) else b""
                return replace(answer, pieces=(*pieces[:n], bad, *pieces[n:])), self.pace

    def _good(self, seen: Seen) -> Answer:
        """The dialect's answer, with something to count in it."""
        answer = self.answer(seen)
        if not answer.chunked and len(answer.pieces) == 1:
            return replace(answer, pieces=halves(answer.pieces[0]))
        return answer

    def _saying(self, seen: Seen, pieces: Sequence[str]) -> Answer:
        kept, self.reply = self.reply, pieces
        try:
            return self._good(seen)
        finally:
            self.reply = kept

    def _planned_status(
        self, status: int, body: bytes | Mapping[str, object] | None, headers: Mapping[str, str]
    ) -> Answer:
        if body is None:
            body = self.error_body(status)
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        named = dict(headers)
        if not any(name.lower() == "content-type" for name in named):
            named["Content-Type"] = "application/json"
        return Answer(status, tuple(named.items()), (body,))

    def _planned_body(self, answer: Answer, pieces: tuple[bytes, ...]) -> Answer:
        kind = self.stream_type if answer.streamed else "application/json"
        return Answer(200, (("Content-Type", kind),), pieces, chunked=True)

    async def _hold(self, connection: Connection, seconds: float) -> None:
        hold = asyncio.Event()
        self._holds.add(hold)
        try:
            await connection.pause(seconds, hold)
        finally:
            self._holds.discard(hold)

    async def _signs(self, out: Writer, sign: bytes, seconds: float, every: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if sign:
                await out.pieces((sign,))
            await out.connection.pause(min(every, left))
