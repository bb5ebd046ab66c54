"""What the ledger costs: one gateway that keeps calls and one that does not, under the same load in turn.

The trap: the speed of a machine wanders by more than the ledger costs. So both are measured within each round, in
alternating order, and only then compared. Two processes of the same program differ too, for as long as they live: so
there are several pairs. And rows are written after their calls: the other gateway is measured only when the last one
stands in the file, and the processor time of that is counted.
"""

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

from .client import Load, chat_body, chat_request, connect, get_request, side_by_side
from .measures import CONNECTIONS, WORDS, between
from .processes import Machine, NotStarted, Target

GOAL = 0.03
"""Calls per second may be fewer by less than this share."""
ROUNDS = 6
"""At the least."""


@dataclass(slots=True)
class Cost:
    """What came of it: of each round (without a ledger, with one)."""

    wanted: int
    """Calls that were to be kept."""
    rates: list[tuple[float, float]] = field(default_factory=list)
    """Calls per second."""
    times: list[tuple[float, float]] = field(default_factory=list)
    """Processor time of a call, in microseconds, that of writing its rows too."""
    calls: int = 0
    """That the gateways with a ledger answered."""
    rows: int = 0
    """Of calls, that stand in it in the end."""
    late: float = 0.0
    """Seconds from the last answer until the last row stood there, at the most."""

    @property
    def well(self) -> bool:
        """As many calls as wanted, each with its row, and the median within the goal."""
        return self.complete and median(self._changes(self.rates)) > -GOAL

    @property
    def complete(self) -> bool:
        return self.calls >= self.wanted and self.rows == self.calls

    @staticmethod
    def _changes(rounds: list[tuple[float, float]]) -> list[float]:
        return [on / off - 1 for off, on in rounds]

    def lines(self) -> list[str]:
        return [
            f"ledger: {len(self.rates)} rounds; {self.rows:,} rows of {self.calls:,} calls ({self.wanted:,} wanted),"
            f" after {self.late:.2f} s at the most",
            _line("calls per second", "1/s", self.rates, self._changes(self.rates)),
            _line("processor time per call", "us", self.times, self._changes(self.times)),
            f"goal: less than {GOAL:.0%} fewer calls per second, each call with its row: {self._verdict()}",
        ]

    def _verdict(self) -> str:
        if self.rows != self.calls:
            return f"MISSED: {self.calls - self.rows:,} rows are missing"
        if self.calls < self.wanted:
            return "MISSED: there was no time for as many calls"
        changes = self._changes(self.rates)
        low, high = between(changes)
        sure = "" if low > -GOAL or high <= -GOAL else ", but too close or too noisy to be sure"
        return f"{'met' if self.well else 'MISSED'} with {median(changes):+.1%}{sure}"


def _line(label: str, unit: str, rounds: list[tuple[float, float]], changes: list[float]) -> str:
    low, high = between(changes)
    without, with_one = median(off for off, _ in rounds), median(on for _, on in rounds)
    return (
        f"  {label}: {without:,.0f} {unit} without, {with_one:,.0f} {unit} with;"
        f" {median(changes):+.1%} (95 %: {low:+.1%} to {high:+.1%})"
    )


async def ledger(made: Machine, *, calls: int, pairs: int, seconds: int, limit: float) -> Cost:
    """Rounds of so many seconds each, at so many pairs of gateways, until so many calls were kept or `limit` seconds
    are over."""
    upstream, _ = await made.upstream()
    cost = Cost(calls)
    begun = perf_counter()
    for number in range(1, pairs + 1):
        await _pair(made, upstream, cost, number, number / pairs, seconds, begun + limit * number / pairs)
    return cost


async def _pair(
    made: Machine, upstream: Target, cost: Cost, number: int, share: float, seconds: int, until: float
) -> None:
    """Rounds at one pair, until all have kept their share of the calls that are wanted."""
    file = made.folder / f"ledger-{number}.sqlite"
    off = await made.gateway(upstream, f"off-{number}")
    on = await made.gateway(upstream, f"on-{number}", f"ledger: {{url: 'sqlite:///{file.name}'}}\n")
    before = await _settled(file)
    asked_before, looks = await _asked(on), count(1)

    async def kept() -> int:
        # wrk hangs up on calls under way: they stand in the ledger too, so the gateway itself says how many there were.
        return await _asked(on) - asked_before - next(looks)

    async def written() -> None:
        ended, due = perf_counter(), before + await kept()
        rows = _rows(file)
        while rows < due and perf_counter() < ended + 10:
            await asyncio.sleep(0.02)
            rows = _rows(file)
        cost.late = max(cost.late, perf_counter() - ended)

    async def sample(target: Target) -> tuple[float, float]:
        used = target.cpu_seconds()
        done = await _load(made, target, seconds)
        if target is on:
            await written()
        return done.calls / done.seconds, (target.cpu_seconds() - used) / done.calls * 1e6

    await sample(off)
    await sample(on)
    answered, at_least = 0, cost.calls
    for turn in count():
        first, second = (on, off) if turn % 2 else (off, on)
        found = {first.name: await sample(first), second.name: await sample(second)}
        cost.rates.append((found[off.name][0], found[on.name][0]))
        cost.times.append((found[off.name][1], found[on.name][1]))
        answered = await kept()
        enough = at_least + answered >= cost.wanted * share and len(cost.rates) >= ROUNDS * share
        if enough or perf_counter() >= until:
            break
    cost.calls += answered
    cost.rows += _rows(file) - before
    for target in (off, on):
        if target.process is None:
            raise NotStarted(f"{target.name} has no process")
        await made.end(target.process)


async def _settled(file: Path) -> int:
    """The rows of the calls by which the start was seen, once they all stand there."""
    rows = 0
    for _ in range(10):
        before, rows = rows, _rows(file)
        if rows and rows == before:
            return rows
        await asyncio.sleep(1)
    raise NotStarted(f"nothing is written to {file}")


async def _load(made: Machine, target: Target, seconds: int) -> Load:
    if shutil.which("wrk") is not None:
        return await made.wrk(target.port, target.wire, chat_body(target.wire, "whole", WORDS), CONNECTIONS, seconds)
    request = chat_request(target.wire, "whole", WORDS)
    return await side_by_side(target.port, request, connections=CONNECTIONS, seconds=seconds)


async def _asked(target: Target) -> int:
    """How many calls of any kind the gateway has had, this one too."""
    connection = await connect(target.port)
    try:
        reply = await connection.call(get_request("/gateway/status"), keep=True)
    finally:
        connection.close()
    return int(json.loads(reply.body)["total_requests"])


def _rows(file: Path) -> int:
    if not file.exists():
        return 0
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
