"""What the ledger costs: one gateway that keeps calls and one that does not, under the same load in turn.

The trap: the speed of a machine wanders by more than the ledger costs. So both are measured within each round, in
alternating order, and only then compared.
"""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from .client import Load, chat_body, chat_request, connect, get_request, side_by_side
from .measures import CONNECTIONS, WORDS, between
from .processes import Machine, Target

_FILE = "ledger.sqlite"
MOST = 1.03
"""How many times the calls per second without a ledger may be those with one."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What came of it: of each round (without a ledger, with one)."""

    rates: list[tuple[float, float]]
    """Calls per second."""
    times: list[tuple[float, float]]
    """Processor time of a call, in microseconds."""
    calls: int
    """That the gateway with a ledger answered."""
    rows: int
    """Of calls, that stand in it in the end."""
    late: float
    """Seconds from the last answer until the last row stood there, at the most."""

    @property
    def well(self) -> bool:
        """No row is missing, and the median is within the goal."""
        return self.rows == self.calls and median(off / on for off, on in self.rates) <= MOST

    def lines(self) -> list[str]:
        return [
            f"ledger: {len(self.rates)} rounds; {self.rows:,} rows of {self.calls:,} calls, after {self.late:.2f} s",
            _line("calls per second", "1/s", self.rates, lambda off, on: on / off),
            _line("processor time per call", "us", self.times, lambda off, on: on / off),
            f"goal: no row missing, at most {MOST - 1:.0%} fewer calls per second: {'met' if self.well else 'MISSED'}",
        ]


def _line(label: str, unit: str, rounds: list[tuple[float, float]], ratio: Callable[[float, float], float]) -> str:
    ratios = [ratio(off, on) for off, on in rounds]
    low, high = between(ratios)
    without, with_one = median(off for off, _ in rounds), median(on for _, on in rounds)
    return (
        f"  {label}: {without:,.0f} {unit} without, {with_one:,.0f} {unit} with;"
        f" ratio {median(ratios):.3f} (95 %: {low:.3f} to {high:.3f})"
    )


async def ledger(made: Machine, *, calls: int, limit: float) -> Cost:
    """Rounds of a second each, until so many calls were kept, or `limit` seconds are over (six rounds at the least)."""
    upstream, _ = await made.upstream()
    off = await made.gateway(upstream, "off")
    on = await made.gateway(upstream, "on", f"ledger: {{url: 'sqlite:///{_FILE}'}}\n")
    rates: list[tuple[float, float]] = []
    times: list[tuple[float, float]] = []

    async def sample(target: Target) -> tuple[int, float, float]:
        before = target.cpu_seconds()
        done = await _load(made, target)
        return done.calls, done.calls / done.seconds, (target.cpu_seconds() - before) / done.calls * 1e6

    await _load(made, off)
    await _load(made, on)
    await asyncio.sleep(1)
    rows_before, asked_before, kept = _rows(made.folder), await _asked(on), 0
    until = perf_counter() + limit
    while len(rates) < 6 or (kept < calls and perf_counter() < until):
        if len(rates) % 2:
            more, with_one, cpu_with = await sample(on)
            _, without, cpu_without = await sample(off)
        else:
            _, without, cpu_without = await sample(off)
            more, with_one, cpu_with = await sample(on)
        kept += more
        rates.append((without, with_one))
        times.append((cpu_without, cpu_with))
    ended = perf_counter()
    # wrk hangs up on calls under way: they stand in the ledger too, so the gateway itself says how many there were.
    kept = await _asked(on) - asked_before - 1
    rows = _rows(made.folder) - rows_before
    while rows < kept and perf_counter() < ended + 10:
        await asyncio.sleep(0.02)
        rows = _rows(made.folder) - rows_before
    return Cost(rates, times, kept, rows, perf_counter() - ended)


async def _load(made: Machine, target: Target) -> Load:
    if shutil.which("wrk") is not None:
        return await made.wrk(target.port, target.wire, chat_body(target.wire, "whole", WORDS), CONNECTIONS, 1)
    request = chat_request(target.wire, "whole", WORDS)
    return await side_by_side(target.port, request, connections=CONNECTIONS, seconds=1)


async def _asked(target: Target) -> int:
    """How many calls of any kind the gateway has had, this one too."""
    connection = await connect(target.port)
    try:
        reply = await connection.call(get_request("/gateway/status"), keep=True)
    finally:
        connection.close()
    return int(json.loads(reply.body)["total_requests"])


def _rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / _FILE)) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
