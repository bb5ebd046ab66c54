"""The command `unigate report`: what was spent, and what was saved."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from addons.cli_options import UNBOUNDED, RulesOption
from addons.report import compare, make_report
from addons.report_export import as_csv, as_json, json_text
from addons.report_rows import DAY
from addons.report_source import ledger_at, open_ledger, said_plainly
from addons.report_view import show
from addons.settings import SettingsError, read_rules
from rules.prices import UNPAID
from rules.snapshot import Rules

PATIENCE = 0.5
"""Seconds of reading after which a bar shows how far it is."""
_UNITS = {"m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_SINCE = "From when on: 7d, 24h, 90m ago, or a date, 2026-11-01, or 2026-11-01T16:30:00Z (without an offset: UTC)."

app = typer.Typer(add_completion=False)


class By(StrEnum):
    """What GROUPINGS are, for the command line."""

    client = "client"
    model = "model"
    rule = "rule"
    target = "target"
    endpoint = "endpoint"
    day = "day"


@app.command()
def report(
    since: Annotated[str, typer.Option(help=_SINCE)] = "7d",
    until: Annotated[str | None, typer.Option(help="Until when, likewise; a date's day counts. Default: now.")] = None,
    by: Annotated[By, typer.Option(help="What the table's lines are.")] = By.target,
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON, with exact numbers.")] = False,
    as_csv_: Annotated[bool, typer.Option("--csv", help="Print the groups and the total as CSV.")] = False,
    client: Annotated[str | None, typer.Option(help="Only calls of this client. A pattern: 'ci-*'.")] = None,
    model: Annotated[str | None, typer.Option(help="Only calls that asked for this model. A pattern: 'gpt-*'.")] = None,
    rules: RulesOption = None,
    ledger: Annotated[str | None, typer.Option(help="File or URL of another ledger than that of the rules.")] = None,
) -> None:
    """Show what calls cost, what that saved, and how fast and reliable the answers were."""
    if as_json_ and as_csv_:
        raise SettingsError("--json and --csv cannot be had together")
    now = time.time()
    start, end = moment(since, now, "--since"), now if until is None else moment(until, now, "--until", ends=True)
    if start >= end:
        raise SettingsError("--since (7d where it is left out) must be before --until (and before now)")
    loaded, _ = read_rules(rules, os.environ)
    terms = loaded.file.ledger
    named = ledger if ledger is not None else terms.url if terms is not None else None
    if named is None:
        raise SettingsError(
            "the rules keep no ledger: write `ledger: {url: sqlite:///ledger.sqlite}` there, or name one with --ledger"
        )
    source = open_ledger(ledger_at(named))
    with said_plainly(source.shown, source.errors), _progress() as told:
        found = make_report(source, by.value, start, end, client=client, model=model, local=_local(loaded), told=told)
    comparison = compare(found, terms.compare_to if terms is not None else None)
    if as_json_:
        _write(json_text(as_json(found, comparison)))
    elif as_csv_:
        _write(as_csv(found))
    else:
        bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
        show(found, comparison, Console(highlight=False, width=None if bounded else UNBOUNDED))


def moment(text: str, now: float, option: str, *, ends: bool = False) -> float:
    """Unix time of what a person writes; raises SettingsError. `ends`: of a date, the end of its day; never later than
    now.
    """
    written = text.strip()
    span = re.fullmatch(r"(\d{1,9})([mhdw])", written)
    if span is not None:
        return max(0.0, now - int(span[1]) * _UNITS[span[2]])
    well_formed = _MOMENT.fullmatch(written) is not None
    try:
        date.fromisoformat(written[:10] if well_formed else written)
    except ValueError:
        if well_formed:
            raise SettingsError(f"{option} is '{text}': there is no such day") from None
        raise SettingsError(
            f"{option} is '{text}'; it must be how long ago (7d, 24h, 90m, 2w) or a date (2026-11-01), which may have "
            "a time (2026-11-01T16:30:00Z)"
        ) from None
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        raise SettingsError(f"{option} is '{text}': there is no such time of day") from None
    at = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if not ends:
        return at
    return min(now, at + DAY if len(written) <= len("2026-11-01") else at)


_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}(:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
"""A date, and a time of it."""


def _write(text: str) -> None:
    """As UTF-8, whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _local(rules: Rules) -> list[str] | None:
    """How targets of our own machines begin, where their hours have a price; None: local calls cost nothing."""
    if not any(price.hour for price in rules.file.prices):
        return None
    return [f"{name}/" for name, provider in rules.file.providers.items() if provider.dialect in UNPAID]


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal and the reading takes a while."""
    begun = time.monotonic()
    columns = TextColumn("reading the ledger"), BarColumn(), TaskProgressColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("")

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - begun > PATIENCE:
            bar.start()  # harmless when it has started
        bar.update(task, completed=done, total=total)

    try:
        yield told
    finally:
        if bar.live.is_started:
            bar.stop()
