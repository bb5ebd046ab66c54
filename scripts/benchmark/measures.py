"""One function per question. Each goes round all targets in turn and reports the medians of the rounds.

Every other round goes the other way round, so that a machine that gets slower or faster during a round
favours nobody. The trap: an added latency is a difference of two figures; it is taken within each round
and only then compared, or the drift of the machine ends up in it.
"""

import asyncio
import gc
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

from .client import (
    Load,
    Mode,
    Pacer,
    Unexpected,
    chat_body,
    chat_request,
    connect,
    content_of,
    one_after_the_other,
    side_by_side,
)
from .processes import Machine, Target
from .table import Row
from .upstream import WORD

WORDS = 20
"""Length of a whole reply."""
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of each measure is done."""

    rounds: int
    series_seconds: float
    """After so long no further round of a series is begun, if it has three: a slow machine gets fewer."""
    load_seconds: float
    """Of load per target and round. wrk counts in whole seconds: for less, the own generator is used."""
    calls: int
    """Calls per round at one connection."""
    first_calls: int
    long_calls: int
    paced_tokens: int
    burst_tokens: int
    few: int
    """Calls after which memory is first read; the second reading is at ten times as many."""
    starts: int
    growth_seconds: float
    """Longest time for the many calls that memory might grow with."""
    settle: float
    """Seconds that memory has to come back after large calls."""
    limit: float
    """Seconds after which the run is given up."""


# Many short rounds rather than few long ones: the speed of a shared machine wanders within seconds.
FULL = Extent(
    rounds=25,
    series_seconds=25,
    load_seconds=1,
    calls=200,
    first_calls=60,
    long_calls=60,
    paced_tokens=500,
    burst_tokens=5000,
    few=2000,
    starts=5,
    growth_seconds=80,
    settle=10,
    limit=355,
)
QUICK = Extent(
    rounds=5,
    series_seconds=1.5,
    load_seconds=0.4,
    calls=100,
    first_calls=30,
    long_calls=30,
    paced_tokens=300,
    burst_tokens=2000,
    few=200,
    starts=1,
    growth_seconds=10,
    settle=2,
    limit=90,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """All that a measure needs."""

    machine: Machine
    extent: Extent
    upstream: Target
    side_port: int
    bare: Target
    bare_stream: Target
    """Bare, and with the addon that lets streams through."""
    gateway: Target
    gateway_stream: Target
    """The same process as `gateway`, unless bare is measured against itself."""
    with_wrk: bool
    start_gateway: Callable[[], Awaitable[Target]]
    start_bare: Callable[[], Awaitable[Target]]

    @property
    def whole(self) -> tuple[Target, Target, Target]:
        """Direct, bare and gateway for whole calls."""
        return self.upstream, self.bare, self.gateway

    @property
    def streamed(self) -> tuple[Target, Target, Target]:
        """Direct, bare and gateway for streams."""
        return self.upstream, self.bare_stream, self.gateway_stream


async def _rounds[T](
    targets: tuple[Target, Target, Target],
    extent: Extent,
    sample: Callable[[Target], Awaitable[T]],
    patience: float = 1,
) -> list[tuple[T, T, T]]:
    """Rounds of (direct, bare, gateway); `patience` lengthens the time that the series may take."""
    collected: list[tuple[T, T, T]] = []
    until = perf_counter() + extent.series_seconds * patience
    for number in range(extent.rounds):
        if number >= 3 and perf_counter() > until:
            break
        order = (0, 1, 2) if number % 2 == 0 else (2, 1, 0)
        got: dict[int, T] = {}
        for which in order:
            gc.collect()  # now rather than in the middle of the next sample
            got[which] = await sample(targets[which])
        collected.append((got[0], got[1], got[2]))
    return collected


async def _verify(targets: Sequence[Target], mode: Mode, count: int, prompt_bytes: int = 0) -> None:
    """One call to each target, decoded in full: what is timed afterwards is the right answer."""
    for target in targets:
        if mode == "paced":
            continue  # nobody acknowledges here; its tokens are counted one by one when it is timed
        connection = await connect(target.port)
        try:
            async with asyncio.timeout(20):
                reply = await connection.call(chat_request(target.wire, mode, count, prompt_bytes), keep=True)
        finally:
            connection.close()
        if reply.status != 200:
            raise Unexpected(f"{target.name}: status {reply.status}: {reply.body[:300]!r}")
        text = content_of(target.wire, mode, reply.body)
        if text != WORD * count:
            raise Unexpected(f"{target.name}: {len(text)} characters of text where {len(WORD) * count} were due")


def between(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of `values` lies with a confidence of about 95 %; all of them if they are few."""
    ordered = sorted(values)
    # The number of values below the true median is binomial: no assumption about how they are spread.
    low = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return ordered[low], ordered[-1 - low]


def _compare(
    key: str,
    label: str,
    unit: str,
    rounds: Sequence[tuple[float, float, float]],
    goal: str = "",
    met: Callable[[float], bool] | None = None,
) -> Row:
    """A row from (direct, bare, gateway) of each round; the goal is judged on the ratio."""
    ratios = [gateway / bare for _, bare, gateway in rounds]
    ratio, near = median(ratios), between(ratios)
    return Row(
        key,
        label,
        unit,
        direct=median(direct for direct, _, _ in rounds),
        bare=median(bare for _, bare, _ in rounds),
        gateway=median(gateway for _, _, gateway in rounds),
        ratio=ratio,
        between=near,
        rounds=len(rounds),
        goal=goal,
        met=None if met is None else met(ratio),
        certain=met is None or met(near[0]) == met(near[1]),
    )


def _added(
    rounds: Sequence[tuple[float, float, float]],
) -> list[tuple[float, float, float]]:
    """Direct, and what bare and gateway add to it, in milliseconds."""
    return [(d * 1e3, (b - d) * 1e3, (g - d) * 1e3) for d, b, g in rounds]


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


async def rate(bench: Bench) -> list[Row]:
    """Whole calls per second at sixteen connections, and the processor time of each."""
    await _verify(bench.whole, "whole", WORDS)

    seconds = bench.extent.load_seconds
    with_wrk = bench.with_wrk and seconds >= 1

    async def load(target: Target) -> Load:
        if with_wrk:
            body = chat_body(target.wire, "whole", WORDS)
            return await bench.machine.wrk(target.port, target.wire, body, CONNECTIONS, int(seconds))
        request = chat_request(target.wire, "whole", WORDS)
        return await side_by_side(target.port, request, connections=CONNECTIONS, seconds=seconds)

    async def sample(target: Target) -> tuple[float, float]:
        before = target.cpu_seconds()
        done = await load(target)
        return done.calls / done.seconds, (target.cpu_seconds() - before) / done.calls * 1e6

    for target in bench.whole:
        await load(target)
    rounds = await _rounds(bench.whole, bench.extent, sample, patience=2)
    return [
        _compare(
            "calls_per_second",
            f"whole calls, {CONNECTIONS} connections ({'wrk' if with_wrk else 'own generator'})",
            "1/s",
            [(d[0], b[0], g[0]) for d, b, g in rounds],
            ">= 1.25 x bare",
            lambda ratio: ratio >= 1.25,
        ),
        _compare(
            "cpu_per_call",
            "processor time per whole call",
            "us",
            [(d[1], b[1], g[1]) for d, b, g in rounds],
        ),
    ]


async def latency(bench: Bench) -> list[Row]:
    """What one whole call on an idle machine costs more than it does directly."""
    await _verify(bench.whole, "whole", WORDS)

    async def sample(target: Target) -> tuple[float, float]:
        request = chat_request(target.wire, "whole", WORDS)
        replies = await one_after_the_other(target.port, request, bench.extent.calls, tokens=WORDS)
        times = [reply.seconds for reply in replies]
        return median(times), _p99(times)

    rounds = await _rounds(bench.whole, bench.extent, sample)
    return [
        _compare(
            "added_latency_p50",
            "added latency p50, one connection",
            "ms",
            _added([(d[0], b[0], g[0]) for d, b, g in rounds]),
            "<= bare",
            lambda ratio: ratio <= 1.0,
        ),
        _compare(
            "added_latency_p99",
            "added latency p99, one connection",
            "ms",
            _added([(d[1], b[1], g[1]) for d, b, g in rounds]),
        ),
    ]


async def streams(bench: Bench) -> list[Row]:
    """Tokens per second of one stream: one in flight at a time, and fifty per write."""
    extent = bench.extent
    pacer = Pacer()
    await pacer.open(bench.side_port)

    async def paced(target: Target) -> float:
        request = chat_request(target.wire, "paced", extent.paced_tokens)
        (reply,) = await one_after_the_other(
            target.port,
            request,
            1,
            tokens=extent.paced_tokens,
            on_tokens=pacer.acknowledge,
            warm_up=0,
        )
        return reply.tokens / reply.seconds

    async def bursts(target: Target) -> float:
        request = chat_request(target.wire, "burst", extent.burst_tokens)
        (reply,) = await one_after_the_other(target.port, request, 1, warm_up=0)
        if reply.tokens < extent.burst_tokens * 0.98:
            raise Unexpected(f"{target.name}: {reply.tokens} of {extent.burst_tokens} tokens arrived")
        # From the request on: a proxy that collects everything and hands it over at the end must not shine.
        return extent.burst_tokens / reply.seconds

    await _verify(bench.streamed, "burst", extent.burst_tokens)
    try:
        for target in bench.streamed:
            await paced(target)
        slow = await _rounds(bench.streamed, extent, paced)
        fast = await _rounds(bench.streamed, extent, bursts)
    finally:
        pacer.close()
    goal = ">= 0.9 x bare"
    return [
        _compare("tokens_paced", "stream, one token in flight", "1/s", [*slow], goal, lambda ratio: ratio >= 0.9),
        _compare("tokens_burst", "stream, 50 tokens per write", "1/s", [*fast], goal, lambda ratio: ratio >= 0.9),
    ]


async def first_token(bench: Bench) -> list[Row]:
    """How much later the first token of a stream arrives than directly."""
    await _verify(bench.streamed, "first", 5)

    async def sample(target: Target) -> float:
        request = chat_request(target.wire, "first", 5)
        replies = await one_after_the_other(target.port, request, bench.extent.first_calls, tokens=5)
        return median(reply.first for reply in replies)

    rounds = await _rounds(bench.streamed, bench.extent, sample)
    label = "added time to first token p50"
    return [_compare("added_first_token", label, "ms", _added(rounds), "<= bare", lambda ratio: ratio <= 1.0)]


async def long_prompt(bench: Bench) -> list[Row]:
    """The added latency of a whole call with a prompt of 100 KB."""
    size = 100_000
    await _verify(bench.whole, "whole", WORDS, size)

    async def sample(target: Target) -> float:
        request = chat_request(target.wire, "whole", WORDS, size)
        replies = await one_after_the_other(target.port, request, bench.extent.long_calls, tokens=WORDS)
        return median(reply.seconds for reply in replies)

    rounds = await _rounds(bench.whole, bench.extent, sample)
    label = "added latency p50, 100 KB prompt"
    return [_compare("added_long_prompt", label, "ms", _added(rounds), "<= 1.1 x bare", lambda ratio: ratio <= 1.1)]


async def starts(bench: Bench) -> list[Row]:
    """Time from the start of the process to the first answered call, and memory at rest."""
    taken: dict[str, list[float]] = {"bare": [], "gateway": []}
    resting: dict[str, list[float]] = {"bare": [], "gateway": []}
    for _ in range(bench.extent.starts):
        for name, start in (("bare", bench.start_bare), ("gateway", bench.start_gateway)):
            target = await start()
            await asyncio.sleep(0.5)
            taken[name].append(target.started_in)
            resting[name].append(target.resident())
            await bench.machine.end(_process(target))
    began, rest = median(taken["gateway"]), median(resting["gateway"])
    bare_began, bare_rest = median(taken["bare"]), median(resting["bare"])
    return [
        Row("start", "start to first answered call", "s", None, bare_began, began, goal="< 3 s", met=began < 3),
        Row("resident_idle", "memory at rest", "MB", None, bare_rest, rest, goal="< 120 MB", met=rest < 120),
    ]


async def memory(bench: Bench) -> list[Row]:
    """Whether memory grows with the number of calls, or stays after large ones."""
    few = bench.extent.few
    target = await bench.start_gateway()
    request = chat_request(target.wire, "whole", WORDS)

    async def do(calls: int, within: float) -> int:
        # Connections end now and then, as those of real clients do: what is kept per connection shows too.
        done = await side_by_side(
            target.port, request, connections=CONNECTIONS, calls=calls, seconds=within, calls_per_connection=50
        )
        await asyncio.sleep(0.5)
        return done.calls

    count = await do(few, bench.extent.growth_seconds / 4)
    after_few = target.resident()
    total = count + await do(few * 9, bench.extent.growth_seconds)
    after_many = target.resident()
    await bench.machine.end(_process(target))

    # In a process of its own: the growth of the calls above must neither pass for that of the large ones
    # nor hide it.
    target = await bench.start_gateway()
    await do(100, 10)
    idle = target.resident()
    size = 1_000_000
    large = chat_request(target.wire, "whole", WORDS, size)
    await side_by_side(target.port, large, connections=4, calls=100, seconds=60, calls_per_connection=10)
    peak = kept = target.resident() - idle
    # What a timer still holds is given back when it fires; what is still there when the time is over stays.
    until = perf_counter() + bench.extent.settle
    while kept > 30 and perf_counter() < until:
        await asyncio.sleep(0.5)
        kept = target.resident() - idle
    await bench.machine.end(_process(target))
    growth = after_many / after_few
    return [
        Row("resident_few", f"memory after {count:,} calls", "MB", gateway=after_few),
        Row(
            "resident_many",
            f"memory after {total:,} calls",
            "MB",
            gateway=after_many,
            ratio=growth,
            goal="<= 1.1 x the line above",
            met=growth <= 1.1,
        ),
        Row("resident_large", "memory over rest, right after 100 calls of 1 MB", "MB", gateway=peak),
        Row(
            "resident_settled",
            f"memory over rest, at most {bench.extent.settle:.0f} s later",
            "MB",
            gateway=kept,
            goal="<= 30 MB",
            met=kept <= 30,
        ),
    ]


def _process(target: Target) -> asyncio.subprocess.Process:
    if target.process is None:
        raise ValueError(f"{target.name} has no process of its own")
    return target.process


MEASURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "rate": rate,
    "latency": latency,
    "streams": streams,
    "first": first_token,
    "long": long_prompt,
    "starts": starts,
    "memory": memory,
}
