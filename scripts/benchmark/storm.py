"""The storm: thousands of calls through the gateway while all of its targets fail, each in every way there is."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter

from .fleet import BERTHS, Record, rules, sky
from .verdict import Answer, End, Verdict, judge, wrong
from .weather import HUNG, expected


class Caller:
    """One caller with one connection that it keeps as long as it is let."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.connections = 0

    async def ask(self, body: bytes) -> Answer:
        """One chat call. Raises OSError or EOFError where the connection breaks before the answer's end."""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer sk-caller\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._reader is None or self._writer is None or self._reader.at_eof() or self._writer.is_closing():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self.connections += 1
        self._writer.write(head.encode() + body)
        top = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")[:-2]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                parts.append((await self._reader.readexactly(size + 2))[:-2])
            await self._reader.readexactly(2)
            read = b"".join(parts)
        else:
            read = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split(" ")[1]), read, headers.get("content-type", ""))

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call and its end."""

    call: int
    streamed: bool
    verdict: Verdict
    seconds: float


def question(call: int) -> tuple[bytes, bool, bool]:
    """The body of a call; whether it asks for a stream, and whether for its usage."""
    streamed = call % 2 == 0
    usage = streamed and call % 4 == 0
    berth = BERTHS[call // 2 % len(BERTHS)]
    body: dict[str, object] = {
        "model": f"storm-{berth.name}",
        "messages": [{"role": "user", "content": f"What does this number stand for? @storm:{call}@"}],
        "stream": streamed,
    }
    if usage:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode(), streamed, usage


async def put(caller: Caller, call: int, ask: tuple[bytes, bool, bool] | None = None) -> Outcome:
    """Put one call and judge its answer."""
    body, streamed, usage = ask or question(call)
    begun = perf_counter()
    try:
        async with asyncio.timeout(HUNG):
            answer = await caller.ask(body)
        verdict = judge(answer, expected(call), streamed=streamed, usage=usage)
    except TimeoutError:
        caller.close()
        verdict = wrong("hung")
    except (OSError, EOFError, ValueError, LookupError) as error:
        caller.close()
        verdict = wrong(f"the connection broke: {type(error).__name__}: {error}")
    return Outcome(call, streamed, verdict, perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all calls."""

    outcomes: Sequence[Outcome]
    seconds: float
    connections: int
    record: Record

    def count(self, end: End) -> int:
        """How many calls ended so."""
        return sum(outcome.verdict.end == end for outcome in self.outcomes)

    @property
    def continued(self) -> int:
        """Streams that met a break after their first word and still came out exact."""
        return sum(
            outcome.streamed and outcome.verdict.end == "exact" and outcome.call in self.record.broken
            for outcome in self.outcomes
        )

    @property
    def failed(self) -> float:
        """The part of the upstream calls that met a fault."""
        faults = self.record.faults
        return 1 - faults["none"] / max(faults.total(), 1)

    def lines(self) -> list[str]:
        """The report in words."""
        calls = len(self.outcomes)
        times = quantiles((outcome.seconds for outcome in self.outcomes), n=100) if calls > 1 else [0.0] * 99
        errors = Counter(
            re.sub(r"[0-9]+(\.[0-9]+)?", "N", outcome.verdict.why)[:110]
            for outcome in self.outcomes
            if outcome.verdict.end == "error"
        )
        lines = [
            f"{calls} calls in {self.seconds:.1f} s over {self.connections} connections:"
            f" {self.count('exact')} exact, {self.count('error')} explicit errors, {self.count('WRONG')} WRONG",
            f"{self.record.requests.total() / max(calls, 1):.2f} upstream calls per call,"
            f" {self.failed:.0%} of those answered met a fault; {self.record.prefills} of them went on with an answer",
            f"{self.continued} streams broke off after their first word and still came out exact",
            f"a call took {times[49]:.3f} s (p50), {times[98]:.3f} s (p99)",
            "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.record.faults.items())),
            *(f"error, {count} times: {why}" for why, count in errors.most_common(8)),
        ]
        wrong = [one for one in self.outcomes if one.verdict.end == "WRONG"]
        lines += [
            f"WRONG: call {one.call}, {'streamed' if one.streamed else 'whole'}, {one.seconds:.1f} s: {one.verdict.why}"
            for one in wrong[:20]
        ]
        return lines + [f"STRANGE: {what}" for what in self.record.strange[:20]]

    @property
    def well(self) -> bool:
        """Whether no answer was wrong, and no request strange."""
        return not self.count("WRONG") and not self.record.strange


async def ride(port: int, record: Record, *, calls: int, at_a_time: int) -> Report:
    """All the calls, so many at a time."""
    numbers = iter(range(calls))
    outcomes: list[Outcome] = []
    callers = [Caller(port) for _ in range(at_a_time)]

    async def work(caller: Caller) -> None:
        outcomes.extend([await put(caller, call) for call in numbers])

    begun = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(work(caller))
    finally:
        for caller in callers:
            caller.close()
    return Report(outcomes, perf_counter() - begun, sum(caller.connections for caller in callers), record)


Door = Callable[[str], Awaitable[tuple[int, Callable[[], str]]]]
"""Starts a gateway with these rules: its port, and a function that gives its log."""


async def storm(door: Door, *, calls: int = 5000, seed: int = 1, at_a_time: int = 50) -> Report:
    """The whole storm."""
    async with sky(seed) as (servers, record):
        port, _ = await door(rules(servers))
        return await ride(port, record, calls=calls, at_a_time=at_a_time)
