"""One function per question, and the table of them. Each goes round all targets and reports medians (rounds.py)."""

from collections.abc import Awaitable, Callable
from statistics import median

from .client import Load, Pacer, Unexpected, chat_body, chat_request, one_after_the_other, side_by_side
from .footprint import memory, starts
from .processes import Target
from .rounds import CONNECTIONS, WORDS, Bench, added, compare, in_rounds, p99, verify
from .table import Row


async def rate(bench: Bench) -> list[Row]:
    """Whole calls per second at sixteen connections, and the processor time of each."""
    await verify(bench.whole, "whole", WORDS)

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
    rounds = await in_rounds(bench.whole, bench.extent, sample, patience=2)
    return [
        compare(
            "calls_per_second",
            f"whole calls, {CONNECTIONS} connections ({'wrk' if with_wrk else 'own generator'})",
            "1/s",
            [(d[0], b[0], g[0]) for d, b, g in rounds],
            ">= 1.25 x bare",
            lambda ratio: ratio >= 1.25,
        ),
        compare(
            "cpu_per_call",
            "processor time per whole call",
            "us",
            [(d[1], b[1], g[1]) for d, b, g in rounds],
        ),
    ]


async def latency(bench: Bench) -> list[Row]:
    """What one whole call on an idle machine costs more than it does directly."""
    await verify(bench.whole, "whole", WORDS)

    async def sample(target: Target) -> tuple[float, float]:
        request = chat_request(target.wire, "whole", WORDS)
        replies = await one_after_the_other(target.port, request, bench.extent.calls, tokens=WORDS)
        times = [reply.seconds for reply in replies]
        return median(times), p99(times)

    rounds = await in_rounds(bench.whole, bench.extent, sample)
    return [
        compare(
            "added_latency_p50",
            "added latency p50, one connection",
            "ms",
            added([(d[0], b[0], g[0]) for d, b, g in rounds]),
            "<= bare",
            lambda ratio: ratio <= 1.0,
        ),
        compare(
            "added_latency_p99",
            "added latency p99, one connection",
            "ms",
            added([(d[1], b[1], g[1]) for d, b, g in rounds]),
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

    await verify(bench.streamed, "burst", extent.burst_tokens)
    try:
        for target in bench.streamed:
            await paced(target)
        slow = await in_rounds(bench.streamed, extent, paced)
        fast = await in_rounds(bench.streamed, extent, bursts)
    finally:
        pacer.close()
    goal = ">= 0.9 x bare"
    return [
        compare("tokens_paced", "stream, one token in flight", "1/s", [*slow], goal, lambda ratio: ratio >= 0.9),
        compare("tokens_burst", "stream, 50 tokens per write", "1/s", [*fast], goal, lambda ratio: ratio >= 0.9),
    ]


async def first_token(bench: Bench) -> list[Row]:
    """How much later the first token of a stream arrives than directly."""
    await verify(bench.streamed, "first", 5)

    async def sample(target: Target) -> float:
        request = chat_request(target.wire, "first", 5)
        replies = await one_after_the_other(target.port, request, bench.extent.first_calls, tokens=5)
        return median(reply.first for reply in replies)

    rounds = await in_rounds(bench.streamed, bench.extent, sample)
    label = "added time to first token p50"
    return [compare("added_first_token", label, "ms", added(rounds), "<= bare", lambda ratio: ratio <= 1.0)]


async def long_prompt(bench: Bench) -> list[Row]:
    """The added latency of a whole call with a prompt of 100 KB."""
    size = 100_000
    await verify(bench.whole, "whole", WORDS, size)

    async def sample(target: Target) -> float:
        request = chat_request(target.wire, "whole", WORDS, size)
        replies = await one_after_the_other(target.port, request, bench.extent.long_calls, tokens=WORDS)
        return median(reply.seconds for reply in replies)

    rounds = await in_rounds(bench.whole, bench.extent, sample)
    label = "added latency p50, 100 KB prompt"
    return [compare("added_long_prompt", label, "ms", added(rounds), "<= 1.1 x bare", lambda ratio: ratio <= 1.1)]


MEASURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "rate": rate,
    "latency": latency,
    "streams": streams,
    "first": first_token,
    "long": long_prompt,
    "starts": starts,
    "memory": memory,
}
