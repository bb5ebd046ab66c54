"""Limits counted in a Redis or Valkey server that several gateways share.

The storages of `limits` count one limit in one call; a call here falls under several, and takes of all or of none. So
this is its Redis storage (addresses, TLS, the client) with one more ability: scripts (counters_lua.py) that do all of
a call's limits in one step and one round trip.

Questions that come up while another is on its way go out together, over one connection, in their order: two hundred
calls at once need no two hundred connections, and a place that is freed cannot be renewed behind its back.

A call that gave up must not be counted after all: nobody would ever settle it. What the server reads late does nothing
(counters_lua.py): each question that takes or holds something says until when it is good, by the server's clock, which
every answer tells. What the server did in time, and said too late, is read all the same and given back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from limits.aio.storage import RedisStorage

from addons.counters import Known, Spent, StoreAway
from addons.counters_lua import RECALL, RENEW, SCRIPTS, SETTLE, SPEND, Row, Script, standing_of, width_of
from rules.quota import Charge, Standing
from rules.recall import Recalled

PATIENCE: Final = 0.25
"""Seconds for an answer, the connection included."""
LEASE: Final = 60.0
"""Seconds that a place among the calls at once is held for a gateway that is not heard of."""
PORT: Final = 6379
"""Where the URL names none."""
_LOOKS = 5
_AT_ONCE = 64
"""Questions in one go: the server does nothing else meanwhile."""
_LEASES_AT_ONCE = 500
_KEPT = 10_000
"""Settlements that were not told, and are when the server answers again."""
_LATE_AT_ONCE = 16
"""Rounds of questions whose answers are read although nobody waits for them: each has a connection."""


async def in_time[T](work: Awaitable[T], patience: float = PATIENCE) -> T:
    """What the work returns; raises StoreAway where it takes longer than the patience, in seconds.

    Time that our own loop was busy with something else is not held against the server: the answer may have been there
    all the while. A plain timeout would fire first.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_LOOKS):
            await asyncio.wait((task,), timeout=patience / _LOOKS)
            if task.done():
                return task.result()
        raise StoreAway(f"no answer within {patience * 1000:.0f} ms")
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it any more


class _Open(NamedTuple):
    """A call that was admitted and is not settled."""

    leases: tuple[tuple[str, str], ...]
    """(key of a set, what stands in it) of each lease that it holds."""
    since: str
    """What the server said of itself (Known.since): what it has counted before that it has forgotten."""


@dataclass(frozen=True, slots=True)
class _Question:
    script: Script
    keys: tuple[str, ...]
    arguments: tuple[str | int | float, ...]
    """Without the moment until which it is good."""
    answer: asyncio.Future[Any]

    @property
    def is_void(self) -> bool:
        """Whoever asked is gone, and does as if it had not been asked: it must not be asked (again)."""
        return self.script.ends and self.answer.done()

    @property
    def takes(self) -> bool:
        return self.script is SPEND and self.arguments[1] == 1


class RedisStore(RedisStorage):
    """A Store (counters.py) that also renews its leases. Raises StoreAway; made outside or inside of a loop."""

    STORAGE_SCHEME = ["unigate+redis", "unigate+rediss", "unigate+valkey", "unigate+valkeys"]  # noqa: RUF012 - the library declares it so

    def __init__(self, uri: str, **options: Any) -> None:
        url = uri.removeprefix("unigate+").replace("valkey", "redis", 1)  # they speak alike, and one client will do
        parts = urlsplit(url)
        if parts.port is None:
            url = parts._replace(netloc=f"{parts.netloc}:{PORT}").geturl()
        # in_time() is what bounds an answer; the older protocol is one that every server speaks. One hash tag for all
        # keys, so that a cluster keeps them together.
        given = {"socket_timeout": None, "protocol": 2, **options}
        super().__init__(url, implementation="redispy", key_prefix="{unigate}", **given)
        # The library imports the client when a storage is made. Done here, it would be 0.14 s and 8 MB of every start.
        self._unknown_script = self.dependencies["redis"].module.exceptions.NoScriptError
        self._waiting: list[_Question] = []
        self._untold: deque[_Question] = deque(maxlen=_KEPT)
        self._sender: asyncio.Task[None] | None = None
        self._late: dict[asyncio.Task[list[Any]], None] = {}
        """The rounds that were given up and may still be answered, from the oldest on."""
        self._ahead: float | None = None
        """Seconds that the server's clock is ahead of our monotonic one, at least; None: it has said nothing yet."""
        self._open: dict[str, _Open] = {}
        self._about_itself = self.bridge.prefixed_key("since")
        self.now: float | None = None
        """Unix time, for tests; None: what the server's clock says."""

    @property
    def _client(self) -> Any:
        return self.bridge.get_connection()  # type: ignore[attr-defined]  # the base class of bridges lacks it

    async def spend(self, charges: Sequence[Charge], lease: str) -> Spent:
        spent, since = await self._count(charges, lease, take=True)
        if spent.admitted:
            rows = zip(charges, spent.taken, strict=True)
            self._open[lease] = _Open(tuple(self._leases_of(rows, lease)), since)
        return spent

    async def look(self, charges: Sequence[Charge]) -> tuple[Standing, ...]:
        return (await self._count(charges, "", take=False))[0].standings

    async def settle(self, charges: Sequence[Charge], slots: Sequence[int], used: Sequence[int], lease: str) -> None:
        call = self._open.pop(lease, None)
        arguments: list[str | int | float] = [self._now(), lease, call.since if call is not None else ""]
        told = [
            row
            for row in zip(charges, slots, used, strict=True)
            if row[0].limit.kind == "parallel" or row[0].sets_aside or row[2] != row[0].amount
        ]
        keys, places = self._keys([charge for charge, _, _ in told])
        for (charge, slot, really), place in zip(told, places, strict=True):
            arguments += (width_of(charge), slot, charge.amount, really, place)
        if told:
            await self._ask(SETTLE, keys, tuple(arguments))

    def release(self, lease: str) -> None:
        """Its leases are not renewed any more; at the server they are held until it is settled, or for a LEASE."""
        self._open.pop(lease, None)

    async def renew(self) -> Known:
        """Holds the leases of calls under way for another LEASE; also shows whether the server is there and counts."""
        held = list(chain.from_iterable(call.leases for call in self._open.values()))
        known = b""
        for chunk in _chunks(held, _LEASES_AT_ONCE) if held else [held]:
            keys, leases = tuple(key for key, _ in chunk), (lease for _, lease in chunk)
            known = await self._ask(RENEW, (self._about_itself, *keys), (self._now(), LEASE, *leases))
        since, _, now = known.decode().partition(" ")
        return Known(since, float(now))

    async def is_there(self) -> bool:
        """Whether the server answers. Not in line with the questions of calls: none of them waits behind this one,
        which may take longer than they do, so that a server with a hiccup is not given up.
        """
        try:
            await in_time(self._client.ping(), 2 * PATIENCE)
        except Exception:  # why, says the next question
            return False
        return True

    async def recall(self, since: str, ledger: str, part: Sequence[Recalled], *, last: bool) -> str:
        """Counts what a ledger knows of the time before `since` (Known). `last`: there is no more of it.

        Returns `ok`, `told` where all of that ledger was told before, or `forgot` where the server has forgotten again.
        """
        arguments: list[str | int | float] = [self._now(), since, ledger, int(last)]
        for charge, slots in part:
            arguments += (width_of(charge), len(slots), *chain.from_iterable(slots.items()))
        keys = (self._about_itself, *(self._key(charge) for charge, _ in part))
        said: bytes = await self._ask(RECALL, keys, tuple(arguments))
        return said.decode()

    async def close(self) -> None:
        if late := tuple(self._late):
            for work in late:
                work.cancel()
            await asyncio.wait(late)
        if self._sender is not None:
            await asyncio.wait((self._sender,))
        await self._client.aclose()

    async def _count(self, charges: Sequence[Charge], lease: str, *, take: bool) -> tuple[Spent, str]:
        """With what the server says of itself (Known.since)."""
        arguments: list[str | int | float] = [self._now(), int(take), lease, LEASE]
        keys, places = self._keys(charges)
        for charge, place in zip(charges, places, strict=True):
            arguments += (width_of(charge), charge.limit.amount, charge.amount, charge.guess, place)
        reply = await self._ask(SPEND, keys, tuple(arguments))
        fit, at, since, *numbers = reply.split()
        admitted, now = fit == b"1", float(at)
        rows = [Row(*row) for row in _chunks([int(number) for number in numbers], len(Row._fields))]
        standings = tuple(standing_of(charge, now, row) for charge, row in zip(charges, rows, strict=True))
        if not admitted:
            return Spent(False, standings), since.decode()
        return Spent(True, standings, tuple(row.slot for row in rows), tuple(row.took for row in rows)), since.decode()

    def _key(self, charge: Charge) -> str:
        return self.bridge.prefixed_key(charge.key)

    def _aside(self, charge: Charge) -> str:
        """The set of a limit's calls under way."""
        return self.bridge.prefixed_key(f"aside/{charge.key}")

    def _keys(self, charges: Sequence[Charge]) -> tuple[tuple[str, ...], list[int]]:
        """The keys of a script that counts, and of each charge which of them (from 1 on) has the calls under way."""
        keys = [self._about_itself, *map(self._key, charges)]
        places: list[int] = []
        for charge in charges:
            if charge.sets_aside:
                keys.append(self._aside(charge))
            places.append(len(keys) if charge.sets_aside else 0)
        return tuple(keys), places

    def _leases_of(self, rows: Iterable[tuple[Charge, int]], lease: str) -> Iterator[tuple[str, str]]:
        """Of charges, and what each took."""
        for charge, took in rows:
            if charge.limit.kind == "parallel":
                yield self._key(charge), lease
            elif charge.sets_aside:
                yield self._aside(charge), f"{took} {lease}"

    def _now(self) -> str | float:
        return "" if self.now is None else self.now

    # -- the way there and back

    async def _ask(self, script: Script, keys: tuple[str, ...], arguments: tuple[str | int | float, ...]) -> Any:
        question = _Question(script, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._start()
        try:
            return await question.answer
        except asyncio.CancelledError:
            if not question.answer.cancelled() and question.answer.exception() is None:  # it has just been there
                self._undo(question, question.answer.result())
                self._start()
            raise

    def _start(self) -> None:
        if self._waiting and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        """Asks what waits, until nothing does. Where that fails, all that waits has failed: none of it waits longer.
        Only what calls used that are over is told later, where the server was not even told."""
        while self._waiting:
            asked, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            work = asyncio.create_task(self._round(asked))
            try:
                replies = await in_time(asyncio.shield(work), PATIENCE)
            except Exception as error:  # whatever it is: a call must not wait for ever
                self._give_up(asked, work)
                self._untold += (replace(one, answer=_nobody()) for one in self._waiting if one.script is SETTLE)
                asked, self._waiting = [*asked, *self._waiting], []
                replies = [error] * len(asked)
            else:
                self._waiting += self._untold
                self._untold.clear()
            for question, reply in zip(asked, replies, strict=True):
                if question.answer.done():  # whoever asked is gone
                    self._undo(question, reply)
                elif isinstance(reply, Exception):
                    question.answer.set_exception(StoreAway(str(reply) or type(reply).__name__))
                else:
                    question.answer.set_result(reply)

    def _give_up(self, asked: Sequence[_Question], work: asyncio.Task[list[Any]]) -> None:
        """Nobody waits for these any more. Where one of them may have taken something its answer is still read, also
        one that has come just now."""
        if not any(question.takes for question in asked):
            work.cancel()
            return
        self._late[work] = None
        work.add_done_callback(partial(self._came_late, asked))
        if len(self._late) > _LATE_AT_ONCE:
            next(iter(self._late)).cancel()

    def _came_late(self, asked: Sequence[_Question], work: asyncio.Task[list[Any]]) -> None:
        del self._late[work]
        if work.cancelled() or work.exception() is not None:
            return
        for question, reply in zip(asked, work.result(), strict=True):
            self._undo(question, reply)
        self._start()

    def _undo(self, question: _Question, reply: Any) -> None:
        """Gives back what a call took that did not wait for the answer."""
        if not (question.takes and isinstance(reply, bytes) and reply.startswith(b"1 ")):
            return
        _, _, since, *numbers = reply.split()
        arguments = [self._now(), question.arguments[2], since.decode()]
        rows = (Row(*map(int, row)) for row in _chunks(numbers, len(Row._fields)))
        for (width, _, _, _, place), row in zip(_chunks(question.arguments[4:], 5), rows, strict=True):
            arguments += (width, row.slot, row.took, 0, place)
        self._waiting.append(_Question(SETTLE, question.keys, tuple(arguments), _nobody()))

    async def _round(self, asked: Sequence[_Question]) -> list[Any]:
        """The reply to each; None where it is void before it was asked. Goes on after it was given up: then nothing is
        asked any more that takes or holds something."""
        if self._ahead is None:
            began = monotonic()
            seconds, millionths = await self._client.time()
            self._learn(began, seconds + millionths / 1e6)
        replies: list[Any] = [None] * len(asked)
        loaded = False
        places = [place for place, question in enumerate(asked) if not question.is_void]
        while places:
            for place, reply in zip(places, await self._evaluate([asked[place] for place in places]), strict=True):
                replies[place] = reply
            # These did nothing: our clocks were set, or we were busy between a look at ours and the question; or
            # the server is new, or was restarted.
            again = [place for place in places if _is_late(replies[place])]
            unknown = [place for place in places if isinstance(replies[place], self._unknown_script)]
            if unknown and not loaded:
                await self._load()
                again, loaded = again + unknown, True
            places = [place for place in again if not asked[place].is_void]
        return replies

    async def _load(self) -> None:
        load = self._client.pipeline(transaction=False)
        for script in SCRIPTS:
            load.script_load(script.text)
        await load.execute()

    async def _evaluate(self, asked: Sequence[_Question]) -> list[Any]:
        assert self._ahead is not None
        began = monotonic()
        until = (began + PATIENCE + self._ahead,)
        pipe = self._client.pipeline(transaction=False)
        for question in asked:
            script, arguments = question.script, question.arguments
            pipe.evalsha(script.sha, len(question.keys), *question.keys, *arguments, *(until if script.ends else ()))
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        said = next((reply for reply in reversed(replies) if isinstance(reply, bytes) and b" " in reply), None)
        if said is not None and (self.now is None or _is_late(said)):
            self._learn(began, float(said.split(b" ", 2)[1]))
        return replies

    def _learn(self, asked: float, clock: float) -> None:
        """What the server's clock said after `asked`, of our monotonic one, and before now. Of what that leaves open
        the least is taken, or what is known already: a question that is good for too short a time is asked once more.
        """
        least, most = clock - monotonic(), clock - asked
        known = self._ahead
        self._ahead = least if known is None or known > most else max(known, least)


def _nobody() -> asyncio.Future[Any]:
    """Of a question whose answer nobody waits for."""
    nobody: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    nobody.cancel()
    return nobody


def _is_late(reply: Any) -> bool:
    return isinstance(reply, bytes) and reply.startswith(b"late ")


def _chunks[T](items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
