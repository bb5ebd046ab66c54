"""Rounds over all targets, and the rows that come of them.

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

from .client import Mode, Unexpected, chat_request, connect, content_of
from .extent import Extent
from .processes import Machine, Target
from .table import Row
from .upstream import WORD

WORDS = 20
"""Length of a whole reply."""
CONNECTIONS = 16


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


async def in_rounds[T](
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


async def verify(targets: Sequence[Target], mode: Mode, count: int, prompt_bytes: int = 0) -> None:
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


def compare(
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


def added(
    rounds: Sequence[tuple[float, float, float]],
) -> list[tuple[float, float, float]]:
    """Direct, and what bare and gateway add to it, in milliseconds."""
    return [(d * 1e3, (b - d) * 1e3, (g - d) * 1e3) for d, b, g in rounds]


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]
