"""What the ledger knows of calls that are over, for limits whose counts were lost: after a restart.

The database adds up, not Python: of a million calls a few thousand sums come back (rules/recall.py). Reading them is
done beside the calls, in a thread, and takes a second or two for a million.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from loguru import logger
from sqlalchemy import ColumnElement, Connection, Integer, and_, cast, func, inspect, literal, or_, select, text
from sqlalchemy.exc import SQLAlchemyError

from addons.ledger_faults import LedgerAway
from addons.ledger_store import engine_for, versions, words
from addons.marks import ADMISSION, ADMITTED, TURNED_AWAY
from addons.tables import calls
from rules.limits import limits_in
from rules.recall import Recall, Recalled, Span, Sum, spans
from rules.snapshot import Rules

PATIENCE = 10.0
"""Seconds that reading may take in all."""
_PRAGMAS = (f"mmap_size={1 << 40}", "cache_size=-32768", "temp_store=MEMORY")
"""What makes SQLite's sort quick."""
_NOT_ADMITTED = ("limits_unavailable", "no_route", "shutting_down")
"""Our own 503s that a call gets before it takes anything, in rows that do not tell whether it was admitted."""


class Apart(NamedTuple):
    """What limits ask to know apart. A sort is what costs, so it has no more columns than that."""

    clients: bool
    models: bool


class Told(NamedTuple):
    """What the ledger said."""

    found: list[Recalled]
    whole: bool
    """All of it could be read."""


class Past:
    """What stands in the ledger of these rules."""

    def __init__(self, rules: Rules, url: str, wall: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._url = url
        self._wall = wall
        self._name: str | None = None
        self._windows = {limit.seconds for limit in limits_in(rules.file)} - {0.0}
        of_clients = rules.limits.each_client or any(row.limits for row in rules.file.clients.values())
        self._apart = Apart(bool(of_clients), bool(rules.limits.models))

    async def name(self) -> str | None:
        """What the ledger is called among all ledgers; None where there is none yet. Raises LedgerAway."""
        if self._name is None:
            self._name = await asyncio.to_thread(self._read_name)
        return self._name

    def _read_name(self) -> str | None:
        with _reading(self._url) as connection:
            return connection.execute(select(versions.c.name)).scalar() if connection is not None else None

    async def amounts(self, offset: float, until: float = math.inf, least: float = 0.0) -> Told:
        """What calls that were over before `until` (Unix time) have used of limits whose windows have `least` seconds
        or more, as far as that can be read. `offset`: Unix time less that of the clock that counts.
        """
        windows = [seconds for seconds in self._windows if seconds >= least]
        return await asyncio.to_thread(self._amounts, windows, offset, until, least) if windows else Told([], True)

    def _amounts(self, windows: Sequence[float], offset: float, until: float, least: float) -> Told:
        rules, now = self._rules, self._wall()
        recall = Recall(lambda client, model: rules.limits.all_of(rules.keys.named(client), model), offset, now, least)
        read = now
        try:
            with _reading(self._url) as connection:
                for span in spans(windows, now, offset, until):
                    for one in _sums(connection, span, self._apart, rules.defaults.timeouts.total):
                        recall.add(one)
                    read = span.begin
        except LedgerAway as error:
            known = "nothing" if read == now else f"only what came after {datetime.fromtimestamp(read, UTC):%F %T} UTC"
            logger.warning("the ledger's history cannot be read, so limits remember {} of it: {}", known, error)
            return Told(list(recall.found.values()), False)
        return Told(list(recall.found.values()), True)


@contextmanager
def _reading(url: str) -> Iterator[Connection | None]:
    """A connection with which nothing takes too long; None where there is no ledger. Raises LedgerAway."""
    engine = engine_for(url, reads=True)
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    if path is not None and not os.path.exists(path):
        yield None  # to connect would make it
        return
    until = time.monotonic() + PATIENCE
    try:
        with engine.connect() as connection:
            if path is not None:
                driver: Any = connection.connection.dbapi_connection
                for pragma in _PRAGMAS:
                    connection.exec_driver_sql(f"PRAGMA {pragma}")
                driver.set_progress_handler(lambda: time.monotonic() > until, 10_000)
            else:
                connection.execute(text(f"SET statement_timeout = {int(PATIENCE * 1000)}"))
            yield connection if inspect(connection).has_table(calls.name) else None
    except (SQLAlchemyError, OSError) as error:
        late = time.monotonic() > until
        raise LedgerAway(f"it took more than {PATIENCE:g} s" if late else words(error, path)) from None


def _sums(connection: Connection | None, span: Span, apart: Apart, longest: float) -> Iterator[Sum]:
    """Calls that were over in the span. `longest`: seconds that a call may take."""
    if connection is None:
        return
    over = calls.c.time + calls.c.total_ms * 0.001
    slot = _WHOLE[connection.dialect.name]((over - span.begin) / span.width)
    tokens, cost = calls.c.prompt_tokens + calls.c.completion_tokens, calls.c.cost
    client: ColumnElement[str] = calls.c.client if apart.clients else literal("")
    model: ColumnElement[str] = calls.c.model if apart.models else literal("")
    groups = (slot, *([client] if apart.clients else ()), *([model] if apart.models else ()))
    asked = select(func.max(over), client, model, func.count(), func.sum(tokens), func.sum(cost)).group_by(*groups)
    asked = asked.where(calls.c.time >= span.begin - longest, over >= span.begin, _took_something())
    if span.end < math.inf:
        asked = asked.where(calls.c.time < span.end, over < span.end)
    for last, client_name, model_name, requests, read_and_said, spent in connection.execute(asked):
        yield Sum(last, client_name, model_name, requests, int(read_and_said), int(spent))


def _took_something() -> ColumnElement[bool]:
    """Calls that limits let pass, whatever became of them: each of them was counted as a request. In rows that do not
    tell: what was refused has taken nothing of any limit; what failed at a target has, or on its way there.
    """
    told = func.substr(calls.c.marks, ADMISSION + 1, 1)  # SQL counts from 1
    error = func.coalesce(calls.c.error, "")
    failed_here = and_(calls.c.status >= 499, calls.c.rule.is_not(None), error.not_in(_NOT_ADMITTED))
    unless_told = and_(failed_here, told.not_in([*TURNED_AWAY]))
    return or_(calls.c.status < 400, calls.c.attempts > 0, told.in_([*ADMITTED]), unless_told)


_WHOLE: dict[str, Callable[[ColumnElement[Any]], ColumnElement[Any]]] = {
    "sqlite": lambda number: cast(number, Integer),
    "postgresql": func.floor,
}
"""The whole part of a number above 0: SQLite's floor() is not in every build, and PostgreSQL's cast rounds."""
