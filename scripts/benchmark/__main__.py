"""The command behind scripts/bench."""

import asyncio
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
import uvloop

from .comparison import Comparison
from .extent import FULL, QUICK
from .flapping import Flapping, flapping
from .ledger import Cost, ledger
from .mapping import as_json as mapping_as_json
from .mapping import figures
from .measures import MEASURES
from .processes import Machine, NotStarted, cancel_when_ended, machine
from .storm import Door, Report, storm


async def _through_the_storm(measure: Callable[[Door], Awaitable[Report | Flapping]]) -> Report | Flapping:
    """One measure of storm.py, through a gateway in a process of its own."""
    cancel_when_ended()
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
    cancel_when_ended()
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


def _map(json: bool, strict: bool) -> None:
    found = figures()
    print(mapping_as_json(found) if json else "\n".join(figure.line() for figure in found))
    if strict and not all(figure.met for figure in found):
        raise typer.Exit(1)


def _compare(quick: bool, rounds: int, only: str, itself: bool, json: bool, strict: bool) -> None:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        raise typer.BadParameter(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    extent = QUICK if quick else FULL
    comparison = Comparison(replace(extent, rounds=rounds) if rounds else extent, names, itself)
    comparison.run()
    if json:
        print(comparison.as_json(quick))
    else:
        comparison.show()
    for failure in comparison.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if comparison.exit_code:
        raise typer.Exit(comparison.exit_code)
    if strict and any(row.met is False for row in comparison.rows):
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
        _map(json, strict)
        return
    if in_storm:
        _tell(_through_the_storm(lambda door: storm(door, calls=calls, seed=seed, at_a_time=at_a_time)))
    if with_flapping:
        _tell(_through_the_storm(lambda door: flapping(door, seed=seed)))
    if with_ledger:
        _tell(_with_a_ledger(quick))
    if not (in_storm or with_flapping or with_ledger):
        _compare(quick, rounds, only, itself, json, strict)


if __name__ == "__main__":
    typer.run(bench)
