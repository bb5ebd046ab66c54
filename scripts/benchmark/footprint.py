"""What a gateway takes while nothing is asked of it: its start, and its memory before and after many calls."""

import asyncio
from statistics import median
from time import perf_counter

from .client import chat_request, side_by_side
from .processes import Target
from .rounds import CONNECTIONS, WORDS, Bench
from .table import Row


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
