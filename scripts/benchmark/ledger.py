"""What the ledger costs: one gateway under a steady load, its ledger switched on and off in turn (switched.py).

The trap: the speed of a machine wanders by more than the ledger costs. So each sample with it is compared with those
before and after it. And rows are written after their calls: the next sample begins when the last one stands in the
file, and the processor time of that is counted.
"""

import asyncio
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from time import perf_counter

from .client import Load, chat_body, chat_request, side_by_side
from .processes import RULES, Machine, NotStarted, Target
from .rounds import CONNECTIONS, WORDS, between

GOAL = 0.03
"""Calls per second may be fewer by less than this share."""
ROUNDS = 3
"""At the least."""
TO_SETTLE = 10.0
"""Seconds that the last calls of a sample have to end and be written."""


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
    """That were answered while the ledger was on."""
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


@dataclass(frozen=True, slots=True)
class Sample:
    """One load."""

    rate: float
    """Calls per second."""
    time: float
    """Processor time of a call, in microseconds."""


class Switch:
    """The gateway under test, from its starter's side."""

    def __init__(self, made: Machine, process: asyncio.subprocess.Process, port: int) -> None:
        self._made = made
        self._process = process
        self.target = Target("switched", "openai", port, process)
        self.late = 0.0

    @classmethod
    async def start(cls, made: Machine, upstream: Target, file: Path) -> "Switch":
        rules = made.folder / "switched.yaml"
        rules.write_text(RULES.format(port=upstream.port) + f"ledger: {{url: 'sqlite:///{file}'}}\n")
        command = [sys.executable, "-m", "scripts.benchmark.switched", str(rules)]
        pipe = asyncio.subprocess.PIPE
        process = await made.spawn(*command, output=pipe, stdin=pipe)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        if not line:
            raise NotStarted("the gateway did not start; its errors are above")
        return cls(made, process, int(json.loads(line)["port"]))

    async def say(self, word: str) -> dict[str, float]:
        """`on`, `off` or `look`; what the gateway answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        answer: dict[str, float] = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 20))
        return answer

    async def sample(self, word: str, seconds: int) -> Sample:
        """A load with the ledger on or off; returns when all of its rows are written."""
        before = await self.say(word)
        done = await _load(self._made, self.target, seconds)
        ended = perf_counter()
        # wrk hangs up on calls under way: they end, and are written, a moment later.
        now = await self.say("look")
        while now["waiting"] and perf_counter() < ended + TO_SETTLE:
            await asyncio.sleep(0.02)
            now = await self.say("look")
        self.late = max(self.late, perf_counter() - ended)
        return Sample(done.calls / done.seconds, (now["cpu"] - before["cpu"]) / done.calls * 1e6)


async def ledger(made: Machine, *, calls: int, seconds: int, limit: float) -> Cost:
    """Samples of so many seconds without and twice as many with a ledger, until so many calls were kept or `limit`
    seconds are over."""
    until = perf_counter() + limit
    upstream, _ = await made.upstream()
    file = made.folder / "ledger.sqlite"
    switch = await Switch.start(made, upstream, file)
    cost = Cost(calls)
    await switch.sample("on", seconds)  # to warm up
    before = await switch.say("off")
    rows_before = _rows(file)
    off = await switch.sample("off", seconds)
    while perf_counter() < until and (cost.calls < calls or len(cost.rates) < ROUNDS):
        on = await switch.sample("on", 2 * seconds)
        then = await switch.sample("off", seconds)
        cost.rates.append((mean((off.rate, then.rate)), on.rate))
        cost.times.append((mean((off.time, then.time)), on.time))
        off = then
        cost.calls = round((await switch.say("look"))["asked"] - before["asked"])
    cost.rows = _rows(file) - rows_before
    cost.late = switch.late
    return cost


async def _load(made: Machine, target: Target, seconds: int) -> Load:
    if shutil.which("wrk") is not None:
        return await made.wrk(target.port, target.wire, chat_body(target.wire, "whole", WORDS), CONNECTIONS, seconds)
    request = chat_request(target.wire, "whole", WORDS)
    return await side_by_side(target.port, request, connections=CONNECTIONS, seconds=seconds)


def _rows(file: Path) -> int:
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
