"""Reading the ledger for a report: its figures, piece by piece, by several threads at once.

The trap is a million rows. In SQLite a GROUP BY sorts, and each sort and each aggregate costs as much as the reading
itself. So of calls there is one scan and one sort: durations and yes-or-no facts come back as one string for each group
and are counted here (marks.py); so do the durations of attempts. The period is cut at midnights, UTC, so that the days'
figures fall off as well, and its pieces are read by several threads: SQLite works without Python's lock.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Text,
    bindparam,
    case,
    cast,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError

from addons.figures import Figures
from addons.marks import NOT_FAILED, bucket_of, durations_in, facts_in
from addons.tables import attempts, calls

DAY = 86400
PIECE = 50_000
"""Calls that are read at once, about."""
READERS = max(1, min(4, os.cpu_count() or 1))
COLUMNS = ("client", "model", "rule", "endpoint")
"""Of a call, by which it is grouped."""

type Names = Mapping[str, str | None]
"""Of a group: column -> its value."""
type Found = list[tuple[Names, Figures]]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one day, and about how many calls it has."""

    day: int
    since: float
    until: float
    count: int


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that is made for each piece, and what its rows are."""

    keys: tuple[str, ...]
    """Its first columns, by which it is grouped."""
    statement: Select[Any]
    figures: Callable[[Sequence[Any]], Figures]
    """Of its other columns."""

    def read(self, connection: Connection, since: float, until: float) -> Found:
        """A group may come back in parts."""
        try:
            rows = connection.execute(self.statement, {"since": since, "until": until}).all()
        except DBAPIError as error:
            middle = (since + until) / 2
            if "integer overflow" not in str(error.orig) or not since < middle < until:
                raise
            # A server that lies about its tokens: SQLite's sums have 64 bits, and ours as many as they need.
            return self.read(connection, since, middle) + self.read(connection, middle, until)
        keys = len(self.keys)
        # Without a key there is a row of nothing, where there is nothing.
        return [(dict(zip(self.keys, row, strict=False)), self.figures(row[keys:])) for row in rows if row[keys]]


def read(engine: Engine, queries: Sequence[Query], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, list[Found]]]:
    """What the queries find in each piece, all at the same moment; pieces in no order."""
    to_do = deque(pieces)
    ready: SimpleQueue[tuple[Piece, list[Found]]] = SimpleQueue()
    count = len(to_do)

    def work() -> None:
        with engine.connect() as connection:
            while to_do:
                try:
                    piece = to_do.popleft()
                except IndexError:  # another thread was faster
                    return
                with connection.begin():
                    found = [query.read(connection, piece.since, piece.until) for query in queries]
                ready.put((piece, found))

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(work) for _ in range(min(READERS, count))]
        try:
            while count:
                try:
                    yield ready.get(timeout=0.05)
                    count -= 1
                except Empty:
                    for reader in readers:
                        if reader.done():
                            reader.result()  # raises what ended it
        finally:
            to_do.clear()  # the readers stop after the piece that each is at


def pieces_of(connection: Connection, since: float, until: float) -> Iterator[Piece]:
    """The days of a period that have calls, those with many in parts. Only the index on `time` is read."""
    time = calls.c.time
    inside = time >= bindparam("since"), time < bindparam("until")
    earliest, counted = select(func.min(time)).where(*inside), select(func.count()).where(*inside)
    at = since
    while (first := connection.execute(earliest, {"since": at, "until": until}).scalar()) is not None:
        day = int(first // DAY)
        at, end = max(since, float(day * DAY)), min(until, float((day + 1) * DAY))
        count = connection.execute(counted, {"since": at, "until": end}).scalar_one()
        parts = -(-count // PIECE)
        edges = [at + (end - at) * number / parts for number in range(parts)] + [end]
        yield from (
            Piece(day, begin, stop, count // parts + (number < count % parts))
            for number, (begin, stop) in enumerate(pairwise(edges))
        )
        at = end


# -- of calls


_OF_CALLS = (
    "calls", "answered", "prompt", "cached", "completion", "reasoning", "cost", "failed_cost", "compared",
    "compared_calls", "cost_of_compared",
)  # fmt: skip


def of_calls(keys: Sequence[str], only: Mapping[str, str]) -> Query:
    """The figures of calls by these columns. `only`: column -> pattern; more than what fits may be found."""
    row = calls.c
    counts = (
        *(func.count(), func.count(row.target)),
        *map(func.sum, (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)),
        *map(func.sum, (row.cost, row.failed_cost, row.compared)),
        *(func.count(row.compared), func.sum(case((row.compared.is_not(None), row.cost), else_=0))),
    )
    columns = [row[name] for name in keys]
    statement = select(*columns, *counts, func.aggregate_strings(row.marks, "")).where(*_inside(only))
    return Query(tuple(keys), statement.group_by(*columns), _calls)


def _calls(row: Sequence[Any]) -> Figures:
    *counts, marks = row
    figures = _counted(_OF_CALLS, counts)
    figures.total, figures.first_token = durations_in(marks), durations_in(marks, first=True)
    for name, count in facts_in(marks).items():
        setattr(figures, name, count)
    return figures


# -- of attempts


_OF_ATTEMPTS = (
    "attempts", "failed_attempts", "prompt", "cached", "completion", "reasoning", "cost", "failed_cost", "estimated",
    "unpriced", "left",
)  # fmt: skip


def of_attempts(only: Mapping[str, str]) -> Query:
    """The figures of attempts by target, and by the columns of their calls in `only`, as of_calls() has them."""
    row = attempts.c
    # Written into the statement: as parameters they cost a quarter of its time.
    well: BindParameter[str] = bindparam("well", NOT_FAILED, expanding=True, literal_execute=True)
    left: BindParameter[str] = bindparam("left", "left", literal_execute=True)
    failed = row.outcome.not_in(well)
    counts = (
        *(func.count(), func.count().filter(failed)),
        *map(func.sum, (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens)),
        *(func.sum(row.cost), func.sum(row.cost).filter(failed)),
        *(func.count().filter(holds) for holds in (row.estimated.is_(True), row.cost.is_(None), row.outcome == left)),
    )
    durations = (func.aggregate_strings(cast(column, Text), ",") for column in (row.first_token_ms, row.total_ms))
    columns = [row.target, *(calls.c[name] for name in only)]
    # They are those of the period's calls, whenever they began themselves: or they would not add up to the same.
    statement = select(*columns, *counts, *durations).join_from(calls, attempts).where(*_inside(only))
    return Query(("target", *only), statement.group_by(*columns), _attempts)


def _attempts(row: Sequence[Any]) -> Figures:
    *counts, first_token, total = row
    figures = _counted(_OF_ATTEMPTS, counts)
    figures.first_token, figures.total = _buckets(first_token), _buckets(total)
    return figures


def _buckets(durations: str | None) -> Counter[int]:
    """bucket -> how many, of milliseconds with commas between them."""
    return Counter(map(_bucket, durations.split(","))) if durations else Counter()


@lru_cache(maxsize=65_536)
def _bucket(milliseconds: str) -> int:
    return bucket_of(int(milliseconds) / 1000)


# -- of both


def _counted(names: Sequence[str], counts: Sequence[Any]) -> Figures:
    figures = Figures()
    for name, count in zip(names, counts, strict=True):
        setattr(figures, name, int(count or 0))  # a sum is a decimal in PostgreSQL, and NULL where nothing is known
    return figures


def _inside(only: Mapping[str, str]) -> Iterator[ColumnElement[bool]]:
    yield calls.c.time >= bindparam("since")
    yield calls.c.time < bindparam("until")
    for name, pattern in only.items():
        yield calls.c[name].ilike(_like(pattern), escape="\\")


def _like(pattern: str) -> str:
    """A pattern of the rules in SQL's words. What SQL cannot say, or databases say differently, fits all."""
    said = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    before, classes, _ = pattern.partition("[")
    return "".join(said.get(char, char) if char.isascii() else "%" for char in before) + "%" * bool(classes)
