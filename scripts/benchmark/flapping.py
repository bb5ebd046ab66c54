"""What a target costs that comes and goes, and how soon it is back in use."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from .fleet import KEY, Berth, Record, Server
from .storm import Caller, Door, Outcome, put
from .voice import MODEL
from .weather import TOTAL, well

COOL_DOWN = 1.0
"""Seconds that the rules of `flapping` leave a broken target alone."""
SLACK = 0.25
"""Seconds beyond the cool-down until a call comes by and is answered."""
RATE = 40
"""Calls a second of the steady load."""
FLAPPER = Berth("flapper", "openai", "continue")
HEALTHY = Berth("healthy", "openai", "continue")
PASSED_OVER = "is not asked for a while"
"""What the log says of a target that was not asked, for its breaker is open: no attempt, and nothing wasted."""
State = Literal["up", "refused", "reset", "error"]


def phases(seed: int, seconds: float, longest: float = 7.0) -> list[tuple[State, float]]:
    """Up and down in turns, 1 s to `longest` each; up at first, and the last phase is cut to fit."""
    chance = random.Random(f"flapping {seed}")
    made: list[tuple[State, float]] = []
    down: tuple[State, ...] = ("refused", "reset", "error")
    left = seconds
    while left > 0:
        state: State = "up" if len(made) % 2 == 0 else down[(len(made) // 2 + seed) % 3]
        length = min(chance.uniform(1.0, longest), left)
        made.append((state, length))
        left -= length
    return made


def flapping_rules(flapper: Server, healthy: Server) -> str:
    """One rule: the flapping target first."""
    return "\n".join(
        [
            "providers:",
            *(f"  {s.berth.name}: {{dialect: openai, urls: [{s.url}], key: {KEY}}}" for s in (flapper, healthy)),
            f'rules: [{{name: flapping, use: ["flapper/{MODEL}", "healthy/{MODEL}"]}}]',
            "defaults:",
            f"  timeouts: {{connect: 500ms, first_token: 500ms, idle: 500ms, total: {TOTAL:.0f}s}}",
            "  failover: {attempts: 2, backoff: 20ms, wait: 2s}",
            f"  breaker: {{failures: 5, cool_down: {COOL_DOWN:.0f}s}}",
            "  refresh: 5s",
            "",
        ]
    )


@dataclass(slots=True)
class Flapping:
    """What a target that comes and goes did to a steady load."""

    outcomes: list[Outcome] = field(default_factory=list)
    returns: list[float | None] = field(default_factory=list)
    """Per recovery: seconds to the first answer, None where there was none in a phase long enough for one."""
    calls: int = 0
    """Calls since the breaker first opened."""
    wasted: int = 0
    """Failed attempts at the target since then."""
    openings: int = 0

    @property
    def waste(self) -> float:
        """Failed attempts at the target per call, since its breaker first opened."""
        return self.wasted / self.calls if self.calls else 0.0

    @property
    def longest(self) -> float | None:
        """The longest time from a recovery to the first answer; None: one recovery was never noticed."""
        known = [seconds for seconds in self.returns if seconds is not None]
        return max(known, default=0.0) if len(known) == len(self.returns) else None

    @property
    def well(self) -> bool:
        """Whether the goals are met."""
        back = self.longest is not None and self.longest <= COOL_DOWN + SLACK
        return self.waste < 0.1 and back and all(one.verdict.end == "exact" for one in self.outcomes)

    def lines(self) -> list[str]:
        """The report in words."""
        exact = sum(one.verdict.end == "exact" for one in self.outcomes)
        longest = "never in one phase" if self.longest is None else f"{self.longest:.2f} s at the longest"
        lines = [
            f"{len(self.outcomes)} calls, {exact} exact; the breaker opened {self.openings} times",
            f"{self.wasted} attempts wasted on {self.calls} calls since it first opened: {self.waste:.1%}"
            " (goal: less than 10 %)",
            f"{len(self.returns)} recoveries; back in use after {longest}"
            f" (goal: {COOL_DOWN:.0f} s, and {SLACK} s for a call to come by)",
        ]
        bad = [one for one in self.outcomes if one.verdict.end != "exact"]
        return lines + [f"{one.verdict.end}: call {one.call}: {one.verdict.why}" for one in bad[:10]]

    def read_log(self, log: str) -> None:
        """What the gateway's own log (as JSON) tells: attempts that failed, refused connections among them."""
        for text in log.splitlines():
            try:
                entry = json.loads(text)
            except ValueError:
                continue
            said = str(entry.get("message", ""))
            if said.startswith(FLAPPER.name) and "it is not asked for" in said:
                self.openings += 1
            if self.openings and "request_id" in entry:
                self.calls += 1
                failed = [str(one) for one in entry.get("failed", ()) if str(one).startswith(f"{FLAPPER.name}/")]
                self.wasted += sum(PASSED_OVER not in one for one in failed)


async def flap(port: int, flapper: Server, plan: Sequence[tuple[State, float]], log: Callable[[], str]) -> Flapping:
    """A steady load while the target goes through its phases. `log` gives the gateway's log, as JSON lines."""
    result = Flapping()
    idle: list[Caller] = []
    used: list[Caller] = []

    async def one(call: int) -> None:
        if idle:
            caller = idle.pop()
        else:
            caller = Caller(port)
            used.append(caller)
        result.outcomes.append(await put(caller, call))
        idle.append(caller)

    async def load() -> None:
        begun = perf_counter()
        seconds = sum(length for _, length in plan)
        async with asyncio.TaskGroup() as group:
            for call in range(int(seconds * RATE)):
                await asyncio.sleep(max(0.0, begun + call / RATE - perf_counter()))
                group.create_task(one(call))

    async def weather() -> None:
        for number, (state, length) in enumerate(plan):
            answered = asyncio.Event()
            flapper.on_answered = answered.set
            if state == "refused":
                await flapper.refuse()
            else:
                flapper.mode = state
                await flapper.listen()
            begun = perf_counter()
            if state == "up" and number:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), length)
                took = perf_counter() - begun
                if answered.is_set():
                    result.returns.append(took)
                elif length > COOL_DOWN + SLACK:
                    result.returns.append(None)
            await asyncio.sleep(max(0.0, length - (perf_counter() - begun)))
        flapper.mode = "up"

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(weather())
            group.create_task(load())
    finally:
        for caller in used:
            caller.close()
    result.read_log(log())
    return result


@asynccontextmanager
async def pair(seed: int) -> AsyncIterator[tuple[Server, Server]]:
    """The flapping server and the healthy one, listening."""
    servers = (Server(FLAPPER, Record(), well, seed), Server(HEALTHY, Record(), well, seed))
    try:
        for server in servers:
            await server.listen()
        yield servers
    finally:
        for server in servers:
            await server.refuse()


async def flapping(door: Door, *, seed: int = 1, seconds: float = 60.0, longest: float = 7.0) -> Flapping:
    """The whole measure of a target that comes and goes."""
    async with pair(seed) as (flapper, healthy):
        port, log = await door(flapping_rules(flapper, healthy))
        return await flap(port, flapper, phases(seed, seconds, longest), log)
