"""The command behind scripts/bench."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
import uvloop

from .client import Unexpected
from .flapping import Flapping, flapping
from .ledger import Cost, ledger
from .mapping import as_json as mapping_as_json
from .mapping import figures
from .measures import FULL, MEASURES, QUICK, Bench, Extent
from .processes import Machine, NotStarted, Target, machine
from .storm import Door, Report, storm
from .table import Row, as_json, show


def _cancel_when_ended() -> None:
    """Ctrl-C cancels by itself; being ended or hung up on must not leave processes behind either."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


class _Run:
    """The rows and the failures so far: what was measured is printed even if a later measure fails."""

    def __init__(self, extent: Extent, names: list[str], against_itself: bool) -> None:
        self._extent = extent
        self._names = names
        self._against_itself = against_itself
        self.rows: list[Row] = []
        self.failures: list[str] = []

    async def all(self) -> None:
        """Start everything, take the measures in turn, end everything."""
        _cancel_when_ended()
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


async def _through_the_storm(measure: Callable[[Door], Awaitable[Report | Flapping]]) -> Report | Flapping:
    """One measure of storm.py, through a gateway in a process of its own."""
    _cancel_when_ended()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        async with machine(Path(folder)) as made:
            made.environment["LOG_FORMAT"] = "json"

            async def door(rules: str) -> tuple[int, Callable[[], str]]:
                return await _gateway_with(rules, made)

            return await measure(door)


async def _gateway_with(rules: str, made: Machine) -> tuple[int, Callable[[], str]]:
    """A gateway with any rules: its port, and a function that gives its log."""
    file, log = made.folder / "storm.yaml", made.folder / "storm.log"
    file.write_text(rules)
    command = [sys.executable, "-m", "addons.cli", "run", "--rules", str(file), "--host", "127.0.0.1", "--port", "0"]
    process = await made.spawn(*command, output=log)
    begun = perf_counter()
    while perf_counter() - begun < 20 and process.returncode is None:
        if listens := re.search(r"unigate listens on http://127\.0\.0\.1:([0-9]+)/", log.read_text(errors="replace")):
            return int(listens[1]), partial(log.read_text, errors="replace")
        await asyncio.sleep(0.05)
    raise NotStarted(f"the gateway did not come up\n{log.read_text(errors='replace')[-2000:]}")


async def _with_a_ledger(quick: bool) -> Cost:
    _cancel_when_ended()
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        async with machine(Path(folder)) as made:
            if quick:
                return await ledger(made, calls=3_000, seconds=1, limit=40)
            return await ledger(made, calls=100_000, seconds=3, limit=560)


def _tell(measure: Coroutine[Any, Any, Report | Flapping | Cost]) -> None:
    """Run one of the other measures and print what came of it; the exit code says whether it was as it should be."""
    try:
        report = uvloop.run(measure)
    except NotStarted as error:
        print(f"failed: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    print("\n".join(report.lines()))
    if not report.well:
        raise typer.Exit(1)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A short run of less than 40 seconds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a goal is missed.")] = False,
    itself: Annotated[
        bool,
        typer.Option("--itself", help="Measure bare mitmdump against itself: how noisy is this machine?"),
    ] = False,
    only: Annotated[str, typer.Option(help=f"Some of the measures, comma-separated: {', '.join(MEASURES)}.")] = "",
    rounds: Annotated[int, typer.Option(min=0, max=50, help="Rounds per measure; 0: as the run has.")] = 0,
    in_storm: Annotated[
        bool, typer.Option("--storm", help="Thousands of calls while all five targets fail at random.")
    ] = False,
    with_flapping: Annotated[
        bool, typer.Option("--flapping", help="A steady load for a minute on a target that comes and goes.")
    ] = False,
    with_ledger: Annotated[
        bool, typer.Option("--ledger", help="What keeping 100,000 calls costs: the ledger off and on in turn.")
    ] = False,
    mapping: Annotated[
        bool, typer.Option("--mapping", help="What checking, translating and reading cost, without a socket.")
    ] = False,
    calls: Annotated[int, typer.Option(min=1, help="Calls of the storm.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the storm and of the flapping target.")] = 1,
    at_a_time: Annotated[int, typer.Option(min=1, help="Calls of the storm that are under way at once.")] = 50,
) -> None:
    """Compare the gateway with a bare mitmdump before the same upstream, in one run; or send it into a storm.

    Exit code 0: measured; 1: a goal was missed, with --strict, or always after a storm; 2: the run itself failed.
    """
    if mapping:
        found = figures()
        print(mapping_as_json(found) if json else "\n".join(figure.line() for figure in found))
        if strict and not all(figure.met for figure in found):
            raise typer.Exit(1)
        return
    if in_storm:
        _tell(_through_the_storm(lambda door: storm(door, calls=calls, seed=seed, at_a_time=at_a_time)))
    if with_flapping:
        _tell(_through_the_storm(lambda door: flapping(door, seed=seed)))
    if with_ledger:
        _tell(_with_a_ledger(quick))
    if in_storm or with_flapping or with_ledger:
        return
    names = [name.strip() for name in only.split(",") if name.strip()] or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        raise typer.BadParameter(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    extent = QUICK if quick else FULL
    if rounds:
        extent = replace(extent, rounds=rounds)
    run = _Run(extent, names, itself)
    begun = perf_counter()
    interrupted = False
    try:
        uvloop.run(run.all())
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupted = True
        run.failures.append("interrupted")
    seconds = perf_counter() - begun
    if json:
        facts: dict[str, object] = {
            "seconds": round(seconds, 1),
            "quick": quick,
            "against_itself": itself,
            "rounds": extent.rounds,
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "mitmproxy": version("mitmproxy"),
            "failures": run.failures,
        }
        print(as_json(run.rows, facts))
    elif run.rows:
        second = "a second bare mitmdump" if itself else "the gateway"
        notes = [
            f"up to {extent.rounds} rounds in {seconds:.0f} s on {os.cpu_count()} cores; gateway: {second};"
            " ratio: gateway to bare, the median of the rounds;",
            "95 %: where that median lies; a verdict with ? would be another one at the other end of it",
        ]
        show(run.rows, notes)
    for failure in run.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if interrupted:
        raise typer.Exit(130)
    if run.failures:
        raise typer.Exit(2)
    if strict and any(row.met is False for row in run.rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bench)
