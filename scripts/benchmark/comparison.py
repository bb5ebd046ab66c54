"""The gateway against a bare mitmdump before the same upstream: one run of the measures, and what is told of it."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import uvloop

from .client import Unexpected
from .extent import Extent
from .measures import MEASURES
from .processes import Machine, NotStarted, Target, cancel_when_ended, machine
from .rounds import Bench
from .table import Row, as_json, show


class Comparison:
    """The rows and the failures so far: what was measured is printed even if a later measure fails."""

    def __init__(self, extent: Extent, names: Sequence[str], against_itself: bool) -> None:
        """`names`: of the measures; `against_itself`: a second bare mitmdump stands where the gateway would."""
        self._extent = extent
        self._names = names
        self._against_itself = against_itself
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self.interrupted = False
        self._seconds = 0.0

    def run(self) -> None:
        """Take all measures; Ctrl-C and signals end it early."""
        begun = perf_counter()
        try:
            uvloop.run(self._all())
        except (KeyboardInterrupt, asyncio.CancelledError):
            self.interrupted = True
            self.failures.append("interrupted")
        self._seconds = perf_counter() - begun

    async def _all(self) -> None:
        """Start everything, take the measures in turn, end everything."""
        cancel_when_ended()
        try:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                async with asyncio.timeout(self._extent.limit), machine(Path(folder)) as made:
                    await self._measure(await self._set_up(made))
        except NotStarted as error:
            self.failures.append(str(error))
        except TimeoutError:
            self.failures.append(f"not done after {self._extent.limit:.0f} s")

    async def _set_up(self, made: Machine) -> Bench:
        upstream, side_port = await made.upstream()

        async def another_bare() -> Target:
            return await made.bare(upstream, "second bare")

        async def gateway() -> Target:
            return await made.gateway(upstream)

        start_gateway: Callable[[], Awaitable[Target]] = another_bare if self._against_itself else gateway
        door = await start_gateway()
        return Bench(
            made,
            self._extent,
            upstream,
            side_port,
            bare=await made.bare(upstream),
            bare_stream=await made.bare(upstream, "bare stream", streaming=True),
            gateway=door,
            gateway_stream=await made.bare(upstream, "second stream", True) if self._against_itself else door,
            with_wrk=shutil.which("wrk") is not None,
            start_gateway=start_gateway,
            start_bare=lambda: made.bare(upstream),
        )

    async def _measure(self, bench: Bench) -> None:
        for name in self._names:
            begun = perf_counter()
            try:
                self.rows += await MEASURES[name](bench)
            except (Unexpected, OSError, TimeoutError, ExceptionGroup) as error:
                causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
                self.failures.append(f"{name}: {type(causes[0]).__name__}: {causes[0]}")
            print(f"{name}: {perf_counter() - begun:.0f} s", file=sys.stderr)

    def as_json(self, quick: bool) -> str:
        """What was measured, and on what."""
        facts: dict[str, object] = {
            "seconds": round(self._seconds, 1),
            "quick": quick,
            "against_itself": self._against_itself,
            "rounds": self._extent.rounds,
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "mitmproxy": version("mitmproxy"),
            "failures": self.failures,
        }
        return as_json(self.rows, facts)

    def show(self) -> None:
        """Print the table, if there is anything to show."""
        if not self.rows:
            return
        second = "a second bare mitmdump" if self._against_itself else "the gateway"
        notes = [
            f"up to {self._extent.rounds} rounds in {self._seconds:.0f} s on {os.cpu_count()} cores; gateway: {second};"
            " ratio: gateway to bare, the median of the rounds;",
            "95 %: where that median lies; a verdict with ? would be another one at the other end of it",
        ]
        show(self.rows, notes)

    @property
    def exit_code(self) -> int:
        """0: measured; 2: the run itself failed; 130: it was interrupted."""
        if self.interrupted:
            return 130
        return 2 if self.failures else 0
